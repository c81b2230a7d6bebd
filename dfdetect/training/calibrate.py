"""Fit the calibration of a trained model again, on other labelled faces."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from dfdetect.checkpoints.io import is_half, load_checkpoint, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights, require_new_checkpoint
from dfdetect.data.faceset import FaceSet
from dfdetect.errors import ArgumentError
from dfdetect.runtime.device import choose_device
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
) -> ModelSpec:
    """Fit the calibration and the operating points of a checkpoint, and write a new checkpoint.

    The calibration turns a raw logit into the logit of a realistic P(FAKE). The operating points
    are the thresholds of the verdicts. Calibration and operating points are fitted on the scores of
    whole videos, as in `train`. If `faces` has fewer than 20 REAL videos, the new checkpoint has no
    operating points, and a warning says so.

    The network itself is not changed. Use `faces` of people and sources that the network was not
    trained on. Otherwise the new calibration makes the probabilities too extreme. In the fit,
    videos have the weights that `dfdetect.training.judging.Judge` describes.

    `operating_points.fakes` counts FAKE videos of new people and of new sources. A source is new
    unless the checkpoint names it in `training["sources"]`, where `train` writes the known sources.
    Without this entry, it is unknown which sources are new, and FAKE videos with a source are not
    counted. Of a network from `dfdetect convert`, no FAKE videos are counted.

    Args:
        weights: Name or file of the weights.
        faces: Indexes of face sets with REAL and FAKE crops.
        out: The checkpoint to write, whose name ends in `.safetensors`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show a progress bar.

    Returns:
        The specification of the new checkpoint. Its `scores["calibration_faces"]` holds the metrics
        on `faces` (see `dfdetect.training.judging.Judge.measure`).

    Raises:
        FaceSetError: A face set is unusable, or all crops have the same label.
        ArgumentError: `out` exists or cannot be written, `weights` is an ensemble, the device is
            unknown, or the network gives FAKE videos no higher logits than REAL videos.
        CheckpointError: The checkpoint is unusable.

    Example:
        >>> calibrate("tf_efficientnet_lite2", ["interviews.csv"], "mine.safetensors").calibration
        Calibration(scale=0.81, bias=-0.4)
    """
    out = Path(out)
    require_new_checkpoint(out)
    torch_device = choose_device(device)
    path = find_weights(weights)
    model, spec = load_checkpoint(path)
    if not isinstance(spec, ModelSpec):
        raise ArgumentError(f"{path}: an ensemble; calibrate its members, then combine them again")
    joined = FaceSet.join([FaceSet.read(index) for index in faces])
    joined.require_both_classes(", ".join(map(str, faces)))
    joined.require_readable(progress)
    trained = spec.training.get("sources")
    judge = Judge(joined, spec.frames_per_clip, spec.aggregation, trained)
    judge.warn_if_few_real(out)
    logits = predict_logits(model.to(torch_device), joined, spec, workers, progress)
    calibration = judge.calibrate(logits)
    points = judge.operating_points(calibration, logits)
    if points is not None and "converted_from" in spec.training:
        # It is unknown on which faces other authors trained, so none are like their training faces.
        points = replace(points, fakes={})
    spec = replace(
        spec,
        calibration=calibration,
        operating_points=points,
        scores={**spec.scores, "calibration_faces": judge.measure(calibration, logits)},
        training={
            **spec.training,
            "calibrated_on": [Path(index).name for index in faces],
            "calibrated": date.today().isoformat(),
        },
    )
    save_checkpoint(out, model.cpu(), spec, half=is_half(path))
    return spec
