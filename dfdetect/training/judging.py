"""How good a model in training is on faces held out of it, and the one number that chooses.

People meet two kinds of footage: the challenge's, and everything else. So one half of the number is
the log loss of held-out faces without a known source (the challenge's, split by actor), and the
other half is that of held-out sources, where each source has one vote in each class. Both are of
calibrated answers, one for each track: the mean logit of the crops of one face in one video.
"""

from typing import Any

import numpy as np

from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.metrics import metrics, vote_weights, voted_metrics, weighted_log_loss
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration, fit_calibration

CHOOSING = "choosing_loss"


class Judge:
    """Turns the logits of held-out crops or clips into figures.

    Args:
        faces: The faces held out.
        length: Crops in a clip, as in `ClipDataset`.
        aggregation: Its bound on probabilities.
    """

    def __init__(self, faces: FaceSet, length: int, aggregation: Aggregation):
        tracks = faces.tracks()
        track_of = np.zeros(len(faces), int)
        for number, rows in enumerate(tracks):
            track_of[rows] = number
        self.track_of = np.array([track_of[rows[0]] for rows in faces.clips(length)])
        first = np.array([rows[0] for rows in tracks])
        self.labels = faces.labels[first]
        self.sources = faces.sources[first]
        self.kinds, self.scenes = (faces.texts(name)[first] for name in ("kind", "pair"))
        self.weights = np.zeros(len(tracks))
        for rows in self._domains():
            self.weights[rows] = vote_weights(self.labels[rows], self.sources[rows])
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
        logits = np.bincount(self.track_of, logits) / np.bincount(self.track_of)
        try:
            calibration = fit_calibration(logits, self.labels, self.weights)
        except ValueError:  # a young model may rank no better than chance
            calibration = Calibration()
        raw = self.aggregation.probability(logits)
        probabilities = self.aggregation.probability(calibration.apply(logits))
        plain, *rest = self._domains()
        scores: dict[str, Any] = {
            CHOOSING: weighted_log_loss(self.labels, probabilities, self.weights),
            **metrics(self.labels[plain], probabilities[plain]),
            "uncalibrated_log_loss": metrics(self.labels[plain], raw[plain])["log_loss"],
        }
        for rows in rest or ([plain] if self.sources[plain].all() else []):
            own = (
                values[rows] for values in (probabilities, self.sources, self.kinds, self.scenes)
            )
            voted = voted_metrics(self.labels[rows], *own)
            scores |= {f"sources_{name}": value for name, value in voted.items()}
        return calibration, scores

    def _domains(self) -> list[np.ndarray]:
        """Rows of faces without a known source, and of those with one; none of them is empty."""
        known = self.sources != ""
        return [np.flatnonzero(rows) for rows in (~known, known) if rows.any()]
