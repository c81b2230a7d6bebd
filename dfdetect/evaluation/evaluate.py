"""`evaluate`: measures how accurate a detector is on labelled faces and videos."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfdetect.checkpoints.weights import Weights
from dfdetect.data.datasets.dataset import Dataset, sample_frames
from dfdetect.data.datasets.registry import read_dataset
from dfdetect.data.faceset import FaceSet
from dfdetect.data.labels import ARCHIVE_SUFFIX, LabelledVideo
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

# Suffixes of data sets that are one file: a zip file of videos, or a JSON file of DeepfakeBench.
DATASET_SUFFIXES = (ARCHIVE_SUFFIX, ".json")
# File in the folder of the plots that has the score of each video or crop.
SCORES = "scores.csv"
# With fewer actors or videos, the intervals of a bootstrap are unreliable.
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
    """Score labelled faces or videos with a detector, and return metrics of its accuracy.

    Each video has one score: the detector's aggregation combines the scores of the video's crops.
    If a video cannot be scored, its P(FAKE) is taken to be 0.5.

    Args:
        sources: One data set, or one or more face sets, which are measured together. A data set is
            a folder, a zip file or a JSON file of DeepfakeBench, as in `read_dataset`. A face set
            holds labelled crops of faces, and is given by its index (a CSV file).
        split: Score only this official split of the data set: `test`, `val` or `train`. None means
            the whole data set.
        weights: Names or files of weights, as in `load_detector`; or a detector. A detector keeps
            its own device and number of frames, whatever `device` and `frames` say.
        frames: Number of frames sampled from each video; None for 32. It must be None for face
            sets, because all their crops are used.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`; with `cuda`, all GPUs are
            used.
        plots: Folder for the plots `roc.png`, `reliability.png` and `histogram.png`, and for the
            table `scores.csv`, which has a row for each score.
        table: File for a table of the metrics and their intervals (see
            `dfdetect.evaluation.table.to_table`): Markdown if its name ends in `.md`, or CSV if it
            ends in `.csv`.
        fake_share: A share of FAKE items. If given, the result also has the metrics to expect on
            data with this share.
        degrade: How the crops of a face set are damaged before they are scored: `jpeg` (compressed
            as JPEG of quality 50), `half` (resized to half the size and back) or `dark` (40 %
            darker); None for no damage.
        subgroups: Also compute the metrics of small, dark, blurred and turned faces of a face set.
        cluster: Address of the Ray cluster that scores the videos; `local` starts a cluster on this
            machine. None means no cluster.
        progress: Show a progress bar on standard error.

    Raises:
        FileNotFoundError: A source or the weights do not exist.
        ArgumentError: Two arguments exclude each other, or a value is unknown or out of range.
        InputError: The labels of a source are missing or unusable.

    Example:
        >>> evaluate("val.csv").metrics.auc
        0.927
    """
    paths = [Path(one) for one in ([sources] if isinstance(sources, str | Path) else sources)]
    shown = ", ".join(map(str, paths))
    dataset = _read_dataset(paths, split)
    of_videos = dataset is not None and dataset.faces is None
    if dataset is None and frames is not None:
        raise ArgumentError(
            f"{shown}: a face set has no frames to sample, all its crops are used: leave out frames"
        )
    _require_consistent(shown, of_videos, degrade, subgroups, cluster)
    if fake_share is not None and not 0 < fake_share < 1:
        raise ArgumentError(f"fake_share must be strictly between 0 and 1, not {fake_share}")
    if table is not None:
        require_table_suffix(table)
        require_writable(table)
    if plots is not None:
        require_writable(Path(plots) / SCORES)
    if isinstance(weights, Detector):
        detector = weights
    else:
        here = device if cluster is None else "cpu"
        detector = load_detector(weights, here, DEFAULT_FRAMES if frames is None else frames)
    videos, faces = _read_items(paths, dataset, detector.frames)
    if fake_share is not None:
        _require_both_classes(shown, videos, faces)
    with Executor(device if cluster else detector.device, cluster) as executor:
        if faces is None:
            answers = score_videos(detector, videos, executor, progress=progress)
        else:
            _warn_of_training_faces(detector, paths)
            answers = score_face_set(detector, faces, executor, degrade=degrade, progress=progress)
    parts = {}
    if faces is not None and subgroups:
        parts = _measure_subgroups(faces, answers, progress)
    if plots is not None:
        _write_all(Path(plots), answers)
    groups = answers.texts("group")
    labels, probabilities = answers.labels, answers.probabilities
    count = min(len(set(groups[labels == label])) for label in set(labels.tolist()))
    if count < FEWEST_GROUPS:
        warnings.warn(
            f"{shown}: {count} actors or videos are too few for reliable intervals: give at least "
            f"{FEWEST_GROUPS} with REAL and {FEWEST_GROUPS} with FAKE videos or crops",
            stacklevel=2,
        )
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
    """Return the data set at `paths[0]`, or None if all paths are indexes of face sets.

    Raises:
        ArgumentError: There are several paths, and one of them is a data set; or a split is given
            for face sets.
    """
    shown = ", ".join(map(str, paths))
    if any(path.is_dir() or path.suffix in DATASET_SUFFIXES for path in paths):
        if len(paths) != 1:
            raise ArgumentError(
                f"{shown}: only face sets can be measured together; give one data set at a time"
            )
        return read_dataset(paths[0], split)
    if split is not None:
        raise ArgumentError(f"{shown}: a face set has no official split; leave out split")
    return None


def _read_items(
    paths: Sequence[Path], dataset: Dataset | None, frames: int
) -> tuple[Sequence[LabelledVideo], FaceSet | None]:
    """Return what is to be scored: videos and None, or no videos and a face set.

    `frames` is the maximum number of crops per track, if a data set consists of crops.
    """
    if dataset is None:
        return (), FaceSet.join([FaceSet.read(path) for path in paths])
    if dataset.faces is not None:
        return (), sample_frames(dataset.faces, frames)
    return dataset.videos, None


def _require_both_classes(
    shown: str, videos: Sequence[LabelledVideo], faces: FaceSet | None
) -> None:
    """Raise ArgumentError if all videos, or all crops, have the same label."""
    labels = {video.label for video in videos} if faces is None else set(faces.table["label"])
    if len(labels) < 2:
        raise ArgumentError(
            f"{shown}: all labels are {min(labels)}, so fake_share has no use: leave it out"
        )


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
    trained_on: set[str] = set()
    fitted_on: set[str] = set()
    for member in detector.spec.members:
        # `texture` holds the settings of `fit-texture`.
        for settings in (member.training, member.training.get("texture", {})):
            trained_on |= _names(settings, "faces")
            fitted_on |= _names(settings, "val") | _names(settings, "calibrated_on")
    for path in paths:
        if path.name in trained_on:
            warnings.warn(
                f"{path}: the detector was trained on a face set of this name; if it is the "
                "same, the metrics say nothing about other faces",
                stacklevel=3,
            )
        elif path.name in fitted_on:
            warnings.warn(
                f"{path}: the detector was chosen or calibrated on a face set of this name; if it "
                "is the same, the metrics are somewhat too good",
                stacklevel=3,
            )


def _names(settings: Mapping[str, Any], entry: str) -> set[str]:
    """Return the names of face sets in an entry of a checkpoint's training settings."""
    values = settings.get(entry, ())
    return {one for one in (values if isinstance(values, list) else [values]) if type(one) is str}


def _measure_subgroups(faces: FaceSet, answers: Answers, progress: bool) -> dict[str, Metrics]:
    """Return the metrics of each subgroup of videos, such as videos with dark or blurred faces.

    A video belongs to a subgroup if its first crop belongs to the subgroup.
    """
    first = [video[0][0] for video in faces.videos()]
    masks = find_subgroups(measure_attributes(faces, first, progress=progress))
    labels, probabilities = answers.labels, answers.probabilities
    return {
        name: metrics(labels[rows], probabilities[rows])
        for name, rows in masks.items()
        if rows.any()
    }


def _measure_sources(answers: Answers) -> dict[str, Metrics]:
    """Return the metrics of each source. Items of unknown sources are left out."""
    names = answers.texts("source")
    return {
        name: _measure_part(answers, names == name)
        for name in np.unique(names[names != ""]).tolist()
    }


def _measure_methods(answers: Answers) -> dict[str, Metrics]:
    """Return the metrics of each method that made fakes.

    These metrics are computed from the fakes of the method and from all REAL items of the same
    sources. An item is a video, or a crop that belongs to no video.
    """
    names, sources, real = answers.texts("method"), answers.texts("source"), answers.labels == 0
    parts = {}
    for name in np.unique(names[~real & (names != "")]).tolist():
        fakes = ~real & (names == name)
        parts[name] = _measure_part(answers, fakes | real & np.isin(sources, sources[fakes]))
    return parts


def _measure_part(answers: Answers, rows: np.ndarray) -> Metrics:
    """Return the metrics of the answers at `rows`.

    The metrics have 95 % intervals if these answers come from at least 10 groups. A group consists
    of the videos or crops of one actor. If the actor is unknown, the video or crop is a group of
    its own.
    """
    groups = answers.texts("group")[rows]
    enough = len(set(groups.tolist())) >= FEWEST_GROUPS
    return metrics(
        answers.labels[rows], answers.probabilities[rows], groups=groups if enough else None
    )


def _measure_votes(answers: Answers) -> VotedMetrics:
    """Return metrics in which all sources have the same weight, with 95 % intervals.

    Items of unknown sources are left out.
    """
    known = answers.texts("source") != ""
    columns = (answers.texts(name)[known] for name in ("source", "kind", "scene"))
    return voted_metrics(
        answers.labels[known], answers.probabilities[known], *columns, intervals=True
    )


def _measure_frames(answers: Answers, overall: Metrics) -> Metrics:
    """Return the metrics of the scores of single crops.

    `overall` has the metrics of the answers. If every answer has exactly one crop, these are also
    the metrics of the crops, and `overall` is returned. If no answer has crops, the metrics of the
    answers are returned without intervals.
    """
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
    with atomic_path(folder / SCORES) as temporary:
        answers.table().to_csv(temporary, index=False, errors="surrogateescape")
    write_plots(folder, answers.labels, answers.probabilities)
