"""The settings of a training run."""

from dataclasses import dataclass, field
from typing import Any


def _setting(default: float | str, text: str) -> Any:
    """A field with a default and the help that the command line shows."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """What a run depends on beside its data; kept in the checkpoint.

    The schedule is one cycle (Smith & Topin 2018) of AdamW; the loss is the binary cross-entropy
    with smoothed labels (Szegedy et al. 2016).
    """

    architecture: str
    input_size: int = _setting(160, "side of the crops shown to the model, in pixels")
    epochs: int = _setting(6, "passes over the rarer class, each with as many of the other")
    batch_size: int = _setting(32, "crops in a step, half of each class")
    learning_rate: float = _setting(6e-4, "peak of the one-cycle schedule")
    weight_decay: float = _setting(0.02, "of AdamW")
    label_smoothing: float = _setting(0.04, "how far targets are moved from 0 and 1 towards 0.5")
    drop_rate: float = _setting(0.2, "dropout before the last layer")
    drop_path_rate: float = _setting(0.1, "stochastic depth")
    crop_scale: float = _setting(0.80, "side of the crops / height of MTCNN's box of the face")
    crop_shift: float = _setting(0.08, "their centre below the box's / height of the box")
    licence: str = _setting("research only, as the training data", "terms for the weights")
    seed: int = _setting(0, "of weights, order, augmentation and split")
