"""Measure under which conditions a detector is less reliable.

A result has a warning if, for example, the face is darker than a limit. The limits of the warnings
come from the measurements of this module. Each measurement compares two balanced accuracies, and
gives their difference with an interval. There are three kinds of comparison:

- *damaged*: good crops are made smaller, darker or blurrier, or are compressed. The damaged crops
  are compared with the same crops before the damage.
- *natural*: undamaged crops with a property in a certain range, such as a brightness of 0 to 30,
  are compared with all other undamaged crops.
- *frames*: a few frames of each track (one face followed through a video) are compared with all
  frames of the same tracks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from dfdetect.checkpoints.weights import Weights
from dfdetect.data.faceset import FaceSet
from dfdetect.detector import Detector, load_detector
from dfdetect.evaluation.answers import track_logits
from dfdetect.evaluation.corruptions import blur, darken, shrink
from dfdetect.evaluation.metrics import bootstrap_intervals, metrics
from dfdetect.evaluation.subgroups import find_subgroups, measure_attributes, measure_crop
from dfdetect.faces.crops import compress_jpeg
from dfdetect.faces.geometry import CropRule
from dfdetect.runtime.executor import Executor

# Kinds of damage to good crops. Each kind has a function that damages a crop, and several levels of
# damage. For `height`, a level is the height of the face's bounding box in pixels. For
# `brightness`, it is the factor by which pixel values are multiplied. For `blur`, it is the
# standard deviation of the Gaussian, divided by the side of the crop. For `jpeg`, it is the JPEG
# quality.
Damage = Callable[[np.ndarray, Any], np.ndarray]
DAMAGES: dict[str, tuple[Damage, tuple[float, ...]]] = {
    "height": (lambda crop, height: shrink(crop, CropRule().scale * height), (100, 70, 50, 35)),
    "brightness": (darken, (0.5, 0.25, 0.12)),
    "blur": (blur, (0.007, 0.014, 0.022)),
    "jpeg": (compress_jpeg, (40, 20, 10, 5)),
}
# For each property, the edges of the ranges into which undamaged crops are divided.
RANGES: dict[str, tuple[float, ...]] = {
    "height": (0, 70, 100, 120, 140, 170, 200, 280, np.inf),
    "brightness": (0, 30, 50, 70, 90, 120, np.inf),
    "sharpness": (0, 0.05, 0.06, 0.07, 0.09, 0.11, np.inf),
    "turn": (0, 0.1, 0.2, 0.3, 0.4, 0.5, np.inf),
}
FRAMES = (1, 2, 4, 8, 16)
FIGURES = ("auc", "false_alarm_rate", "found_rate", "balanced_accuracy")
THRESHOLD = 0.5
FEWEST = 15
BATCH = 64


@dataclass(frozen=True)
class _Answers:
    """Labels (1 for FAKE), P(FAKE) and actors of some crops or tracks."""

    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> "_Answers":
        return _Answers(self.labels[rows], self.probabilities[rows], self.groups[rows])

    def balanced_accuracy(self, weights: np.ndarray) -> float:
        """Return the balanced accuracy, computed with a weight for each crop or track.

        If all weights of a class are 0, the balanced accuracy is NaN.
        """
        right = (self.probabilities > THRESHOLD) == (self.labels == 1)
        totals, found = (
            np.bincount(self.labels, one, minlength=2) for one in (weights, weights * right)
        )
        return float((found / totals).mean()) if totals.all() else float("nan")

    def with_probabilities(self, probabilities: np.ndarray) -> "_Answers":
        return _Answers(self.labels, probabilities, self.groups)


def compare_conditions(
    sources: Sequence[str | Path],
    *,
    crops: int = 200,
    weights: Weights | Detector = None,
    device: str = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how the accuracy of a detector depends on the condition of crops and tracks.

    The detector is measured on damaged crops, on groups of undamaged crops (such as dark crops),
    and on tracks of which only a few frames are used.

    Args:
        sources: Indexes of face sets (labelled crops of faces), which are measured together.
        crops: Maximum number of crops to damage, half of which are FAKE; 0 for none. Only crops
            that are not small, dark, blurred or turned to the side are damaged.
        weights: Names or files of weights, as in `load_detector`; or a detector. A detector keeps
            its own device, whatever `device` says.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        progress: Show a progress bar.

    Returns:
        A table with a row for each group of crops or tracks. Each group is compared with a
        reference. The columns are:

        - `comparison`: `damaged`, `natural` or `frames`, as in the docstring of this module;
        - `condition`: the property in which the group differs from its reference, such as
          `brightness`;
        - `level`: the strength of the damage, the range of the property, or the number of frames;
        - `n`: the number of crops or tracks in the group;
        - `auc`, `false_alarm_rate`, `found_rate` and `balanced_accuracy`: metrics of the group;
        - `difference`: the balanced accuracy of the group minus the balanced accuracy of the
          reference;
        - `low` and `high`: the ends of the 95 % interval of `difference`, by a bootstrap that draws
          whole actor groups, or single crops if the actors are unknown;
        - `sharpness`: the approximate median sharpness of the damaged crops, NaN for other groups.

        A `natural` group or a group of tracks is left out if it has fewer than 15 REAL or fewer
        than 15 FAKE members.

    Raises:
        FileNotFoundError: A face set or the weights do not exist.
        FaceSetError: A face set cannot be used.

    Example:
        >>> compare_conditions(["val.csv"]).query("condition == 'height'")
    """
    detector = weights if isinstance(weights, Detector) else load_detector(weights, device)
    faces = FaceSet.join([FaceSet.read(source) for source in sources])
    tracks = faces.tracks()
    with Executor(detector.device) as executor:
        logits = track_logits(detector, faces, tracks, executor, progress=progress)
    by_crop = np.empty(len(faces))
    for track, of_track in zip(tracks, logits, strict=True):
        by_crop[track] = of_track
    everything = _Answers(
        faces.labels, detector.spec.aggregation.probability(by_crop), np.asarray(faces.groups)
    )
    attributes = measure_attributes(faces, range(len(faces)), progress=progress)
    good = np.flatnonzero(find_subgroups(attributes)["other"])
    chosen = _draw_balanced(good, everything.labels, crops)
    return pd.DataFrame(
        [
            *_damaged(detector, faces, everything, chosen, progress),
            *_natural(everything, attributes),
            *_fewer_frames(detector, tracks, logits, everything),
        ]
    )


def _draw_balanced(rows: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Draw at most `count` of the row numbers `rows` at random: half REAL and half FAKE.

    `labels` has the label of every crop of the face set.
    """
    generator = np.random.default_rng(0)
    classes = [generator.permutation(rows[labels[rows] == label]) for label in (0, 1)]
    each = min(count // 2, *map(len, classes))
    return np.sort(np.concatenate([one[:each] for one in classes]))


def _damaged(
    detector: Detector, faces: FaceSet, everything: _Answers, rows: np.ndarray, progress: bool
) -> Iterator[dict[str, Any]]:
    if not len(rows):
        return
    levels = [(name, level) for name, (_, levels) in DAMAGES.items() for level in levels]
    undamaged, _ = _score_alone(detector, faces, rows, lambda image, _: image, 0)
    before = everything[rows].with_probabilities(undamaged)
    for name, level in tqdm(levels, "damages", unit="damage", disable=not progress):
        damage, _ = DAMAGES[name]
        probabilities, sharpness = _score_alone(detector, faces, rows, damage, level)
        row = _row("damaged", name, f"{level:g}", before.with_probabilities(probabilities), before)
        yield {**row, "sharpness": sharpness}


def _score_alone(
    detector: Detector,
    faces: FaceSet,
    rows: np.ndarray,
    damage: Callable[[np.ndarray, float], np.ndarray],
    level: float,
) -> tuple[np.ndarray, float]:
    """Damage and score crops, and return P(FAKE) of each crop and the crops' median sharpness.

    Each crop is scored alone, without the other crops of its track. The median sharpness is
    computed from the last batch of damaged crops only. This is precise enough.
    """
    logits: list[np.ndarray] = []
    for start in range(0, len(rows), BATCH):
        images = [damage(faces.image(row), level) for row in rows[start : start + BATCH]]
        logits += detector.frame_logits([[image] for image in images])
    sharpness = np.median([measure_crop(image).sharpness for image in images])
    return detector.spec.aggregation.probability(np.concatenate(logits)), float(sharpness)


def _natural(
    everything: _Answers, attributes: Mapping[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    for name, edges in RANGES.items():
        for low, high in pairwise(edges):
            inside = (low <= attributes[name]) & (attributes[name] < high)
            if min(np.bincount(everything.labels[inside], minlength=2)) >= FEWEST:
                level = f"{low:g} to {high:g}"
                yield _row("natural", name, level, everything[inside], everything[~inside])


def _fewer_frames(
    detector: Detector,
    tracks: Sequence[Sequence[int]],
    logits: Sequence[np.ndarray],
    everything: _Answers,
) -> Iterator[dict[str, Any]]:
    # The model scores each crop together with all crops of its track. A `TrackModel` would give the
    # chosen crops other logits if it scored only these crops.
    aggregation = detector.spec.aggregation

    def scored(chosen: Sequence[np.ndarray]) -> np.ndarray:
        return aggregation.probability(np.array([aggregation.track_logit(one) for one in chosen]))

    for count in FRAMES:
        long = [number for number, one in enumerate(logits) if len(one) > count]
        whole = everything[np.array([tracks[number][0] for number in long], dtype=int)]
        if min(np.bincount(whole.labels, minlength=2)) < FEWEST:
            continue
        some = [
            logits[number][((np.arange(count) + 0.5) * len(logits[number]) / count).astype(int)]
            for number in long
        ]
        part = whole.with_probabilities(scored(some))
        whole = whole.with_probabilities(scored([logits[number] for number in long]))
        yield _row("frames", "frames", f"{count}", part, whole)


def _row(
    comparison: str, condition: str, level: str, part: _Answers, others: _Answers
) -> dict[str, Any]:
    """Return a row of the table of `compare_conditions`.

    `part` has the answers for a group of crops or tracks, and `others` the answers for its
    reference. The row has the metrics of the group. The entry `difference` is the balanced accuracy
    of the group minus the balanced accuracy of the reference.
    """
    names, group_of = np.unique(np.concatenate([part.groups, others.groups]), return_inverse=True)
    own, theirs = group_of[: len(part.groups)], group_of[len(part.groups) :]

    def differ(times: np.ndarray) -> dict[str, float]:
        return {
            "difference": part.balanced_accuracy(times[own])
            - others.balanced_accuracy(times[theirs])
        }

    figures = metrics(part.labels, part.probabilities)
    # The reference may have one class only. It has no balanced accuracy then.
    low, high = bootstrap_intervals(differ, len(names)).get("difference", (np.nan, np.nan))
    return {
        "comparison": comparison,
        "condition": condition,
        "level": level,
        "n": len(own),
        **{name: getattr(figures, name) for name in FIGURES},
        **differ(np.ones(len(names))),
        "low": low,
        "high": high,
    }
