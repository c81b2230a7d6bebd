"""Measure the speed of a detector, and estimate how long many videos take on many machines."""
