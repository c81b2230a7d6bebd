"""Read the checkpoints of MesoNet (Afchar et al. 2018): Keras files of Meso4 and MesoInception4.

This module follows the code of https://github.com/DariusAf/MesoNet at commit 2144d56 (licence
Apache-2.0). The layers of a Keras file are numbered in the order in which the authors' code created
them. Kernels have the shape (height, width, in, out). The last layer of the network has one output.
The sigmoid of this output is P(REAL).
"""

import re

import torch

from dfdetect.checkpoints.converters.registry import FLOOR, Format, Shapes, register_format
from dfdetect.checkpoints.converters.tensors import State, Tensors
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.models.mesonet import SIDE_AFTER_LAYERS
from dfdetect.scoring.aggregation import Aggregation

KINDS = ("conv2d", "batch_normalization", "dense")
CONVOLUTIONS = {4: "meso4", 16: "meso_inception4"}
KERAS_NAMES = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def recognises(shapes: Shapes) -> bool:
    """Return whether a Keras file with tensors of these shapes holds Meso4 or MesoInception4."""
    layers = {name.partition("/")[0] for name in shapes}
    count = {kind: sum(_kind(layer) == kind for layer in layers) for kind in KINDS}
    return (
        sum(count.values()) == len(layers)
        and count["conv2d"] in CONVOLUTIONS
        and (count["batch_normalization"], count["dense"]) == (4, 2)
        and all("/" in name for name in shapes)
    )


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The weight and the bias of the last layer are negated, so that its output is the logit of FAKE.
    """
    layers = {name.partition("/")[0] for name in tensors.left}
    ordered = {
        kind: sorted((one for one in layers if _kind(one) == kind), key=_number) for kind in KINDS
    }
    architecture = CONVOLUTIONS[len(ordered["conv2d"])]
    state: State = {}
    for place, layer in zip(_places(architecture), ordered["conv2d"], strict=True):
        state[f"{place}.weight"] = tensors.take(f"{layer}/{layer}/kernel:0").permute(3, 2, 0, 1)
        state[f"{place}.bias"] = tensors.take(f"{layer}/{layer}/bias:0")
    norms = _norms(architecture)
    for place, layer in zip(norms, ordered["batch_normalization"], strict=True):
        for theirs, ours in KERAS_NAMES.items():
            state[f"{place}.{ours}"] = tensors.take(f"{layer}/{layer}/{theirs}:0")
    hidden, last = ordered["dense"]
    state["hidden.1.weight"] = _channels_first(tensors.take(f"{hidden}/{hidden}/kernel:0"))
    state["hidden.1.bias"] = tensors.take(f"{hidden}/{hidden}/bias:0")
    # The sigmoid of the output is P(REAL), so the logit of FAKE is the negative output.
    state["head.weight"] = -tensors.take(f"{last}/{last}/kernel:0").T
    state["head.bias"] = -tensors.take(f"{last}/{last}/bias:0")
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    spec = ModelSpec(
        architecture,
        input_size=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop=CropRule(scale=1.0, shift=0.08),
        # The authors resize faces without antialiasing.
        resize=ResizeRule(interpolation="linear"),
        aggregation=Aggregation(floor=FLOOR),
        training={"converted_from": "mesonet"},
        licence="Apache-2.0",
    )
    return spec, tensors.take_model(architecture, str, state)


def _kind(layer: str) -> str:
    return re.sub(r"(_\d+)?$", "", layer)


def _number(layer: str) -> int:
    """Return the number at the end of a layer's name. Keras gives the first layer none."""
    last = layer.rpartition("_")[2]
    return int(last) if last.isdecimal() else 0


def _places(architecture: str) -> list[str]:
    """Return the names of the convolutions in dfdetect's network.

    The names are in the order in which the authors' code created the convolutions.
    """
    if architecture == "meso4":
        return [f"layers.{number}" for number in (0, 4, 8, 12)]
    inception = [
        f"layers.{layer}.branches.{branch}.{number}"
        for layer in (0, 3)
        for branch, number in ((0, 0), (1, 0), (1, 2), (2, 0), (2, 2), (3, 0), (3, 2))
    ]
    return [*inception, "layers.6", "layers.10"]


def _norms(architecture: str) -> list[str]:
    numbers = (2, 6, 10, 14) if architecture == "meso4" else (1, 4, 8, 12)
    return [f"layers.{number}" for number in numbers]


def _channels_first(kernel: torch.Tensor) -> torch.Tensor:
    """Return a fully connected layer's weight, reordered from Keras's order to torch's order.

    Keras flattens feature maps in channels-last order, and torch in channels-first order.

    Args:
        kernel: The layer's kernel in Keras, float32 of shape (rows * columns * channels, out).

    Returns:
        float32 of shape (out, channels * rows * columns).
    """
    side = SIDE_AFTER_LAYERS
    return kernel.T.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2).flatten(1)


register_format(Format("mesonet", "MesoNet's Keras files: Meso4, MesoInception4", recognises, read))
