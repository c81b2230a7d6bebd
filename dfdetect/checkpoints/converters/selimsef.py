"""Read the checkpoints of DeepFakeClassifier (Seferbekov 2020).

DeepFakeClassifier won the Deepfake Detection Challenge (DFDC). This module follows the code of
https://github.com/selimsef/dfdc_deepfake_challenge at commit 89c6290 (licence MIT). The files have
no suffix and contain `epoch`, `state_dict` and `bce_best`. The names of the encoder's tensors are
timm's names with the prefix `encoder.`. Crops are 5/3 times as wide and as high as MTCNN's bounding
boxes.
"""

from dfdetect.checkpoints.converters.names import WIDTHS
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
from dfdetect.scoring.aggregation import Aggregation

MARGIN = 1 / 3
# The network has another head than its encoder, so the encoder's classifier is not used.
UNUSED = ("encoder.classifier.weight", "encoder.classifier.bias", "srm_conv.weight")


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a DeepFakeClassifier.

    DeepFakeClassifier is the network that won the Deepfake Detection Challenge (Seferbekov 2020).
    """
    width = shapes.get("fc.weight", (0, 0))[-1]
    return "encoder.conv_stem.weight" in shapes and width in list(WIDTHS.values())[2:]


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file."""
    shapes = tensors.shapes
    width = shapes["fc.weight"][1]
    variant = next(one for one, size in WIDTHS.items() if size == width and one >= 2)
    kind = "plain"
    if "srm_conv.weight" in shapes:
        kind = "srm"
    elif "avg_pool.conv.weight" in shapes:
        kind = "gwap"
    plain = kind == "plain"
    architecture = f"tf_efficientnet_b{variant}" if plain else f"efficientnet_b{variant}_{kind}"
    head = "classifier" if plain else "network.classifier"
    known = {f"{head}.{part}": tensors.take(f"fc.{part}") for part in ("weight", "bias")}
    if kind == "srm":
        known["noise_filters"] = tensors.take("srm_conv.weight")
    tensors.drop(*UNUSED)

    def source(name: str) -> str:
        if name.startswith("score."):
            return name.replace("score.", "avg_pool.conv.")
        return f"encoder.{name.removeprefix('network.')}"

    spec = ModelSpec(
        architecture,
        input_size=380,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        crop=CropRule(1 + 2 * MARGIN, 0.0, width=1 + 2 * MARGIN, border="cut"),
        resize=ResizeRule(fit="pad", interpolation="area_or_cubic"),
        aggregation=Aggregation("confident_majority", "pooled", floor=FLOOR),
        training={"converted_from": "selimsef"},
        licence="MIT",
    )
    return spec, tensors.take_model(architecture, source, known)


register_format(Format("selimsef", "first place of the DFDC: DeepFakeClassifier", recognises, read))
