"""Train a model on one batch after another."""

from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.errors import DfdetectError
from dfdetect.runtime.device import half_type, has_fast_half
from dfdetect.training.config import TrainConfig
from dfdetect.training.distributed import DistributedContext
from dfdetect.training.param_groups import parameter_groups

# Share of the training in which the learning rate rises. Afterwards, it falls.
WARM_UP = 0.15
# Number of batches whose mean loss the progress bar shows.
RECENT_STEPS = 50
# Seconds between two saves within an epoch. A run that is killed loses no more time than this.
SAVE_EVERY = 600.0


class Learner:
    """Trains a model, and holds the optimiser, the learning rate schedule and the averaged weights.

    Args:
        model: The model to train, on its device.
        spec: The specification of the model, which says how the input is normalised.
        config: The settings of the run.
        steps: Number of batches in an epoch.
        batch: Number of items in a batch. Each batch is divided among the processes.
        context: This process's place among the processes of the training run.
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
        self.losses: list[float] = []  # one for each batch of the current epoch
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
        """Return a dictionary of the model, the optimiser and all other parts that have a state."""
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
        """Train the model on the batches of an epoch, and return the mean loss of the epoch.

        Args:
            batches: The batches of the epoch, or only the remaining batches if the epoch began in
                an earlier run that was stopped.
            title: Text of the progress bar.
            progress: Whether to show a progress bar.
            save: Function that saves the state of the run. It is called every ten minutes.

        Raises:
            DfdetectError: The loss is not finite.
        """
        self.model.train()
        losses = self.losses
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
                losses.append(self.step(images, labels))
                if not np.isfinite(losses[-1]):
                    raise DfdetectError(f"training diverged in {title}; try a lower learning_rate")
                bar.set_postfix(loss=f"{np.mean(losses[-RECENT_STEPS:]):.3f}", refresh=False)
                bar.update(self.batch)
                if monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = monotonic()
        self.losses = []
        return float(np.mean(losses))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """Train the model on one batch, and return the mean loss of the whole batch.

        Args:
            images: This process's part of the batch: uint8 of shape (n, 3, size, size), or
                (n, length, 3, size, size) for clips.
            labels: 1 for FAKE and 0 for REAL, shape (n,).
        """
        # Dropout uses torch's generators. With a seed per step, a resumed run draws the same masks.
        torch.manual_seed(step_seed(self.seed, self.schedule.last_epoch))
        targets = labels.to(self.device, torch.float32)
        targets = targets * (1 - self.smoothing) + self.smoothing / 2
        with (
            torch.autocast(self.device.type, self.dtype, enabled=self.mixed),
            self.context.global_batch(self.batch),
        ):
            logits = self.parallel(self.spec.normalise(images.to(self.device)))[:, 0]
        total = binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
        loss = total / self.batch  # this process's part of the mean loss of the batch
        self.optimizer.zero_grad()
        # DistributedDataParallel averages the gradients of the processes, but the loss of the batch
        # is the sum of the processes' parts.
        self.scaler.scale(loss * self.context.world_size).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return self.context.all_reduce_sum(loss)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of one training step, given the seed of the run and the step's number.

    Example:
        >>> step_seed(0, 1) == step_seed(1, 0)
        False
    """
    # The sum of the two numbers would be the same for step 1 of seed 0 and step 0 of seed 1.
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
