"""From the logits of single crops to a person's score and the video's probability.

The rule, kept in each checkpoint as its `Aggregation`:

1. a crop's logit z becomes `scale * z + bias` (`Calibration`, fitted on actors held
   out of training);
2. the frames that show a person combine to that person's logit. `mean_logit` takes their mean:
   noise averages out, and unlike a mean of probabilities it lets a few clear frames outweigh many
   undecided ones. `soft_maximum` first smooths over neighbouring frames, then takes
   log(mean(exp(sharpness * z))) / sharpness, which lies between the mean and the maximum: someone
   who is fake for a while only shows (`dfdetect rules` compares them);
3. the video's logit is that of its most suspicious person: one fake face makes a fake video;
4. probabilities stay within [floor, 1 - floor], so that no single confident error ruins a log loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dfdetect.defaults import PERSON_RULES

SMALLEST_FLOOR = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of logits (Platt 1999): calibrated = scale * logit + bias."""

    scale: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what would turn FAKE into REAL or lose every score."""
        if not (np.isfinite(self.scale) and np.isfinite(self.bias) and self.scale > 0):
            raise ValueError(f"calibration needs a positive scale and finite numbers, not {self}")

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Calibrate logits of any shape."""
        return self.scale * np.asarray(logits, dtype=np.float64) + self.bias


@dataclass(frozen=True)
class Aggregation:
    """How calibrated logits combine, and the bound on probabilities.

    Args:
        person: `mean_logit` or `soft_maximum`, from frames to a person.
        video: `max`, from people to the video.
        floor: Least probability of either class.
        sharpness: Of the soft maximum; towards 0 it becomes the mean, towards infinity the maximum.
        window: Neighbouring frames that are averaged first, for the soft maximum.
    """

    person: str = "mean_logit"
    video: str = "max"
    floor: float = 0.01
    sharpness: float = 2.0
    window: int = 3

    def __post_init__(self) -> None:
        """Refuse rules that this version does not have."""
        if self.person not in PERSON_RULES or self.video != "max":
            raise ValueError(f"unknown aggregation rule {self.person!r}, {self.video!r}")
        if not (0 < self.sharpness < np.inf and type(self.window) is int and self.window > 0):
            raise ValueError(
                f"sharpness and window must be above 0, not {self.sharpness!r} and {self.window!r}"
            )
        if not SMALLEST_FLOOR <= self.floor < 0.5:
            raise ValueError(f"floor must be {SMALLEST_FLOOR} to 0.5, not {self.floor}")

    def person_logit(self, logits: np.ndarray) -> float:
        """One person's logit from the calibrated logits of its frames, shape (frames,).

        Example:
            >>> rule = Aggregation("soft_maximum", sharpness=1.0, window=1)
            >>> rule.person_logit(np.array([-3.0, -3.0, -3.0, 3.0]))
            1.62...
        """
        logits = np.asarray(logits, dtype=np.float64)
        if self.person == "mean_logit":
            return float(logits.mean())
        kernel = np.ones(min(self.window, len(logits)))
        covered = np.convolve(np.ones(len(logits)), kernel, "same")
        smooth = self.sharpness * np.convolve(logits, kernel, "same") / covered
        return float((np.logaddexp.reduce(smooth) - np.log(len(logits))) / self.sharpness)

    def video_logit(self, person_logits: Sequence[float]) -> float:
        """The video's logit from those of its people, at least one."""
        return max(person_logits)

    def probability(self, logits: np.ndarray | float) -> np.ndarray:
        """P(FAKE) in [floor, 1 - floor], float64, of the shape of `logits`.

        Example:
            >>> Aggregation(floor=0.01).probability([0.0, 100.0])
            array([0.5 , 0.99])
        """
        half = np.asarray(logits, dtype=np.float64) / 2
        # The sigmoid written with tanh does not overflow.
        return np.clip(0.5 * (1 + np.tanh(half)), self.floor, 1 - self.floor)


def fit_calibration(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Fit Platt scaling by maximum likelihood, each class weighing one half.

    The challenge's test clips are half REAL, so the balance of the set at hand must not leak in.
    Targets are a little off 0 and 1, as in Platt (1999): the fewer crops, the further, so that
    a few that are told apart perfectly do not make every answer certain.

    Args:
        logits: Raw logits of FAKE of crops that the model was not trained on, shape (n,).
        labels: 1 for FAKE, 0 for REAL, shape (n,); both must occur.

    Raises:
        ValueError: Only one class, or the logits do not rank FAKE above REAL.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import, needed in training only

    logits = np.asarray(logits, dtype=np.float64)
    # The optimiser stops too early on logits of another order of magnitude.
    spread = float(logits.std()) or 1.0
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=2)
    if counts.min() == 0:
        raise ValueError("calibration needs both REAL and FAKE crops")
    certain = (counts + 1) / (counts + 2)
    # Every crop counts as both classes: as its own nearly fully, as the other with the rest.
    shares = np.concatenate([certain[labels], 1 - certain[labels]]) / np.tile(counts[labels], 2)
    targets = np.concatenate([labels, 1 - labels])
    fit = LogisticRegression(C=np.inf)
    fit.fit(np.tile(logits / spread, 2).reshape(-1, 1), targets, sample_weight=shares * len(labels))
    return Calibration(scale=float(fit.coef_[0, 0]) / spread, bias=float(fit.intercept_[0]))
