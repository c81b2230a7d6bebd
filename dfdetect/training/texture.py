"""Make a trained detector also judge the texture of faces, by fitting five layers.

`dfdetect.models.texture` describes the model. It has a challenge logit and a wild logit. The wild
logit is the sum of a deep logit, a texture logit and a steadiness logit.

The layers are fitted by logistic regression. Faces without a source in their index are taken to be
from the Deepfake Detection Challenge. All other faces are called wild. Among the wild faces, all
sources have the same weight, and REAL and FAKE have the same weight. These are the five layers:

- The layer of the challenge logit is fitted again, on the faces of the challenge.
- The layer of the deep logit is fitted on the wild faces.
- The layer of the texture logit is fitted on the wild faces, too.
- The layer of the steadiness logit is fitted on the wild tracks that have enough frames.
- The layer of the relevance (the weight of the wild logit) learns to separate the wild faces from
  the faces of the challenge. It learns from three versions of each face: the stored crop, the crop
  as if it came from a video, and a damaged copy.

Face sets store crops as JPEG images. The wild faces are changed so that they look like crops from
videos instead (see `as_from_videos`).

Afterwards, the challenge logit and the wild logit are calibrated on held-out faces. Last, the wild
logit is lowered until few held-out REAL videos are called FAKE. A false alarm about a person does
more harm than a missed fake.
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
# Values of scikit-learn's `C` for standardised features. A smaller value means a stronger penalty
# on the squared weights. The values were chosen on held-out faces of the research data, which
# include the face sets `dev` and `dev_b`. With a weak penalty, the layer of the texture logit
# would learn to recognise the sources.
CHALLENGE_STRENGTH, DEEP_STRENGTH, TEXTURE_STRENGTH = 1e-2, 1e-3, 3e-5
RELEVANCE_STRENGTH, STEADINESS_STRENGTH = 10.0, 1.0
# Strong penalties make logits too small. The texture logit and the steadiness logit are therefore
# multiplied by these factors before they are added to the deep logit. Of the factors that were
# tried, these give the default detector the lowest `choosing_loss` (see
# `dfdetect.training.judging`) on held-out faces.
TEXTURE_SCALE, STEADINESS_SCALE = 15.0, 3.0
# This share of the tracks has a steadiness below `Steadiness.lowest`. The same share has a
# steadiness above `Steadiness.highest`.
EXTREME_SHARE = 0.01
# The highest accepted false alarm rate: the share of held-out REAL videos with a P(FAKE) above 0.5,
# averaged over the sources. `SHIFTS` are the amounts by which the wild logit may be lowered.
MOST_FALSE_ALARMS = 0.15
SHIFTS = np.arange(81) / 20
# The calibrated logit of a whole REAL video is higher by this amount than the calibrated logit of
# the video's crops in a face set. The amount was measured on videos of the research data.
VIDEO_OFFSET = 0.26
# Side in pixels and JPEG quality of the crops in the challenge's face sets. The detector resizes
# and compresses all crops to this side and quality. Otherwise, the model would recognise the
# challenge and other collections of faces by their JPEG artefacts.
CHALLENGE_JPEG = (224, 75)
# Half the side of a JPEG block, in pixels. A block has 8 x 8 pixels.
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
        faces: Indexes of face sets. Crops whose column `source` is empty are taken to be from the
            Deepfake Detection Challenge.
        out: The checkpoint to write, whose name ends in `.safetensors`.
        val: The faces to hold out and calibrate on, as in `train`: indexes of face sets, or
            fractions of `faces`. Faces that the detector was not trained on are best. If they have
            fewer than 20 REAL videos, the checkpoint has no thresholds of verdicts, and a warning
            says so.
        seed: Seed of two random choices: which faces are held out, and how the copies of faces are
            damaged (see the docstring of this module).
        device: `auto`, `cpu`, `cuda` or `cuda:N`, as in `load_detector`.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show progress bars.

    Returns:
        The specification that the new checkpoint holds.

    Raises:
        FaceSetError: A face set is unusable, or a kind of crop is missing. The crops to train on
            and the held-out crops must each contain four kinds: REAL with a source, FAKE with a
            source, REAL without a source, and FAKE without a source.
        ArgumentError: `out` exists or cannot be written, the device is unknown, or the architecture
            of `weights` is neither `tf_efficientnet_lite2` nor `tf_efficientnet_lite2_texture`. Or
            a logit is no higher for the held-out FAKE videos of its kind than for the REAL ones.
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
    # Without damaged crops, the relevance could take a compressed or darkened face of the challenge
    # for a wild face. The damaged crops are not compressed as in the detector. When they were, the
    # relevance separated the wild faces from the challenge less well.
    damage = training_transform(spec.input_size)
    items = [Item(row, seed + row) for row in range(len(used))]
    damaged = compute(ClipDataset(used, damage), items)
    fit_layers(model, used, as_from_videos(compute, spec, used, stored), stored, damaged)
    # Checkpoints of earlier versions do not name the sources that the network was trained on.
    sources = spec.training.get("sources")
    if sources is not None:
        sources = sorted({*sources, *used.known_sources})
    judge = Judge(held_out, spec.frames_per_clip, spec.aggregation, sources)
    judge.warn_if_few_real(out)
    stored = compute(DetectorDataset(held_out, spec))
    features = as_from_videos(compute, spec, held_out, stored)
    calibration = calibrate_logits(model, judge, held_out, features)
    logits, relevance = _answers(model, held_out, features)
    shift = find_shift(judge, calibration, logits, relevance)
    with torch.no_grad():
        model.texture.bias.sub_(shift)
    logits = logits - shift * relevance
    # The thresholds hold for crops of face sets, as those of `train` and `calibrate` do. They are
    # not raised by `VIDEO_OFFSET`, so a few more REAL videos may exceed them.
    spec = replace(
        spec,
        calibration=calibration,
        operating_points=judge.operating_points(calibration, logits),
        scores={"held_out_actors": judge.measure(calibration, logits)},
        training={
            **spec.training,
            **({} if sources is None else {"sources": sources}),
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

    The detector compresses each crop as JPEG. A stored crop is already a JPEG image. A second
    compression of the same blocks of 8 x 8 pixels would leave other artefacts than a single one.
    Crops with a source are therefore moved by half a block to the right and down before the
    detector compresses them. Crops without a source are taken to be from the Deepfake Detection
    Challenge, and are not moved.

    Args:
        compute: A function that computes the features of a dataset.
        spec: The specification of the model.
        faces: The face set.
        stored: The features of the crops as they are stored, without the move.
    """
    # The crops of the challenge were stored in the size and at the JPEG quality that the detector
    # uses. A second compression of the same blocks at the same quality hardly changes them.
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
    """Fit the five layers that the docstring of this file lists.

    Args:
        model: The model whose layers are set.
        faces: The crops. Some must have a source, and some must have none.
        features: The features that the crops would have if they came directly from videos.
        stored: The features of the crops as they are stored.
        damaged: The features of damaged copies of the crops. The copies need not be compressed as
            the detector compresses crops.
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
    """Fit the layer that computes a logit of FAKE from the steadiness of a face.

    The steadiness says how little the face changes over the frames of its track.

    The function uses the tracks that have a source and at least `FEWEST_FRAMES` crops. If there is
    no such REAL track, or no such FAKE track, the function warns, and leaves the layer as it is.

    Args:
        model: The model whose layer is set.
        faces: The crops. Only crops with a source are used.
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
    """Calibrate the challenge logit, and adapt the wild logit to this calibration.

    A checkpoint holds only one calibration. The function therefore scales and shifts the layers of
    the wild logit, so that the calibration of the challenge logit is right for both logits.

    Args:
        model: The model, after `fit_layers`. The layers of its wild logit are changed.
        judge: The `Judge` that measures the model on the held-out faces.
        faces: The held-out faces.
        features: The features of the crops of the held-out faces.

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

    The regression is fitted on standardised features. Its weights are then converted, so that the
    layer takes the features as they are.

    Args:
        layer: The layer to fit.
        features: Features of the examples, shape (n, features).
        labels: Labels of the examples, 0 or 1, shape (n,).
        weights: Weight of each example, 1 on average, shape (n,).
        strength: scikit-learn's `C`, the inverse of the penalty's strength. The penalty is on the
            squared weights for standardised features.
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

    This is the smallest of the amounts `SHIFTS` that lowers the false alarm rate to
    `MOST_FALSE_ALARMS` or less. The false alarm rate is the share of held-out REAL videos with a
    P(FAKE) above 0.5, averaged over the known sources. If no amount is large enough, the function
    warns, and returns the largest amount.

    A detector gives a whole REAL video a higher logit than its crops in a face set. Therefore,
    `VIDEO_OFFSET` times the relevance of each crop is first added to the crop's calibrated logit.

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
        f"more than {MOST_FALSE_ALARMS:.0%} of the held-out REAL videos (each source has one vote) "
        "still get a P(FAKE) above 0.5: the detector will often call REAL videos of unknown "
        "sources FAKE",
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
                "sets with a column 'source'; if these are given, hold out another share"
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

    `body` computes deep features and texture statistics from normalised images, as `_Body` does.
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
    """Return two arrays of shape (crops,): each crop's final logit and its track's relevance."""
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

    These features and statistics are the inputs of the layers that `fit_layers` fits.
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
