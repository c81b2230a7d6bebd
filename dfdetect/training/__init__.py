"""Training and judging detectors; inference imports nothing from here."""
