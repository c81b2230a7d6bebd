"""Platt scaling: raw logits of crops -> logits that say how sure the detector is."""

from dataclasses import dataclass

import numpy as np

from dfdetect.errors import ArgumentError


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of logits (Platt 1999): calibrated = scale * logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would turn FAKE into REAL or lose every score."""
        if not (np.isfinite(self.scale) and np.isfinite(self.bias) and self.scale > 0):
            raise ArgumentError(
                f"calibration needs a positive scale and finite numbers, not {self}"
            )

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Calibrate logits of any shape."""
        return self.scale * np.asarray(logits, dtype=np.float64) + self.bias


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Calibration:
    """Fit Platt scaling by maximum likelihood, each class weighing one half.

    The challenge's test videos are half REAL, so the balance of the set at hand must not leak in.
    Targets are a little off 0 and 1, as in Platt (1999): the fewer crops, the further, so that
    a few that are told apart perfectly do not make every answer certain.

    Args:
        logits: Raw logits of FAKE of crops that the model was not trained on, shape (n,).
        labels: 1 for FAKE, 0 for REAL, shape (n,); both must occur.
        weights: What each counts within its class, shape (n,); all the same if None.

    Raises:
        ArgumentError: Only one class, or the logits do not rank FAKE above REAL.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, needed in training only

    logits = np.asarray(logits, dtype=np.float64)
    # The optimiser stops too early on logits of another order of magnitude.
    spread = float(logits.std()) or 1.0
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        raise ArgumentError("calibration needs both REAL and FAKE crops")
    certain = (counts + 1) / (counts + 2)
    # Every crop counts as both classes: as its own nearly fully, as the other with the rest.
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    weights = weights / np.bincount(labels, weights)[labels]
    shares = np.concatenate([certain[labels], 1 - certain[labels]]) * np.tile(weights, 2)
    targets = np.concatenate([labels, 1 - labels])
    fit = LogisticRegression(C=np.inf)
    fit.fit(np.tile(logits / spread, 2).reshape(-1, 1), targets, sample_weight=shares * len(labels))
    return Calibration(scale=float(fit.coef_[0, 0]) / spread, bias=float(fit.intercept_[0]))
