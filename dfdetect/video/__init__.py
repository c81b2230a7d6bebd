"""Find video files, decode evenly spaced frames in separate processes, and annotate videos.

The modules of this package do not use torch.
"""
