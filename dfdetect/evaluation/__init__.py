"""Measure how accurate detectors are, and compare detectors, aggregations and architectures."""
