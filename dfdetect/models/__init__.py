"""Architectures: networks and nothing else, no files and nothing else of this package."""
