"""Compare architectures that are trained on the same faces and measured on other faces.

dfdetect is based on a study that trained eight detectors on the data of the Deepfake Detection
Challenge. The study reported accuracies on data that was 80.75 % FAKE. On such data, a detector
that always answers FAKE has an accuracy of 0.8075. This module therefore reports balanced
accuracies. It also reports accuracies on data with the study's share of FAKE.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dfdetect.checkpoints.io import read_spec
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import SUFFIX, find_weights
from dfdetect.data.faceset import FaceSet, require_disjoint_actors
from dfdetect.detector import Detector, load_detector
from dfdetect.errors import InputError
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.evaluation.metrics import reweighted_metrics
from dfdetect.evaluation.table import markdown
from dfdetect.files import atomic_path, require_writable
from dfdetect.models.registry import list_recipes, model_info
from dfdetect.training.config import recipe
from dfdetect.training.pretrained import IMAGENET
from dfdetect.training.trainer import train

LOGGER = logging.getLogger(__name__)
STUDY_FAKE_SHARE = 0.8075
# Validation accuracies of the study's detectors, as far as the study states them.
STUDY_ACCURACY = {
    "logistic_regression": 0.8333,
    "linear_svm": 0.67,
    "simple_cnn_1": 0.75,
    "cnn_lstm": 0.85,
    "vgg16": 0.70,
    "resnet50": 0.70,
    "xception": 0.84,
}
# Initial weights of the architectures that do not start from random weights.
INITIAL = {"tf_efficientnet_lite0": IMAGENET}
DEFAULT = "default detector"
SPEED_CROPS = 256
MEASURES = ("auc", "log_loss", "balanced_accuracy")


def compare(
    faces: Sequence[str | Path],
    *,
    val: str | Path,
    out: str | Path,
    clips: Sequence[str | Path] = (),
    val_clips: str | Path | None = None,
    architectures: Sequence[str] | None = None,
    device: str = "auto",
    progress: bool = False,
) -> pd.DataFrame:
    """Train architectures with their recipes, measure them, and return a table of their metrics.

    The recipe of an architecture has the training settings that suit it. If the folder `out`
    already has a checkpoint of an architecture, this architecture is not trained again. The
    installed default detector is measured too, whatever data it was trained on.

    The function also writes `comparison.csv`, `comparison.md` and `comparison.png` to `out`. Rows
    of other detectors in an existing `comparison.csv` are kept.

    Args:
        faces: Indexes (CSV files) of face sets to train on. A face set holds labelled crops of
            faces. Some of the actors are held out to choose the best epoch.
        val: Index of a face set on which all detectors are measured. It must show other actors
            than `faces` and `clips`.
        out: Folder for the checkpoints. A checkpoint is named after its architecture, such as
            `xception.safetensors`. If a training was interrupted, the next call with the same
            folder continues it.
        clips: Indexes of face sets that `extract` made, with several consecutive crops of each
            face. Models that take clips (several crops at once) are trained on `faces` and `clips`.
            All other models are trained on `faces` alone.
        val_clips: Index of a second face set on which all detectors are measured. Like `clips`, it
            holds several consecutive crops of each face, but of other actors.
        architectures: Names of the architectures; None for `compared_architectures()`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        progress: Show progress bars.

    Returns:
        The table that is written to `comparison.csv`, with one row per detector. The columns are
        the size, the speed, the training time, and metrics with their 95 % intervals.

    Raises:
        FaceSetError: A face set is unusable, or an actor is both in a face set to train on and in a
            face set to measure on.
        InputError: A checkpoint in `out` was trained on face sets with other names.
        ArgumentError: The name of an architecture is unknown.

    Example:
        >>> compare(["train.csv"], val="val.csv", out="weights")[["auc", "log_loss"]]
    """
    out = Path(out)
    # Unknown names are refused now, not after hours of training.
    takes_clips = {
        name: model_info(name).input == "clip" for name in architectures or compared_architectures()
    }
    require_writable(out / "comparison.csv")
    known, unseen = _read_sets([*faces, *clips], [val] if val_clips is None else [val, val_clips])
    for other in unseen:
        require_disjoint_actors(known, other, "the faces to measure on")
    unseen[0].require_both_classes(str(val))
    kept = pd.DataFrame()
    if (out / "comparison.csv").is_file():
        kept = pd.read_csv(out / "comparison.csv", index_col="detector")
    rows = []
    for name, of_clips in takes_clips.items():
        checkpoint = out / f"{name}{SUFFIX}"
        sets = [*faces, *clips] if of_clips else list(faces)
        if checkpoint.exists():
            _require_trained_on(checkpoint, sets)
            LOGGER.info("%s: %s exists and is used as it is", name, checkpoint)
        else:
            LOGGER.info("%s: training", name)
            init = INITIAL.get(name)
            train(
                recipe(name),
                sets,
                checkpoint,
                init=init,
                device=device,
                resume=True,
                progress=progress,
            )
        rows.append(_measure(checkpoint, name, val, val_clips, device, progress))
    rows.append(_measure(find_weights(), DEFAULT, val, val_clips, device, progress))
    table = pd.DataFrame(rows).set_index("detector")
    kept = kept.loc[kept.index.difference(table.index)].reindex(columns=table.columns)
    table = pd.concat([table, kept]).rename_axis("detector")
    order = [*STUDY_ACCURACY, *table.index.difference([*STUDY_ACCURACY, DEFAULT]), DEFAULT]
    table = table.loc[[name for name in order if name in table.index]]
    with atomic_path(out / "comparison.csv") as temporary:
        table.to_csv(temporary)
    with atomic_path(out / "comparison.md") as temporary:
        temporary.write_text(to_markdown(table), encoding="utf-8")
    with atomic_path(out / "comparison.png") as temporary:
        draw(table).savefig(temporary, format="png")
    return table


def compared_architectures() -> list[str]:
    """Return the names of the architectures that `compare` trains by default.

    First come the architectures of the study (see the docstring of this module). All other
    architectures with a training recipe follow. The architecture that the default detector was
    trained with is left out, because `compare` measures the installed default detector instead.
    """
    # `fit-texture` extends a trained model: the architecture of its checkpoint is another one.
    default = {
        member.training.get("architecture", member.architecture)
        for member in read_spec(find_weights()).members
    }
    others = (name for name in list_recipes() if name not in {*STUDY_ACCURACY, *default})
    return [*STUDY_ACCURACY, *others]


def to_markdown(table: pd.DataFrame) -> str:
    """Return the table of `compare` as Markdown text, with the 95 % intervals of metrics."""
    columns = {
        "detector": table.index,
        "weights": [f"{count / 1e6:.3g} M" for count in table["parameters"]],
        "file": [f"{size:.2g} MB" for size in table["megabytes"]],
        "input": table["input"],
        "crops/s": [f"{rate:.0f}" for rate in table["crops_per_second"]],
        "training": [_minutes(value) for value in table["training_minutes"]],
        "AUC": _with_intervals(table, "auc"),
        "log loss": _with_intervals(table, "log_loss"),
        "balanced accuracy": _with_intervals(table, "balanced_accuracy"),
        f"accuracy at {STUDY_FAKE_SHARE:.2%} FAKE": _rounded(table["study_balance_accuracy"]),
        "the study's": _rounded(table["study_accuracy"]),
    }
    if "clips_auc" in table:
        columns["AUC on true sequences"] = _rounded(table["clips_auc"])
    return markdown(columns)


def draw(table: pd.DataFrame) -> Figure:
    """Return a figure of two plots, given the table that `compare` returns.

    The first plot shows the balanced accuracy of each detector. The second plot shows accuracies on
    data that is 80.75 % FAKE: those that `compare` computed, and those that the study reported (see
    the docstring of this module).
    """
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    ours, theirs = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(table))[::-1]
    middle = table["balanced_accuracy"]
    reach = [middle - table["balanced_accuracy_low"], table["balanced_accuracy_high"] - middle]
    ours.errorbar(middle, places, xerr=reach, fmt="o", capsize=3)
    ours.axvline(0.5, color="grey", linestyle=":")
    ours.set(xlabel="balanced accuracy, 95 % interval", yticks=places, yticklabels=table.index)
    theirs.scatter(table["study_balance_accuracy"], places, label="here")
    theirs.scatter(table["study_accuracy"], places, marker="x", label="in the study")
    theirs.axvline(STUDY_FAKE_SHARE, color="grey", linestyle=":")
    theirs.set(xlabel=f"accuracy where {STUDY_FAKE_SHARE:.2%} are FAKE")
    theirs.locator_params("x", nbins=6)
    # The last rows are the best detectors: their points are on the right.
    theirs.legend(loc="lower left")
    figure.suptitle(
        "Measured on actors who are not in the training data (dotted: a constant answer)"
    )
    return figure


def _read_sets(
    train_sets: Sequence[str | Path], val_sets: Sequence[str | Path]
) -> tuple[FaceSet, list[FaceSet]]:
    """Return the training sets, joined into one face set, and a list of the validation sets."""
    known = FaceSet.join([FaceSet.read(index) for index in train_sets])
    return known, [FaceSet.read(index) for index in val_sets]


def _require_trained_on(checkpoint: Path, sets: Sequence[str | Path]) -> None:
    names = [Path(index).name for index in sets]
    found = read_spec(checkpoint).training.get("faces")
    if found != names:
        raise InputError(
            f"{checkpoint}: exists and was trained on {found} instead of {names}; delete it to "
            "train again, or give another folder"
        )


def _measure(
    checkpoint: Path,
    name: str,
    val: str | Path,
    val_clips: str | Path | None,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    detector = load_detector(checkpoint, device)
    result = evaluate(val, weights=detector, progress=progress)
    scores = result.metrics
    answers = result.answers
    reweighted = reweighted_metrics(answers.labels, answers.probabilities, STUDY_FAKE_SHARE)
    row: dict[str, Any] = {
        "detector": name,
        "parameters": sum(weight.numel() for weight in detector.model.parameters()),
        "megabytes": checkpoint.stat().st_size / 1e6,
        "input": " and ".join(dict.fromkeys(map(_input, detector.spec.members))),
        "crops_per_second": _speed(detector),
        "training_minutes": _training_minutes(checkpoint),
    }
    for measure in MEASURES:
        row[measure] = getattr(scores, measure)
        row[f"{measure}_low"], row[f"{measure}_high"] = scores.intervals[measure]
    row["calibration_error"] = scores.calibration_error
    row["fake_fraction"] = scores.fake_fraction
    row["constant_log_loss"] = scores.constant_log_loss
    row["study_balance_accuracy"] = reweighted.accuracy
    row["study_balance_constant"] = reweighted.constant_accuracy
    row["study_accuracy"] = STUDY_ACCURACY.get(name)
    if val_clips is not None:
        clips = evaluate(val_clips, weights=detector, progress=progress)
        within = clips.auc_within_sources
        row["clips_auc"] = clips.metrics.auc if np.isnan(within) else within
    return row


def _input(spec: ModelSpec) -> str:
    frames = f"{spec.frames_per_clip} x " if spec.frames_per_clip > 1 else ""
    return f"{frames}{spec.input_size} px"


def _speed(detector: Detector) -> float:
    """Return the number of inputs (crops or clips) that the detector scores per second."""
    noise = np.random.default_rng(0).integers(0, 256, (SPEED_CROPS, 224, 224, 3), dtype=np.uint8)
    crops = list(noise)
    detector.predict_faces(crops[:32])
    start = perf_counter()
    detector.predict_faces(crops)
    return SPEED_CROPS / (perf_counter() - start)


def _training_minutes(checkpoint: Path) -> float:
    """Return the training time of a checkpoint in minutes, or NaN if it has no history file."""
    history = checkpoint.with_suffix(".history.csv")
    if not history.is_file():
        return float("nan")
    return float(pd.read_csv(history).get("seconds", pd.Series([np.nan])).sum(skipna=False)) / 60


def _minutes(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.1f} min"


def _rounded(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{value:.3f}" for value in values]


def _with_intervals(table: pd.DataFrame, name: str) -> list[str]:
    edges = table[[name, f"{name}_low", f"{name}_high"]].to_numpy()
    return [f"{value:.3f} ({low:.3f}-{high:.3f})" for value, low, high in edges]
