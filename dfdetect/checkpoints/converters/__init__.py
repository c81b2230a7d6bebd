"""Convert published checkpoints of other projects to checkpoints of dfdetect.

Each format has a module of its own. Five modules serve all formats. `reading` reads a file.
`registry` lists the formats and recognises the format of a file. `names` translates the names of
tensors. `tensors` checks that no tensor of the file is forgotten. `convert` writes the checkpoint.
"""
