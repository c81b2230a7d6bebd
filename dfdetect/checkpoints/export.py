"""Export a checkpoint to an ONNX file, for programs without torch or Python.

The graph in the file normalises crops, applies the model and calibrates the logits:

- Input `crops`: RGB uint8 of shape (batch, 3, height, width), or (batch, frames, 3, height, width)
  for models that take clips of several crops. The batch may have any size.
- Output `logits`: float32 of shape (batch, 1). P(FAKE) is the sigmoid of a logit.

A program that uses the file must cut and resize the crops by the checkpoint's rules.

The graph scores each crop by itself, and mirrors no crops. In dfdetect, the logits of the default
detector also depend on the other crops of the track (see `dfdetect.models.texture`). A program that
combines the graph's logits therefore computes another P(FAKE) of a video than dfdetect. The
checkpoint's thresholds of the verdicts are not valid for this P(FAKE).

The metadata of the file has three entries:

- `dfdetect`: the JSON object in the checkpoint's header, with the crop rule, the resize rule and
  the aggregation.
- `input`: a description of the crops in words.
- `output`: a description of the logits in words.
"""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dfdetect.checkpoints.ensemble import EnsembleSpec
from dfdetect.checkpoints.io import load_checkpoint
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.checkpoints.weights import find_weights
from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.files import atomic_path, require_writable

SUFFIX = ".onnx"
OPSET = 18
# If the logits of the file and of torch differ by more than this number, no file is written.
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# The logits of the file and of torch are compared on batches of these sizes. The graph is traced
# with a batch of another size.
TRIED_BATCHES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The description of an exported model.

    Attributes:
        path: The ONNX file.
        opset: Version of the ONNX operators.
        input_shape: Shape of the input `crops`. Its first entry is the text `batch`, which stands
            for any number.
        difference: Largest difference between the logits of the ONNX model and the logits of the
            torch model, for the same random crops.
    """

    path: Path
    opset: int
    input_shape: tuple[str | int, ...]
    difference: float

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.input_shape))
        return (
            f"{self.path}: opset {self.opset}, uint8 RGB crops {shape} -> calibrated logits; "
            f"differs from torch by {self.difference:.1e} at most"
        )


class CropsToLogits(nn.Module):
    """A network that normalises crops, applies a model, and calibrates the logits.

    Args:
        model: The model, as `load_checkpoint` returns it.
        spec: The specification of the model.
    """

    def __init__(self, model: nn.Module, spec: ModelSpec):
        super().__init__()
        self.model = model
        self.spec = spec

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Return calibrated logits of shape (batch, 1).

        Args:
            crops: RGB uint8 of shape (batch, 3, height, width), or of shape
                (batch, frames, 3, height, width) for a model that takes clips.
        """
        calibration = self.spec.calibration
        return calibration.scale * self.model(self.spec.normalise(crops)) + calibration.bias


def export_onnx(weights: str | Path | None = None, *, out: str | Path) -> ExportResult:
    """Write a checkpoint as an ONNX file, and check that the file gives the same logits as torch.

    Args:
        weights: Name of an installed checkpoint, path of a file, or None for the default.
        out: The file to write. Its name must end in `.onnx`.

    Raises:
        FileNotFoundError: `weights` is neither a file nor an installed name.
        CheckpointError: `weights` is not a usable checkpoint.
        ArgumentError: The name of `out` does not end in `.onnx`, `out` cannot be written, or
            `weights` is an ensemble.
        DfdetectError: `onnx`, `onnxruntime` or `onnxscript` is not installed. Or the model cannot
            be exported, or the logits of the file and of torch differ by more than 0.0001.

    Example:
        >>> print(export_onnx("tf_efficientnet_lite0", out="lite0.onnx"))
        lite0.onnx: opset 18, uint8 RGB crops batch x 3 x 160 x 160 -> calibrated logits; ...
    """
    out = Path(out)
    if out.suffix != SUFFIX:
        raise ArgumentError(f"{out}: the name must end in {SUFFIX}")
    require_writable(out)
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise DfdetectError(
            f"export needs {missing[0]}: pip install 'dfdetect[onnx]', in a clone '.[onnx]'"
        )
    model, spec = load_checkpoint(find_weights(weights))
    if isinstance(spec, EnsembleSpec):
        raise ArgumentError(
            f"{weights}: an ensemble, whose members take different crops; export each member alone"
        )
    network = CropsToLogits(model, spec).eval()
    with atomic_path(out) as temporary:
        _write(network, spec, temporary)
        difference = _compare(network, spec, temporary)
        if not difference <= TOLERANCE:
            raise DfdetectError(
                f"{out}: not written, because its logits would differ from those of torch by "
                f"{difference:.1e}, more than {TOLERANCE:.0e}"
            )
    return ExportResult(
        path=out,
        opset=OPSET,
        input_shape=("batch", *spec.input_shape[1:]),
        difference=difference,
    )


def _write(network: CropsToLogits, spec: ModelSpec, path: Path) -> None:
    import onnx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own exporter
            program = torch.onnx.export(
                network,
                (_made_up_crops(spec, 2),),
                dynamo=True,
                opset_version=OPSET,
                input_names=["crops"],
                output_names=["logits"],
                dynamic_shapes={"crops": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DfdetectError(f"{spec.architecture}: cannot be exported ({reason})") from error
    assert program is not None
    graph = program.model_proto
    shape = ", ".join(map(str, spec.input_shape[1:]))
    for key, value in {
        "dfdetect": spec.to_json(),
        "input": f"crops: uint8 RGB (batch, {shape}), 0 to 255, "
        "cut and resized by the rules 'crop' and 'resize'",
        "output": "logits: float32 (batch, 1), calibrated; P(FAKE) is the sigmoid",
    }.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(graph, path)


@torch.inference_mode()
def _compare(network: CropsToLogits, spec: ModelSpec, path: Path) -> float:
    """Return the largest difference between the logits of the ONNX file and of the network.

    The file and the network score the same random crops.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for batch in TRIED_BATCHES:
        crops = _made_up_crops(spec, batch)
        (found,) = session.run(None, {"crops": crops.numpy()})
        differences.append(np.abs(found - network(crops).numpy()).max())
    return float(max(differences))


def _made_up_crops(spec: ModelSpec, batch: int) -> torch.Tensor:
    """Return crops of smooth noise, which is more like a face than independent random pixels."""
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, *spec.input_shape[1:])
    coarse = torch.rand((int(np.prod(shape[:-3])), 3, 8, 8), generator=generator)
    smooth = nn.functional.interpolate(coarse, size=shape[-2:], mode="bilinear")
    return (255 * smooth).to(torch.uint8).reshape(shape)
