"""Read and write the headers and weights of checkpoints, and find installed checkpoints."""
