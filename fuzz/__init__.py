"""Fuzz targets: what reads a stranger's bytes, with something to hold its answers against."""
