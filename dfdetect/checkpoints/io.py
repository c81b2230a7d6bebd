"""One .safetensors file holds the weights and all that is needed to use them.

The tensors are the model's state dict (float16 on disk, float32 when loaded). The header's metadata
has one entry, `dfdetect`: a JSON object with the fields of `ModelSpec` beside `format`, `version`
and `sha256`, a checksum of the others and of the tensors. Loading runs no code from the file,
downloads nothing, and is strict: what the file says of itself is checked before memory is taken.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from dfdetect.files import atomic_path
from dfdetect.models.registry import CLIP_MODELS, create_model
from dfdetect.scoring.aggregation import Aggregation, Calibration

METADATA_KEY = "dfdetect"
CHECKSUM_KEY = "sha256"
FORMAT = "dfdetect-checkpoint"
VERSION = 2
# A hundred times that of the default detector.
MOST_HEADER_BYTES = 4 * 2**20
FLOAT_TYPES = ("F16", "BF16", "F32")
ARGUMENTS = ("drop_rate", "drop_path_rate")
# Heights of the face beyond which a crop rule is a mistake.
FARTHEST = 10
INPUT_SIZES = range(16, 1025)
CLIP_LENGTHS = range(1, 129)
POSITIVE_CLASS = "FAKE"
RGB = 3
WHITE = 255


class CheckpointError(ValueError):
    """A file cannot be used as a checkpoint; the message names the file, the fault and the mend."""


@dataclass(frozen=True)
class CropRule:
    """Which square around a face the model wants, relative to MTCNN's box of it.

    Args:
        scale: Side of the square / height of the box.
        shift: How far the square's centre lies below the box's centre / height of the box.

    The defaults give the tight framing of dlib's frontal detector, in which the challenge's face
    crops were cut.
    """

    scale: float = 0.80
    shift: float = 0.08

    def square(self, box: tuple[float, float, float, float]) -> tuple[float, float, float]:
        """Left edge, top edge and side in pixels of the square for a box (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = box
        height = y2 - y1
        side = self.scale * height
        centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2 + self.shift * height
        return centre_x - side / 2, centre_y - side / 2, side


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to use the weights, and what is known about them.

    Args:
        architecture: A name that `create_model` takes.
        arguments: Its arguments.
        input_size: Side of the square input, in pixels.
        mean: Of the RGB channels, for pixels in 0..1; subtracted.
        std: Of the RGB channels, for pixels in 0..1; divided by.
        crop: Where crops are cut.
        frames_per_clip: Consecutive crops of a face that make one input; 1 for an image model.
        positive_class: The class whose logit the model gives; always FAKE.
        calibration: From raw to calibrated logits.
        aggregation: From the logits of crops to the probability of a video.
        training: Data, split, configuration, seed, date.
        scores: Measured figures, by the name of what they were measured on.
        licence: Terms for the weights.
    """

    architecture: str
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    arguments: dict[str, float] = field(default_factory=dict)
    crop: CropRule = field(default_factory=CropRule)
    frames_per_clip: int = 1
    positive_class: str = POSITIVE_CLASS
    calibration: Calibration = field(default_factory=Calibration)
    aggregation: Aggregation = field(default_factory=Aggregation)
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a batch of one: (1, 3, size, size) or (1, time, 3, size, size)."""
        time = (self.frames_per_clip,) if self.frames_per_clip > 1 else ()
        return (1, *time, RGB, self.input_size, self.input_size)

    def __post_init__(self) -> None:
        """Refuse values that no model of this version can have."""
        if type(self.input_size) is not int or self.input_size not in INPUT_SIZES:
            raise ValueError(
                f"input_size must be {INPUT_SIZES[0]} to {INPUT_SIZES[-1]} pixels, "
                f"not {self.input_size!r}"
            )
        if len(self.mean) != RGB or len(self.std) != RGB or min(self.std) <= 0:
            raise ValueError("mean and std need three numbers each, std above 0")
        numbers = (*self.mean, *self.std, self.crop.scale, self.crop.shift)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("mean, std, crop.scale and crop.shift must be finite")
        if type(self.frames_per_clip) is not int or self.frames_per_clip not in CLIP_LENGTHS:
            raise ValueError(
                f"frames_per_clip must be {CLIP_LENGTHS[0]} to {CLIP_LENGTHS[-1]}, "
                f"not {self.frames_per_clip!r}"
            )
        if (self.frames_per_clip > 1) != (self.architecture in CLIP_MODELS):
            takes = "clips of 2 and more" if self.architecture in CLIP_MODELS else "single crops"
            raise ValueError(
                f"frames_per_clip is {self.frames_per_clip}, but {self.architecture} takes {takes}"
            )
        if self.positive_class != POSITIVE_CLASS:
            raise ValueError(f"positive_class must be {POSITIVE_CLASS}, not {self.positive_class}")
        if not (0 < self.crop.scale < FARTHEST and abs(self.crop.shift) < FARTHEST):
            raise ValueError(
                f"crop.scale must be above 0, and scale and shift below {FARTHEST}, not {self.crop}"
            )
        for name, value in self.arguments.items():
            if name not in ARGUMENTS or not 0 <= value < 1:
                raise ValueError(f"arguments: {name} = {value!r}; known are {ARGUMENTS}, 0 to 1")
        if not (isinstance(self.training, dict) and isinstance(self.scores, dict)):
            raise ValueError("training and scores must be JSON objects")
        if not (isinstance(self.licence, str) and self.licence.isprintable()):
            raise ValueError(f"licence must be a line of text, not {self.licence!r}")

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Make the model's input of uint8 RGB crops.

        Args:
            images: uint8 of shape (batch, 3, input_size, input_size), or of shape
                (batch, frames_per_clip, 3, input_size, input_size), on any device.

        Returns:
            float32 of the same shape, on the same device; images in channels-last memory order.
        """
        mean, std = (
            torch.tensor(values, device=images.device).view(RGB, 1, 1)
            for values in (self.mean, self.std)
        )
        pixels = (images.float() / WHITE - mean) / std
        return pixels if pixels.ndim > 4 else pixels.contiguous(memory_format=torch.channels_last)

    def to_json(self) -> str:
        """The header's JSON object."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """Read the header's JSON object.

        Raises:
            ValueError: It is not one, or of another format or version, or a value is impossible.
            TypeError: A field is missing, unknown or of the wrong type.
        """
        values = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
            raise ValueError(f"its header does not say {FORMAT!r}")
        if (version := values.pop("version", None)) != VERSION:
            raise ValueError(
                f"it has format version {version!r} and this dfdetect reads {VERSION}: "
                "install the release of dfdetect that wrote it"
            )
        values.pop(CHECKSUM_KEY, None)  # of the file, not of the model
        for name, kind in (
            ("crop", CropRule),
            ("calibration", Calibration),
            ("aggregation", Aggregation),
        ):
            values[name] = kind(**values[name]) if name in values else kind()
        for name in ("mean", "std"):
            if name in values:
                values[name] = tuple(float(number) for number in values[name])
        return cls(**values)


def save_checkpoint(path: str | Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write `model` and `spec` to one file, its weights in float16.

    Raises:
        ValueError: A weight is not finite in float16.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if stored.is_floating_point():
            stored = stored.half()
            if not stored.isfinite().all():
                raise ValueError(f"{path}: weights of {name} are not finite in float16")
        state[name] = stored
    with atomic_path(path) as temporary:
        text = spec.to_json()
        signed = {**json.loads(text), CHECKSUM_KEY: _checksum(text, state)}
        save_file(state, temporary, metadata={METADATA_KEY: json.dumps(signed, sort_keys=True)})


def read_spec(path: str | Path) -> ModelSpec:
    """Read a checkpoint's header, without its weights and so without its checksum.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a checkpoint of this version.
    """
    path = Path(path)
    with _opened(path) as file:
        return _parse(path, _metadata(path, file)[METADATA_KEY])


def load_checkpoint(path: str | Path) -> tuple[nn.Module, ModelSpec]:
    """Rebuild the model of a checkpoint, in float32 on the CPU and in evaluation mode.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is truncated, damaged, no checkpoint, of another version, or its
            tensors are not those of its architecture.

    Example:
        >>> model, spec = load_checkpoint(find_weights())
        >>> model(torch.zeros(1, 3, spec.input_size, spec.input_size)).shape
        torch.Size([1, 1])
    """
    path = Path(path)
    with _opened(path) as file:
        text = _metadata(path, file)[METADATA_KEY]
        spec = _parse(path, text)
        _require_tensors_of(path, spec, file)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{path}: weights of {bad[0]} are not finite; the file is damaged")
    said = json.loads(text)
    checksum = said.pop(CHECKSUM_KEY, None)
    if checksum != _checksum(json.dumps(said, sort_keys=True), state):
        raise CheckpointError(f"{path}: its checksum is wrong: the file is damaged; copy it again")
    model = create_model(spec.architecture, **spec.arguments)
    model.load_state_dict(state)
    return model.float().eval(), spec


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    """A .safetensors file of which nothing but a header of reasonable size was read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
        if size > MOST_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: not a checkpoint: its header would have {size} bytes; "
                f"{MOST_HEADER_BYTES} are the most"
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a checkpoint, or truncated: {error}. Copy the file again, or make it "
            "with `dfdetect train`"
        ) from error


def _metadata(path: Path, file: safe_open) -> dict[str, str]:
    metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: a .safetensors file without dfdetect's header; bare weights are taken by "
            "`dfdetect train --init`, which writes a checkpoint"
        )
    return metadata


def _parse(path: Path, text: str) -> ModelSpec:
    try:
        return ModelSpec.from_json(text)
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a usable checkpoint: {error}") from error


def _require_tensors_of(path: Path, spec: ModelSpec, file: safe_open) -> None:
    """Compare what the header says of the tensors with the architecture, built without memory."""
    try:
        with torch.device("meta"):
            model = create_model(spec.architecture, **spec.arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    expected = {
        name: (tuple(tensor.shape), "float" if tensor.is_floating_point() else "I64")
        for name, tensor in model.state_dict().items()
    }
    found = {}
    for name in file.keys():  # noqa: SIM118
        part = file.get_slice(name)
        kind = part.get_dtype()
        found[name] = tuple(part.get_shape()), "float" if kind in FLOAT_TYPES else kind
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{path}: {len(wrong)} of {len(expected)} tensors do not fit {spec.architecture}; "
            f"first {name!r}: expected {expected.get(name, 'none')}, found "
            f"{found.get(name, 'none')}. The file was written for another architecture."
        )


def _checksum(text: str, state: Mapping[str, torch.Tensor]) -> str:
    """Of the header's JSON and of the tensors, whatever their order in the file."""
    digest = sha256(text.encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"its header has {name} for a number")
