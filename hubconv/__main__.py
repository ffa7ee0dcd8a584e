"""`python -m hubconv`."""

from hubconv.cli import main

main()
