"""Checkpoints: reads and writes their headers and weights, and finds installed checkpoints.

The modules of this package use `models`, `scoring`, and the crop rule of `faces`.
"""
