"""Platt scaling: it turns raw logits into logits that say how sure the detector is."""

from dataclasses import dataclass

import numpy as np

from dfdetect.errors import ArgumentError


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of logits (Platt 1999): calibrated = scale * logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Refuse numbers that would swap FAKE and REAL, or give no finite logits."""
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
    """Fit Platt scaling by maximum likelihood; REAL and FAKE count one half each.

    Half of the challenge's test videos are REAL, so the calibration must not depend on the share of
    FAKE in the data. As in Platt (1999), the targets are not exactly 0 and 1: the fewer items, the
    larger the distance. Otherwise a few items that are separated perfectly would make every answer
    certain.

    Args:
        logits: Raw logits of FAKE of items that the model was not trained on, shape (n,).
        labels: 1 for FAKE, 0 for REAL, shape (n,); both must occur.
        weights: Weight of each item within its class, shape (n,); equal weights if None.

    Raises:
        ArgumentError: There is only one class, or the logits do not rank FAKE above REAL.
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
    # Each item counts as both classes: almost fully as its own, with the rest as the other.
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    weights = weights / np.bincount(labels, weights)[labels]
    shares = np.concatenate([certain[labels], 1 - certain[labels]]) * np.tile(weights, 2)
    targets = np.concatenate([labels, 1 - labels])
    fit = LogisticRegression(C=np.inf)
    fit.fit(np.tile(logits / spread, 2).reshape(-1, 1), targets, sample_weight=shares * len(labels))
    return Calibration(scale=float(fit.coef_[0, 0]) / spread, bias=float(fit.intercept_[0]))
