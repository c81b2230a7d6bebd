"""Detect faces in frames, follow each face as a track, cut crops, and group crops into clips."""
