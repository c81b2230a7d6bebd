"""Detecting faces in frames, following them as tracks, cutting crops, grouping crops into clips.

Uses `video` and `runtime`.
"""
