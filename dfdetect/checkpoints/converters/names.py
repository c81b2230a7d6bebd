"""Translate dfdetect's tensor names into the tensor names that published implementations use."""

from collections.abc import Callable
from math import ceil

from dfdetect.checkpoints.converters.registry import Shapes

# `STAGES` has the number of blocks in each stage of EfficientNet-B0. For each variant (B0 to B7),
# `DEPTHS` has the factor by which these numbers are multiplied, and `WIDTHS` has the number of
# channels of the last convolution.
STAGES = (1, 2, 2, 3, 3, 4, 1)
DEPTHS = {0: 1.0, 1: 1.1, 2: 1.2, 3: 1.4, 4: 1.8, 5: 2.2, 6: 2.6, 7: 3.1}
WIDTHS = {0: 1280, 1: 1280, 2: 1408, 3: 1536, 4: 1792, 5: 2048, 6: 2304, 7: 2560}
OUTER = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
SQUEEZE = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
FIRST_STAGE = {
    "conv_dw": "_depthwise_conv",
    "bn1": "_bn1",
    "conv_pw": "_project_conv",
    "bn2": "_bn2",
    **SQUEEZE,
}
LATER_STAGES = {
    "conv_pw": "_expand_conv",
    "conv_pw.conv": "_expand_conv.conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
    **SQUEEZE,
}
XCEPTION = {
    "stem.0": "conv1",
    "stem.1": "bn1",
    "stem.3": "conv2",
    "stem.4": "bn2",
    "exit.1": "conv3.conv1",
    "exit.2": "conv3.pointwise",
    "exit.3": "bn3",
    "exit.5": "conv4.conv1",
    "exit.6": "conv4.pointwise",
    "exit.7": "bn4",
}


def efficientnet_variant(shapes: Shapes, prefix: str = "") -> int | None:
    """Return the variant (0 to 7) of the EfficientNet in a file, or None for another network.

    The tensors must have the names that efficientnet_pytorch uses.

    Args:
        shapes: Names and shapes of the tensors.
        prefix: Prefix of the network's tensors in `shapes`, such as `net.`.
    """
    width = shapes.get(f"{prefix}_conv_head.weight", (0,))[0]
    blocks = {
        name.removeprefix(prefix).split(".")[1]
        for name in shapes
        if name.startswith(f"{prefix}_blocks.")
    }
    found = [
        variant
        for variant in DEPTHS
        if WIDTHS[variant] == width and sum(_depths(variant)) == len(blocks)
    ]
    return found[0] if found else None


def efficientnet_names(variant: int, prefix: str = "") -> Callable[[str], str]:
    """Return a function that translates timm's names of tensors to efficientnet_pytorch's names.

    Args:
        variant: Variant of EfficientNet, 0 to 7.
        prefix: Prefix of the translated names, such as `net.`.

    Example:
        >>> efficientnet_names(4, "net.")("network.blocks.1.0.conv_dw.weight")
        'net._blocks.2._depthwise_conv.weight'
    """
    depths = _depths(variant)

    def rename(name: str) -> str:
        module, _, tensor = name.removeprefix("network.").rpartition(".")
        if not module.startswith("blocks."):
            return f"{prefix}{OUTER[module]}.{tensor}"
        _, stage, block, *inner = module.split(".")
        number = sum(depths[: int(stage)]) + int(block)
        parts = LATER_STAGES if int(stage) else FIRST_STAGE
        return f"{prefix}_blocks.{number}.{parts['.'.join(inner)]}.{tensor}"

    return rename


def xception_name(name: str) -> str:
    """Return the name of an Xception tensor in Remi Cadene's code, given its name in dfdetect.

    Many published detectors use Remi Cadene's implementation of Xception.

    Example:
        >>> xception_name("middle.0.layers.1.weight")
        'block4.rep.1.conv1.weight'
    """
    module, _, tensor = name.rpartition(".")
    if module in XCEPTION:
        return f"{XCEPTION[module]}.{tensor}"
    flow, place, kind, number = (*module.split("."), "", "")[:4]
    block = {"entry": 1, "middle": 4, "exit": 12}[flow] + int(place)
    if kind == "residual":
        return f"block{block}.{('skip', 'skipbn')[int(number)]}.{tensor}"
    # The first block has no ReLU before its first convolution.
    first = 0 if block == 1 else 1
    group, part = divmod(int(number) - first, 4)
    position = first + 3 * group
    inner = (f"{position}.conv1", f"{position}.pointwise", f"{position + 1}")[part]
    return f"block{block}.rep.{inner}.{tensor}"


def _depths(variant: int) -> list[int]:
    return [ceil(blocks * DEPTHS[variant]) for blocks in STAGES]
