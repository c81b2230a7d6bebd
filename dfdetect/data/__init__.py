"""Find the labelled videos of data sets, extract face sets from them, and read face sets.

This package may import the packages that are needed to score a video, but not `training`.
"""
