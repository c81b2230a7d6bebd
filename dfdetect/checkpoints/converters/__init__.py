"""Converts published checkpoints of other projects to checkpoints of this package.

There is one module for each format, and five modules are shared. `reading` reads a file. `registry`
lists the formats and recognises the format of a file. `names` translates the names of tensors.
`tensors` makes sure that every tensor of the file is used. `convert` writes the checkpoint.
"""
