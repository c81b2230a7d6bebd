"""Calibration: changes logits so that P(FAKE) agrees with the share of fakes.

P(FAKE) is the sigmoid of a logit. For example, about 80 % of the videos with a P(FAKE) of 0.8
should be fakes. The method is Platt scaling: each logit is multiplied by a number, and another
number is added to the product.
"""

from dataclasses import dataclass

import numpy as np

from dfdetect.errors import ArgumentError


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of logits (Platt 1999): calibrated = scale * logit + bias.

    Args:
        scale: The factor of the logit, above 0.
        bias: The number that is then added.

    Raises:
        ArgumentError: `scale` is not above 0, or `scale` or `bias` is not finite.
    """

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError if `scale` is not above 0, or if a number is not finite."""
        if not (np.isfinite(self.scale) and np.isfinite(self.bias) and self.scale > 0):
            raise ArgumentError(
                f"calibration needs a positive scale and finite numbers, not {self}"
            )

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Return the calibrated logits, float64 of the same shape as `logits`."""
        return self.scale * np.asarray(logits, dtype=np.float64) + self.bias


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> Calibration:
    """Return the Platt scaling that fits logits to labels by maximum likelihood.

    All REAL examples together have the same weight as all FAKE examples together.

    The targets of the fit are those of Platt (1999): 1 / (r + 2) for r REAL examples, and
    (f + 1) / (f + 2) for f FAKE examples. With targets of 0 and 1, logits that separate the classes
    perfectly would give only probabilities of 0 and 1.

    Args:
        logits: Raw logits of FAKE for examples that the model was not trained on, shape (n,). An
            example is a crop, a clip or a video.
        labels: 1 for FAKE, 0 for REAL, shape (n,). There must be examples of both classes.
        weights: Weight of each example within its class, shape (n,). None means equal weights.

    Raises:
        ArgumentError: All examples have the same label, or FAKE examples do not have higher logits
            than REAL examples.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, needed in training only

    logits = np.asarray(logits, dtype=np.float64)
    # The optimiser stops too early if the logits are much larger or smaller than 1.
    spread = float(logits.std()) or 1.0
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        missing = ("REAL", "FAKE")[int(counts.argmin())]
        raise ArgumentError(
            f"calibration needs both REAL and FAKE examples: there are no {missing} ones, add some"
        )
    certain = (counts + 1) / (counts + 2)
    # scikit-learn takes no targets between 0 and 1. An example with the target 0.99 is therefore
    # given as two: one with target 1 and weight 0.99, and one with target 0 and weight 0.01.
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=np.float64)
    # Half of the test videos of the Deepfake Detection Challenge are REAL.
    weights = weights / np.bincount(labels, weights)[labels]
    shares = np.concatenate([certain[labels], 1 - certain[labels]]) * np.tile(weights, 2)
    targets = np.concatenate([labels, 1 - labels])
    fit = LogisticRegression(C=np.inf)
    fit.fit(np.tile(logits / spread, 2).reshape(-1, 1), targets, sample_weight=shares * len(labels))
    scale = float(fit.coef_[0, 0]) / spread
    if scale <= 0:
        raise ArgumentError(
            "calibration needs a positive scale, but FAKE examples have no higher logits than REAL "
            "ones: check the labels, or train the model further"
        )
    return Calibration(scale=scale, bias=float(fit.intercept_[0]))
