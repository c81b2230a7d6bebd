"""Measure the speed of a detector, and project it to many videos on many machines."""
