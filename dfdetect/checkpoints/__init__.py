"""Read and write the headers and weights of checkpoints, and find installed checkpoints.

The modules of this package use the packages `models` and `scoring`, and the module
`faces.geometry`.
"""
