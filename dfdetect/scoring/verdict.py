"""Choose the thresholds of the verdicts `uncertain` and `fake`, given scores of REAL videos."""

import numpy as np

from dfdetect.results import OperatingPoints

# Maximum shares of REAL videos with a P(FAKE) above the thresholds `uncertain` and `fake`.
UNCERTAIN_RATE = 0.05
FAKE_RATE = 0.01
# Minimum number of REAL videos for thresholds. A rate of 5 % cannot be known from fewer than 20
# videos, because 5 % of 20 videos is one video.
MIN_REAL_VIDEOS = 20


def fit_operating_points(probabilities: np.ndarray, weights: np.ndarray) -> OperatingPoints:
    """Return the thresholds of the verdicts `uncertain` and `fake`.

    At most 5 % of the REAL videos score above `uncertain`, and at most 1 % score above `fake`. Each
    video counts with its weight. The attribute `fakes` of the result is empty.

    Fewer than `MIN_REAL_VIDEOS` videos are too few to know such rates. This function does not check
    their number; `dfdetect.training.judging.Judge.operating_points` does.

    Args:
        probabilities: P(FAKE) of REAL videos that the model was not trained on, shape (n,).
        weights: Weight of each video, shape (n,). `dfdetect.evaluation.metrics.vote_weights`
            returns weights that give all sources (data sets or sites) the same influence.

    Example:
        >>> fit_operating_points(np.arange(1, 101) / 200, np.ones(100))
        OperatingPoints(uncertain=0.475, fake=0.495, fakes={})
    """
    order = np.argsort(probabilities)
    reached = np.cumsum(weights[order]) / np.sum(weights)
    thresholds = []
    for rate in (UNCERTAIN_RATE, FAKE_RATE):
        # The threshold is the probability of one of the videos: the lowest probability for which at
        # most the share `rate` of the videos lies above it.
        place = int(np.searchsorted(reached, 1 - rate - 1e-9))
        thresholds.append(float(probabilities[order][min(place, len(order) - 1)]))
    uncertain, fake = thresholds
    return OperatingPoints(uncertain, fake)
