"""Labelled data: the layouts of data sets, face sets on disk, and making them of videos.

Uses all that detection does, and no `training`.
"""
