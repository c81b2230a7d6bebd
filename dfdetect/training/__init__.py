"""Train detectors on face sets (labelled face crops), which the package `data` reads."""
