"""From a video's probability to a verdict, at thresholds with a stated rate of false alarms."""

from dataclasses import dataclass

import numpy as np

from dfdetect.errors import ArgumentError
from dfdetect.results import Verdict

# Shares of REAL videos that exceed the thresholds.
UNCERTAIN_RATE = 0.05
FAKE_RATE = 0.01


@dataclass(frozen=True)
class OperatingPoints:
    """The thresholds of the verdicts, on the probability of a video.

    Args:
        uncertain: The probability that 5 % of REAL videos exceed; above it the verdict is
            `uncertain`.
        fake: The probability that 1 % of REAL videos exceed; above it the verdict is `fake`.
    """

    uncertain: float = 0.5
    fake: float = 0.5

    def __post_init__(self) -> None:
        """Refuse thresholds that are no probabilities, or in the wrong order."""
        if not 0 <= self.uncertain <= self.fake <= 1:
            raise ArgumentError(
                f"operating points must be probabilities, uncertain not above fake, not {self}"
            )

    def verdict(self, probability: float) -> Verdict:
        """The verdict on a video.

        Example:
            >>> OperatingPoints(uncertain=0.4, fake=0.8).verdict(0.6).value
            'uncertain'
        """
        if probability > self.fake:
            return Verdict.FAKE
        return Verdict.UNCERTAIN if probability > self.uncertain else Verdict.REAL


def fit_operating_points(probabilities: np.ndarray, weights: np.ndarray) -> OperatingPoints:
    """Thresholds that the stated shares of REAL videos exceed.

    Args:
        probabilities: P(FAKE) of REAL videos that the model was not trained on, shape (n,).
        weights: What each counts, shape (n,); `vote_weights` gives each source one vote.

    Example:
        >>> fit_operating_points(np.arange(1, 101) / 200, np.ones(100))
        OperatingPoints(uncertain=0.475, fake=0.495)
    """
    order = np.argsort(probabilities)
    reached = np.cumsum(weights[order]) / np.sum(weights)
    thresholds = []
    for rate in (UNCERTAIN_RATE, FAKE_RATE):
        # The lowest probability that no more than `rate` of the votes exceed.
        place = int(np.searchsorted(reached, 1 - rate - 1e-9))
        thresholds.append(float(probabilities[order][min(place, len(order) - 1)]))
    return OperatingPoints(*thresholds)
