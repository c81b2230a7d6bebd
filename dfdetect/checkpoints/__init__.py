"""Checkpoints: their header, reading and writing them, finding installed ones by name.

Uses `models`, `scoring` and the crop rule of `faces`.
"""
