"""ModelSpec: the description of a model in the header of its checkpoint."""

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
# Fields of `Aggregation` that were renamed: the name in older files, and the present name.
RENAMED = {"person": "frames", "video": "tracks"}
RGB = 3
CHANNELS = ("RGB", "BGR")
WHITE = 255
# The entries of `training` that name what the model was trained on. Other modules read them.
TRAINED_ON = ("faces", "sources")


@dataclass(frozen=True)
class ModelSpec:
    """Description of a model: its architecture, its input, its calibration and its origin.

    Args:
        architecture: Name of the architecture, as in `create_model`.
        arguments: Arguments of `create_model`, by name: `drop_rate` and `drop_path_rate`.
        input_size: Height of the input in pixels. The width is `resize.aspect` times the height.
        mean: Mean of each channel, in the order of `channels`. It is subtracted from the pixel
            values, which are 0 to 1.
        std: Standard deviation of each channel. After the subtraction, the pixel values are divided
            by it.
        channels: Order of the colours in the model's input, `RGB` or `BGR`.
        crop: Rule that cuts a crop around the bounding box of a face.
        resize: Rule that resizes a crop to the size of the input.
        frames_per_clip: Number of consecutive crops of a face in each input. It is 1 for models
            that take single crops.
        positive_class: The class whose logit the model returns; always FAKE.
        calibration: Scale and bias that turn the model's logits into calibrated logits.
        aggregation: Rules that combine the logits of crops into the probability of a video.
        operating_points: Thresholds of the verdicts `uncertain` and `fake`, or None if they were
            not fitted.
        mirror: Whether every second crop of a face is mirrored before the model scores it. If a
            face has only one crop, the model scores this crop and its mirror image. `mirror` must
            be False for models that take clips.
        training: Information on the training: data, split, configuration, seed, date.
        scores: Metrics of the model, by name of the test data, such as `held_out_actors`.
        licence: Licence of the weights.

    Raises:
        ArgumentError: A value is out of its range, or does not fit the architecture.
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
        """Return the shape of a batch that holds one input.

        The shape is (1, 3, height, width), or (1, frames_per_clip, 3, height, width) for a model
        that takes clips.
        """
        time = (self.frames_per_clip,) if self.frames_per_clip > 1 else ()
        return (1, *time, RGB, self.input_size, self.resize.width(self.input_size))

    @property
    def crop_format(self) -> CropFormat:
        """Return the format (crop rule, size and resize rule) of the crops that the model takes."""
        return CropFormat(self.crop, self.input_size, self.resize)

    @property
    def members(self) -> tuple["ModelSpec", ...]:
        """Return (self,), as if the model were the only member of an ensemble."""
        return (self,)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return (1.0,): the weight of the model, as if it were the only member of an ensemble."""
        return (1.0,)

    def __post_init__(self) -> None:
        """Raise ArgumentError if a value is out of its range or does not fit the architecture."""
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
        if self.resize.jpeg is not None and self.crop.template is not None:
            raise ArgumentError("resize.jpeg must be left out if crop.template is given")
        if type(self.mirror) is not bool or (self.mirror and self.frames_per_clip > 1):
            raise ArgumentError(
                f"mirror must be true or false, and false for clips, not {self.mirror}"
            )
        for name, value in self.arguments.items():
            if name not in ARGUMENTS or not 0 <= value < 1:
                raise ArgumentError(f"arguments: {name} = {value!r}; known are {ARGUMENTS}, 0 to 1")
        if not (isinstance(self.training, dict) and isinstance(self.scores, dict)):
            raise ArgumentError("training and scores must be JSON objects")
        for name in TRAINED_ON:
            names = self.training.get(name, [])
            if not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
                raise ArgumentError(f"training.{name} must be a list of texts, not {names!r}")
        if not (isinstance(self.licence, str) and self.licence.isprintable()):
            raise ArgumentError(f"licence must be a line of text, not {self.licence!r}")

    def describe(self) -> str:
        """Return a line of text: architecture, input, aggregation, AUC (if known) and licence."""
        width = self.resize.width(self.input_size)
        sides = "" if width == self.input_size else f" x {width}"
        scores = self.scores.get("held_out_actors")
        auc = scores.get("auc") if isinstance(scores, dict) else None
        quality = f"; AUC {auc:.3f} on its held-out actors" if isinstance(auc, float) else ""
        return (
            f"{self.architecture}, {self.input_size}{sides} px, {self.crop.describe()}, "
            f"{self.aggregation.frames}{quality}; {self.licence}"
        )

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Convert RGB uint8 crops to the model's input.

        Args:
            images: RGB uint8 of shape (batch, 3, height, width), or of shape
                (batch, frames_per_clip, 3, height, width), on any device. The images must have
                the height and width of the model's input.

        Returns:
            float32 of the same shape, on the same device. If the shape has four dimensions, the
            memory format is channels-last.
        """
        mean, std = (
            torch.tensor(values, device=images.device).view(RGB, 1, 1)
            for values in (self.mean, self.std)
        )
        images = images.flip(-3) if self.channels == "BGR" else images
        pixels = (images.float() / WHITE - mean) / std
        return pixels if pixels.ndim > 4 else pixels.contiguous(memory_format=torch.channels_last)

    def to_json(self) -> str:
        """Return the specification as JSON text, for the header of a checkpoint."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ModelSpec":
        """Return the specification with the fields of a checkpoint's header.

        Raises:
            ArgumentError: A value is out of its range.
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
    """Return a copy of `fields` in which old names of fields are replaced by present names."""
    return {RENAMED.get(name, name): value for name, value in fields.items()}
