"""Find labelled videos, extract face sets (labelled face crops) from them, and make fakes.

This package may import the packages that are needed to score a video, but not `training`.
"""
