"""Read and write the headers and weights of checkpoints, and find installed checkpoints.

The modules of this package use `models`, `scoring` and, of `faces`, the crop rule.
"""
