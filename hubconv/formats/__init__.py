"""Ground floor: numbers, names and bytes. No network, no terminal, no torch."""
