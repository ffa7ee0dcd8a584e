"""Miniature source checkpoints for the tests: one maker per family, and makers of broken ones."""
