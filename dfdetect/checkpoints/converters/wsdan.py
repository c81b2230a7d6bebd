"""Read the checkpoints of WS-DAN by Zhao, Cui & Zhou (2020).

The authors took second place in the Deepfake Detection Challenge (DFDC). This module follows the
code of https://github.com/cuihaoleo/kaggle-dfdc at commit 91dae24 (licence MIT). That code uses
efficientnet_pytorch at commit d8481a5. There are three networks: a WS-DAN with Xception, a WS-DAN
with EfficientNet-B3, and a plain Xception. Each file contains `state_dict`. The files of the two
WS-DANs also contain `logs` and `feature_center`. Faces are aligned by five landmarks. The authors
score the largest face of each frame. dfdetect averages the probabilities of all frames of all
tracks (faces followed through the video).
"""

from dfdetect.checkpoints.converters.names import efficientnet_names, xception_name
from dfdetect.checkpoints.converters.registry import (
    FLOOR,
    HALF,
    Format,
    Shapes,
    register_format,
)
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.scoring.aggregation import Aggregation

MEAN, STD = (0.4479, 0.3744, 0.3473), (0.2537, 0.2502, 0.2424)
# Positions of the eyes, the nose and the corners of the mouth in a crop of 320 by 320 pixels.
POINTS = ((122.5, 141.25), (197.5, 141.25), (160.0, 178.75), (137.5, 225.25), (182.5, 225.25))
TEMPLATE = tuple((x / 320, y / 320) for x, y in POINTS)
ATTENTION = {"attention.0": "attentions.conv", "attention.1": "attentions.bn"}
PLAIN_HEAD = "last_linear"


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a network by Zhao, Cui & Zhou.

    They published two WS-DANs (networks with attention maps) and an Xception without attention.
    """
    plain = "block12.skip.weight" in shapes and shapes.get("last_linear.weight", (0,))[0] == 2
    return plain or {"attentions.conv.weight", "fc.weight"} <= shapes.keys()


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The last layer in the file has the outputs REAL and FAKE. It is replaced by a layer with one
    output, the logit of FAKE.
    """
    if "attentions.conv.weight" not in tensors.left:
        head = one_logit(tensors.take(f"{PLAIN_HEAD}.weight"), tensors.take(f"{PLAIN_HEAD}.bias"))
        known = {f"head.{part}": tensor for part, tensor in head.items()}
        state = tensors.take_model("xception", xception_name, known)
        return _spec("xception", 299, HALF, HALF), state
    known = {"head.weight": one_logit(tensors.take("fc.weight"))["weight"]}
    if "features.conv1.weight" in tensors.left:
        spec = _spec("wsdan_xception", 320, MEAN, STD)
    else:
        spec = _spec("wsdan_efficientnet_b3", 300, MEAN, STD)
        tensors.drop("EFN._fc.weight", "EFN._fc.bias")
    rename = efficientnet_names(3, "EFN.")

    def source(name: str) -> str:
        module, _, tensor = name.rpartition(".")
        if module in ATTENTION:
            return f"{ATTENTION[module]}.{tensor}"
        inner = name.removeprefix("network.")
        if spec.architecture == "wsdan_xception":
            return f"features.{xception_name(inner)}"
        return rename(inner)

    return spec, tensors.take_model(spec.architecture, source, known)


def _spec(
    architecture: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> ModelSpec:
    return ModelSpec(
        architecture,
        input_size=size,
        mean=mean,
        std=std,
        crop=CropRule(border="zeros", template=TEMPLATE),
        resize=ResizeRule(interpolation="linear"),
        aggregation=Aggregation("mean_probability", "pooled", floor=FLOOR),
        training={"converted_from": "wsdan"},
        licence="MIT",
    )


register_format(Format("wsdan", "second place of the DFDC: WS-DAN and Xception", recognises, read))
