"""Measure a model on held-out faces after each epoch, to choose the best epoch.

The best epoch is the epoch with the lowest `choosing_loss`. This is the mean of two log losses of
held-out videos:

- The log loss of the videos without a known source, such as the videos of the Deepfake Detection
  Challenge.
- The log loss of the videos with a known source. Within a class (REAL or FAKE), all sources have
  the same total weight.

In both log losses, REAL and FAKE videos have the same total weight. If one of them has no videos,
the `choosing_loss` is the other log loss.

Both log losses are computed from one calibrated P(FAKE) per video, as in a detector. The
calibration is fitted on one raw logit per video.
"""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dfdetect.data.faceset import FaceSet
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.metrics import metrics, vote_weights, voted_metrics, weighted_log_loss
from dfdetect.faces.clips import by_crop
from dfdetect.results import NEW, OperatingPoints, counted
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration, fit_calibration
from dfdetect.scoring.verdict import MIN_REAL_VIDEOS, fit_operating_points

CHOOSING = "choosing_loss"


class Judge:
    """Computes the calibration and the metrics of a model from its logits of held-out faces.

    Each video has a weight. There are two groups of videos: without a known source, and with a
    known source. Both groups have the same total weight, unless one is empty. Within a group, REAL
    and FAKE videos have the same total weight. Within a class (REAL or FAKE) of a group, all
    sources have the same total weight.

    Args:
        faces: The held-out faces.
        length: Number of crops in each clip, as in `ClipDataset`.
        aggregation: Rules that combine the logits of crops into the probability of a video.
        trained_sources: Names of the sources of the faces that the model was trained on; None if
            they are unknown.
    """

    def __init__(
        self,
        faces: FaceSet,
        length: int,
        aggregation: Aggregation,
        trained_sources: Sequence[str] | None = (),
    ):
        videos = faces.videos()
        items_of = defaultdict(list)
        for item, rows in enumerate(faces.clips(length)):
            items_of[rows[0]].append(item)
        self.length = length
        # For each track of each video, its items (crops or clips) and its number of crops.
        self.videos = [
            [([item for row in track for item in items_of[row]], len(track)) for track in video]
            for video in videos
        ]
        first = np.array([video[0][0] for video in videos])
        self.labels = faces.labels[first]
        self.sources = faces.sources[first]
        self.knows_sources = trained_sources is not None
        self.from_new_source = (self.sources != "") & ~np.isin(self.sources, trained_sources or ())
        self.kinds, self.scenes = faces.texts("kind")[first], faces.scenes[first]
        self.weights = np.zeros(len(videos))
        for domain in self._domains():
            self.weights[domain] = vote_weights(self.labels[domain], self.sources[domain])
        self.weights /= self.weights.sum()
        self.aggregation = aggregation

    def judge(self, logits: np.ndarray) -> tuple[Calibration, dict[str, float]]:
        """Return the calibration of a model, and the metrics that `measure` computes with it.

        If the model is no better than chance, as after few epochs, the calibration does not change
        logits.

        Args:
            logits: Raw logit of FAKE for each held-out crop or clip, float of shape (n,).
        """
        try:
            calibration = self.calibrate(logits)
        except ArgumentError:
            calibration = Calibration()
        return calibration, self.measure(calibration, logits)

    def calibrate(self, logits: np.ndarray, rows: np.ndarray | None = None) -> Calibration:
        """Return the calibration of a model, given its raw logits.

        Args:
            logits: Raw logit of FAKE for each held-out crop or clip, float of shape (n,).
            rows: Mask of the videos to use, bool of shape (videos,). None means all videos.

        Raises:
            ArgumentError: The model is no better than chance on these videos.
        """
        # `probabilities` calibrates the logits of crops before it combines them. Here the combined
        # logits are calibrated. If logits are combined by their mean, both give the same result.
        used = np.ones(len(self.labels), bool) if rows is None else rows
        return fit_calibration(
            self._video_logits(logits)[used], self.labels[used], self.weights[used]
        )

    def measure(self, calibration: Calibration, logits: np.ndarray) -> dict[str, float]:
        """Return the metrics of a calibrated model.

        Args:
            calibration: The calibration of the model.
            logits: Raw logit of FAKE for each held-out crop or clip, float of shape (n,).

        Returns:
            A dictionary from the names of metrics to their values. Metrics that are not finite are
            left out, because a checkpoint cannot hold NaN. There are four kinds of metrics:

            - `choosing_loss`: the loss by which the best epoch is chosen, computed from all videos.
            - `log_loss` and the other metrics of `dfdetect.evaluation.metrics.metrics`: computed
              from the videos without a known source. If there are none, or all have the same label,
              the metrics are computed from all videos.
            - `uncalibrated_log_loss`: like `log_loss`, but without the calibration.
            - `sources_log_loss` and other names that begin with `sources_`: computed from the
              videos with a known source by `dfdetect.evaluation.metrics.voted_metrics`.
        """
        uncalibrated = self.aggregation.probability(self._video_logits(logits))
        probabilities = self.probabilities(calibration, logits)
        plain, *rest = self._domains()
        if len(set(self.labels[plain])) < 2:  # most metrics need both classes
            plain = np.arange(len(self.labels))
        scores: dict[str, Any] = {
            CHOOSING: weighted_log_loss(self.labels, probabilities, self.weights),
            **metrics(self.labels[plain], probabilities[plain]).to_dict(),
            "uncalibrated_log_loss": metrics(self.labels[plain], uncalibrated[plain]).log_loss,
        }
        for rows in rest or ([plain] if self.sources[plain].all() else []):
            own = (
                values[rows] for values in (probabilities, self.sources, self.kinds, self.scenes)
            )
            voted = voted_metrics(self.labels[rows], *own)
            scores |= {f"sources_{name}": value for name, value in voted.to_dict().items()}
        return {name: value for name, value in scores.items() if np.isfinite(value)}

    def warn_if_few_real(self, out: Path) -> None:
        """Warn that the checkpoint `out` gets no thresholds, if there are too few REAL videos.

        See `operating_points`. The warning says how many REAL videos there are, and what to do.
        """
        number = int((self.labels == 0).sum())
        if number < MIN_REAL_VIDEOS:
            warnings.warn(
                f"{out}: will give no verdicts, because {counted(number, 'REAL video')} can set no "
                f"thresholds; hold out or give {MIN_REAL_VIDEOS} or more that were not trained on",
                stacklevel=3,
            )

    def operating_points(
        self, calibration: Calibration, logits: np.ndarray
    ) -> OperatingPoints | None:
        """Return the thresholds of the verdicts, and how many FAKE videos exceed each threshold.

        If there are fewer than `dfdetect.scoring.verdict.MIN_REAL_VIDEOS` REAL videos, the result
        is None: the rates below cannot be known from so few videos.

        At most 5 % of the REAL videos have a P(FAKE) above the threshold `uncertain`, and at most
        1 % of them have a P(FAKE) above the threshold `fake`. In these percentages, each REAL video
        counts with its weight (see `Judge`).

        The FAKE videos are counted in two groups. The group `sources` consists of the FAKE videos
        whose source is known and new to the model. The group `people` consists of all other FAKE
        videos. The people in them are new to the model, but the source may not be new. If it is
        unknown on which sources the model was trained, videos with a source are in neither group.
        """
        probabilities = self.probabilities(calibration, logits)
        real = self.labels == 0
        if real.sum() < MIN_REAL_VIDEOS:
            return None
        points = fit_operating_points(probabilities[real], self.weights[real])
        countable = ~real & (self.knows_sources | (self.sources == ""))
        groups = countable & ~self.from_new_source, countable & self.from_new_source
        fakes = {
            new: _count_fakes(points, probabilities[rows])
            for new, rows in zip(NEW, groups, strict=True)
            if rows.any()
        }
        return replace(points, fakes=fakes)

    def probabilities(self, calibration: Calibration, logits: np.ndarray) -> np.ndarray:
        """Return P(FAKE) of each video, given the raw logits of its crops or clips."""
        return self.aggregation.probability(self._video_logits(calibration.apply(logits)))

    def _video_logits(self, logits: np.ndarray) -> np.ndarray:
        combine = self.aggregation.video_logit
        return np.array(
            [
                combine([by_crop(logits[items], count, self.length) for items, count in video])
                for video in self.videos
            ]
        )

    def _domains(self) -> list[np.ndarray]:
        """Return the videos without a known source, and the videos with one, as separate arrays.

        The arrays hold positions in `self.videos`. An empty array is left out.
        """
        known = self.sources != ""
        return [np.flatnonzero(rows) for rows in (~known, known) if rows.any()]


def _count_fakes(points: OperatingPoints, probabilities: np.ndarray) -> dict[str, int]:
    return {
        "videos": len(probabilities),
        "uncertain": int((probabilities > points.uncertain).sum()),
        "fake": int((probabilities > points.fake).sum()),
    }
