"""Measures how accurate detectors are, and compares detectors, aggregations and architectures."""
