"""Read the checkpoints of FaceForensics++ (Roessler et al., ICCV 2019): Xception.

This module follows the code of https://github.com/ondyari/FaceForensics at commit b952e41. The
published files contain whole networks, and reading them would run code. This module reads state
dicts that were saved from these networks. The names of tensors begin with `model.`. The head is
called `model.last_linear`, or `model.last_linear.1` after a dropout layer. Crops are squares whose
side is 1.3 times the longer side of dlib's bounding box.
"""

from dfdetect.checkpoints.converters.names import xception_name
from dfdetect.checkpoints.converters.registry import (
    FLOOR,
    HALF,
    Format,
    Shapes,
    register_format,
)
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule
from dfdetect.scoring.aggregation import Aggregation

HEADS = ("model.last_linear", "model.last_linear.1")


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds an Xception of FaceForensics++."""
    heads = [shapes.get(f"{head}.weight", (0,))[0] for head in HEADS]
    return "model.block12.skip.weight" in shapes and 2 in heads


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The last layer in the file has the outputs REAL and FAKE. It is replaced by a layer with one
    output, the logit of FAKE.
    """
    place = next(head for head in HEADS if f"{head}.weight" in tensors.left)
    head = one_logit(tensors.take(f"{place}.weight"), tensors.take(f"{place}.bias"))
    known = {f"head.{part}": tensor for part, tensor in head.items()}
    spec = ModelSpec(
        "xception",
        input_size=299,
        mean=HALF,
        std=HALF,
        # Dlib's bounding boxes are 0.8 times as high as MTCNN's boxes, and lie a little lower.
        crop=CropRule(scale=1.3 * CropRule.scale, shift=CropRule.shift),
        aggregation=Aggregation("mean_probability", floor=FLOOR),
        training={"converted_from": "faceforensics"},
        licence="FaceForensics terms of use, research only",
    )
    state = tensors.take_model("xception", lambda name: f"model.{xception_name(name)}", known)
    return spec, state


register_format(
    Format("faceforensics", "FaceForensics++: a state dict of Xception", recognises, read)
)
