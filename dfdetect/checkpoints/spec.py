"""The specification that a checkpoint holds: all that is needed to use its weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dfdetect.errors import ArgumentError
from dfdetect.faces.geometry import CropFormat, CropRule, ResizeRule
from dfdetect.models.registry import model_info
from dfdetect.results import OperatingPoints
from dfdetect.scoring.aggregation import Aggregation
from dfdetect.scoring.calibration import Calibration

FORMAT = "dfdetect-checkpoint"
VERSION = 2
ARGUMENTS = ("drop_rate", "drop_path_rate")
INPUT_SIZES = range(16, 1025)
CLIP_LENGTHS = range(1, 129)
POSITIVE_CLASS = "FAKE"
# Names that older files have for fields of `Aggregation`.
RENAMED = {"person": "frames", "video": "tracks"}
RGB = 3
CHANNELS = ("RGB", "BGR")
WHITE = 255


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to use the weights, and what is known about them.

    Args:
        architecture: A name that `create_model` takes.
        arguments: Arguments of `create_model`: `drop_rate`, `drop_path_rate`.
        input_size: Height of the input in pixels; its width, too, unless `resize` says otherwise.
        mean: Subtracted from the channels of pixels in 0..1, in the order of `channels`.
        std: The channels are divided by it then.
        channels: Their order in the model's input, `RGB` or `BGR`.
        crop: Which part of a frame around a face box is cut out.
        resize: How it is brought to the input's size.
        frames_per_clip: Consecutive crops of a face per input; 1 for an image model.
        positive_class: The class whose logit the model gives; always FAKE.
        calibration: Maps raw logits to calibrated ones.
        aggregation: Combines the logits of crops into the probability of a video.
        operating_points: Thresholds of the verdicts on a video, or None if they were not fitted.
        mirror: Whether every second frame of a face is shown to the model mirrored, and a single
            crop both ways; for image models.
        training: Data, split, configuration, seed, date.
        scores: Measured figures, by the name of the data that they were measured on.
        licence: Terms for the weights.
    """

    architecture: str
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arguments: dict[str, float] = field(default_factory=dict)
    crop: CropRule = field(default_factory=CropRule)
    resize: ResizeRule = field(default_factory=ResizeRule)
    channels: str = "RGB"
    frames_per_clip: int = 1
    positive_class: str = POSITIVE_CLASS
    calibration: Calibration = field(default_factory=Calibration)
    aggregation: Aggregation = field(default_factory=Aggregation)
    operating_points: OperatingPoints | None = None
    mirror: bool = False
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one input: (1, 3, height, width), or (1, time, 3, height, width)."""
        time = (self.frames_per_clip,) if self.frames_per_clip > 1 else ()
        return (1, *time, RGB, self.input_size, self.resize.width(self.input_size))

    @property
    def crop_format(self) -> CropFormat:
        """Return the format of the crops that the model takes."""
        return CropFormat(self.crop, self.input_size, self.resize)

    @property
    def members(self) -> tuple["ModelSpec", ...]:
        """Return the models that answer: only this one. An `EnsembleSpec` has several."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return how much the logits of each member count."""
        return (1.0,)

    def __post_init__(self) -> None:
        """Refuse values that no model of this version can have."""
        if type(self.input_size) is not int or self.input_size not in INPUT_SIZES:
            raise ArgumentError(
                f"input_size must be {INPUT_SIZES[0]} to {INPUT_SIZES[-1]} pixels, "
                f"not {self.input_size!r}"
            )
        if len(self.mean) != RGB or len(self.std) != RGB or min(self.std) <= 0:
            raise ArgumentError("mean and std need three numbers each, std above 0")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            raise ArgumentError("mean and std must be finite")
        if self.channels not in CHANNELS:
            raise ArgumentError(f"channels must be one of {CHANNELS}, not {self.channels!r}")
        if type(self.frames_per_clip) is not int or self.frames_per_clip not in CLIP_LENGTHS:
            raise ArgumentError(
                f"frames_per_clip must be {CLIP_LENGTHS[0]} to {CLIP_LENGTHS[-1]}, "
                f"not {self.frames_per_clip!r}"
            )
        takes_clips = model_info(self.architecture).input == "clip"
        if (self.frames_per_clip > 1) != takes_clips:
            takes = "clips of 2 and more" if takes_clips else "single crops"
            raise ArgumentError(
                f"frames_per_clip is {self.frames_per_clip}, but {self.architecture} takes {takes}"
            )
        if self.positive_class != POSITIVE_CLASS:
            raise ArgumentError(
                f"positive_class must be {POSITIVE_CLASS}, not {self.positive_class}"
            )
        if type(self.mirror) is not bool or (self.mirror and self.frames_per_clip > 1):
            raise ArgumentError(
                f"mirror must be true or false, and false for clips, not {self.mirror}"
            )
        for name, value in self.arguments.items():
            if name not in ARGUMENTS or not 0 <= value < 1:
                raise ArgumentError(f"arguments: {name} = {value!r}; known are {ARGUMENTS}, 0 to 1")
        if not (isinstance(self.training, dict) and isinstance(self.scores, dict)):
            raise ArgumentError("training and scores must be JSON objects")
        if not (isinstance(self.licence, str) and self.licence.isprintable()):
            raise ArgumentError(f"licence must be a line of text, not {self.licence!r}")

    def describe(self) -> str:
        """Return architecture, size, crop, aggregation and terms in a line."""
        width = self.resize.width(self.input_size)
        sides = "" if width == self.input_size else f" x {width}"
        return (
            f"{self.architecture}, {self.input_size}{sides} px, {self.crop.describe()}, "
            f"{self.aggregation.frames}; {self.licence}"
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Turn uint8 RGB crops into the model's input.

        Args:
            images: uint8 of shape (batch, 3, height, width), or of shape
                (batch, frames_per_clip, 3, height, width), on any device.

        Returns:
            float32 of the same shape, on the same device; images are in channels-last memory order.
        """
        mean, std = (
            torch.tensor(values, device=images.device).view(RGB, 1, 1)
            for values in (self.mean, self.std)
        )
        images = images.flip(-3) if self.channels == "BGR" else images
        pixels = (images.float() / WHITE - mean) / std
        return pixels if pixels.ndim > 4 else pixels.contiguous(memory_format=torch.channels_last)

    def to_json(self) -> str:
        """Return the header's JSON object as text."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ModelSpec":
        """Make the specification from the fields of the header's JSON object.

        Raises:
            ArgumentError: A value is impossible.
            TypeError: A field is missing, unknown or of the wrong type.
        """
        values = dict(fields)
        for name, kind in (
            ("crop", CropRule),
            ("resize", ResizeRule),
            ("calibration", Calibration),
            ("aggregation", Aggregation),
        ):
            values[name] = kind(**_renamed(values[name])) if name in values else kind()
        if values.get("operating_points") is not None:
            values["operating_points"] = OperatingPoints(**values["operating_points"])
        for name in ("mean", "std"):
            if name in values:
                values[name] = tuple(float(number) for number in values[name])
        return cls(**values)


def _renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """Give the fields of a part their current names."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}
