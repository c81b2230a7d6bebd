"""How good a detector is: log loss, AUC and their like, beside what a constant answer scores."""

import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import RocCurveDisplay
from tqdm import tqdm

from dfdetect.data.faceset import LABELS, FaceSet
from dfdetect.data.labels import ARCHIVE_SUFFIX, LabelledVideo, read_labels
from dfdetect.defaults import DEFAULT_FRAMES, DEFAULT_PRIOR
from dfdetect.detector import Detector, has_failed, load_detector
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.corruptions import DEGRADATIONS
from dfdetect.evaluation.metrics import (
    SourceVotes,
    auc_within,
    bootstrap_intervals,
    metrics,
    reweighted_metrics,
)
from dfdetect.evaluation.subgroups import find_subgroups
from dfdetect.files import atomic_path
from dfdetect.results import Status, VideoResult
from dfdetect.runtime.executor import Executor
from dfdetect.video.isolated import DecoderPool

LOGGER = logging.getLogger(__name__)
BATCH = 64
# Answers that are printed one by one, at most.
MOST_ITEMS = 50
SCORE_COLUMNS = ["probability", "status"]
# With fewer actors or videos, an interval over them means little.
FEWEST_GROUPS = 10
SOURCE_COLUMNS = ["n", "fake_fraction", "auc", "log_loss", "balanced_accuracy", "accuracy"]


def evaluate(
    sources: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    frames: int = DEFAULT_FRAMES,
    device: str = "auto",
    plots: str | Path | None = None,
    fake_share: float | None = None,
    degrade: str | None = None,
    subgroups: bool = False,
    cluster: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure a detector on labelled faces or videos.

    Args:
        sources: The index of a face set, or several indexes that are measured together; or a folder
            of videos as `read_labels` takes it. Crops of one video have one answer together, as
            the detector's aggregation says; a video without a score counts with the prior 0.5.
        weights: As in `load_detector`.
        frames: Number of frames sampled from each video.
        device: As in `load_detector`.
        plots: Folder for `roc.png`, `reliability.png`, `histogram.png` and `scores.csv`, which has
            a row for each face or video.
        fake_share: Also say what the figures would be if this share were FAKE (`reweighted`).
        degrade: Spoil the crops of a face set first: `jpeg` (quality 50), `half` (half the size and
            back) or `dark` (40 % darker).
        subgroups: Also measure the dark, the small and the turned faces of a face set apart.
        cluster: Score videos on the Ray cluster of this address, or `local`, as in
            `dfdetect.runtime.ray_cluster`.
        progress: Show a progress bar.

    Returns:
        What `metrics` gives, where `n` is the number of answers; `intervals` (95 %, over actor
        groups or videos); for videos `without_score`, their number; for face sets the numbers of
        `videos` (of those crops that name one), `tracks` and `crops`. Where there are several
        sources, `sources`, what `metrics` gives for each, and the number of each label;
        `auc_within_sources`, as `auc_within` has it; `each_source_one_vote`, what `voted_metrics`
        gives, and its `intervals` (95 %, over sources); `items`, each one's name, label, source
        and probability. `subgroups`, what `metrics` gives for each, and `reweighted`, where they
        are asked for.

    Raises:
        FileNotFoundError: The source or the weights do not exist.
        ArgumentError: The source is not labelled as it should be.

    Example:
        >>> evaluate("val.csv")["auc"]
        0.91
    """
    paths = [Path(one) for one in ([sources] if isinstance(sources, str | Path) else sources)]
    shown = ", ".join(map(str, paths))
    if fake_share is not None and not 0 < fake_share < 1:
        raise ArgumentError(f"fake share must be strictly between 0 and 1, not {fake_share}")
    if any(path.is_dir() or path.suffix == ARCHIVE_SUFFIX for path in paths):
        if len(paths) > 1:
            raise ArgumentError(f"{shown}: only face sets are measured together: give one folder")
        (source,) = paths
        if degrade is not None or subgroups:
            raise ArgumentError(f"{source}: only face sets can be degraded or have subgroups")
        videos = read_labels(source)
        with Executor(device, cluster) as executor:
            detector = load_detector(weights, device if cluster is None else "cpu", frames)
            make_worker = partial(_make_scorer, detector)
            scored = executor.map(make_worker, videos, on_lost=_lost, failed=has_failed)
            table = tabulate(videos, (result for _, result in scored), progress)
    else:
        if cluster is not None:
            raise ArgumentError(f"{shown}: only videos are scored on a cluster, not face sets")
        detector = load_detector(weights, device, frames)
        faces = FaceSet.join([FaceSet.read(path) for path in paths])
        for path in paths:
            if path.name in detector.spec.training.get("faces", ()):
                warnings.warn(
                    f"{path}: the detector was trained on a face set of this name; if it is the "
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
    else:
        scores |= {name: int(table[name].sum()) for name in ("videos", "tracks", "crops")}
    if fake_share is not None:
        scores["reweighted"] = reweighted_metrics(labels, probabilities, fake_share)
    known = (table["source"] != "").to_numpy()
    if table.loc[known, "source"].nunique() > 1:
        scores |= _by_source(table[known], labels[known], probabilities[known])
    if subgroups:
        scores["subgroups"] = {
            name: metrics(labels[rows], probabilities[rows])
            for name, rows in find_subgroups(
                faces, [video[0][0] for video in faces.videos()], progress
            ).items()
            if rows.any()
        }
    groups = table["group"].to_numpy()
    if (count := len(set(groups))) < FEWEST_GROUPS:
        warnings.warn(
            f"{shown}: {count} actors or videos are too few for intervals to be trusted",
            stacklevel=2,
        )
    scores["intervals"] = bootstrap_intervals(labels, probabilities, groups)
    return scores


def _by_source(
    table: pd.DataFrame, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, Any]:
    sources = {
        name: metrics(labels[rows], probabilities[rows]) | {"label": _count(labels[rows])}
        for name, rows in table.groupby("source").indices.items()
    }
    names, kinds, scenes = (
        table[column].to_numpy(dtype=str) if column in table else None
        for column in ("source", "kind", "scene")
    )
    votes = SourceVotes(labels, probabilities, names, kinds, scenes)
    return {
        "sources": sources,
        "auc_within_sources": auc_within(sources),
        "each_source_one_vote": {**votes.metrics(), "intervals": votes.intervals()},
        "items": table[["name", "label", "source", "probability"]].to_dict("records"),
    }


def _count(labels: np.ndarray) -> dict[str, int]:
    return {name: int((labels == label).sum()) for label, name in enumerate(LABELS)}


def score_face_set(
    detector: Detector, faces: FaceSet, progress: bool = False, degrade: str | None = None
) -> pd.DataFrame:
    """Score each video of a face set, or crop that belongs to none.

    Args:
        detector: Scores the crops, and says how those of a video combine.
        faces: The crops.
        progress: Show a progress bar.
        degrade: As in `evaluate`.

    Returns:
        One row a video, in the order of `faces.videos()`: `name`, `label`, `group`, `source`,
        `kind`, `scene` (the same for REAL and FAKE videos of one scene), `videos` (1, or 0 where
        the index names none), `tracks` and `crops` (their numbers), and `probability`.
    """
    if degrade not in DEGRADATIONS:
        raise ArgumentError(
            f"degrade must be {', '.join(filter(None, DEGRADATIONS))}, not {degrade!r}"
        )
    videos = faces.videos()
    tracks = [track for video in videos for track in video]
    logits = iter(_score_tracks(detector, faces, tracks, DEGRADATIONS[degrade], progress))
    aggregation = detector.spec.aggregation
    video_logits = [aggregation.video_logit([next(logits) for _ in video]) for video in videos]
    first = np.array([video[0][0] for video in videos])
    names, scenes = faces.texts("video")[first], faces.texts("pair")[first]
    # Scenes of two face sets may be called alike.
    places = [f"{number}: " for number in faces.face_sets[first]]
    return pd.DataFrame(
        {
            "name": np.where(names != "", names, faces.texts("id")[first]),
            "label": faces.texts("label")[first],
            "group": faces.groups[first],
            "source": faces.sources[first],
            "kind": faces.texts("kind")[first],
            "scene": np.where(scenes != "", np.char.add(places, scenes), ""),
            "videos": (names != "").astype(int),
            "tracks": [len(video) for video in videos],
            "crops": [sum(map(len, video)) for video in videos],
            "probability": aggregation.probability(video_logits),
        }
    )


def _score_tracks(
    detector: Detector,
    faces: FaceSet,
    tracks: Sequence[Sequence[int]],
    spoil: Callable[[np.ndarray], np.ndarray],
    progress: bool,
) -> list[np.ndarray]:
    """Calibrated logits of the crops of each track."""
    logits = []
    with tqdm(total=sum(map(len, tracks)), desc="faces", unit="crop", disable=not progress) as bar:
        for start in range(0, len(tracks), BATCH):
            part = tracks[start : start + BATCH]
            clips = [[spoil(faces.image(row)) for row in track] for track in part]
            logits += detector.frame_logits(clips)
            bar.update(sum(map(len, clips)))
    return logits


def tabulate(
    videos: Sequence[LabelledVideo], scores: Iterable[VideoResult], progress: bool = False
) -> pd.DataFrame:
    """Put labelled videos and their scores into a table, as they come.

    Returns:
        Columns `name`, `label`, `group`, `source`, `probability` (NaN without a score) and
        `status`, in the order of `videos`.
    """
    bar = tqdm(scores, "videos", len(videos), unit="video", disable=not progress)
    rows = []
    for video, result in zip(videos, bar, strict=True):
        if result.status != Status.OK:
            LOGGER.info("%s: %s", video.name, result.message)
        labels = video.name, video.label, video.group, video.source
        rows.append((*labels, result.probability, result.status.value))
    table = pd.DataFrame(rows, columns=["name", "label", "group", "source", *SCORE_COLUMNS])
    return table.astype({"probability": float})


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


def report(scores: dict[str, Any], as_json: bool = False) -> str:
    """Scores as text for people or, on one line and with null for NaN, as JSON."""
    if as_json:
        return json.dumps(_without_nan(scores))
    lines = []
    for name, value in scores.items():
        if not isinstance(value, dict | list):
            line = f"{name:20} {value:.4g}" if isinstance(value, float) else f"{name:20} {value}"
            if name in scores["intervals"]:
                low, high = scores["intervals"][name]
                line += f"  (95 % {low:.4g} to {high:.4g})"
            lines.append(line)
    if "reweighted" in scores:
        lines += ["", "with another share of FAKE"]
        lines += [f"{name:20} {value:.4g}" for name, value in scores["reweighted"].items()]
    if "each_source_one_vote" in scores:
        lines += ["", "each source one vote", *_votes_lines(scores["each_source_one_vote"])]
    for part in ("sources", "subgroups"):
        if part in scores:
            table = pd.DataFrame(scores[part]).T[SOURCE_COLUMNS].astype(float)
            table = table.astype({"n": int})
            lines += ["", table.to_string(float_format="{:.3f}".format, na_rep="")]
    if 0 < len(scores.get("items", ())) <= MOST_ITEMS:
        table = pd.DataFrame(scores["items"]).sort_values(["source", "label", "probability"])
        text = table.to_string(float_format="{:.3f}".format, na_rep="", index=False)
        lines += ["", text]
    return "\n".join(lines)


def _votes_lines(votes: dict[str, Any]) -> list[str]:
    table = pd.DataFrame(
        [
            (value, *votes["intervals"].get(name, (np.nan, np.nan)))
            for name, value in votes.items()
            if name != "intervals"
        ],
        index=[name for name in votes if name != "intervals"],
        columns=["", "from", "to (95 %)"],
    )
    return table.to_string(float_format="{:.4g}".format, na_rep="").splitlines()


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


def _figure() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    return figure, figure.subplots()
