"""Read the checkpoints of SBI (Shiohara & Yamasaki, CVPR 2022): EfficientNet-B4.

SBI stands for self-blended images, the fakes that this network was trained on. This module follows
the code of https://github.com/mapooon/SelfBlendedImages at commit 9fe4efe (licence: for research
only). The files (`.tar`) contain `model`, `optimizer` and `epoch`. Crops are 1.25 times as wide and
as high as RetinaFace's bounding boxes.
"""

from dfdetect.checkpoints.converters.names import efficientnet_names, efficientnet_variant
from dfdetect.checkpoints.converters.registry import FLOOR, Format, Shapes, register_format
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.scoring.aggregation import Aggregation

ARCHITECTURE = "efficientnet_b4_fixed"
MARGIN = 1 / 8


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds SBI's EfficientNet-B4.

    SBI is the detector of the paper on self-blended images (Shiohara & Yamasaki, CVPR 2022).
    """
    return efficientnet_variant(shapes, "net.") == 4 and shapes.get("net._fc.weight", (0,))[0] == 2


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The last layer in the file has the outputs REAL and FAKE. It is replaced by a layer with one
    output, the logit of FAKE.
    """
    head = one_logit(tensors.take("net._fc.weight"), tensors.take("net._fc.bias"))
    known = {f"network.classifier.{part}": tensor for part, tensor in head.items()}
    spec = ModelSpec(
        ARCHITECTURE,
        input_size=380,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        crop=CropRule(1 + 2 * MARGIN, 0.0, width=1 + 2 * MARGIN, border="cut"),
        resize=ResizeRule(interpolation="linear"),
        aggregation=Aggregation("mean_probability", floor=FLOOR),
        training={"converted_from": "sbi"},
        licence="academic, non-commercial",
    )
    return spec, tensors.take_model(ARCHITECTURE, efficientnet_names(4, "net."), known)


register_format(Format("sbi", "self-blended images: EfficientNet-B4", recognises, read))
