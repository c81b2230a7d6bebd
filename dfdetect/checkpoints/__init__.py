"""Checkpoints: what they say of a model, reading and writing them, those that are installed.

Uses `models`, `scoring` and the crop rule of `faces`.
"""
