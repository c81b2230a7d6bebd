"""Aggregation: combines the logits of frames into the scores of tracks and videos.

A track is one face followed through a video. A model gives each crop of the face a logit. Four
steps turn these logits into the score of a video:

1. Calibration: each logit z becomes `scale * z + bias`.
2. A rule for frames combines the logits of a track into the track's logit.
3. A rule for tracks combines the tracks of a video into the video's logit. Short tracks can be
   ignored.
4. The probability is the sigmoid of the video's logit, kept within [floor, 1 - floor].

A checkpoint contains the settings of these steps, as `Calibration` and `Aggregation`.

The rules for the frames of a track:

- `mean_logit`: the mean of the logits. A few logits far from 0 can outweigh many logits near 0.
- `soft_maximum`: log(mean(exp(sharpness * z))) / sharpness, where z are the logits after a moving
  mean. The result lies between the mean and the maximum of z. This rule also detects a face that is
  fake for a short time only.
- `mean_probability`: the mean of the probabilities.
- `confident_majority`: the mean of the probabilities. If many of them are near 1, or nearly all are
  near 0, only these are averaged. The first place in the Deepfake Detection Challenge (Seferbekov
  2020) used this rule.
- `power_law`: a weighted mean of the probabilities. A probability far from 0.5 has a large weight.
  The third place (Davletshin et al. 2020) used this rule.
- `confident_fives`: the mean of the probabilities of groups of five frames. If most of them are
  near 1, or most are near 0, only these are averaged. The fourth place (Shao et al. 2020) used this
  rule.

The rules for the tracks of a video:

- `max`: the highest logit of the tracks, because one fake face makes a video fake.
- `pooled`: the frames of all tracks are combined as if they were one track.
- `agreement`: the highest logit if one track has a probability above 0.9, or all tracks above 0.6.
  The lowest logit if all tracks have probabilities below 0.4. Otherwise, the logit of the mean
  probability of the tracks. The fourth place (Shao et al. 2020) used this rule, too.

The command `dfdetect compare-aggregation` compares several of these rules.
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
        floor: Lowest possible P(FAKE); the highest is 1 - floor. The floor limits the log loss of a
            confident error.
        sharpness: Sharpness of the soft maximum, above 0. The soft maximum is near the mean for a
            small value, and near the maximum for a large value.
        window: Number of successive frames in the moving mean before the soft maximum.
        min_track_share: Minimum number of frames of a track, divided by the number of frames of the
            longest track; 0 to 1. Shorter tracks are ignored: they may show a picture on a wall.

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
        heard = [np.asarray(tracks[number]) for number in self.counting_tracks(tracks)]
        return TRACK_RULES[self.tracks](heard, self)

    def counting_tracks(self, tracks: Sequence[np.ndarray]) -> list[int]:
        """Return the indexes of the tracks that are not ignored (see `min_track_share`).

        Args:
            tracks: For each track, the logits of its frames, shape (frames,).

        Example:
            >>> tracks = [np.zeros(32), np.zeros(4), np.zeros(8)]
            >>> Aggregation(min_track_share=0.25).counting_tracks(tracks)
            [0, 2]
        """
        least = self.min_track_share * max(map(len, tracks))
        return [number for number, track in enumerate(tracks) if len(track) >= least]

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

    The mean is taken over the first of these sets that is large enough:

    - frames above 0.8: more than 40 % of the frames, and more than 11 frames;
    - frames below 0.2: more than 90 % of the frames;
    - all frames.
    """
    values = _sigmoid(logits)
    fake, real = values[values > 0.8], values[values < 0.2]
    if len(fake) > len(values) // 2.5 and len(fake) > 11:
        return _logit(fake.mean())
    return _logit(real.mean() if len(real) > 0.9 * len(values) else values.mean())


def _confident_fives(logits: np.ndarray, _: Aggregation) -> float:
    """Return the logit of the mean probability of the confident groups, or of all groups.

    A group has five successive frames. Frames after the last whole group are ignored, but fewer
    than five frames form one group. The probability of a group is the sigmoid of its mean logit. If
    more than 70 % of the groups are above 0.85, the mean is taken over these groups. The same holds
    for groups below 0.15.
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

    The probability of a track is the sigmoid of the track's logit. The result is

    - the highest logit if one track is above 0.9, or all tracks are above 0.6;
    - the lowest logit if all tracks are below 0.4;
    - otherwise, the logit of the mean probability of the tracks.
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
