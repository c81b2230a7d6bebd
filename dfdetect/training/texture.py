"""Add the texture of faces to a trained detector, by fitting three linear layers.

`dfdetect.models.texture` describes the model. Its layers are fitted by logistic regression, without
gradient descent, on the mean features of whole tracks. All sources have the same weight, and so
have REAL and FAKE. These are the three layers:

- The layer after the deep features is fitted again, on faces with a known source.
- The layer of the texture is fitted on the same faces, with a strong penalty. With a weak penalty,
  it would learn to recognise the sources.
- The layer of the relevance learns to separate faces with a known source from faces of the Deepfake
  Detection Challenge, which have no source in their index.

Afterwards the model is calibrated in the same way as at the end of `train`. Last, the bias of the
texture layer is lowered until few REAL videos from held-out sources are called FAKE. Most videos
that users check are REAL, and a false alarm about a person does more harm than a missed fake.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dfdetect.checkpoints.io import load_checkpoint, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights, require_new_checkpoint
from dfdetect.data.faceset import FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.metrics import vote_weights
from dfdetect.models.registry import create_model
from dfdetect.models.texture import TextureEfficientNet
from dfdetect.runtime.device import choose_device
from dfdetect.runtime.engines import EngineNetwork, choose_engine
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.dataset import DetectorDataset
from dfdetect.training.judging import Judge
from dfdetect.training.split import as_list, read_split

ARCHITECTURE = "tf_efficientnet_lite2_texture"
# Inverse strengths of the penalties on the squared weights, scikit-learn's `C`, for standardised
# features. The strength for the texture was chosen on `dev` and `dev_b` of the research data.
DEEP_STRENGTH, TEXTURE_STRENGTH, RELEVANCE_STRENGTH = 1e-3, 1e-4, 1e-2
# The strong penalty makes the logits of the texture too small, so they are multiplied by this
# factor. Among factors from 0 to 15, it gives the default detector the lowest `choosing_loss` (see
# `dfdetect.training.judging`) on held-out faces.
TEXTURE_SCALE = 6.0
# The largest share of the held-out REAL sources that may have a probability above 0.5, and the
# amounts by which the logit of the texture may be lowered to reach this share.
MOST_FALSE_ALARMS = 0.15
SHIFTS = np.arange(0, 4.01, 0.25)
# Maximum number of crops of the challenge that are used. The relevance needs no more crops.
MOST_CHALLENGE_CROPS = 2000
BATCH, MAX_ITERATIONS = 64, 1000


def fit_texture(
    weights: str | Path,
    faces: Sequence[str | Path],
    out: str | Path,
    *,
    val: str | Path | float | Sequence[str | Path | float] = 0.08,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    progress: bool = False,
) -> ModelSpec:
    """Add texture to a trained `tf_efficientnet_lite2`, and write a new checkpoint.

    Args:
        weights: Name or file of the weights. If they already have layers for texture, these layers
            are fitted again.
        faces: Indexes of face sets. Some crops must have a source, and some must have none.
        out: The checkpoint to write, ending in `.safetensors`.
        val: Faces to calibrate on, given as in `train`. Faces that the detector was not trained on
            are best.
        seed: Seed of two random choices: which faces are held out, as in `train`, and which of the
            many crops without a source are used.
        device: As in `load_detector`.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Show progress bars.

    Returns:
        The specification that the new checkpoint holds.

    Raises:
        FaceSetError: A face set is unusable, or faces with or without a source are missing.
        ArgumentError: `out` exists or cannot be written, `weights` have another architecture, or
            the device is unknown.
        CheckpointError: The checkpoint is unusable.

    Example:
        >>> fit_texture("lite2.safetensors", ["dfdc.csv", "web.csv"], "texture.safetensors")
    """
    out = Path(out)
    require_new_checkpoint(out)
    torch_device = choose_device(device)
    path = find_weights(weights)
    network, spec = load_checkpoint(path)
    if isinstance(network, TextureEfficientNet):
        network = network.network
    elif not isinstance(spec, ModelSpec) or spec.architecture != TextureEfficientNet.base:
        raise ArgumentError(f"{path}: texture can be added to {TextureEfficientNet.base} only")
    assert isinstance(spec, ModelSpec)
    split = read_split(faces, val, seed)
    split.held_out.require_readable(progress)
    used = _choose(split.train, seed)
    used.require_readable(progress)
    spec = replace(spec, architecture=ARCHITECTURE)
    model = create_model(ARCHITECTURE).eval().to(torch_device)
    assert isinstance(model, TextureEfficientNet)
    model.network.load_state_dict(network.state_dict())
    fit_layers(model, used, *_features(model, used, spec, workers, progress))
    judge = Judge(split.held_out, spec.frames_per_clip, spec.aggregation)
    logits, relevance = _answers(model, *_features(model, split.held_out, spec, workers, progress))
    calibration = judge.calibrate(logits)
    shift = find_shift(judge, calibration, logits, relevance)
    with torch.no_grad():
        model.texture.bias.sub_(shift)
    logits = logits - shift * relevance
    spec = replace(
        spec,
        calibration=calibration,
        operating_points=judge.operating_points(calibration, logits),
        scores={"held_out_actors": judge.measure(calibration, logits)},
        training={
            **spec.training,
            "texture": {
                "added_to": path.name,
                "faces": [Path(index).name for index in faces],
                "val": [one if isinstance(one, float) else Path(one).name for one in as_list(val)],
                "seed": seed,
                "shift": shift,
                "date": date.today().isoformat(),
            },
        },
    )
    save_checkpoint(out, model.cpu(), spec)
    return spec


def fit_layers(
    model: TextureEfficientNet, faces: FaceSet, deep: np.ndarray, statistics: np.ndarray
) -> None:
    """Fit the three linear layers of a model.

    Args:
        model: The model whose layers are set.
        faces: The crops.
        deep: Mean deep features of each crop, shape (crops, channels).
        statistics: The statistics of each crop, shape (crops, statistics).
    """
    tracks = faces.tracks()
    deep, statistics = (
        np.stack([values[track].mean(axis=0) for track in tracks]) for values in (deep, statistics)
    )
    first = [track[0] for track in tracks]
    labels, sources = faces.labels[first], faces.sources[first]
    known = sources != ""
    votes = vote_weights(labels[known], sources[known]) * known.sum()
    fit_linear(model.network.classifier, deep[known], labels[known], votes, DEEP_STRENGTH)
    fit_linear(model.texture, statistics[known], labels[known], votes, TEXTURE_STRENGTH)
    with torch.no_grad():
        model.texture.weight.mul_(TEXTURE_SCALE)
        model.texture.bias.mul_(TEXTURE_SCALE)
    shares = np.full(len(known), len(known) / (2 * (~known).sum()))
    shares[known] = votes / votes.sum() * len(known) / 2
    fit_linear(model.relevance, statistics, known.astype(int), shares, RELEVANCE_STRENGTH)


def fit_linear(
    layer: nn.Linear,
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    strength: float,
) -> None:
    """Fit the weights of a layer with one output, by logistic regression.

    Args:
        layer: The layer. The regression standardises the features, but the weights are set so that
            the layer takes features that are not standardised.
        features: Features of the examples, shape (n, features).
        labels: Labels of the examples, 0 or 1, shape (n,).
        weights: Weight of each example, 1 on average, shape (n,).
        strength: Inverse strength of the penalty on the squared weights, scikit-learn's `C`.
    """
    scaler = StandardScaler().fit(features, sample_weight=weights)
    fit = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS)
    fit.fit(scaler.transform(features), labels, sample_weight=weights)
    weight = fit.coef_[0] / scaler.scale_
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight)[None])
        layer.bias.fill_(float(fit.intercept_[0] - weight @ scaler.mean_))


def find_shift(
    judge: Judge, calibration: Calibration, logits: np.ndarray, relevance: np.ndarray
) -> float:
    """Return the amount by which the bias of the texture layer must be lowered.

    With the lowered bias, few REAL videos from held-out sources are called FAKE.

    Args:
        judge: The judge of the held-out faces.
        calibration: The calibration of the model. It is not fitted again, because a new fit would
            undo the shift.
        logits: Raw logits of the held-out crops, shape (n,).
        relevance: Relevance of the texture of each crop, 0 to 1, shape (n,).
    """
    for shift in SHIFTS.tolist():
        scores = judge.measure(calibration, logits - shift * relevance)
        if scores.get("sources_false_alarm_rate", 0.0) <= MOST_FALSE_ALARMS:
            break
    return shift


def _choose(faces: FaceSet, seed: int) -> FaceSet:
    """Return all crops with a known source, and some of those without one."""
    known = faces.sources != ""
    if known.all() or not known.any():
        raise FaceSetError(
            "faces with a source and faces without one are needed: give the faces of the challenge "
            "and face sets with a column 'source'"
        )
    plain = np.random.default_rng(seed).permutation(np.flatnonzero(~known))
    return faces.select(np.sort([*np.flatnonzero(known), *plain[:MOST_CHALLENGE_CROPS]]))


@torch.inference_mode()
def _features(
    model: TextureEfficientNet, faces: FaceSet, spec: ModelSpec, workers: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean deep features and the statistics of each crop, both float32."""
    device = next(model.parameters()).device
    body = _fast(_Body(model), spec)
    dataset = DetectorDataset(faces, spec)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with tqdm(total=len(faces), desc="features", unit="crop", disable=not progress) as bar:
        for images, _ in DataLoader(dataset, batch_size=BATCH, num_workers=workers):
            pooled = body(spec.normalise(images.to(device)))
            for parts, part in zip(found, pooled, strict=True):
                parts.append(part.float().cpu().numpy())
            bar.update(len(images))
    return np.concatenate(found[0]), np.concatenate(found[1])


@torch.inference_mode()
def _answers(
    model: TextureEfficientNet, deep: np.ndarray, statistics: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logit of each crop and the relevance of its texture, both of shape (crops,)."""
    device = next(model.parameters()).device
    features = (torch.from_numpy(values).to(device) for values in (deep, statistics))
    logits, relevance = model.combine(*features)
    return logits[:, 0].cpu().numpy(), relevance[:, 0].cpu().numpy()


class _Body(nn.Module):
    """The part of the model that computes the inputs of its three linear layers.

    The outputs are the mean deep features and the statistics of each crop.
    """

    def __init__(self, model: TextureEfficientNet):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.pool(self.model.forward_features(images))


def _fast(network: nn.Module, spec: ModelSpec) -> EngineNetwork:
    """Return a form of the network that the fastest installed engine runs."""
    device = next(network.parameters()).device
    example = torch.zeros(spec.input_shape, device=device)
    return EngineNetwork(network, example, (0,), choose_engine("auto", device))
