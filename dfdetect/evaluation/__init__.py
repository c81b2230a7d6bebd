"""Measure how good detectors are: metrics, subgroups, aggregations, the study of architectures."""
