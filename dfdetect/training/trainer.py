"""Train a model on face sets, and write a calibrated checkpoint of its best epoch."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dfdetect.checkpoints.io import save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import SUFFIX, require_new_checkpoint
from dfdetect.data.faceset import FaceSet
from dfdetect.errors import ArgumentError
from dfdetect.faces.geometry import CropRule
from dfdetect.models.linear import LinearModel
from dfdetect.models.registry import create_model, model_info
from dfdetect.models.tracks import CropNetwork, track_logits
from dfdetect.results import OperatingPoints
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration
from dfdetect.training.augment import matching_compression, training_transform
from dfdetect.training.config import TrainConfig
from dfdetect.training.dataset import ClipDataset, DetectorDataset
from dfdetect.training.distributed import ONE_PROCESS, DistributedContext, init_distributed
from dfdetect.training.judging import Judge
from dfdetect.training.learner import Learner
from dfdetect.training.linear import STRENGTHS, fit_head, linear_features
from dfdetect.training.param_groups import start_head_at_zero
from dfdetect.training.pretrained import (
    find_initial_weights,
    load_initial_weights,
    standardise_responses,
)
from dfdetect.training.run import Run, RunState
from dfdetect.training.sampler import BalancedSampler
from dfdetect.training.split import Split, as_list, read_split

# Number of inputs in a batch when the model is measured.
EVAL_BATCH = 64
# Number of inputs that are used to scale random weights.
SAMPLE = 64
# A track is ignored if it has fewer frames than this share of the frames of the longest track.
MIN_TRACK_SHARE = 0.25


def train(
    config: TrainConfig,
    faces: Sequence[str | Path],
    out: str | Path,
    *,
    val: str | Path | float | Sequence[str | Path | float] = 0.1,
    init: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    workers: int | None = None,
    weights: Sequence[tuple[float, float]] | None = None,
    progress: bool = False,
) -> ModelSpec:
    """Train a model, write its checkpoint, and return the specification of the checkpoint.

    After each epoch, the model is measured on held-out actors and sources, as described in
    `dfdetect.training.judging`. The checkpoint has the weights of the epoch with the lowest
    `choosing_loss`, a log loss on the held-out faces. The calibration and the thresholds of the
    verdicts are fitted on the same held-out faces. If these have fewer than 20 REAL videos, the
    checkpoint has no thresholds, and a warning says so. A linear model has no epochs: it is fitted
    with several strengths of the penalty on its weights, and the best of these models is kept.

    OUT stands for the path `out` without its suffix. During the run, `OUT.state.pt` is the file to
    resume from, and `OUT.best.safetensors` is the checkpoint of the best epoch so far. Both files
    are deleted at the end. `OUT.history.csv` and `OUT.history.png` have the metrics of each epoch.

    If `torchrun` starts several processes, each batch is divided among them. Except for rounding,
    the losses are the same as with one process. A run may be resumed with another number of
    processes.

    Args:
        config: Architecture and settings; `recipe(architecture)` recommends settings.
        faces: Indexes of the face sets to train on. If the setting `reconstruction_share` is above
            0, also list the indexes that `dfdetect reconstruct` has written for these face sets.
        out: The checkpoint to write, whose name ends in `.safetensors`.
        val: What to hold out: the index of a face set of other actors and sources, or a fraction
            between 0 and 1 of each face set in `faces`. If the FAKE crops of a face set come from
            several sources, it is a fraction of the sources. Otherwise it is a fraction of the
            actor groups (see `FaceSet.split`). A list may mix indexes and fractions. Its entries
            are applied in order, so a fraction refers to what is left.
        init: A file of weights to start from (`.pth`, `.safetensors` or `.h5`), `"imagenet"` for
            ImageNet weights from an installed package (see `dfdetect.training.pretrained`), or None
            for random weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`. If a machine has several GPUs, `auto` and `cuda`
            give each process of `torchrun` a different GPU.
        resume: Whether to continue a stopped run from its file `OUT.state.pt`. The stopped run must
            have had the same settings and face sets.
        workers: Number of processes that read and augment crops. None for one process per CPU core.
            If `torchrun` starts several processes, they share the cores.
        weights: Two numbers for each face set in `faces`: its relative share of the REAL crops in a
            batch, and its relative share of the FAKE crops. One of the two may be 0: these crops
            are not trained on. None for equal shares. The shares do not apply to fakes that are
            made from REAL crops during the training. Linear models take no shares.
        progress: Whether to show progress bars.

    Returns:
        The specification of the checkpoint.

    Raises:
        FaceSetError: A face set is unusable, has an image that cannot be read, has only one class,
            or shares crops with `val`. These errors are raised before the training starts.
        ArgumentError: An argument cannot be used, or `torchrun` starts several processes for a
            linear model.
        FileNotFoundError: `init` is not found.
        InputError: `init` does not fit the architecture.
        DfdetectError: The loss is not finite.

    Example:
        >>> train(recipe("tf_efficientnet_lite0"), ["train.csv"], "lite0.safetensors",
        ...       init="imagenet")
    """
    out = Path(out)
    state_path = out.with_suffix(".state.pt")
    _require_new(out, state_path, resume)
    with init_distributed(device) as (context, torch_device):
        closed_form = model_info(config.architecture).closed_form
        if closed_form and context.world_size > 1:
            raise ArgumentError(
                f"{config.architecture} is fitted by one process; start it without torchrun"
            )
        seed_everything(config.seed)
        spec, model = start_spec(config), start_model(config, init)
        split = read_split(faces, val, config.seed, config.min_pair_difference)
        if closed_form:
            split.train.require_both_classes(", ".join(map(str, faces)))
            if weights is not None and len({share for pair in weights for share in pair}) > 1:
                raise ArgumentError(
                    f"{config.architecture} weights all crops of a class equally; give its face "
                    "sets no weights"
                )
        description = {
            **asdict(config),
            "faces": [Path(index).name for index in faces],
            "weights": None if weights is None else [list(pair) for pair in weights],
            "val": [one if isinstance(one, float) else Path(one).name for one in as_list(val)],
            "init": None if init is None else Path(init).name,
            "crops": len(split.train),
            "actor_groups": len(set(split.train.groups)),
            "sources": split.train.known_sources,
        }
        progress = progress and context.is_first
        split.require_readable(context, progress)
        judge = Judge(
            split.held_out, config.frames_per_clip, spec.aggregation, split.train.known_sources
        )
        if context.is_first:
            judge.warn_if_few_real(out)
        run = Run(out, model, spec, judge, context, progress)
        loading = _Loading(context.cores if workers is None else workers, progress)
        if closed_form:
            _fit_linear(run, split, loading)
        else:
            if init is None:
                standardise_responses(model, _sample(split.train, spec))
            if config.lr_scaling == "by_inputs":
                start_head_at_zero(model)
            model.to(torch_device).to(memory_format=torch.channels_last)
            state = RunState(state_path, description, resume)
            _fit_epochs(run, config, split, weights, state, loading)
        spec = _best_spec(run, description)
        if context.is_first:
            _finish(run, spec, state_path)
    return spec


@dataclass(frozen=True)
class _Loading:
    """Settings for reading crops: the number of processes, and whether to show a progress bar."""

    workers: int
    progress: bool


def _require_new(out: Path, state_path: Path, resume: bool) -> None:
    """Check that the run overwrites no file of an earlier run.

    Raises:
        ArgumentError: `out` exists, cannot be written or does not end in `.safetensors`. Or a
            stopped run has left `state_path`, and `resume` is False.
    """
    require_new_checkpoint(out)
    if state_path.exists() and not resume:
        raise ArgumentError(
            f"{state_path}: left by a stopped run; resume this run, or delete the file"
        )


def _best_spec(run: Run, description: dict[str, Any]) -> ModelSpec:
    """Return the specification of the best model so far, as its checkpoint stores it.

    `description` holds the settings of the run, the names of its face sets and known sources, and
    its numbers of crops and actor groups.
    """
    assert run.best is not None
    points = run.best["operating_points"]
    return replace(
        run.spec,
        calibration=Calibration(**run.best["calibration"]),
        operating_points=None if points is None else OperatingPoints(**points),
        scores={"held_out_actors": run.best["scores"]},
        training={
            **description,
            "best": run.best["made_by"],
            "date": date.today().isoformat(),
        },
    )


def _best_path(out: Path) -> Path:
    """Return the path where a run keeps the checkpoint of its best epoch so far."""
    return out.with_suffix(f".best{SUFFIX}")


def _finish(run: Run, spec: ModelSpec, state_path: Path) -> None:
    """Write the checkpoint, and delete the files that are only needed during the run."""
    scores = run.best["scores"]
    if scores["log_loss"] >= scores["constant_log_loss"]:
        warnings.warn(
            f"{run.out}: on held-out actors, no better than a constant answer; train with more "
            "epochs, more faces or another learning_rate",
            stacklevel=3,
        )
    run.model.load_state_dict(run.best["weights"])
    save_checkpoint(run.out, run.model, spec)
    for path in (state_path, _best_path(run.out)):
        path.unlink(missing_ok=True)


def start_model(config: TrainConfig, init: str | Path | None) -> nn.Module:
    """Return a new model. Its weights are random, or come from `init`.

    Raises:
        ArgumentError: `config` sets dropout or stochastic depth, but the architecture has none. Or
            the architecture cannot take inputs of `config.input_size`, or does not return one logit
            for each input.
        FileNotFoundError: `init` is not found.
        InputError: `init` does not fit the architecture.
    """
    rates = {"drop_rate": config.drop_rate, "drop_path_rate": config.drop_path_rate}
    if model_info(config.architecture).closed_form:
        rates = {}
    try:
        model = create_model(
            config.architecture, **{name: rate for name, rate in rates.items() if rate}
        )
    except TypeError as error:
        raise ArgumentError(f"{config.architecture} has no such option: {error}") from error
    if init is not None:
        load_initial_weights(model, find_initial_weights(config.architecture, init))
    size = config.input_size
    shape: tuple[int, ...] = (1, 3, size, size)
    if config.frames_per_clip > 1:
        shape = (1, config.frames_per_clip, *shape[1:])
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(shape))
    except (AssertionError, RuntimeError) as error:
        raise ArgumentError(
            f"{config.architecture} cannot take inputs of {size} pixels ({error}); try another "
            "input_size"
        ) from error
    if output.shape != (1, 1):
        raise ArgumentError(f"{config.architecture} is no image classifier with one output")
    return model


def start_spec(config: TrainConfig) -> ModelSpec:
    """Return the specification of an untrained model.

    The specification has no calibration, no operating points and no metrics yet.

    Raises:
        ArgumentError: The architecture is unknown, or does not fit the `input_size` or the
            `frames_per_clip` of `config`.
    """
    info = model_info(config.architecture)
    return ModelSpec(
        config.architecture,
        config.input_size,
        info.mean,
        info.std,
        crop=CropRule(config.crop_scale, config.crop_shift),
        aggregation=Aggregation(frames=config.aggregation, min_track_share=MIN_TRACK_SHARE),
        mirror=config.frames_per_clip == 1,
        frames_per_clip=config.frames_per_clip,
        licence=config.licence,
    )


def seed_everything(seed: int) -> None:
    """Seed the global random generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _sample(faces: FaceSet, spec: ModelSpec) -> torch.Tensor:
    """Return `SAMPLE` crops or clips of a face set, at equal intervals, as a model's input."""
    dataset = DetectorDataset(faces, spec)
    positions = np.linspace(0, len(dataset) - 1, SAMPLE).astype(int)
    return spec.normalise(torch.stack([dataset[position][0] for position in positions.tolist()]))


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    faces: FaceSet,
    spec: ModelSpec,
    workers: int,
    progress: bool,
    context: DistributedContext = ONE_PROCESS,
) -> np.ndarray:
    """Return the raw logit of FAKE for each crop or clip of a face set, float32 of shape (n,).

    The crops are prepared as in a detector (see `DetectorDataset`). If the model is a `TrackModel`,
    the logit of a crop also depends on the other crops of its track. If there are several
    processes, each scores a part of the crops, and all return the logits of the whole face set.

    Args:
        model: The model, which is set to evaluation mode.
        faces: The face set.
        spec: The specification of the model.
        workers: Number of processes that read crops; 0 to read them in this process.
        progress: Whether to show a progress bar.
        context: This process's place among the processes of the training run.
    """
    model.eval()
    device = next(model.parameters()).device
    dataset = DetectorDataset(faces, spec)
    own = Subset(dataset, context.shard(range(len(dataset))))
    loader = DataLoader(own, batch_size=EVAL_BATCH, num_workers=workers)
    network = CropNetwork(model)
    parts = []
    with tqdm(total=len(own), desc="measuring", unit="crop", disable=not progress) as bar:
        for images, _ in loader:
            parts.append(network(spec.normalise(images.to(device))).float().cpu().numpy())
            bar.update(len(images))
    values = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    gathered = torch.from_numpy(context.gather(values)).to(device)
    return track_logits(model, gathered, dataset.tracks).cpu().numpy()


def _fit_linear(run: Run, split: Split, loading: _Loading) -> None:
    """Fit a linear model with each strength of the penalty in `STRENGTHS`, and record each fit."""
    how = loading.workers, loading.progress
    model = run.model
    assert isinstance(model, LinearModel)  # the only class with a closed form
    seen, mirrored = linear_features(model, split.train, run.spec, *how)
    unseen, flipped = linear_features(model, split.held_out, run.spec, *how)
    as_detector = DetectorDataset(split.held_out, run.spec).mirrored
    unseen[as_detector] = flipped[as_detector]
    features, labels = np.concatenate([seen, mirrored]), np.tile(split.train.labels, 2)
    architecture = run.spec.architecture
    for strength in tqdm(STRENGTHS[architecture], architecture, disable=not loading.progress):
        start = perf_counter()
        made_by = fit_head(model, architecture, strength, features, labels)
        with torch.inference_mode():
            logits = model.head(torch.from_numpy(unseen))[:, 0].numpy()
        run.record(made_by, {"seconds": perf_counter() - start}, logits)


def _fit_epochs(
    run: Run,
    config: TrainConfig,
    split: Split,
    weights: Sequence[tuple[float, float]] | None,
    state: RunState,
    loading: _Loading,
) -> None:
    """Train a network for all epochs, or until it has not improved for `patience` epochs."""
    dataset = ClipDataset(
        split.train,
        training_transform(config.input_size, config.augmentation),
        config.frames_per_clip,
        reconstructions=split.reconstructions,
        compression=matching_compression(),
    )
    sampler = BalancedSampler(
        dataset,
        config.batch_size,
        config.seed,
        weights=weights,
        self_blend_share=config.self_blend_share,
        reconstruction_share=config.reconstruction_share,
        pair_share=config.pair_share,
        epoch_items=config.epoch_crops,
        context=run.context,
    )
    batches = DataLoader(dataset, batch_sampler=sampler, num_workers=loading.workers)
    learner = Learner(run.model, run.spec, config, len(sampler), sampler.batch, run.context)
    state.restore(run, learner)
    save = partial(state.save, run, learner)
    while len(run.history) < config.epochs and run.epochs_since_best() < config.patience:
        sampler.epoch, sampler.start = len(run.history), len(learner.losses)
        dataset.transform = training_transform(config.crop_size(sampler.epoch), config.augmentation)
        title = f"epoch {sampler.epoch + 1}/{config.epochs}"
        start = perf_counter()
        loss = learner.pass_over(batches, title, loading.progress, save)
        notes = {"train_loss": loss, "seconds": perf_counter() - start}
        model = learner.averaged.module if learner.averaged else run.model
        how = loading.workers, loading.progress, run.context
        logits = predict_logits(model, split.held_out, run.spec, *how)
        run.record({"epoch": sampler.epoch + 1}, notes, logits, model)
        save()
        if run.context.is_first and run.epochs_since_best() == 0:
            save_checkpoint(_best_path(run.out), model, _best_spec(run, state.description))
