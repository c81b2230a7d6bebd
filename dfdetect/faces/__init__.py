"""Frames -> tracks: detecting faces, following them, cutting crops, putting these into clips.

Uses `video` and `runtime`.
"""
