"""Published checkpoints: one module a format, and what all formats need.

`reading` reads a file, `registry` knows the formats and recognises a file's, `tensors` accounts for
every tensor, `convert` writes the checkpoint.
"""
