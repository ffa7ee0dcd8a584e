"""The oracle and the makers beside the tests are plain modules; let tests import them by name."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
