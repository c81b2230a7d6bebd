"""Read the checkpoints of RobustForensics (Shao et al. 2020).

RobustForensics took fourth place in the Deepfake Detection Challenge (DFDC). This module follows
the code of https://github.com/Siyu-C/RobustForensics at commit 344a355 (licence MIT). The files
(`.pth.tar`) contain `step`, `state_dict` and `optimizer`. The networks for single frames are
EfficientNet-B0, B1 and B3 of efficientnet_pytorch, a ResNet-34, and an Xception that takes BGR
images. The SlowFast networks for videos are not supported. Crops are squares whose side is 1.3
times the longer side of RetinaFace's bounding box. The authors cut all crops of a face with the
face's largest box in the video. dfdetect cuts each crop with the face's box in the same frame.
"""

from dfdetect.checkpoints.converters.names import (
    efficientnet_names,
    efficientnet_variant,
    xception_name,
)
from dfdetect.checkpoints.converters.registry import (
    FLOOR,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Format,
    Shapes,
    register_format,
)
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.scoring.aggregation import Aggregation

XCEPTION_HEAD, RESNET_HEAD, EFFICIENTNET_HEAD = "model.fc", "fc", "_fc"


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a network that `read` supports."""
    return _head(shapes) is not None


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The last layer in the file has the outputs REAL and FAKE. It is replaced by a layer with one
    output, the logit of FAKE.
    """
    shapes = tensors.shapes
    place = _head(shapes)
    head = one_logit(tensors.take(f"{place}.weight"), tensors.take(f"{place}.bias"))
    mean, std, size, channels = IMAGENET_MEAN, IMAGENET_STD, 299, "RGB"
    if place == XCEPTION_HEAD:
        architecture, ours, channels, mean, std = "xception", "head", "BGR", HALF, HALF
    elif place == RESNET_HEAD:
        architecture, ours, size = "resnet34", "fc", 256
    else:
        variant = efficientnet_variant(shapes) or 0
        architecture, ours = f"efficientnet_b{variant}_fixed06", "network.classifier"
        rename = efficientnet_names(variant)

    def source(name: str) -> str:
        if place == XCEPTION_HEAD:
            return f"model.{xception_name(name)}"
        return name if place == RESNET_HEAD else rename(name)

    spec = ModelSpec(
        architecture,
        input_size=size,
        mean=mean,
        std=std,
        channels=channels,
        crop=CropRule(scale=1.3, shift=0.0, longer=True),
        resize=ResizeRule(interpolation="linear"),
        aggregation=Aggregation("confident_fives", "agreement", floor=FLOOR),
        training={"converted_from": "robustforensics"},
        licence="MIT",
    )
    known = {f"{ours}.{part}": tensor for part, tensor in head.items()}
    return spec, tensors.take_model(architecture, source, known)


def _head(shapes: Shapes) -> str | None:
    """Return the name of the last layer, or None if no supported network has these shapes."""

    def two(place: str) -> bool:
        return shapes.get(f"{place}.weight", (0,))[0] == 2

    if "model.block12.skip.weight" in shapes and two(XCEPTION_HEAD):
        return XCEPTION_HEAD
    if "layer4.2.conv2.weight" in shapes and "layer4.2.conv3.weight" not in shapes:
        return RESNET_HEAD if two(RESNET_HEAD) else None
    found = efficientnet_variant(shapes) is not None and two(EFFICIENTNET_HEAD)
    return EFFICIENTNET_HEAD if found else None


register_format(
    Format("robustforensics", "fourth place of the DFDC: its networks for images", recognises, read)
)
