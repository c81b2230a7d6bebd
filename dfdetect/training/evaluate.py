"""How good a detector is: log loss, AUC and their like, beside what a constant answer scores."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
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

from dfdetect.detector import Detector, load_detector
from dfdetect.submission import DEFAULT_PRIOR
from dfdetect.training.faceset import FaceSet
from dfdetect.training.labels import read_labels
from dfdetect.video import DEFAULT_FRAMES

THRESHOLD = 0.5
CALIBRATION_BINS = 15
BOOTSTRAP_ROUNDS = 1000
BATCH = 64


def evaluate(
    source: str | Path,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    plots: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a detector on labelled faces or videos.

    Args:
        source: The index of a face set, or a folder of videos as `read_labels` takes it. A video
            without a score counts with the prior 0.5.
        weights: As in `load_detector`.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        plots: Folder for `roc.png`, `reliability.png` and `scores.png`.
        progress: Show a progress bar.

    Returns:
        What `metrics` gives, `intervals` (95 %, over actor groups or videos), and for videos
        `without_score`, their number.

    Raises:
        FileNotFoundError: The source or the weights do not exist.
        ValueError: The source is not labelled as it should be.

    Example:
        >>> evaluate("val.csv")["auc"]
        0.91
    """
    source = Path(source)
    detector = load_detector(weights, device, frames)
    extra = {}
    if source.is_dir():
        videos = read_labels(source)
        labels = np.array([label == "FAKE" for _, label in videos.values()], dtype=np.int64)
        groups = np.array(list(videos))
        results = detector.score_videos(path for path, _ in videos.values())
        scores = list(
            tqdm(results, "videos", total=len(videos), unit="video", disable=not progress)
        )
        extra["without_score"] = sum(score.probability is None for score in scores)
        probabilities = np.array(
            [DEFAULT_PRIOR if score.probability is None else score.probability for score in scores]
        )
    else:
        faces = FaceSet.read(source)
        labels, groups = faces.labels, faces.groups
        probabilities = score_face_set(detector, faces, progress)
    if plots is not None:
        write_plots(plots, labels, probabilities)
    intervals = bootstrap_intervals(labels, probabilities, groups)
    return {**metrics(labels, probabilities), **extra, "intervals": intervals}


def score_face_set(detector: Detector, faces: FaceSet, progress: bool = True) -> np.ndarray:
    """P(FAKE) of each crop of a face set, float64 of shape (n,), in its order."""
    probabilities = [np.zeros(0)]
    with tqdm(total=len(faces), desc="faces", unit="crop", disable=not progress) as bar:
        for start in range(0, len(faces), BATCH):
            rows = range(start, min(start + BATCH, len(faces)))
            probabilities.append(detector.score_faces([faces.image(row) for row in rows]))
            bar.update(len(rows))
    return np.concatenate(probabilities)


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
        finite = {name: None if value != value else value for name, value in scores.items()}
        return json.dumps(finite)
    lines = []
    for name, value in scores.items():
        if name != "intervals":
            line = f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}"
            if name in scores["intervals"]:
                low, high = scores["intervals"][name]
                line += f"  (95 % {low:.4g} to {high:.4g})"
            lines.append(line)
    return "\n".join(lines)


def write_plots(folder: str | Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write `roc.png`, `reliability.png` and `scores.png`; the first needs both classes."""
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
    figure.savefig(folder / "scores.png")


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    return figure, figure.subplots()
