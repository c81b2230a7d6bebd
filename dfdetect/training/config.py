"""The settings of a training run (`TrainConfig`), and the `recipe` that suits an architecture."""

import math
from dataclasses import dataclass, field
from typing import Any

from dfdetect.defaults import FRAME_AGGREGATIONS
from dfdetect.errors import ArgumentError

LR_SCALINGS = ("equal", "by_inputs")
# If the training starts with small crops, the crops grow during this share of the epochs. The side
# of the crops grows in steps of `SIZE_STEP` pixels.
GROWING = 2 / 3
SIZE_STEP = 16


def _setting(default: float | str, text: str) -> Any:
    """Return a dataclass field with a default value, and with a help text for the command line."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run, which are stored in the checkpoint.

    The optimiser is AdamW with a one-cycle schedule (Smith & Topin 2018), and the loss is the
    binary cross-entropy with smoothed labels (Szegedy et al. 2016). Linear models are fitted by
    scikit-learn instead. They use only `input_size`, `min_pair_difference`, `aggregation`,
    `crop_scale`, `crop_shift`, `licence` and `seed`.
    """

    architecture: str
    input_size: int = _setting(160, "side of the model's input in pixels")
    start_size: int = _setting(
        0,
        "side of the input in the first epoch; it grows to the input size during the first two "
        "thirds of the epochs; 0: the input size in all epochs",
    )
    frames_per_clip: int = _setting(1, "number of consecutive crops in each clip; 1: single crops")
    epochs: int = _setting(6, "maximum number of epochs")
    epoch_crops: int = _setting(
        0, "number of crops or clips in each epoch; 0: twice as many as the rarer class has"
    )
    patience: int = _setting(4, "stop after this number of epochs without a lower held-out loss")
    batch_size: int = _setting(
        32, "crops or clips in each batch, half of each class; an even number"
    )
    learning_rate: float = _setting(6e-4, "highest learning rate of the one-cycle schedule")
    lr_scaling: str = _setting(
        "equal", "equal: one rate; by_inputs: lower rates for layers with many inputs, as for VGG16"
    )
    weight_decay: float = _setting(0.02, "weight decay of AdamW")
    label_smoothing: float = _setting(0.04, "how far targets are moved from 0 and 1 towards 0.5")
    drop_rate: float = _setting(0.2, "rate of dropout before the last layer")
    drop_path_rate: float = _setting(0.0, "rate of stochastic depth, for models of timm")
    augmentation: str = _setting("light", "strength of the random changes to each crop")
    self_blend_share: float = _setting(
        0.0, "share of the FAKE crops that are made by self-blending REAL crops"
    )
    reconstruction_share: float = _setting(
        0.0, "share of the FAKE crops that are made from reconstructions of REAL crops"
    )
    pair_share: float = _setting(
        0.0, "share of the other FAKE crops that get a REAL crop of the same scene in their batch"
    )
    min_pair_difference: float = _setting(
        0.0, "leave out FAKE crops that differ less than this from their originals"
    )
    ema_decay: float = _setting(0.0, "decay of a moving average of the weights; 0: no average")
    precision: str = _setting(
        "auto", "float32; mixed: half precision if it is faster; auto: mixed on GPUs only"
    )
    aggregation: str = _setting(
        "mean_logit", "rule that combines the frames of a person into one score"
    )
    crop_scale: float = _setting(0.80, "side of the crops, divided by the height of MTCNN's box")
    crop_shift: float = _setting(
        0.08, "distance of the crop's centre below the box's centre, divided by the box's height"
    )
    licence: str = _setting("research only, as the training data", "licence of the weights")
    seed: int = _setting(0, "seed of all random choices")

    def __post_init__(self) -> None:
        """Raise ArgumentError if a setting is out of its range."""
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ArgumentError(f"{name} must be {' or '.join(choices)}, not {value!r}")
        for name, (low, high) in LIMITS.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ArgumentError(f"{name} must be {low:g} to {high:g}, not {value:g}")
        if self.batch_size % 2:
            raise ArgumentError(
                "batch_size must be even, because half of each batch is REAL and half FAKE, "
                f"not {self.batch_size}"
            )

    def crop_size(self, epoch: int) -> int:
        """Return the side in pixels of the crops in an epoch.

        If `start_size` is set, the first epochs use smaller crops to save time, as in Tan & Le,
        "EfficientNetV2: Smaller Models and Faster Training", ICML 2021.

        Args:
            epoch: Number of the epoch, from 0.

        Example:
            >>> config = TrainConfig("simple_cnn_1", epochs=6, start_size=96, input_size=160)
            >>> [config.crop_size(epoch) for epoch in range(6)]
            [96, 112, 128, 144, 160, 160]
        """
        if not self.start_size:
            return self.input_size
        grown = epoch / max(1, GROWING * self.epochs)
        if grown >= 1:
            return self.input_size
        size = self.start_size + grown * (self.input_size - self.start_size)
        return min(self.input_size, SIZE_STEP * max(1, round(size / SIZE_STEP)))


# Lowest and highest value of each setting.
LIMITS = {
    "epochs": (1, 10_000),
    "patience": (1, 10_000),
    "batch_size": (2, 65_536),
    "learning_rate": (1e-8, math.inf),
    "weight_decay": (0, 10),
    "label_smoothing": (0, 0.9),
    "drop_rate": (0, 0.9),
    "drop_path_rate": (0, 0.9),
    "self_blend_share": (0, 0.95),
    "reconstruction_share": (0, 0.95),
    "pair_share": (0, 1),
    "start_size": (0, 1024),
    "epoch_crops": (0, 10**9),
    "ema_decay": (0, 0.99999),
    "seed": (0, 2**32 - 1),
}
CHOICES = {
    "lr_scaling": LR_SCALINGS,
    "augmentation": ("light", "strong"),
    "precision": ("auto", "float32", "mixed"),
    "aggregation": FRAME_AGGREGATIONS,
}


def recipe(architecture: str, **settings: Any) -> TrainConfig:
    """Return the recommended settings for an architecture.

    Args:
        architecture: Name of the architecture.
        settings: Values that replace the recommended values.

    Raises:
        ArgumentError: The architecture is unknown, or a setting is out of its range.

    Example:
        >>> recipe("simple_cnn_1", epochs=2).learning_rate
        0.002
    """
    # Imported here, because `dfdetect train --help` imports this module and should not load torch.
    from dfdetect.models.registry import model_info

    return TrainConfig(architecture, **{**model_info(architecture).recipe, **settings})
