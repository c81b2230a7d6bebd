"""Training of detectors on face sets, which `data` reads."""
