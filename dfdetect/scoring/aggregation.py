"""Aggregation: combines the logits of frames into the scores of tracks and videos.

A track is one face followed through a video. In each frame of a track, the face is cut out as a
crop, and a model gives each crop a logit. Four steps turn these logits into the score of a video:

1. The logits are calibrated: a logit z becomes `scale * z + bias`. `scale` and `bias` were fitted
   on actors who were held out of training.
2. One of the rules `FRAME_RULES` combines the logits of a track's frames into the track's logit.
3. One of the rules `TRACK_RULES` combines the tracks of a video into the video's logit. Tracks with
   far fewer frames than the longest track can be ignored, because a short track may show a picture
   on a wall.
4. The probability is the sigmoid of the video's logit. It is kept within [floor, 1 - floor], so
   that a single confident error does not dominate the log loss.

A checkpoint contains the settings of these steps, as `Calibration` and `Aggregation`.

The rules for the frames of a track:

- `mean_logit`: the mean of the logits. A few frames with logits far from 0 outweigh many frames
  with logits near 0.
- `soft_maximum`: first, the logit of each frame is replaced by m, the mean logit of `window`
  successive frames with this frame in the middle. The track's logit is then
  log(mean(exp(sharpness * m))) / sharpness. This logit lies between the mean and the maximum of m.
  The rule therefore also detects a face that is fake for a short time only.
- `mean_probability`: the mean of the probabilities. With this rule, a few frames with logits far
  from 0 do not outweigh the other frames.
- `confident_majority`: a mean of probabilities. If many frames have probabilities near 1, or if
  nearly all frames have probabilities near 0, the mean is taken over these frames only. Seferbekov
  (2020), the first place in the Deepfake Detection Challenge, used this rule.
- `power_law`: a weighted mean of probabilities. The weight of a frame grows with the distance of
  its probability from 0.5. The third place (Davletshin et al. 2020) used this rule.
- `confident_fives`: the frames are divided into groups of five, and the mean of the groups'
  probabilities is taken. If most groups have probabilities near 1, or if most groups have
  probabilities near 0, the mean is taken over these groups only. The fourth place (Shao et al.
  2020) used this rule.

The rules for the tracks of a video:

- `max`: the highest logit of the tracks, because one fake face makes a video fake.
- `pooled`: the frames of all tracks are combined as if they were one track.
- `agreement`: If one track has a probability above 0.9, or all tracks have probabilities above 0.6,
  the highest logit of the tracks is the video's logit. If all tracks have probabilities below 0.4,
  the lowest logit of the tracks is the video's logit. Otherwise, the video's probability is the
  mean of the tracks' probabilities. The fourth place of the challenge used this rule, too.

The command `dfdetect compare-aggregation` measures several of these rules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dfdetect.defaults import FRAME_AGGREGATIONS, TRACK_AGGREGATIONS
from dfdetect.errors import ArgumentError

# Smallest allowed value of `Aggregation.floor`.
SMALLEST_FLOOR = 1e-6
# Probabilities are clipped to this distance from 0 and 1 before their logit is taken.
SMALLEST = 1e-12


@dataclass(frozen=True)
class Aggregation:
    """Settings for combining calibrated logits into probabilities.

    Args:
        frames: Name of the rule that combines the frames of a track, one of `FRAME_RULES`.
        tracks: Name of the rule that combines the tracks of a video, one of `TRACK_RULES`.
        floor: Lowest possible P(FAKE); the highest is 1 - floor.
        sharpness: Sharpness of the soft maximum, above 0. The soft maximum is near the mean for a
            small value, and near the maximum for a large value.
        window: Number of frames. Before the soft maximum, the logit of each frame is replaced by
            the mean logit of `window` successive frames with this frame in the middle.
        min_track_share: Minimum number of frames of a track, divided by the number of frames of the
            longest track; 0 to 1. Shorter tracks are ignored.

    Raises:
        ArgumentError: A name is unknown, or a number is out of its range.
    """

    frames: str = "mean_logit"
    tracks: str = "max"
    floor: float = 0.01
    sharpness: float = 2.0
    window: int = 3
    min_track_share: float = 0.0

    def __post_init__(self) -> None:
        """Raise ArgumentError if a rule is unknown or a number is out of its range."""
        if self.frames not in FRAME_RULES or self.tracks not in TRACK_RULES:
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
        """Return the logit of a track, given the calibrated logits of its frames, shape (frames,).

        Example:
            >>> aggregation = Aggregation("soft_maximum", sharpness=1.0, window=1)
            >>> aggregation.track_logit(np.array([-3.0, -3.0, -3.0, 3.0]))
            1.62...
        """
        return FRAME_RULES[self.frames](np.asarray(logits, dtype=np.float64), self)

    def video_logit(self, tracks: Sequence[np.ndarray]) -> float:
        """Return the logit of a video.

        Args:
            tracks: For each track, the calibrated logits of its frames, shape (frames,).

        Example:
            >>> aggregation = Aggregation(min_track_share=0.25)
            >>> aggregation.video_logit([np.full(32, -2.0), np.full(4, 3.0)])
            -2.0
        """
        least = self.min_track_share * max(map(len, tracks))
        heard = [np.asarray(track) for track in tracks if len(track) >= least]
        return TRACK_RULES[self.tracks](heard, self)

    def probability(self, logits: np.ndarray | float | Sequence[float]) -> np.ndarray:
        """Return P(FAKE) for each logit, float64 of the same shape as `logits`.

        P(FAKE) is the sigmoid of the logit, kept within [floor, 1 - floor].

        Example:
            >>> Aggregation(floor=0.01).probability([0.0, 100.0])
            array([0.5 , 0.99])
        """
        return np.clip(_sigmoid(logits), self.floor, 1 - self.floor)


def _mean_logit(logits: np.ndarray, _: Aggregation) -> float:
    return float(logits.mean())


def _soft_maximum(logits: np.ndarray, aggregation: Aggregation) -> float:
    sharpness = aggregation.sharpness
    kernel = np.ones(min(aggregation.window, len(logits)))
    covered = np.convolve(np.ones(len(logits)), kernel, "same")
    smooth = sharpness * np.convolve(logits, kernel, "same") / covered
    return float((np.logaddexp.reduce(smooth) - np.log(len(logits))) / sharpness)


def _mean_probability(logits: np.ndarray, _: Aggregation) -> float:
    return _logit(_sigmoid(logits).mean())


def _confident_majority(logits: np.ndarray, _: Aggregation) -> float:
    """Return the logit of the mean probability of the confident frames, or of all frames.

    If more than 40 % of the frames, and more than 11 frames, have probabilities above 0.8, the mean
    is taken over these frames. If more than 90 % of the frames have probabilities below 0.2, the
    mean is taken over these frames. Otherwise, the mean is taken over all frames.
    """
    values = _sigmoid(logits)
    fake, real = values[values > 0.8], values[values < 0.2]
    if len(fake) > len(values) // 2.5 and len(fake) > 11:
        return _logit(fake.mean())
    return _logit(real.mean() if len(real) > 0.9 * len(values) else values.mean())


def _confident_fives(logits: np.ndarray, _: Aggregation) -> float:
    """Return the logit of the mean probability of the confident groups of five frames, or of all.

    The probability of a group is the sigmoid of its mean logit. If more than 70 % of the groups
    have probabilities above 0.85, the mean is taken over these groups. If more than 70 % of the
    groups have probabilities below 0.15, the mean is taken over these groups. Otherwise, the mean
    is taken over all groups. Frames after the last whole group are ignored. If there are fewer than
    five frames, they form one group.
    """
    fives = len(logits) // 5 * 5
    means = logits[:fives].reshape(-1, 5).mean(axis=1) if fives else logits.mean(keepdims=True)
    values = _sigmoid(means)
    for sure in (values[values > 0.85], values[values < 0.15]):
        if len(sure) > 0.7 * len(values):
            return _logit(sure.mean())
    return _logit(values.mean())


def _power_law(logits: np.ndarray, _: Aggregation) -> float:
    """Return the logit of a weighted mean of the frames' probabilities.

    Let d be the distance of a frame's probability from 0.5. The weight of the frame is d + 0.0001.
    Before the mean is taken, each probability is moved away from 0.5: its distance becomes
    d ** 0.65. The moved probability is kept within [0.01, 0.99].
    """
    distance = _sigmoid(logits) - 0.5
    pushed = np.clip(0.5 + np.sign(distance) * np.abs(distance) ** 0.65, 0.01, 0.99)
    return _logit(np.average(pushed, weights=np.abs(distance) + 1e-4))


def _highest(tracks: Sequence[np.ndarray], aggregation: Aggregation) -> float:
    return max(map(aggregation.track_logit, tracks))


def _pooled(tracks: Sequence[np.ndarray], aggregation: Aggregation) -> float:
    return aggregation.track_logit(np.concatenate(tracks))


def _agreement(tracks: Sequence[np.ndarray], aggregation: Aggregation) -> float:
    """Return the logit of a video, by a rule that depends on whether its tracks agree.

    First, the frames of each track are combined into the track's logit. The probability of a track
    is the sigmoid of this logit. If one track has a probability above 0.9, or if all tracks have
    probabilities above 0.6, the highest logit is returned. If all tracks have probabilities below
    0.4, the lowest logit is returned. Otherwise, the mean of the tracks' probabilities is turned
    into a logit and returned.
    """
    values = _sigmoid([aggregation.track_logit(track) for track in tracks])
    if values.max() > 0.9 or values.min() > 0.6:
        return _logit(values.max())
    return _logit(values.min() if values.max() < 0.4 else values.mean())


def _sigmoid(logits: np.ndarray | float | Sequence[float]) -> np.ndarray:
    # With tanh, large logits cause no overflow.
    return 0.5 * (1 + np.tanh(np.asarray(logits, dtype=np.float64) / 2))


def _logit(probability: float) -> float:
    bounded = np.clip(probability, SMALLEST, 1 - SMALLEST)
    return float(np.log(bounded) - np.log1p(-bounded))


FRAME_RULES: dict[str, Callable[[np.ndarray, Aggregation], float]] = dict(
    zip(
        FRAME_AGGREGATIONS,
        (
            *(_mean_logit, _soft_maximum, _mean_probability),
            *(_confident_majority, _confident_fives, _power_law),
        ),
        strict=True,
    )
)
TRACK_RULES: dict[str, Callable[[Sequence[np.ndarray], Aggregation], float]] = dict(
    zip(TRACK_AGGREGATIONS, (_highest, _pooled, _agreement), strict=True)
)
