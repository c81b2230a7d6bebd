"""From the logits of single crops to a person's score and the video's probability.

The steps, with the settings that each checkpoint has in its `Aggregation`:

1. a crop's logit z becomes `scale * z + bias` (`Calibration`, fitted on actors held
   out of training);
2. the frames that show a person combine to that person's logit. `mean_logit` takes their mean:
   noise averages out, and unlike a mean of probabilities it lets a few clear frames outweigh many
   undecided ones. `soft_maximum` first smooths over neighbouring frames, then takes
   log(mean(exp(sharpness * z))) / sharpness, which lies between the mean and the maximum: someone
   who is fake for a while only shows (`dfdetect compare-aggregation` compares them);
3. the video's logit is that of its most suspicious person: one fake face makes a fake video. People
   who are seen in few frames, compared with the one most seen, have no say: a face that was found
   in a picture on the wall for a moment must not speak for a video;
4. probabilities stay within [floor, 1 - floor], so that no single confident error ruins a log loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dfdetect.defaults import FRAME_AGGREGATIONS
from dfdetect.errors import ArgumentError

SMALLEST_FLOOR = 1e-6


@dataclass(frozen=True)
class Aggregation:
    """How calibrated logits combine, and the bound on probabilities.

    Args:
        frames: `mean_logit` or `soft_maximum`, from frames to a track.
        tracks: `max`, from tracks to the video.
        floor: Lowest probability of either class.
        sharpness: Sharpness of the soft maximum; near 0 it is the mean, near infinity the maximum.
        window: Neighbouring frames that are averaged first, for the soft maximum.
        min_track_share: Frames of a track / frames of the longest one, below which it has no say.
    """

    frames: str = "mean_logit"
    tracks: str = "max"
    floor: float = 0.01
    sharpness: float = 2.0
    window: int = 3
    min_track_share: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ways that this version does not have."""
        if self.frames not in FRAME_AGGREGATIONS or self.tracks != "max":
            raise ArgumentError(f"unknown aggregation {self.frames!r}, {self.tracks!r}")
        if not (0 < self.sharpness < np.inf and type(self.window) is int and self.window > 0):
            raise ArgumentError(
                f"sharpness and window must be above 0, not {self.sharpness!r} and {self.window!r}"
            )
        if not 0 <= self.min_track_share <= 1:
            raise ArgumentError(f"min_track_share must be 0 to 1, not {self.min_track_share}")
        if not SMALLEST_FLOOR <= self.floor < 0.5:
            raise ArgumentError(f"floor must be {SMALLEST_FLOOR} to 0.5, not {self.floor}")

    def track_logit(self, logits: np.ndarray) -> float:
        """One track's logit from the calibrated logits of its frames, shape (frames,).

        Example:
            >>> aggregation = Aggregation("soft_maximum", sharpness=1.0, window=1)
            >>> aggregation.track_logit(np.array([-3.0, -3.0, -3.0, 3.0]))
            1.62...
        """
        logits = np.asarray(logits, dtype=np.float64)
        if self.frames == "mean_logit":
            return float(logits.mean())
        kernel = np.ones(min(self.window, len(logits)))
        covered = np.convolve(np.ones(len(logits)), kernel, "same")
        smooth = self.sharpness * np.convolve(logits, kernel, "same") / covered
        return float((np.logaddexp.reduce(smooth) - np.log(len(logits))) / self.sharpness)

    def video_logit(self, tracks: Sequence[np.ndarray]) -> float:
        """The video's logit from the calibrated logits of the frames of its tracks, at least one.

        Example:
            >>> aggregation = Aggregation(min_track_share=0.25)
            >>> aggregation.video_logit([np.full(32, -2.0), np.full(4, 3.0)])
            -2.0
        """
        least = self.min_track_share * max(map(len, tracks))
        return max(self.track_logit(track) for track in tracks if len(track) >= least)

    def probability(self, logits: np.ndarray | float) -> np.ndarray:
        """P(FAKE) in [floor, 1 - floor], float64, of the shape of `logits`.

        Example:
            >>> Aggregation(floor=0.01).probability([0.0, 100.0])
            array([0.5 , 0.99])
        """
        half = np.asarray(logits, dtype=np.float64) / 2
        # The sigmoid written with tanh does not overflow.
        return np.clip(0.5 * (1 + np.tanh(half)), self.floor, 1 - self.floor)
