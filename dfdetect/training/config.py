"""The settings of a training run, and how an architecture's recipe sets them."""

import math
from dataclasses import dataclass, field
from typing import Any

from dfdetect.defaults import FRAME_AGGREGATIONS
from dfdetect.errors import ArgumentError

LR_SCALINGS = ("equal", "by_inputs")
# Share of the epochs in which crops grow, and the step of their side in pixels.
GROWING = 2 / 3
SIZE_STEP = 16


def _setting(default: float | str, text: str) -> Any:
    """Return a field with a default and the help that the command line shows."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run, which the checkpoint keeps.

    The optimiser is AdamW with a one-cycle schedule (Smith & Topin 2018), and the loss is the
    binary cross-entropy with smoothed labels (Szegedy et al. 2016). Linear models are fitted by
    scikit-learn instead, and use only the input size, the crop rule, the licence and the seed.
    """

    architecture: str
    input_size: int = _setting(160, "side of the crops shown to the model, in pixels")
    start_size: int = _setting(
        0,
        "side of the crops in the first epoch, growing to the input size by two thirds of the "
        "epochs; 0 for the input size throughout",
    )
    frames_per_clip: int = _setting(1, "crops of a face in a row that a clip model looks at")
    epochs: int = _setting(6, "passes over the rarer class, each with as many of the other")
    epoch_crops: int = _setting(0, "crops or clips in an epoch instead, of both classes; 0: a pass")
    patience: int = _setting(4, "stop after this number of epochs without a lower choosing loss")
    batch_size: int = _setting(32, "crops or clips in a step, half of each class")
    learning_rate: float = _setting(6e-4, "peak of the one-cycle schedule")
    lr_scaling: str = _setting(
        "equal", "equal, or by_inputs: smaller for layers with many inputs, for nets as VGG"
    )
    weight_decay: float = _setting(0.02, "of AdamW")
    label_smoothing: float = _setting(0.04, "how far targets are moved from 0 and 1 towards 0.5")
    drop_rate: float = _setting(0.2, "dropout before the last layer")
    drop_path_rate: float = _setting(0.0, "stochastic depth, of timm's models")
    augmentation: str = _setting("light", "light or strong changes to each crop")
    self_blend_share: float = _setting(
        0.0, "share of the FAKE crops that are self-blended REAL ones"
    )
    reconstruction_share: float = _setting(
        0.0, "share of the FAKE crops that are made with reconstructions of REAL ones"
    )
    pair_share: float = _setting(
        0.0, "share of the recorded FAKE crops that bring the REAL crop of the same scene along"
    )
    min_pair_difference: float = _setting(
        0.0, "leave out FAKE crops that differ less from their originals"
    )
    ema_decay: float = _setting(0.0, "decay of a moving average of the weights; 0 for none")
    precision: str = _setting(
        "auto", "float32, mixed (on processors that are fast at it), or auto: mixed on a GPU alone"
    )
    aggregation: str = _setting(
        "mean_logit", "how the frames of a person become the answer for the person"
    )
    crop_scale: float = _setting(0.80, "side of the crops / height of MTCNN's box of the face")
    crop_shift: float = _setting(0.08, "their centre below the box's / height of the box")
    licence: str = _setting("research only, as the training data", "terms for the weights")
    seed: int = _setting(0, "of weights, order, augmentation and split")

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ArgumentError(f"{name} must be {' or '.join(choices)}, not {value!r}")
        for name, (low, high) in LIMITS.items():
            if not low <= (value := getattr(self, name)) <= high:
                raise ArgumentError(f"{name} must be {low:g} to {high:g}, not {value:g}")

    def crop_size(self, epoch: int) -> int:
        """Return the side of the crops in an epoch; the first epochs use small crops to save time.

        Tan & Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021.

        Example:
            >>> config = TrainConfig("simple_cnn_1", epochs=6, start_size=96, input_size=160)
            >>> [config.crop_size(epoch) for epoch in range(6)]
            [96, 112, 128, 144, 160, 160]
        """
        if not self.start_size:
            return self.input_size
        grown = min(1.0, epoch / max(1, GROWING * self.epochs))
        size = self.start_size + grown * (self.input_size - self.start_size)
        return min(self.input_size, SIZE_STEP * round(size / SIZE_STEP))


# Lowest and highest values that make sense.
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
    """Return the settings that suit an architecture; given settings replace these.

    Raises:
        ArgumentError: The architecture is unknown, or a setting is out of its range.

    Example:
        >>> recipe("simple_cnn_1", epochs=2).learning_rate
        0.002
    """
    # Imported here: the help of `dfdetect train` needs `TrainConfig` and should not load torch.
    from dfdetect.models.registry import model_info

    return TrainConfig(architecture, **{**model_info(architecture).recipe, **settings})
