"""Compare aggregations, which combine the probabilities of frames into the probability of a video.

The data are pairs of tracks. A track is one face followed through a video. Each pair has a REAL
track and a self-blended fake of the same track: in each frame, an altered copy of the face is
blended into the face itself. The function `extract` makes these pairs with `blend=True`.

Scenes are artificial videos that are composed of these tracks. There are three kinds of FAKE
scenes:

- one person, who is fake all the time;
- one person, who is fake for a fifth of the time;
- two people, of whom one is fake.

The REAL scenes show the same people as the FAKE scenes. An AUC is computed for each source (data
set or site), and these AUCs are averaged. The aggregations of dfdetect are compared with those of
the four best teams of the Deepfake Detection Challenge.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import log_loss

from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.detector import Detector, load_detector
from dfdetect.evaluation.answers import track_logits
from dfdetect.evaluation.metrics import auc_within, metrics
from dfdetect.runtime.executor import Executor
from dfdetect.scoring.aggregation import Aggregation

# Each aggregation is measured on every fourth frame, on every second frame, and on all frames.
SPARSER = (4, 2, 1)
# Share of fake frames in a scene that is fake for a part of the time. Each pair of tracks gives
# `STARTS` such scenes, whose fake parts start at different frames.
FAKE_SHARE = 0.2
STARTS = 3
FEWEST_PAIRS = 20

# Function that takes the logit of each frame of each person, and returns P(FAKE) of the video.
VideoAggregation = Callable[[Sequence[np.ndarray]], float]


@dataclass(frozen=True)
class Scene:
    """An artificial video that is composed of tracks.

    It has no images, only the calibrated logit of each person in each frame.

    Attributes:
        kind: What is fake if the scene is FAKE: `all` (the only person, all the time), `part` (the
            only person, for a part of the time) or `one of two` (one of two people).
        source: Name of the data set or site that the tracks come from.
        label: 1 for FAKE, 0 for REAL.
        people: For each person, the calibrated logit of each frame, float of shape (frames,).
    """

    kind: str
    source: str
    label: int
    people: list[np.ndarray]

    def sparser(self, step: int) -> "Scene":
        """Return a copy of the scene that has only every `step`-th frame, but at least one."""
        return replace(
            self, people=[one[min(step // 2, len(one) - 1) :: step] for one in self.people]
        )


def compare_aggregations(
    index: str | Path,
    *,
    weights: str | Path | Detector | None = None,
    device: str = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Return a table of how well each aggregation in `AGGREGATIONS` recognises FAKE scenes.

    A scene is an artificial video that is composed of tracks.

    Args:
        index: Index of a face set that `extract` made with `blend=True`. The scenes are composed of
            tracks of this face set.
        weights: Name or file of weights, as in `load_detector`; or a detector. A detector keeps its
            own device, whatever `device` says.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        progress: Show a progress bar.

    Returns:
        A table with three rows for each aggregation: for a quarter of the frames of each scene, for
        half of them, and for all of them (fewer rows if the tracks are very short). For each kind
        of scene (see `Scene`), the table has the columns `auc` and `log loss`. The AUC is computed
        for each source of the face set, and then averaged. In the log loss, REAL and FAKE scenes
        have the same total weight.

    Raises:
        FaceSetError: The face set has no REAL track from which a FAKE track was made.

    Example:
        >>> compare_aggregations("clips.csv").loc[("mean logit", 32), ("part", "auc")]
        0.81
    """
    faces = FaceSet.read(index)
    pairs = find_pairs(faces)
    if not pairs:
        raise FaceSetError(
            f"{index}: no REAL track has a fake of the same frames; make the face set with "
            "`dfdetect extract --blend`"
        )
    if len(pairs) < FEWEST_PAIRS:
        warnings.warn(
            f"{index}: {len(pairs)} people are too few to choose an aggregation", stacklevel=2
        )
    detector = weights if isinstance(weights, Detector) else load_detector(weights, device)
    scenes = make_scenes(pairs, faces, _frame_logits(detector, faces, progress))
    rows = {}
    for step in SPARSER:
        seen = [scene.sparser(step) for scene in scenes]
        frames = max(len(one) for scene in seen for one in scene.people)
        for name, aggregate in AGGREGATIONS.items():
            rows[name, frames] = _measure(aggregate, seen)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["aggregation", "frames"])
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def find_pairs(faces: FaceSet) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return pairs of tracks: a REAL track, and the FAKE track that was made from it.

    Returns:
        For each pair, an array for the REAL track and an array for the FAKE track. An array holds
        the row numbers of the track's crops in the table of the face set.
    """
    needed = {"video", "track", "frame", "method"}
    if not needed <= set(faces.table):
        return []
    tracks: dict[tuple[str, str], dict[str, np.ndarray]] = defaultdict(dict)
    for rows in faces.tracks():
        first = faces.table.iloc[rows[0]]
        tracks[first["video"], first["track"]][first["label"]] = np.array(rows)
    return [
        (pair["REAL"], pair["FAKE"])
        for pair in tracks.values()
        if len(pair) == 2 and len(pair["REAL"]) == len(pair["FAKE"])
    ]


def make_scenes(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], faces: FaceSet, logits: np.ndarray
) -> list[Scene]:
    """Return REAL and FAKE scenes (artificial videos) of the kinds `all`, `part` and `one of two`.

    The class `Scene` describes these kinds.

    Args:
        pairs: The pairs of tracks, as `find_pairs` returns them.
        faces: The face set of the tracks.
        logits: Calibrated logit of each crop of the face set, float of shape (n,).
    """
    scenes = []
    by_source = defaultdict(list)
    for real_rows, fake_rows in pairs:
        source = faces.sources[real_rows[0]]
        real, fake = logits[real_rows], logits[fake_rows]
        by_source[source].append((real, fake))
        scenes += [Scene("all", source, 0, [real]), Scene("all", source, 1, [fake])]
        scenes.append(Scene("part", source, 0, [real]))
        length = max(1, round(FAKE_SHARE * len(real)))
        for start in np.linspace(0, len(real) - length, STARTS).round().astype(int):
            mixed = real.copy()
            mixed[start : start + length] = fake[start : start + length]
            scenes.append(Scene("part", source, 1, [mixed]))
    for source, people in by_source.items():
        for (first, _), (second, fake) in pairwise(people):
            scenes.append(Scene("one of two", source, 0, [first, second]))
            scenes.append(Scene("one of two", source, 1, [first, fake]))
    return scenes


def by_aggregation(aggregation: Aggregation) -> VideoAggregation:
    """Return a function that combines the frames of a video by the rules of `aggregation`.

    The returned function takes the logit of each frame of each person, and returns P(FAKE) of the
    video.
    """

    def answer(people: Sequence[np.ndarray]) -> float:
        return float(aggregation.probability(aggregation.video_logit(people)))

    return answer


AGGREGATIONS: dict[str, VideoAggregation] = {
    "mean logit": by_aggregation(Aggregation(frames="mean_logit")),
    "highest frame": by_aggregation(Aggregation(frames="soft_maximum", sharpness=50, window=1)),
    **{
        f"soft maximum, sharpness {sharpness}, window {window}": by_aggregation(
            Aggregation(frames="soft_maximum", sharpness=sharpness, window=window)
        )
        for sharpness in (0.5, 1, 2)
        for window in (1, 3)
    },
    "1st: confident majority": by_aggregation(Aggregation("confident_majority", "pooled")),
    "2nd: mean probability": by_aggregation(Aggregation("mean_probability", "pooled")),
    "3rd: weighted by confidence": by_aggregation(Aggregation("power_law", "pooled")),
    "4th: agreement of people": by_aggregation(Aggregation("mean_probability", "agreement")),
}


def _frame_logits(detector: Detector, faces: FaceSet, progress: bool) -> np.ndarray:
    """Return the calibrated logit of each crop of a face set, float64 of shape (n,).

    Each crop is scored together with all other crops of its track, even if a scene shows only a
    part of the track. This matters for a `TrackModel`, because its logit of a crop also depends on
    the other crops of the track.
    """
    tracks = faces.tracks()
    logits = np.zeros(len(faces))
    with Executor(detector.device) as executor:
        scored = track_logits(detector, faces, tracks, executor, progress=progress)
    for rows, own in zip(tracks, scored, strict=True):
        logits[rows] = own
    return logits


def _measure(aggregate: VideoAggregation, scenes: Sequence[Scene]) -> dict[tuple[str, str], float]:
    measured = {}
    for kind in dict.fromkeys(scene.kind for scene in scenes):
        chosen = [scene for scene in scenes if scene.kind == kind]
        labels = np.array([scene.label for scene in chosen])
        answers = np.array([aggregate(scene.people) for scene in chosen])
        sources = np.array([scene.source for scene in chosen])
        within = {
            name: metrics(labels[sources == name], answers[sources == name])
            for name in np.unique(sources)
        }
        measured[kind, "auc"] = auc_within(within)
        weights = 1 / np.bincount(labels)[labels]
        measured[kind, "log loss"] = log_loss(labels, answers, sample_weight=weights, labels=[0, 1])
    return measured
