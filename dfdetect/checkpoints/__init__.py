"""Checkpoints: their header, reading and writing them, and finding the installed ones by name.

Uses `models`, `scoring` and the crop rule of `faces`.
"""
