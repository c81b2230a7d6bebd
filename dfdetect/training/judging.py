"""Judge a model during training on held-out faces, by one number that chooses the best epoch.

Users have two kinds of footage: that of the challenge, and everything else. One half of the number
is therefore the log loss of held-out faces without a known source (those of the challenge, split by
actor). The other half is the log loss of held-out sources, which all count the same. Both are
computed from one calibrated answer per video, with the aggregation of the checkpoint. (If the
aggregation is a mean, calibrating a video's answer is the same as calibrating each frame.)
"""

from collections import defaultdict
from typing import Any

import numpy as np

from dfdetect.data.faceset import FaceSet
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.metrics import metrics, vote_weights, voted_metrics, weighted_log_loss
from dfdetect.results import OperatingPoints
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration, fit_calibration
from dfdetect.scoring.verdict import fit_operating_points

CHOOSING = "choosing_loss"


class Judge:
    """Turns the logits of held-out crops or clips into figures.

    Args:
        faces: The held-out faces.
        length: Number of crops in a clip, as in `ClipDataset`.
        aggregation: Turns the logits of crops into the probability of a video.
    """

    def __init__(self, faces: FaceSet, length: int, aggregation: Aggregation):
        videos = faces.videos()
        items_of = defaultdict(list)
        for item, rows in enumerate(faces.clips(length)):
            items_of[rows[0]].append(item)
        self.videos = [
            [[item for row in track for item in items_of[row]] for track in video]
            for video in videos
        ]
        first = np.array([video[0][0] for video in videos])
        self.labels = faces.labels[first]
        self.sources = faces.sources[first]
        self.kinds, self.scenes = (faces.texts(name)[first] for name in ("kind", "pair"))
        self.weights = np.zeros(len(videos))
        for domain in self._domains():
            self.weights[domain] = vote_weights(self.labels[domain], self.sources[domain])
        self.weights /= self.weights.sum()
        self.aggregation = aggregation

    def judge(self, logits: np.ndarray) -> tuple[Calibration, dict[str, float]]:
        """Calibrate a model, and measure it.

        Args:
            logits: Raw logits of FAKE of each crop or clip.

        Returns:
            The calibration; and `choosing_loss`, the figures of `metrics` for faces without a
            source (for all, if each has one) and, as `sources_...`, those of `voted_metrics` for
            faces that have one.
        """
        raw = self._video_logits(logits)
        try:
            calibration = fit_calibration(raw, self.labels, self.weights)
        except ArgumentError:  # after few epochs, a model may rank no better than chance
            calibration = Calibration()
        uncalibrated = self.aggregation.probability(raw)
        probabilities = self.probabilities(calibration, logits)
        plain, *rest = self._domains()
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
        return calibration, scores

    def operating_points(self, calibration: Calibration, logits: np.ndarray) -> OperatingPoints:
        """Return the thresholds that 5 % and 1 % of REAL videos exceed; sources count the same."""
        real = self.labels == 0
        probabilities = self.probabilities(calibration, logits)[real]
        return fit_operating_points(probabilities, self.weights[real])

    def probabilities(self, calibration: Calibration, logits: np.ndarray) -> np.ndarray:
        """Return P(FAKE) of each video, from the raw logits of crops or clips."""
        return self.aggregation.probability(self._video_logits(calibration.apply(logits)))

    def _video_logits(self, logits: np.ndarray) -> np.ndarray:
        combine = self.aggregation.video_logit
        return np.array([combine([logits[track] for track in video]) for video in self.videos])

    def _domains(self) -> list[np.ndarray]:
        """Return the rows of faces without a known source and with one; no group is empty."""
        known = self.sources != ""
        return [np.flatnonzero(rows) for rows in (~known, known) if rows.any()]
