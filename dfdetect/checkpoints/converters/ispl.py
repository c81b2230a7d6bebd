"""Read the checkpoints of ISPL (Bonettini et al., ICPR 2020): EfficientNet-B4 and Xception.

This module follows the code of https://github.com/polimi-ispl/icpr2020dfdc at commit bbd6411
(licence GPL-3.0). The names of tensors begin with `efficientnet.` or `xception.`. In networks that
were trained as Siamese networks, the names have the prefix `feat_ext.`, and the head is a batch
norm and a linear layer. Some EfficientNets have an attention layer. The authors cut square crops
around BlazeFace's bounding boxes. This module cuts about the same crops around MTCNN's boxes.
"""

import torch

from dfdetect.checkpoints.converters.names import efficientnet_names, xception_name
from dfdetect.checkpoints.converters.registry import (
    FLOOR,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Format,
    Shapes,
    register_format,
)
from dfdetect.checkpoints.converters.tensors import State, Tensors
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule
from dfdetect.scoring.aggregation import Aggregation

SIAMESE = "feat_ext."
EPSILON = 1e-5
HEADS = ("classifier.weight", "classifier.1.weight", "xception.last_linear.weight")


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a network of ISPL with one output.

    ISPL is the laboratory that published the networks (Bonettini et al., ICPR 2020).
    """
    names = {name.removeprefix(SIAMESE) for name in shapes}
    network = {"efficientnet._conv_stem.weight", "xception.conv1.weight"} & names
    return bool(network) and any(shapes.get(head, (0,))[0] == 1 for head in HEADS)


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    If the network was trained as a Siamese network, the two layers of its head are fused into one.
    """
    prefix = SIAMESE if any(name.startswith(SIAMESE) for name in tensors.left) else ""
    is_xception = f"{prefix}xception.conv1.weight" in tensors.left
    if prefix:
        head = _folded(tensors)
        tensors.drop_below(f"{prefix}classifier.", f"{prefix}xception.last_linear.")
    else:
        place = "xception.last_linear" if is_xception else "classifier"
        head = {part: tensors.take(f"{place}.{part}") for part in ("weight", "bias")}
    if is_xception:
        architecture, place = "xception", "head"
    else:
        attends = f"{prefix}efficientnet.attconv.weight" in tensors.left
        architecture = "efficientnet_b4_attention" if attends else "efficientnet_b4_fixed"
        place = "network.classifier"
    rename = efficientnet_names(4, f"{prefix}efficientnet.")

    def source(name: str) -> str:
        if is_xception:
            return f"{prefix}xception.{xception_name(name)}"
        if name.startswith("attention."):
            return f"{prefix}efficientnet.{name.replace('attention.', 'attconv.')}"
        return rename(name)

    spec = ModelSpec(
        architecture,
        input_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        # The authors add margins to BlazeFace's boxes: 20 % of the height on the left, on the right
        # and below, and 40 % above. They then make the crops square.
        crop=CropRule(scale=1.25, shift=-0.05),
        aggregation=Aggregation("mean_logit", floor=FLOOR),
        training={"converted_from": "ispl"},
        licence="GPL-3.0",
    )
    known = {f"{place}.{part}": tensor for part, tensor in head.items()}
    return spec, tensors.take_model(architecture, source, known)


def _folded(tensors: Tensors) -> State:
    """Return one linear layer that replaces a batch norm and the linear layer after it."""
    names = ("weight", "bias", "running_mean", "running_var")
    gain, shift, mean, variance = (tensors.take(f"classifier.0.{name}") for name in names)
    tensors.drop("classifier.0.num_batches_tracked")
    weight, bias = (tensors.take(f"classifier.1.{name}").double() for name in names[:2])
    scale = gain.double() / (variance.double() + EPSILON).sqrt()
    folded = bias + weight @ (shift.double() - mean.double() * scale)
    return {"weight": (weight * scale).to(torch.float32), "bias": folded.to(torch.float32)}


register_format(
    Format("ispl", "ISPL at ICPR 2020: EfficientNetB4, AutoAttB4, Xception", recognises, read)
)
