"""Video files: finding them, reading evenly spaced frames, doing so in a process of its own.

Uses no torch.
"""
