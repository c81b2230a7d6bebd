"""Answers: the scores that a detector gives to labelled videos and to the crops of face sets."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from dfdetect.data.faceset import FaceSet
from dfdetect.data.labels import LabelledVideo
from dfdetect.defaults import DEFAULT_PRIOR
from dfdetect.detector import Detector, has_failed
from dfdetect.evaluation.corruptions import require_degradation
from dfdetect.results import Status, VideoResult
from dfdetect.runtime.executor import Executor
from dfdetect.video.isolated import DecoderPool

LOGGER = logging.getLogger(__name__)
# Crops are read and scored in batches of whole tracks. Each batch except the last one has at least
# this many crops.
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The score and the label of one video, or of one crop that belongs to no video.

    Attributes:
        name: The name of the video, or the id of the crop.
        label: REAL or FAKE.
        group: Name of the actor group. Videos that are known to show the same actor have the same
            group.
        source: Name of the data set, camera or site that the video comes from; empty if it is
            unknown.
        method: Name of the method that made the fake; empty if it is unknown.
        kind: The kind of fake (swap, lipsync...); empty if it is unknown.
        scene: Name of the scene that the video shows. An original and the fakes made from this
            original show the same scene. Empty if no other video of the scene is known.
        probability: P(FAKE), or NaN if the video has no score.
        tracks: For each track (one face followed through the video), P(FAKE) of its crops, float64
            of shape (crops,).
        status: `ok`, or the reason why the video has no score.
    """

    name: str
    label: str
    group: str
    source: str
    method: str = ""
    kind: str = ""
    scene: str = ""
    probability: float
    tracks: Sequence[np.ndarray] = field(default=(), repr=False)
    status: Status = Status.OK


@dataclass(frozen=True)
class Answers:
    """The scores and labels of many videos or crops, as arrays.

    Args:
        rows: An `Answer` for each video or crop. `rows` must not be empty.

    Example:
        >>> answers = score_face_set(detector, FaceSet.read("val.csv"), Executor("cpu"))
        >>> answers.labels, answers.probabilities
        (array([1, 0]), array([0.81, 0.13]))
    """

    rows: Sequence[Answer]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """Return the labels, 1 for FAKE and 0 for REAL; int64 of shape (n,)."""
        return (self.texts("label") == "FAKE").astype(np.int64)

    @property
    def probabilities(self) -> np.ndarray:
        """Return P(FAKE) of each answer, float64 of shape (n,).

        For a video without a score, P(FAKE) is taken to be 0.5.
        """
        return np.nan_to_num([row.probability for row in self.rows], nan=DEFAULT_PRIOR)

    def texts(self, name: str) -> np.ndarray:
        """Return an attribute of each answer, as str of shape (n,).

        `name` is the name of the attribute, such as `source`.
        """
        return np.array([getattr(row, name) for row in self.rows], dtype=str)

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of all crops of all answers.

        Returns:
            Two arrays of shape (crops,). The first array has P(FAKE) of each crop, float64. The
            second array says which answer each crop belongs to: an index in `rows`, int64.
        """
        parts = [(np.concatenate(row.tracks), n) for n, row in enumerate(self.rows) if row.tracks]
        counts = [len(part) for part, _ in parts]
        owners = np.repeat([number for _, number in parts], counts).astype(np.int64)
        return np.concatenate([np.zeros(0), *(part for part, _ in parts)]), owners

    def table(self) -> pd.DataFrame:
        """Return a table with a row for each answer.

        The columns are the attributes of an answer, but the column `tracks` has only the number of
        tracks. One more column, `crops`, has the number of crops.
        """
        rows = []
        for row in self.rows:
            values = {name: value for name, value in vars(row).items() if name != "tracks"}
            numbers = {"tracks": len(row.tracks), "crops": sum(map(len, row.tracks))}
            rows.append(values | numbers)
        return pd.DataFrame(rows)


def score_face_set(
    detector: Detector,
    faces: FaceSet,
    executor: Executor,
    *,
    degrade: str | None = None,
    progress: bool = False,
) -> Answers:
    """Score each video of a face set, and each crop that belongs to no video.

    Args:
        detector: The detector. Its aggregation combines the logits of a video's crops into the
            score of the video.
        faces: The face set, which holds labelled crops of faces.
        executor: The executor that distributes the crops over the cores or GPUs of this machine.
        degrade: How each crop is damaged before it is scored: `jpeg`, `half` or `dark`, as in
            `evaluate`; None for no damage.
        progress: Show a progress bar.

    Returns:
        One answer for each element of `faces.videos()`, in the same order. A crop that belongs to
        no video is an element of its own.
    """
    videos = faces.videos()
    tracks = [track for video in videos for track in video]
    logits = iter(
        track_logits(detector, faces, tracks, executor, degrade=degrade, progress=progress)
    )
    aggregation = detector.spec.aggregation
    names, kinds, methods = (faces.texts(name) for name in ("video", "kind", "method"))
    scenes = faces.scenes
    labels, groups, sources, ids = (
        *(faces.texts("label"), faces.groups),
        *(faces.sources, faces.texts("id")),
    )
    rows = []
    for video in videos:
        first = video[0][0]
        own = [next(logits) for _ in video]
        rows.append(
            Answer(
                name=str(names[first] or ids[first]),
                label=str(labels[first]),
                group=str(groups[first]),
                source=str(sources[first]),
                method=str(methods[first]),
                kind=str(kinds[first]),
                scene=str(scenes[first]),
                probability=float(aggregation.probability(aggregation.video_logit(own))),
                tracks=[aggregation.probability(track) for track in own],
            )
        )
    return Answers(rows)


def track_logits(
    detector: Detector,
    faces: FaceSet,
    tracks: Sequence[Sequence[int]],
    executor: Executor,
    *,
    degrade: str | None = None,
    progress: bool = False,
) -> list[np.ndarray]:
    """Return the calibrated logits of the crops of several tracks.

    Args:
        detector: The detector that scores the crops.
        faces: The face set that contains the crops.
        tracks: For each track (one face followed through a video), the row numbers of its crops in
            `faces`, in the order of the frames.
        executor: The executor that distributes the tracks over the cores or GPUs of this machine.
        degrade: How each crop is damaged before it is scored, as in `score_face_set`.
        progress: Show a progress bar.

    Returns:
        For each track, the calibrated logit of FAKE for each crop, float64 of shape (crops,).
    """
    change = require_degradation(degrade)

    def make_worker(
        device: torch.device, decoders: DecoderPool
    ) -> Callable[[Sequence[Sequence[int]]], list[np.ndarray]]:
        replica = detector.replica(device, decoders)
        return lambda batch: replica.frame_logits(
            [[change(faces.image(row)) for row in track] for track in batch]
        )

    logits = []
    with tqdm(total=sum(map(len, tracks)), desc="faces", unit="crop", disable=not progress) as bar:
        for batch, found in executor.map(make_worker, _batches(tracks)):
            logits += found
            bar.update(sum(map(len, batch)))
    return logits


def _batches(tracks: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Yield batches of whole tracks, with `BATCH` or more crops each, except for the last batch."""
    batch: list[Sequence[int]] = []
    for track in tracks:
        batch.append(track)
        if sum(map(len, batch)) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def score_videos(
    detector: Detector,
    videos: Sequence[LabelledVideo],
    executor: Executor,
    *,
    progress: bool = False,
) -> Answers:
    """Score labelled videos: decode the videos, track their faces, and score the faces.

    Args:
        detector: The detector that scores the videos.
        videos: The labelled videos to score.
        executor: The executor that distributes the videos over cores, GPUs or a cluster.
        progress: Show a progress bar.

    Returns:
        The answers in the order of `videos`.
    """
    make_worker = partial(_make_scorer, detector)
    results = executor.map(make_worker, videos, on_lost=_lost, failed=has_failed)
    rows = []
    for video, result in tqdm(results, "videos", len(videos), unit="video", disable=not progress):
        if result.status != Status.OK:
            LOGGER.info("%s: %s", video.name, result.message)
        rows.append(
            Answer(
                name=video.name,
                label=video.label,
                group=video.group,
                source=video.source,
                method=video.method,
                probability=np.nan if result.probability is None else result.probability,
                tracks=[np.array(track.frame_probabilities) for track in result.tracks],
                status=result.status,
            )
        )
    return Answers(rows)


def _make_scorer(
    detector: Detector, device: torch.device, decoders: DecoderPool
) -> Callable[[LabelledVideo], VideoResult]:
    return partial(_score, detector.replica(device, decoders))


def _score(detector: Detector, video: LabelledVideo) -> VideoResult:
    try:
        with video.open() as path:
            return detector.predict(path)
    except OSError as error:
        return VideoResult.without_score(video.path, video.name, Status.UNREADABLE_FILE, str(error))


def _lost(video: LabelledVideo, why: str) -> VideoResult:
    return VideoResult.without_score(video.path, video.name, Status.FAILED, why)
