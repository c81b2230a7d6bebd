"""Trains detectors on face sets, which the package `data` reads."""
