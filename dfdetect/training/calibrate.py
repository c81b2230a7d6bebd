"""Fit the calibration of a trained model again, on other labelled faces."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from dfdetect.checkpoints.ensemble import MIXED_CROPS, EnsembleSpec
from dfdetect.checkpoints.io import Spec, is_half, load_checkpoint, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights, require_new_checkpoint
from dfdetect.data.faceset import FaceSet
from dfdetect.errors import ArgumentError
from dfdetect.runtime.device import choose_device
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.judging import Judge
from dfdetect.training.trainer import predict_logits


def calibrate(
    weights: str | Path,
    faces: Sequence[str | Path],
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = 0,
    progress: bool = False,
) -> Spec:
    """Fit the calibration and the operating points of a checkpoint, and write a new checkpoint.

    The calibration turns a raw logit into the logit of a realistic P(FAKE). The operating points
    are the thresholds of the verdicts. Calibration and operating points are fitted on the scores of
    whole videos, as in `train`. If `faces` has fewer than 20 REAL videos, the new checkpoint has no
    operating points, and a warning says so.

    If the checkpoint is an ensemble, the mean of the calibrated logits of its members is calibrated
    again. The result is stored in the calibrations of the members: each gets the scale and the bias
    that together calibrate the mean.

    The network itself is not changed. Use `faces` of people and sources that the network was not
    trained on. Otherwise the new calibration makes the probabilities too extreme. In the fit,
    videos have the weights that `dfdetect.training.judging.Judge` describes.

    `operating_points.fakes` counts FAKE videos of new people and of new sources. A source is new
    unless a member names it in `training["sources"]`, where `train` writes the known sources. (A
    checkpoint of one model is its only member.) If a member has no such entry, it is unknown which
    sources are new, and FAKE videos with a source are not counted. If a member comes from `dfdetect
    convert`, no FAKE videos are counted.

    Args:
        weights: Name or file of the weights.
        faces: Indexes of face sets with REAL and FAKE crops.
        out: The checkpoint to write, whose name ends in `.safetensors`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show a progress bar.

    Returns:
        The specification of the new checkpoint: a `ModelSpec`, or an `EnsembleSpec` for an
        ensemble. Its `scores["calibration_faces"]` holds the metrics on `faces` (see
        `dfdetect.training.judging.Judge.measure`). The `uncalibrated_log_loss` of an ensemble is
        that of the mean before the new fit.

    Raises:
        FaceSetError: A face set is unusable, or all crops have the same label.
        ArgumentError: `out` exists or cannot be written, the device is unknown, the members of an
            ensemble take clips of different lengths, or FAKE videos get no higher logits than REAL
            videos.
        CheckpointError: The checkpoint is unusable.

    Example:
        >>> spec = calibrate("xception", ["interviews.csv"], "mine.safetensors")
        >>> spec.members[0].calibration
        Calibration(scale=0.81, bias=-0.4)
    """
    out = Path(out)
    require_new_checkpoint(out)
    torch_device = choose_device(device)
    path = find_weights(weights)
    model, spec = load_checkpoint(path)
    lengths = {member.frames_per_clip for member in spec.members}
    if len(lengths) > 1:
        raise ArgumentError(
            f"{path}: an ensemble whose members take clips of different lengths; calibrate each "
            "member, then combine them again: such an ensemble gives no verdicts"
        )
    if len({member.crop for member in spec.members}) > 1:
        warnings.warn(MIXED_CROPS, stacklevel=2)
    joined = FaceSet.join([FaceSet.read(index) for index in faces])
    joined.require_both_classes(", ".join(map(str, faces)))
    joined.require_readable(progress)
    judge = Judge(joined, lengths.pop(), spec.aggregation, _known_sources(spec))
    judge.warn_if_few_real(out)
    models = (
        model.to(torch_device) if isinstance(model, nn.ModuleList) else [model.to(torch_device)]
    )
    parts = [
        predict_logits(one, joined, member, workers, progress)
        for one, member in zip(models, spec.members, strict=True)
    ]
    logits = parts[0] if isinstance(spec, ModelSpec) else _mean_logits(spec, parts)
    calibration = judge.calibrate(logits)
    points = judge.operating_points(calibration, logits)
    converted = any("converted_from" in member.training for member in spec.members)
    if points is not None and converted:
        # It is unknown on which faces other authors trained, so none are like their training faces.
        points = replace(points, fakes={})
    notes = {
        "calibrated_on": [Path(index).name for index in faces],
        "calibrated": date.today().isoformat(),
    }
    spec = replace(
        _calibrated(spec, calibration, notes),
        operating_points=points,
        scores={**spec.scores, "calibration_faces": judge.measure(calibration, logits)},
    )
    save_checkpoint(out, model.cpu(), spec, half=is_half(path))
    return spec


def _known_sources(spec: Spec) -> list[str] | None:
    """Return the sources that the members were trained on, or None if a member does not say so."""
    known: set[str] = set()
    for member in spec.members:
        if "sources" not in member.training:
            return None
        known.update(member.training["sources"])
    return sorted(known)


def _mean_logits(spec: EnsembleSpec, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits of an ensemble, given the raw logits of each of its members."""
    calibrated = (
        member.calibration.apply(logits) for member, logits in zip(spec.members, parts, strict=True)
    )
    return np.average(list(calibrated), axis=0, weights=spec.shares)


def _calibrated(spec: Spec, calibration: Calibration, notes: dict[str, Any]) -> Spec:
    """Return a specification with a new calibration, and with notes on how it was fitted.

    Args:
        spec: The specification.
        calibration: The calibration of the raw logits of a model, or of the logits of an ensemble.
        notes: Entries to add to `training`, in an ensemble to that of each member.
    """
    if isinstance(spec, ModelSpec):
        return replace(spec, calibration=calibration, training={**spec.training, **notes})
    members = (
        replace(
            member,
            calibration=Calibration(
                calibration.scale * member.calibration.scale,
                calibration.scale * member.calibration.bias + calibration.bias,
            ),
            operating_points=None,  # those of the members do not hold any more
            training={**member.training, **notes},
        )
        for member in spec.members
    )
    return replace(spec, members=tuple(members))
