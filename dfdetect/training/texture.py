"""Make a trained detector also judge the texture of faces, by fitting five layers.

`dfdetect.models.texture` describes the model: its challenge logit, and its wild logit, which is the
sum of a deep logit, a texture logit and a steadiness logit. The layers are fitted by logistic
regression, without gradient descent. Faces whose index names no source are taken to be from the
Deepfake Detection Challenge. All faces with a source are called wild. Among the wild faces, all
sources have the same weight, and REAL and FAKE have the same weight. These are the five layers:

- The layer of the challenge logit is fitted again, on the faces of the challenge.
- The layer of the deep logit is fitted on the wild faces.
- The layer of the texture logit is fitted on the wild faces, too. Its penalty is strong, because
  the layer would otherwise learn to recognise the sources.
- The layer of the steadiness logit is fitted on the wild tracks that have enough frames.
- The layer of the relevance learns to separate the wild faces from the faces of the challenge. It
  learns from all faces as they are stored, as if they came from videos, and from a damaged copy. A
  compressed or darkened face of the challenge therefore still counts as one of the challenge.

Face sets store crops as JPEG images, whose artefacts crops from videos lack. The wild faces are
therefore prepared so that they look like crops from videos (see `as_from_videos`).

Afterwards, the challenge logit and the wild logit are calibrated on held-out faces. Last, the wild
logit is lowered until few held-out REAL sources are called FAKE. Most videos that users check are
REAL, and a false alarm about a person does more harm than a missed fake.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm import tqdm

from dfdetect.checkpoints.io import load_checkpoint, save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights, require_new_checkpoint
from dfdetect.data.faceset import LABELS, FaceSet, FaceSetError
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.metrics import vote_weights
from dfdetect.models.registry import create_model
from dfdetect.models.steadiness import FEWEST_FRAMES, Steadiness, steadiness
from dfdetect.models.texture import TextureEfficientNet
from dfdetect.models.tracks import track_logits
from dfdetect.runtime.device import choose_device
from dfdetect.runtime.engines import EngineNetwork, choose_engine
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.augment import training_transform
from dfdetect.training.dataset import ClipDataset, DetectorDataset, Item
from dfdetect.training.judging import Judge
from dfdetect.training.split import as_list, read_split

ARCHITECTURE = "tf_efficientnet_lite2_texture"
# Inverse strengths of the penalties on the squared weights, scikit-learn's `C`, for standardised
# features. They were chosen on held-out faces of the research data, which include `dev` and
# `dev_b`.
CHALLENGE_STRENGTH, DEEP_STRENGTH, TEXTURE_STRENGTH = 1e-2, 1e-3, 3e-5
RELEVANCE_STRENGTH, STEADINESS_STRENGTH = 10.0, 1.0
# Strong penalties make logits too small. The logits of the texture and of the steadiness are
# multiplied by these factors before they are added to the deep logit. Of the factors that were
# tried, these give the default detector the lowest `choosing_loss` (see
# `dfdetect.training.judging`) on held-out faces.
TEXTURE_SCALE, STEADINESS_SCALE = 15.0, 3.0
# The limits of the steadiness leave this share of the tracks below and above them.
EXTREME_SHARE = 0.01
# The largest share of the held-out REAL sources that may have a probability above 0.5, and the
# amounts by which the wild logit may be lowered to reach this share.
MOST_FALSE_ALARMS = 0.15
SHIFTS = np.arange(81) / 20
# The calibrated logits of whole videos are higher by this than those of their crops in face sets.
# It was measured on 35 videos of the research data.
VIDEO_OFFSET = 0.2
# Side in pixels and JPEG quality of the crops in the challenge's face sets. The detector compresses
# all crops in the same way, because the model would otherwise recognise the faces of the challenge,
# and other collections of faces, by their JPEG artefacts.
CHALLENGE_JPEG = (224, 75)
# Half the side of JPEG's blocks in pixels.
HALF_BLOCK = 4
BATCH, MAX_ITERATIONS = 64, 1000


class Features(NamedTuple):
    """The features of the crops of a face set, on which a `TextureEfficientNet` is fitted.

    Attributes:
        deep: The deep features, float32 of shape (crops, channels).
        statistics: The texture statistics, float32 of shape (crops, statistics).
    """

    deep: np.ndarray
    statistics: np.ndarray


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
    """Add layers for texture to a trained `tf_efficientnet_lite2`, and write a new checkpoint.

    Args:
        weights: Name or file of the weights. If they already have layers for texture, these layers
            are fitted again.
        faces: Indexes of face sets. Some crops must have a source, and some must have none.
        out: The checkpoint to write, whose name ends in `.safetensors`.
        val: What to hold out and calibrate on: indexes of face sets, or shares of `faces`, as in
            `train`. Faces that the detector was not trained on are best. Some of the held-out crops
            must have a source, too, and some must have none.
        seed: Seed of two random choices: which faces are held out, as in `train`, and how the
            damaged copies of faces are damaged.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show progress bars.

    Returns:
        The specification that the new checkpoint holds.

    Raises:
        FaceSetError: A face set is unusable. Or one of four kinds of crops is missing among the
            crops to train on, or among the held-out crops: REAL with a source, FAKE with a source,
            REAL without a source, FAKE without a source.
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
    used, held_out = split.train, split.held_out
    for part in (used, held_out):
        _require_both_domains(part)
        part.require_readable(progress)
    resize = replace(spec.resize, jpeg=CHALLENGE_JPEG)
    spec = replace(spec, architecture=ARCHITECTURE, resize=resize)
    model = create_model(ARCHITECTURE).eval().to(torch_device)
    assert isinstance(model, TextureEfficientNet)
    model.network.load_state_dict(network.state_dict())
    compute = partial(_compute_features, _fast(_Body(model), spec), spec, workers, progress)
    stored = compute(DetectorDataset(used, spec))
    # The damage is not followed by the JPEG compression, which separated the challenge less well.
    damage = training_transform(spec.input_size)
    items = [Item(row, seed + row) for row in range(len(used))]
    damaged = compute(ClipDataset(used, damage), items)
    fit_layers(model, used, as_from_videos(compute, spec, used, stored), stored, damaged)
    judge = Judge(held_out, spec.frames_per_clip, spec.aggregation, used.sources)
    stored = compute(DetectorDataset(held_out, spec))
    features = as_from_videos(compute, spec, held_out, stored)
    calibration = calibrate_logits(model, judge, held_out, features)
    logits, relevance = _answers(model, held_out, features)
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


def as_from_videos(
    compute: Callable[[ClipDataset], Features], spec: ModelSpec, faces: FaceSet, stored: Features
) -> Features:
    """Return the features that the crops of a face set would have if they came from videos.

    Stored crops are JPEG images already, which consist of blocks of 8 x 8 pixels. If the detector
    compresses the same blocks again, they get other artefacts than the blocks of a crop from a
    video. Wild crops are therefore moved by half a block to the right and down first. The crops of
    the challenge may stay: to compress them again in the same way hardly changes them.

    Args:
        compute: A function that computes the features of a dataset.
        spec: The specification of the model.
        faces: The face set.
        stored: The features of its crops, not moved.
    """
    wild = np.flatnonzero(faces.sources != "")
    dataset = DetectorDataset(faces.select(wild), spec)
    move = v2.Pad((HALF_BLOCK, HALF_BLOCK, -HALF_BLOCK, -HALF_BLOCK), padding_mode="edge")
    dataset.transform = v2.Compose([move, dataset.transform])
    moved = compute(dataset)
    features = Features(*(values.copy() for values in stored))
    for values, new in zip(features, moved, strict=True):
        values[wild] = new
    return features


def fit_layers(
    model: TextureEfficientNet,
    faces: FaceSet,
    features: Features,
    stored: Features,
    damaged: Features,
) -> None:
    """Fit the five layers of a model that the docstring of this file lists.

    Args:
        model: The model whose layers are set.
        faces: The crops. Some must have a source, and some must have none.
        features: The features that the crops would have if they came directly from videos.
        stored: The features of the stored crops, not moved (see `as_from_videos`).
        damaged: The features of damaged copies of the crops. They need no compression.
    """
    tracks = faces.tracks()
    first = [track[0] for track in tracks]
    labels, sources = faces.labels[first], faces.sources[first]
    deep, statistics = _mean_of_tracks(features, tracks)
    wild = sources != ""
    votes = vote_weights(labels[wild], sources[wild]) * wild.sum()
    fit_linear(
        model.network.classifier,
        deep[~wild],
        labels[~wild],
        np.ones((~wild).sum()),
        CHALLENGE_STRENGTH,
    )
    fit_linear(model.deep, deep[wild], labels[wild], votes, DEEP_STRENGTH)
    fit_linear(model.texture, statistics[wild], labels[wild], votes, TEXTURE_STRENGTH)
    _scale(TEXTURE_SCALE, model.texture)
    fit_steadiness(model, faces, features.statistics)
    _scale(STEADINESS_SCALE, model.steadiness)
    shares = np.full(len(wild), 1 / (~wild).sum())
    shares[wild] = votes / votes.sum()
    copies = [_mean_of_tracks(one, tracks).statistics for one in (features, stored, damaged)]
    fit_linear(
        model.relevance,
        np.concatenate(copies),
        np.tile(wild.astype(int), len(copies)),
        np.tile(shares / shares.mean(), len(copies)),
        RELEVANCE_STRENGTH,
    )


def fit_steadiness(model: TextureEfficientNet, faces: FaceSet, statistics: np.ndarray) -> None:
    """Fit the layer that computes the logit of the steadiness of a face.

    If no REAL or no FAKE wild track has enough crops, the function warns, and leaves the layer as
    it is.

    Args:
        model: The model whose layer is set.
        faces: The crops. Only the wild ones are used.
        statistics: The texture statistics of each crop, shape (crops, statistics).
    """
    tracks = [
        track
        for track in faces.tracks()
        if len(track) >= FEWEST_FRAMES and faces.sources[track[0]] != ""
    ]
    first = [track[0] for track in tracks]
    labels, sources = faces.labels[first], faces.sources[first]
    if len(np.unique(labels)) < len(LABELS):
        warnings.warn(
            f"the steadiness of faces is left out: no REAL or no FAKE track with a source has "
            f"{FEWEST_FRAMES} crops",
            stacklevel=2,
        )
        return
    values = np.array([steadiness(torch.from_numpy(statistics[track])).item() for track in tracks])
    line = nn.Linear(1, 1)
    votes = vote_weights(labels, sources) * len(labels)
    fit_linear(line, values[:, None], labels, votes, STEADINESS_STRENGTH)
    layer = model.steadiness
    with torch.no_grad():
        layer.weight.copy_(line.weight[0])
        layer.bias.copy_(line.bias)
        layer.lowest.fill_(float(np.quantile(values, EXTREME_SHARE)))
        layer.highest.fill_(float(np.quantile(values, 1 - EXTREME_SHARE)))


def calibrate_logits(
    model: TextureEfficientNet, judge: Judge, faces: FaceSet, features: Features
) -> Calibration:
    """Calibrate the challenge logit, and change the wild logit to need the same calibration.

    The layers of the wild logit are scaled and shifted. Afterwards, the one calibration of the
    checkpoint is right for both logits.

    Args:
        model: The model, whose layers are fitted.
        judge: The `Judge` that measures the model on the held-out faces.
        faces: The held-out faces.
        features: The features of their crops.

    Returns:
        The calibration of the challenge logit.
    """
    deep, statistics = _tensors(model, features)
    with torch.inference_mode():
        challenge, wild = (logits[:, 0] for logits in model.both_logits(deep, statistics))
        for track in map(list, faces.tracks()):
            wild[track] += model.steadiness(statistics[track])
    has_source = judge.sources != ""
    calibration = judge.calibrate(challenge.cpu().numpy(), ~has_source)
    other = judge.calibrate(wild.cpu().numpy(), has_source)
    _scale(other.scale / calibration.scale, model.deep, model.texture, model.steadiness)
    with torch.no_grad():
        model.texture.bias.add_((other.bias - calibration.bias) / calibration.scale)
    return calibration


def fit_linear(
    layer: nn.Linear,
    features: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray,
    strength: float,
) -> None:
    """Fit the weights of a layer with one output, by logistic regression.

    The regression standardises the features. The fitted layer takes features that are not
    standardised.

    Args:
        layer: The layer to fit.
        features: Features of the examples, shape (n, features).
        labels: Labels of the examples, 0 or 1, shape (n,).
        weights: Weight of each example, 1 on average, shape (n,).
        strength: scikit-learn's `C`: the larger it is, the weaker is the penalty on the squared
            weights of the layer.
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
    """Return the amount by which the wild logit must be lowered.

    It is the smallest of the amounts `SHIFTS` with which at most the share `MOST_FALSE_ALARMS` of
    the REAL videos from held-out sources is called FAKE. Whole videos get higher logits than their
    crops in face sets, so `VIDEO_OFFSET` is added to the logits of the crops. If no amount is large
    enough, the function warns, and returns the largest amount.

    Args:
        judge: The `Judge` that measures the model on the held-out faces.
        calibration: The calibration of the model. It is not fitted again, because a new fit would
            undo the shift.
        logits: Raw logits of the held-out crops, shape (n,).
        relevance: For each crop, the weight that the model gives to the wild logit, 0 to 1, shape
            (n,).
    """
    logits = logits + VIDEO_OFFSET / calibration.scale * relevance
    for shift in SHIFTS.tolist():
        scores = judge.measure(calibration, logits - shift * relevance)
        if scores.get("sources_false_alarm_rate", 0.0) <= MOST_FALSE_ALARMS:
            return shift
    warnings.warn(
        f"more than {MOST_FALSE_ALARMS:.0%} of the held-out REAL sources still get a P(FAKE) above "
        "0.5 in whole videos: the detector will often call REAL videos of unknown sources FAKE",
        stacklevel=2,
    )
    return shift


def _require_both_domains(faces: FaceSet) -> None:
    wild = faces.sources != ""
    for rows in (wild, ~wild):
        if len(np.unique(faces.labels[rows])) < len(LABELS):
            raise FaceSetError(
                "REAL and FAKE faces with a source, and REAL and FAKE faces without one, are "
                "needed, to train on and to hold out: give the faces of the challenge and face "
                "sets with a column 'source'"
            )


@torch.inference_mode()
def _compute_features(
    body: nn.Module,
    spec: ModelSpec,
    workers: int,
    progress: bool,
    dataset: ClipDataset,
    items: Sequence[Item] | None = None,
) -> Features:
    """Return the features of the given items of a dataset, or of all crops if `items` is None.

    `body` is the part of the model that `_Body` describes.
    """
    device = next(body.parameters()).device
    found: list[list[np.ndarray]] = [[], []]
    loader = DataLoader(dataset, batch_size=BATCH, num_workers=workers, sampler=items)
    with tqdm(total=len(dataset), desc="features", unit="crop", disable=not progress) as bar:
        for images, _ in loader:
            pooled = body(spec.normalise(images.to(device)))
            for parts, part in zip(found, pooled, strict=True):
                parts.append(part.float().cpu().numpy())
            bar.update(len(images))
    return Features(*map(np.concatenate, found))


def _mean_of_tracks(features: Features, tracks: Sequence[Sequence[int]]) -> Features:
    """Return the mean features of each track, given the features of each crop."""
    return Features(
        *(np.stack([values[list(track)].mean(axis=0) for track in tracks]) for values in features)
    )


@torch.no_grad()
def _scale(factor: float, *layers: nn.Linear | Steadiness) -> None:
    """Change layers so that their outputs are multiplied by a factor."""
    for layer in layers:
        layer.weight.mul_(factor)
        layer.bias.mul_(factor)


@torch.inference_mode()
def _answers(
    model: TextureEfficientNet, faces: FaceSet, features: Features
) -> tuple[np.ndarray, np.ndarray]:
    """Return the final logit of each crop, and the relevance of its track: shape (crops,)."""
    deep, statistics = _tensors(model, features)
    tracks = faces.tracks()
    logits = track_logits(model, model.crop_values(deep, statistics), tracks)
    relevance = torch.zeros_like(logits)
    for track in map(list, tracks):
        relevance[track] = model.track_relevance(statistics[track])
    return logits.cpu().numpy(), relevance.cpu().numpy()


def _tensors(model: nn.Module, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features as tensors on the device of a model."""
    device = next(model.parameters()).device
    deep, statistics = (torch.from_numpy(values).to(device) for values in features)
    return deep, statistics


class _Body(nn.Module):
    """The part of the model that computes its deep features and texture statistics.

    The fitted layers take them.
    """

    def __init__(self, model: TextureEfficientNet):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model.pool(self.model.forward_features(images))


def _fast(network: nn.Module, spec: ModelSpec) -> EngineNetwork:
    """Return the network, wrapped so that the fastest installed engine runs it."""
    device = next(network.parameters()).device
    example = torch.zeros(spec.input_shape, device=device)
    return EngineNetwork(network, example, (0,), choose_engine("auto", device))
