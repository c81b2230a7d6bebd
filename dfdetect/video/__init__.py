"""Video files: finding them, and decoding evenly spaced frames in separate processes.

Uses no torch.
"""
