"""Defaults and choices that the command line shows; apart, so that `--help` loads nothing else."""

DEFAULT_FRAMES = 32
DEFAULT_PRIOR = 0.5
PERSON_RULES = ("mean_logit", "soft_maximum")
