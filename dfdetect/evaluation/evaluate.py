"""Measure how good a detector is on labelled faces and videos."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfdetect.checkpoints.weights import Weights
from dfdetect.data.datasets.dataset import Dataset, sample_frames
from dfdetect.data.datasets.registry import read_dataset
from dfdetect.data.faceset import FaceSet
from dfdetect.data.labels import ARCHIVE_SUFFIX
from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.detector import Detector, load_detector
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.answers import Answers, score_face_set, score_videos
from dfdetect.evaluation.corruptions import require_degradation
from dfdetect.evaluation.metrics import (
    Metrics,
    VotedMetrics,
    auc_within,
    metrics,
    reweighted_metrics,
    voted_metrics,
)
from dfdetect.evaluation.plots import write_plots
from dfdetect.evaluation.result import EvaluationResult, OperatingPoint
from dfdetect.evaluation.subgroups import find_subgroups, measure_attributes
from dfdetect.evaluation.table import require_table_suffix, write_table
from dfdetect.files import atomic_path, require_writable
from dfdetect.results import OperatingPoints
from dfdetect.runtime.executor import Executor

# Of what is no index of a face set: a zip file of videos, or a JSON file of DeepfakeBench.
DATASET_SUFFIXES = (ARCHIVE_SUFFIX, ".json")
# With fewer actors or videos, intervals cannot be trusted.
FEWEST_GROUPS = 10


def evaluate(
    sources: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    weights: Weights | Detector = None,
    frames: int | None = None,
    device: str = "auto",
    plots: str | Path | None = None,
    table: str | Path | None = None,
    fake_share: float | None = None,
    degrade: str | None = None,
    subgroups: bool = False,
    cluster: str | None = None,
    progress: bool = False,
) -> EvaluationResult:
    """Measure a detector on labelled faces or videos.

    Each video gets one probability: the detector's aggregation combines its crops.

    Args:
        sources: The index of a face set, or several indexes that are measured together; or a folder
            of a data set, a zip file or a JSON file of DeepfakeBench, as `read_dataset` takes it. A
            video without a score counts with the prior 0.5.
        split: The official split of a data set that is measured, `test`, `val` or `train`; None for
            all of it.
        weights: As in `load_detector`; or a detector, which keeps its own frames and device.
        frames: Number of frames sampled from each video; None for 32. Not allowed for face sets, of
            which all crops are used.
        device: As in `load_detector`; with `cuda`, all GPUs are used.
        plots: Folder for `roc.png`, `reliability.png`, `histogram.png` and `scores.csv`, which has
            a row for each answer.
        table: A file for a table with the figures of all videos, of frames, of each source and of
            each method, with intervals: Markdown if it ends in `.md`, or `.csv`.
        fake_share: Also compute the metrics as they would be if this share were FAKE.
        degrade: Damage the crops of a face set before they are scored: `jpeg` (quality 50), `half`
            (half the size and back) or `dark` (40 % darker).
        subgroups: Also compute the metrics of small, dark, blurred and turned faces of a face set.
        cluster: Score videos on the Ray cluster of this address, or on a `local` one, as in
            `dfdetect.runtime.ray_cluster`.
        progress: Show a progress bar on stderr.

    Raises:
        FileNotFoundError: The source or the weights do not exist.
        ArgumentError: Two arguments exclude each other, or a value is unknown or out of range.
            This is checked before anything is loaded.
        InputError: The source is not labelled as it should be.

    Example:
        >>> evaluate("val.csv").metrics.auc
        0.911
    """
    paths = [Path(one) for one in ([sources] if isinstance(sources, str | Path) else sources)]
    shown = ", ".join(map(str, paths))
    dataset = _read_dataset(paths, split)
    of_videos = dataset is not None and dataset.faces is None
    if dataset is None and frames is not None:
        raise ArgumentError(
            f"{shown}: frames are sampled from videos only; of a face set all crops are taken"
        )
    _require_consistent(shown, of_videos, degrade, subgroups, cluster)
    if fake_share is not None and not 0 < fake_share < 1:
        raise ArgumentError(f"fake_share must be strictly between 0 and 1, not {fake_share}")
    if table is not None:
        require_table_suffix(table)
        require_writable(table)
    if isinstance(weights, Detector):
        detector = weights
    else:
        here = device if cluster is None else "cpu"
        detector = load_detector(weights, here, DEFAULT_FRAMES if frames is None else frames)
    with Executor(device if cluster else detector.device, cluster) as executor:
        faces = None
        if dataset is not None and of_videos:
            answers = score_videos(detector, dataset.videos, executor, progress=progress)
        else:
            if dataset is not None and dataset.faces is not None:
                faces = sample_frames(dataset.faces, detector.frames)
            else:
                faces = FaceSet.join([FaceSet.read(path) for path in paths])
            _warn_of_training_faces(detector, paths)
            answers = score_face_set(detector, faces, executor, degrade=degrade, progress=progress)
    parts = {}
    if faces is not None and subgroups:
        parts = _measure_subgroups(faces, answers, progress)
    if plots is not None:
        _write_all(Path(plots), answers)
    groups = answers.texts("group")
    if (count := len(set(groups))) < FEWEST_GROUPS:
        warnings.warn(
            f"{shown}: {count} actors or videos are too few for intervals to be trusted",
            stacklevel=2,
        )
    labels, probabilities = answers.labels, answers.probabilities
    overall = metrics(labels, probabilities, groups=groups)
    by_source = _measure_sources(answers)
    result = EvaluationResult(
        answers=answers,
        metrics=overall,
        frame_level=_measure_frames(answers, overall),
        sources=by_source,
        methods=_measure_methods(answers),
        auc_within_sources=auc_within(by_source),
        each_source_one_vote=_measure_votes(answers) if len(by_source) > 1 else None,
        operating_points=_measure_at(detector.spec.operating_points, labels, probabilities),
        subgroups=parts,
        reweighted=(
            None if fake_share is None else reweighted_metrics(labels, probabilities, fake_share)
        ),
    )
    if table is not None:
        write_table(table, result)
    return result


def _read_dataset(paths: Sequence[Path], split: str | None) -> Dataset | None:
    """Return the data set that is given, or None if face sets are given."""
    shown = ", ".join(map(str, paths))
    if any(path.is_dir() or path.suffix in DATASET_SUFFIXES for path in paths):
        if len(paths) != 1:
            raise ArgumentError(f"{shown}: only face sets are measured together: give one folder")
        return read_dataset(paths[0], split)
    if split is not None:
        raise ArgumentError(f"{shown}: a face set has no official split: leave out split")
    return None


def _require_consistent(
    shown: str,
    of_videos: bool,
    degrade: str | None,
    subgroups: bool,
    cluster: str | None,
) -> None:
    if of_videos and (degrade is not None or subgroups):
        raise ArgumentError(f"{shown}: only face sets can be degraded or have subgroups")
    if not of_videos and cluster is not None:
        raise ArgumentError(f"{shown}: only videos are scored on a cluster, not face sets")
    require_degradation(degrade)


def _warn_of_training_faces(detector: Detector, paths: Sequence[Path]) -> None:
    for path in paths:
        if path.name in detector.spec.training.get("faces", ()):
            warnings.warn(
                f"{path}: the detector was trained on a face set of this name; if it is the "
                "same, the figures say nothing about other faces",
                stacklevel=3,
            )


def _measure_subgroups(faces: FaceSet, answers: Answers, progress: bool) -> dict[str, Metrics]:
    """Return the metrics of each subgroup. A video belongs to the subgroups of its first crop."""
    first = [video[0][0] for video in faces.videos()]
    masks = find_subgroups(measure_attributes(faces, first, progress=progress))
    labels, probabilities = answers.labels, answers.probabilities
    return {
        name: metrics(labels[rows], probabilities[rows])
        for name, rows in masks.items()
        if rows.any()
    }


def _measure_sources(answers: Answers) -> dict[str, Metrics]:
    """Return the metrics of each known source."""
    names = answers.texts("source")
    return {
        name: _measure_part(answers, names == name)
        for name in np.unique(names[names != ""]).tolist()
    }


def _measure_methods(answers: Answers) -> dict[str, Metrics]:
    """Return the metrics of the fakes of each known method, with all REAL of their sources."""
    names, sources, real = answers.texts("method"), answers.texts("source"), answers.labels == 0
    parts = {}
    for name in np.unique(names[~real & (names != "")]).tolist():
        fakes = ~real & (names == name)
        parts[name] = _measure_part(answers, fakes | real & np.isin(sources, sources[fakes]))
    return parts


def _measure_part(answers: Answers, rows: np.ndarray) -> Metrics:
    """Return the metrics of some answers, with intervals if they show enough actors or videos."""
    groups = answers.texts("group")[rows]
    enough = len(set(groups.tolist())) >= FEWEST_GROUPS
    return metrics(
        answers.labels[rows], answers.probabilities[rows], groups=groups if enough else None
    )


def _measure_votes(answers: Answers) -> VotedMetrics:
    """Return the metrics, with intervals, in which each known source counts the same."""
    known = answers.texts("source") != ""
    columns = (answers.texts(name)[known] for name in ("source", "kind", "scene"))
    return voted_metrics(
        answers.labels[known], answers.probabilities[known], *columns, intervals=True
    )


def _measure_frames(answers: Answers, overall: Metrics) -> Metrics:
    """Return the metrics of single crops; these are `overall` if each answer has one crop."""
    probabilities, owners = answers.frames()
    if len(owners) == len(answers) == len(set(owners.tolist())):
        return overall
    if not len(owners):
        return metrics(answers.labels, answers.probabilities)
    return metrics(answers.labels[owners], probabilities, groups=answers.texts("group")[owners])


def _measure_at(
    points: OperatingPoints | None, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, OperatingPoint]:
    if points is None:
        return {}

    def measure(threshold: float) -> OperatingPoint:
        real, fake = (probabilities[labels == label] > threshold for label in (0, 1))
        return OperatingPoint(
            threshold=threshold,
            false_alarms=int(real.sum()),
            found=int(fake.sum()),
            false_alarm_rate=float(real.mean()) if len(real) else float("nan"),
            found_rate=float(fake.mean()) if len(fake) else float("nan"),
        )

    return {"uncertain": measure(points.uncertain), "fake": measure(points.fake)}


def _write_all(folder: Path, answers: Answers) -> None:
    write_plots(folder, answers.labels, answers.probabilities)
    with atomic_path(folder / "scores.csv") as temporary:
        answers.table().to_csv(temporary, index=False, errors="surrogateescape")
