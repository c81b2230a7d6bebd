"""Detect faces in frames, follow each face as a track, cut crops, and group crops into clips.

The modules of this package use the packages `dfdetect.video` and `dfdetect.runtime`.
"""
