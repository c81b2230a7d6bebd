"""Read the checkpoints of NTech-Lab (Davletshin et al. 2020).

NTech-Lab took third place in the Deepfake Detection Challenge (DFDC). This module follows the code
of https://github.com/NTech-Lab/deepfake-detection-challenge at commit 52095ce (licence Apache-2.0).
That code uses efficientnet_pytorch 0.6.3. The files are state dicts in half precision: two
EfficientNet-B7 for single frames, and one for sequences of seven frames. Crops are 1.5 times as
wide and as high as the bounding boxes. The network with `large_crop` in the path of its file takes
the whole crop. The other networks take the middle of the crop.
"""

from dfdetect.checkpoints.converters.names import efficientnet_names, efficientnet_variant
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
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.models.efficientnet import CLIP_LENGTH
from dfdetect.scoring.aggregation import Aggregation

HEIGHT, WIDTH = 224, 192
GROWN = 1.5
# Width of MTCNN's bounding boxes, divided by their height. The size of the crops depends on the
# width alone.
BOX_ASPECT = 0.8


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a one-output EfficientNet-B7."""
    return efficientnet_variant(shapes) == 7 and shapes.get("_fc.weight", (0,))[0] == 1


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file."""
    sequences = any(name.endswith("_expand_conv.conv.weight") for name in tensors.left)
    architecture = "efficientnet_b7_sequence" if sequences else "efficientnet_b7_fixed06"
    large = any("large_crop" in part for part in tensors.path.parts)
    # The box is enlarged 1.5 times and resized to this width. Then the middle of the result is cut
    # out as the input of the network.
    resized = WIDTH if large else HEIGHT
    crop = CropRule(
        scale=GROWN * HEIGHT / resized * BOX_ASPECT,
        shift=0.0,
        width=GROWN * WIDTH / resized,
        border="cut",
    )
    spec = ModelSpec(
        architecture,
        input_size=HEIGHT,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        crop=crop,
        resize=ResizeRule(WIDTH / HEIGHT, interpolation="linear"),
        frames_per_clip=CLIP_LENGTH if sequences else 1,
        aggregation=Aggregation("power_law", "pooled", floor=FLOOR),
        training={"converted_from": "ntechlab"},
        licence="Apache-2.0",
    )
    return spec, tensors.take_model(architecture, efficientnet_names(7), {})


register_format(Format("ntechlab", "third place of the DFDC: EfficientNet-B7", recognises, read))
