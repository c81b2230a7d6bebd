"""Labelled data: the layouts of data sets, face sets on disk, and the extraction of face sets.

This package may import the packages that scoring a video needs, but not `training`.
"""
