"""Find video files, decode evenly spaced frames in separate processes, and draw on videos.

The modules of this package do not use torch.
"""
