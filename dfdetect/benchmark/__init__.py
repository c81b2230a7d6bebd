"""Measures the speed of a detector, and projects it to many videos on many machines."""
