"""Record the metrics and the best model of a training run, and save its state to resume it."""

import logging
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.errors import ArgumentError, InputError, describe_difference
from dfdetect.files import NOT_OF_TORCH, atomic_path
from dfdetect.training.distributed import DistributedContext
from dfdetect.training.history import write_history
from dfdetect.training.judging import CHOOSING, Judge
from dfdetect.training.learner import Learner

LOGGER = logging.getLogger(__name__)
# Metrics that are printed after each epoch. The history has all metrics.
SHOWN = (
    *("train_loss", CHOOSING, "log_loss", "auc"),
    *("sources_auc", "sources_false_alarm_rate", "sources_found_rate"),
)


@dataclass
class Run:
    """The metrics of all epochs of a training run, and the best model so far.

    Attributes:
        out: The checkpoint that the training run will write.
        model: The model that is trained.
        spec: The specification of the model, with no calibration yet.
        judge: The judge that measures the model on held-out faces.
        context: This process's place among the processes of the training run.
        progress: Whether to print the main metrics of each epoch to standard error.
        history: The metrics of each epoch. For a linear model, the metrics of each fit: one for
            each strength of the penalty on the weights.
        best: A dictionary that describes the model with the lowest `choosing_loss` (see
            `dfdetect.training.judging`). Its keys are `weights`, `calibration`, `operating_points`,
            `scores` (the metrics) and `made_by` (see `record`). The dictionary is empty before the
            end of the first epoch.
    """

    out: Path
    model: nn.Module
    spec: ModelSpec
    judge: Judge
    context: DistributedContext
    progress: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    def record(
        self,
        made_by: dict[str, Any],
        notes: dict[str, Any],
        logits: np.ndarray,
        model: nn.Module | None = None,
    ) -> None:
        """Measure a model, add its metrics to the history, and keep its weights if it is the best.

        Args:
            made_by: Values for the history that say how the model was made. For a linear model,
                these are the values that `dfdetect.training.linear.fit_head` returns. For any other
                model, the only value is `epoch`, the number of the epoch.
            notes: Further values for the history, such as the training loss.
            logits: Raw logits that the model gives to the held-out crops or clips, shape (n,).
            model: The model. If it is None, `self.model` is recorded.
        """
        model = model or self.model
        calibration, scores = self.judge.judge(logits)
        entry = {**made_by, **notes, **scores}
        self.history.append(entry)
        if self.context.is_first:
            write_history(self.out, self.history)
        if self.progress:
            shown = {**made_by, **{name: entry[name] for name in SHOWN if name in entry}}
            line = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            tqdm.write(line, file=sys.stderr)
        if not self.best or scores[CHOOSING] < self.best["scores"][CHOOSING]:
            points = self.judge.operating_points(calibration, logits)
            weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            self.best = {
                "weights": weights,
                "calibration": asdict(calibration),
                "operating_points": None if points is None else asdict(points),
                "scores": scores,
                "made_by": made_by,
            }

    def epochs_since_best(self) -> int:
        """Return the number of epochs since the best epoch."""
        losses = [entry[CHOOSING] for entry in self.history]
        return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


@dataclass(frozen=True)
class RunState:
    """The file from which an interrupted run continues.

    Attributes:
        path: Path of the file.
        description: The settings and the face sets of the run. A run with other settings or face
            sets cannot use the file.
        resume: Whether `restore` loads the file.
    """

    path: Path
    description: dict[str, Any]
    resume: bool

    def save(self, run: Run, learner: Learner) -> None:
        """Write the state of a run to the file `self.path`.

        The run can be resumed with another number of processes.
        """
        if not run.context.is_first:
            return
        saved = {name: part.state_dict() for name, part in learner.parts.items()}
        saved |= {"run": self.description, "history": run.history, "best": run.best}
        with atomic_path(self.path) as temporary:
            torch.save({**saved, "losses": learner.losses}, temporary)

    def restore(self, run: Run, learner: Learner) -> None:
        """Load the state of a stopped run from `self.path`, and copy it to `run` and `learner`.

        If `self.resume` is False or the file does not exist, nothing is loaded.

        Raises:
            ArgumentError: The stopped run had other settings or face sets.
            InputError: The file is damaged.
        """
        if not self.resume:
            return
        saved = run.context.broadcast(self._read)
        if saved is None:
            return
        if saved["run"] != self.description:
            difference = describe_difference(saved["run"], self.description)
            raise ArgumentError(
                f"{self.path}: written by a run with other settings, {difference}: use the same "
                "options, or delete the file to start from the beginning"
            )
        for name, part in learner.parts.items():
            # Devices that do not scale the loss, such as CPUs, save an empty state of the scaler.
            if saved[name]:
                part.load_state_dict(saved[name])
        run.history, run.best = saved["history"], saved["best"]
        learner.losses = saved["losses"]

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            LOGGER.info("%s: nothing to resume; starting from the beginning", self.path)
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except NOT_OF_TORCH as error:
            raise InputError(
                f"{self.path}: damaged, so the run cannot be resumed: delete the file to start "
                "from the beginning"
            ) from error
