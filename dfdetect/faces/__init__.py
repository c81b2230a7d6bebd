"""Frames -> people: finding faces, following them, cutting crops, putting these into clips.

Uses `video` and `runtime`.
"""
