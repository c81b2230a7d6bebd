"""How good a detector is: figures, subgroups, ways to aggregate, the study of architectures."""
