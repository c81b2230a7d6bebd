"""Find video files, decode evenly spaced frames in separate processes, and draw on videos.

This package does not use torch.
"""
