"""How good a detector is: log loss, AUC and their like, beside what a constant answer scores."""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import (
    RocCurveDisplay,
    accuracy_score,
    balanced_accuracy_score,
    log_loss,
    roc_auc_score,
)
from tqdm import tqdm

from dfdetect.data.faceset import FaceSet
from dfdetect.data.labels import ARCHIVE_SUFFIX, LabelledVideo, read_labels
from dfdetect.defaults import DEFAULT_FRAMES, DEFAULT_PRIOR
from dfdetect.detector import Detector, DetectorFile, load_detector
from dfdetect.evaluation.subgroups import find_slices
from dfdetect.files import atomic_path, printable
from dfdetect.results import FAILED, NO_ACCESS, OK, VideoScore
from dfdetect.runtime.executor import map_in_order
from dfdetect.runtime.ray_cluster import map_on_cluster, require_cluster

THRESHOLD = 0.5
CALIBRATION_BINS = 15
BOOTSTRAP_ROUNDS = 1000
BATCH = 64
SCORE_COLUMNS = ["probability", "status"]
# With fewer actors or videos, an interval over them means little.
FEWEST_GROUPS = 10
SOURCE_COLUMNS = ["n", "fake_fraction", "auc", "log_loss", "balanced_accuracy", "accuracy"]


def evaluate(
    source: str | Path,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    plots: str | Path | None = None,
    fake_share: float | None = None,
    degrade: str | None = None,
    slices: bool = False,
    cluster: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a detector on labelled faces or videos.

    Args:
        source: The index of a face set, of which the crops of one track count as one; or a folder
            of videos as `read_labels` takes it. A video without a score counts with the prior 0.5.
        weights: As in `load_detector`.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        plots: Folder for `roc.png`, `reliability.png`, `histogram.png` and `scores.csv`, which has
            a row for each face or video.
        fake_share: Also say what the figures would be if this share were FAKE (`reweighted`).
        degrade: Spoil the crops of a face set first: `jpeg` (quality 50), `half` (half the size and
            back) or `dark` (40 % darker).
        slices: Also measure the dark, the small and the turned faces of a face set apart.
        cluster: Score videos on the Ray cluster of this address, or `local`, as in
            `dfdetect.runtime.ray_cluster`.
        progress: Show a progress bar.

    Returns:
        What `metrics` gives; `intervals` (95 %, over actor groups or videos); for videos
        `without_score`, their number. Where there are several sources, `sources`, what `metrics`
        gives for each; `auc_within_sources`, as `auc_within` has it; `clips`, each one's label,
        source and probability. `slices`, what `metrics` gives for each, and `reweighted`, where
        they are asked for.

    Raises:
        FileNotFoundError: The source or the weights do not exist.
        ValueError: The source is not labelled as it should be.

    Example:
        >>> evaluate("val.csv")["auc"]
        0.91
    """
    source = Path(source)
    if fake_share is not None and not 0 < fake_share < 1:
        raise ValueError(f"fake share must be strictly between 0 and 1, not {fake_share}")
    if source.is_dir() or source.suffix == ARCHIVE_SUFFIX:
        if degrade is not None or slices:
            raise ValueError(f"{source}: only face sets can be degraded or sliced")
        if cluster is not None:
            require_cluster(cluster)
        videos = read_labels(source)
        if cluster is None:
            results = map_in_order(_Scorer(load_detector(weights, device, frames)), videos)
        else:
            start = partial(_start_scorer, DetectorFile.read(weights, device, frames))
            results = map_on_cluster(start, videos, cluster, _lost)
        table = tabulate(videos, results, progress)
    else:
        if cluster is not None:
            raise ValueError(f"{source}: only videos are scored on a cluster, not face sets")
        detector = load_detector(weights, device, frames)
        faces = FaceSet.read(source)
        if source.name in detector.spec.training.get("faces", ()):
            warnings.warn(
                f"{source}: the detector was trained on a face set of this name; if it is the "
                "same, the figures say nothing about other faces",
                stacklevel=2,
            )
        table = score_face_set(detector, faces, progress, degrade)
    labels = (table["label"] == "FAKE").to_numpy(dtype=np.int64)
    probabilities = table["probability"].fillna(DEFAULT_PRIOR).to_numpy()
    if plots is not None:
        write_plots(plots, labels, probabilities)
        with atomic_path(Path(plots, "scores.csv")) as temporary:
            table.to_csv(temporary, index=False, errors="surrogateescape")
    scores: dict[str, Any] = metrics(labels, probabilities)
    if "status" in table:
        scores["without_score"] = int(table["probability"].isna().sum())
    if fake_share is not None:
        scores["reweighted"] = reweighted_metrics(labels, probabilities, fake_share)
    if table["source"].nunique() > 1:
        scores["sources"] = {
            name: metrics(labels[rows], probabilities[rows])
            for name, rows in table.groupby("source").indices.items()
        }
        scores["auc_within_sources"] = auc_within(scores["sources"])
        columns = table.set_index("name")[["label", "source", "probability"]]
        scores["clips"] = columns.to_dict("index")
    if slices:
        scores["slices"] = {
            name: metrics(labels[rows], probabilities[rows])
            for name, rows in find_slices(faces, progress).items()
            if rows.any()
        }
    groups = table["group"].to_numpy()
    if (count := len(set(groups))) < FEWEST_GROUPS:
        warnings.warn(
            f"{source}: {count} actors or videos are too few for intervals to be trusted",
            stacklevel=2,
        )
    scores["intervals"] = bootstrap_intervals(labels, probabilities, groups)
    return scores


def score_face_set(
    detector: Detector, faces: FaceSet, progress: bool = True, degrade: str | None = None
) -> pd.DataFrame:
    """Score each track of a face set; a crop that belongs to none is one by itself.

    Args:
        detector: Scores the crops.
        faces: The crops.
        progress: Show a progress bar.
        degrade: As in `evaluate`.

    Returns:
        Columns `name`, `label`, `group`, `source` and `probability`, in the order of
        `faces.tracks()`.
    """
    if degrade not in DEGRADATIONS:
        raise ValueError(
            f"degrade must be {', '.join(filter(None, DEGRADATIONS))}, not {degrade!r}"
        )
    spoil = DEGRADATIONS[degrade]
    tracks = faces.tracks()
    probabilities = [np.zeros(0)]
    with tqdm(total=len(faces), desc="faces", unit="crop", disable=not progress) as bar:
        for start in range(0, len(tracks), BATCH):
            part = tracks[start : start + BATCH]
            clips = [[spoil(faces.image(row)) for row in track] for track in part]
            probabilities.append(detector.score_clips(clips))
            bar.update(sum(map(len, clips)))
    first = [track[0] for track in tracks]
    return pd.DataFrame(
        {
            "name": faces.table["id"].to_numpy()[first],
            "label": faces.table["label"].to_numpy()[first],
            "group": faces.groups[first],
            "source": faces.sources[first],
            "probability": np.concatenate(probabilities),
        }
    )


def tabulate(
    videos: Sequence[LabelledVideo], scores: Iterable[VideoScore], progress: bool = True
) -> pd.DataFrame:
    """Put labelled videos and their scores into a table, as they come.

    Returns:
        Columns `name`, `label`, `group`, `source`, `probability` (NaN without a score) and
        `status`, in the order of `videos`.
    """
    bar = tqdm(scores, "videos", len(videos), unit="video", disable=not progress)
    rows = []
    for video, result in zip(videos, bar, strict=True):
        if progress and result.status != OK:
            tqdm.write(printable(f"{video.name}: {result.status}"), file=sys.stderr)
        labels = video.name, video.label, video.group, video.source
        rows.append((*labels, result.probability, result.status))
    table = pd.DataFrame(rows, columns=["name", "label", "group", "source", *SCORE_COLUMNS])
    return table.astype({"probability": float})


class _Scorer:
    """Scores labelled videos, one at a time in each thread or process."""

    def __init__(self, detector: Detector):
        self.detector = detector

    def __call__(self, video: LabelledVideo) -> VideoScore:
        try:
            with video.open() as path:
                return self.detector.score(path, threads=1)
        except OSError as error:
            return VideoScore(video.name, None, f"{NO_ACCESS} ({error})")


def _start_scorer(file: DetectorFile) -> _Scorer:
    return _Scorer(file.load())


def _lost(video: LabelledVideo, why: str) -> VideoScore:
    return VideoScore(video.name, None, f"{FAILED}: {why}")


def metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Score probabilities of FAKE against labels.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).

    Returns:
        `n`, `fake_fraction`, `log_loss` (nats), `auc` (NaN with one class), `accuracy` and
        `balanced_accuracy` at 0.5, `calibration_error` (expected, 15 equal bins), and two
        baselines: `constant_log_loss`, of always answering `fake_fraction`, and
        `constant_accuracy`, of always answering the commoner class.

    Example:
        >>> metrics(np.array([0, 1]), np.array([0.2, 0.8]))["log_loss"]
        0.2231...
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    answers = probabilities > THRESHOLD
    share = float(labels.mean())
    both = 0 < share < 1
    return {
        "n": len(labels),
        "fake_fraction": share,
        "log_loss": float(log_loss(labels, probabilities, labels=[0, 1])),
        "auc": float(roc_auc_score(labels, probabilities)) if both else float("nan"),
        "accuracy": float(accuracy_score(labels, answers)),
        "balanced_accuracy": (
            float(balanced_accuracy_score(labels, answers)) if both else float("nan")
        ),
        "calibration_error": calibration_error(labels, probabilities),
        "constant_log_loss": float(log_loss(labels, np.full(len(labels), share), labels=[0, 1])),
        "constant_accuracy": max(share, 1 - share),
    }


def auc_within(sources: dict[str, dict[str, float]]) -> float:
    """Mean AUC of sources, by their number of clips; those with one class do not count.

    Sources differ in camera and codec, and a detector's answers with them: an AUC over all of them
    together may say no more than that.

    Args:
        sources: What `metrics` gives for each source.

    Returns:
        0 to 1, or NaN where no source has both classes.

    Example:
        >>> auc_within({"a": {"n": 3, "auc": 1.0}, "b": {"n": 1, "auc": 0.5}})
        0.875
    """
    both = [scores for scores in sources.values() if not np.isnan(scores["auc"])]
    if not both:
        return float("nan")
    return float(np.average([one["auc"] for one in both], weights=[one["n"] for one in both]))


def reweighted_metrics(
    labels: np.ndarray, probabilities: np.ndarray, fake_share: float
) -> dict[str, float]:
    """What the figures would be where another share of the faces is FAKE.

    Each class is weighted to its share, and the probabilities, which hold where half are FAKE, are
    moved by the new prior (Saerens et al. 2002).

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,); both must occur.
        probabilities: P(FAKE) at even odds, strictly between 0 and 1, shape (n,).
        fake_share: Between 0 and 1.

    Raises:
        ValueError: Only one class, or a share out of range.

    Example:
        >>> reweighted_metrics(np.array([0, 1]), np.array([0.6, 0.6]), 0.8)["constant_accuracy"]
        0.8
    """
    if not 0 < fake_share < 1 or len(np.unique(labels)) < 2:
        raise ValueError(f"needs both classes and a share between 0 and 1, not {fake_share}")
    share = np.where(labels == 1, fake_share, 1 - fake_share)
    weights = share / np.bincount(labels)[labels]
    fake, real = probabilities * fake_share, (1 - probabilities) * (1 - fake_share)
    moved = fake / (fake + real)
    constant = np.full(len(labels), fake_share)
    return {
        "fake_fraction": fake_share,
        "accuracy": float(accuracy_score(labels, moved > THRESHOLD, sample_weight=weights)),
        "constant_accuracy": max(fake_share, 1 - fake_share),
        "log_loss": float(log_loss(labels, moved, sample_weight=weights, labels=[0, 1])),
        "constant_log_loss": float(log_loss(labels, constant, sample_weight=weights)),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) over equal-width bins of P(FAKE), 0 to 1."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=labels - probabilities)
    return float(np.abs(gaps).sum() / len(labels))


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    rounds: int = BOOTSTRAP_ROUNDS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of log loss, AUC and balanced accuracy, drawing whole groups (Efron 1979).

    Crops of one actor err together, so actors (or videos) are drawn with replacement, not crops.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE), shape (n,).
        groups: The actor or video of each, shape (n,).
        rounds: Number of samples drawn; those with one class only are left out.
        seed: Of the drawing.

    Returns:
        Lower and upper edge by name; empty where every sample has one class only.
    """
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "log_loss": lambda y, p: log_loss(y, p, labels=[0, 1]),
        "auc": roc_auc_score,
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p > THRESHOLD),
    }
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    rows_of = [np.flatnonzero(codes == code) for code in range(len(names))]
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        sample = generator.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[group] for group in sample])
        if 0 < labels[rows].mean() < 1:
            for name, measure in measures.items():
                drawn[name].append(measure(labels[rows], probabilities[rows]))
    return {
        name: tuple(float(edge) for edge in np.percentile(values, (2.5, 97.5)))
        for name, values in drawn.items()
        if values
    }


def report(scores: dict[str, Any], as_json: bool = False) -> str:
    """Scores as text for people or, on one line and with null for NaN, as JSON."""
    if as_json:
        return json.dumps(_without_nan(scores))
    lines = []
    for name, value in scores.items():
        if not isinstance(value, dict):
            line = f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}"
            if name in scores["intervals"]:
                low, high = scores["intervals"][name]
                line += f"  (95 % {low:.4g} to {high:.4g})"
            lines.append(line)
    if "reweighted" in scores:
        lines += ["", "with another share of FAKE"]
        lines += [f"{name:20} {value:.4g}" for name, value in scores["reweighted"].items()]
    for part in ("sources", "slices"):
        if part in scores:
            table = pd.DataFrame(scores[part]).T[SOURCE_COLUMNS].astype({"n": int})
            lines += ["", table.to_string(float_format="{:.3f}".format, na_rep="")]
    if "clips" in scores:
        table = pd.DataFrame(scores["clips"]).T.sort_values(["source", "label", "probability"])
        lines += ["", table.to_string(float_format="{:.3f}".format, na_rep="")]
    return "\n".join(lines)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def write_plots(folder: str | Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write `roc.png`, `reliability.png` and `histogram.png`; two need both classes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if 0 < labels.mean() < 1:
        figure, axes = _figure()
        RocCurveDisplay.from_predictions(labels, probabilities, ax=axes, plot_chance_level=True)
        figure.savefig(folder / "roc.png")
        figure, axes = _figure()
        CalibrationDisplay.from_predictions(labels, probabilities, n_bins=10, ax=axes)
        axes.set(xlabel="P(FAKE)", ylabel="share of FAKE")
        figure.savefig(folder / "reliability.png")
    figure, axes = _figure()
    bins = np.linspace(0, 1, 21)
    axes.hist(
        [probabilities[labels == 0], probabilities[labels == 1]], bins, label=["REAL", "FAKE"]
    )
    axes.set(xlabel="P(FAKE)", ylabel="number")
    axes.legend()
    figure.savefig(folder / "histogram.png")


def _as_jpeg(image: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _at_half_size(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _darker(image: np.ndarray) -> np.ndarray:
    return np.round(0.6 * image).astype(np.uint8)


DEGRADATIONS: dict[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda image: image,
    "jpeg": _as_jpeg,
    "half": _at_half_size,
    "dark": _darker,
}


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    return figure, figure.subplots()
