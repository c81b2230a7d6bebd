"""Read the checkpoints of DeepfakeBench (Yan et al., NeurIPS 2023): eight detectors of images.

This module follows the code of https://github.com/SCLBD/DeepfakeBench at commit 8a4a7bf (licence CC
BY-NC 4.0). The detectors are Xception, CORE, EfficientNet-B4, Meso4, MesoInception4, SPSL, SRM and
UCF. CORE (Ni et al. 2022) is an Xception that was trained differently, and is read as an Xception.
The files are state dicts. Faces are aligned by five landmarks. The aligned picture gets a margin of
15 % of its width on each side, and is then resized to 256 by 256 pixels.
"""

from collections.abc import Mapping

import torch

from dfdetect.checkpoints.converters.names import (
    efficientnet_names,
    efficientnet_variant,
    xception_name,
)
from dfdetect.checkpoints.converters.registry import (
    FLOOR,
    HALF,
    Format,
    Shapes,
    register_format,
)
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit, with_epsilon
from dfdetect.checkpoints.io import CheckpointError
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.models.mesonet import EPSILON
from dfdetect.scoring.aggregation import Aggregation

# Positions of the eyes, the nose and the corners of the mouth in a picture of 96 by 112 pixels.
# This picture is the middle of a square picture of 112 by 112 pixels. A margin of 15 % is added to
# each side of the square picture.
POINTS = (
    *((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366)),
    *((33.5493, 92.3655), (62.7299, 92.2041)),
)
TEMPLATE = tuple((((x + 8) / 112 + 0.15) / 1.3, (y / 112 + 0.15) / 1.3) for x, y in POINTS)
MESO_NORMS = ("weight", "bias", "running_mean", "running_var")
TORCH_EPSILON = 1e-5
# For each layer of the Meso networks: a dictionary from dfdetect's names of the convolutions to the
# names in the file, dfdetect's name of the batch norm, and the batch norm's name in the file.
MESO4 = (
    ({"layers.0": "conv1"}, "layers.2", "bn1"),
    ({"layers.4": "conv2"}, "layers.6", "bn1"),
    ({"layers.8": "conv3"}, "layers.10", "bn2"),
    ({"layers.12": "conv4"}, "layers.14", "bn2"),
)
INCEPTION = (
    *(("0.0", "conv1"), ("1.0", "conv2_1"), ("1.1", "conv2_2"), ("2.0", "conv3_1")),
    *(("2.1", "conv3_2"), ("3.0", "conv4_1"), ("3.1", "conv4_2")),
)
MESO_INCEPTION = (
    *(
        (
            {f"{ours}.branches.{branch}": f"{theirs}_{name}" for branch, name in INCEPTION},
            norm,
            f"{theirs}_bn",
        )
        for ours, norm, theirs in (
            ("layers.0", "layers.1", "Incption1"),
            ("layers.3", "layers.4", "Incption2"),
        )
    ),
    ({"layers.6": "conv1"}, "layers.8", "bn1"),
    ({"layers.10": "conv2"}, "layers.12", "bn1"),
)
UCF_PLACES = {
    "narrow.": "encoder_f.adjust_channel.",
    "shared.": "block_sha.conv2d.",
    "hidden.0.": "head_sha.mlp.0.",
}
# Parts of UCF that only training needs.
UCF_TRAINING = ("encoder_c.", "con_gan.", "head_spe.", "block_spe.", "encoder_f.last_linear.")
SRM_STREAMS = {"image.": "backbone_rgb.", "noise.": "backbone_srm."}
SRM_PLACES = {
    "image_noise.filters": "srm_conv0.kernel",
    **{
        f"feature_noise.{number}.{ours}": f"srm_conv{number + 1}.{theirs}"
        for number in (0, 1)
        for ours, theirs in (("filters.filters", "kernel"), ("combine.", "out_conv."))
    },
    "places.filters.filters": "srm_sa.srm.kernel",
    "places.layers.": "srm_sa.conv.",
    "places.score.": "srm_sa.pa.conv.",
    "attended.": "srm_sa_post.",
    **{
        f"exchanges.{number}.{ours}": f"dual_cma{number}.{theirs}"
        for number in (0, 1)
        for ours, theirs in (
            ("image_key.", "key_conv1."),
            ("noise_key.", "key_conv2."),
            ("shared_key.", "key_conv_share."),
            ("image_scores.", "linear1."),
            ("noise_scores.", "linear2."),
            ("image_value.", "value_conv1."),
            ("noise_value.", "value_conv2."),
            ("image_gain", "gamma1"),
            ("noise_gain", "gamma2"),
        )
    },
    "fusion.join.": "fusion.convblk.",
    "fusion.gate.": "fusion.ca.sharedMLP.",
}
# Parts of SRM that the network does not use, or uses only in training.
SRM_UNUSED = (
    *("backbone_rgb.adjust_channel.", "backbone_srm.adjust_channel.", "backbone_srm.last_linear."),
    "blur.",
)


def recognises(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes holds a network of DeepfakeBench."""
    return bool(
        {
            "backbone.block12.skip.weight",
            "backbone.efficientnet._conv_stem.weight",
            "backbone.fc2.weight",
            "backbone_srm.conv1.weight",
            "encoder_f.block12.skip.weight",
        }
        & shapes.keys()
    )


def read(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of the model in the file.

    The last layer in the file has the outputs REAL and FAKE. It is replaced by a layer with one
    output, the logit of FAKE.
    """
    names = tensors.left.keys()
    if "backbone_srm.conv1.weight" in names:
        architecture, state = _read_srm(tensors)
    elif "encoder_f.block12.skip.weight" in names:
        architecture, state = _read_ucf(tensors)
    elif "backbone.fc2.weight" in names:
        architecture, state = _read_meso(tensors)
    elif "backbone.last_layer.weight" in names:
        architecture, state = _read_efficientnet(tensors)
    else:
        architecture, state = _read_xception(tensors)
    spec = ModelSpec(
        architecture,
        input_size=256,
        mean=HALF,
        std=HALF,
        crop=CropRule(border="zeros", template=TEMPLATE),
        resize=ResizeRule(interpolation="linear"),
        aggregation=Aggregation("mean_probability", "pooled", floor=FLOOR),
        training={"converted_from": "deepfakebench"},
        licence="CC BY-NC 4.0",
    )
    return spec, state


def _take_head(tensors: Tensors, theirs: str, ours: str) -> State:
    head = one_logit(tensors.take(f"{theirs}.weight"), tensors.take(f"{theirs}.bias"))
    return {f"{ours}.{part}": tensor for part, tensor in head.items()}


def _read_xception(tensors: Tensors) -> tuple[str, State]:
    known = _take_head(tensors, "backbone.last_linear", "head")
    tensors.drop_below("backbone.adjust_channel.")
    first = tensors.shapes.get("backbone.conv1.weight", ())
    architecture = "xception_phase" if first[1:2] == (4,) else "xception"
    return architecture, tensors.take_model(
        architecture, lambda name: f"backbone.{xception_name(name)}", known
    )


def _read_efficientnet(tensors: Tensors) -> tuple[str, State]:
    prefix = "backbone.efficientnet."
    if efficientnet_variant(tensors.shapes, prefix) != 4:
        raise CheckpointError(f"{tensors.path}: only EfficientNet-B4 of DeepfakeBench is supported")
    known = _take_head(tensors, "backbone.last_layer", "network.classifier")
    architecture = "efficientnet_b4_unpadded_stem"
    return architecture, tensors.take_model(architecture, efficientnet_names(4, prefix), known)


def _read_ucf(tensors: Tensors) -> tuple[str, State]:
    known = _take_head(tensors, "head_sha.mlp.2", "head")
    tensors.drop_below(*UCF_TRAINING)

    def source(name: str) -> str:
        renamed = _renamed(name, UCF_PLACES)
        return f"encoder_f.{xception_name(name)}" if renamed == name else renamed

    return "xception_ucf", tensors.take_model("xception_ucf", source, known)


def _read_srm(tensors: Tensors) -> tuple[str, State]:
    known = _take_head(tensors, "backbone_rgb.last_linear", "image.head")
    tensors.drop_below(*SRM_UNUSED)

    def source(name: str) -> str:
        for ours, theirs in SRM_STREAMS.items():
            if name.startswith(ours):
                return theirs + xception_name(name.removeprefix(ours))
        return _renamed(name, SRM_PLACES)

    return "xception_srm", tensors.take_model("xception_srm", source, known)


def _read_meso(tensors: Tensors) -> tuple[str, State]:
    """Return the architecture and the state dict of a Meso network.

    In the file, two layers may share one batch norm, and convolutions have no bias. The returned
    state dict has a batch norm for each layer, and biases of 0.
    """
    inception = "backbone.Incption1_conv1.weight" in tensors.left
    architecture = "meso_inception4_linear" if inception else "meso4"
    known = _take_head(tensors, "backbone.fc2", "head")
    for part in ("weight", "bias"):
        known[f"hidden.1.{part}"] = tensors.take(f"backbone.fc1.{part}")
    taken: dict[str, torch.Tensor] = {}
    for convolutions, norm, theirs in MESO_INCEPTION if inception else MESO4:
        for ours, name in convolutions.items():
            weight = tensors.take(f"backbone.{name}.weight")
            known |= {f"{ours}.weight": weight, f"{ours}.bias": torch.zeros(len(weight))}
        for part in MESO_NORMS:
            name = f"backbone.{theirs}.{part}"
            if name not in taken:
                taken[name] = tensors.take(name)
            known[f"{norm}.{part}"] = taken[name]
        known = with_epsilon(known, f"{norm}.", TORCH_EPSILON, EPSILON)
    return architecture, tensors.take_model(architecture, str, known)


def _renamed(name: str, places: Mapping[str, str]) -> str:
    """Return a tensor's name in the file, given its name in dfdetect's network.

    `places` maps prefixes of dfdetect's names to the corresponding prefixes in the file.
    """
    for ours, theirs in places.items():
        if name.startswith(ours):
            return name.replace(ours, theirs, 1)
    return name


register_format(
    Format(
        "deepfakebench",
        "DeepfakeBench: Xception, CORE, EfficientNet-B4, Meso4, MesoInception4, SPSL, SRM, UCF",
        recognises,
        read,
    )
)
