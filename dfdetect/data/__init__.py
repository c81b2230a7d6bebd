"""Labelled data: the layouts of data sets, face sets on disk, and the extraction of face sets.

This package may use every package that detection uses, but not `training`.
"""
