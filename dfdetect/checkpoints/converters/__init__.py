"""Conversion of published checkpoints: one module for each format, and what all formats need.

`reading` reads a file. `registry` lists the formats and recognises the format of a file. `tensors`
makes sure that every tensor is used. `convert` writes the checkpoint.
"""
