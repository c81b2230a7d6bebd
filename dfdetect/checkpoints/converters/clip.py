"""Read the checkpoints of the detectors Effort and GenD.

Each network is the image encoder of CLIP, followed by a head with two classes. The tensors of the
encoder are named as in Hugging Face's implementation of CLIP. Faces are aligned by five landmarks,
as in DeepfakeBench.

- Effort (Yan et al., ICML 2025): the weight of each linear layer in the attention is the sum of a
  fixed and a trained matrix. The trained matrix is stored as three factors. This module follows the
  code of https://github.com/YZY-stack/Effort-AIGI-Detection at commit 96f5dea.
- GenD (Yermakov et al. 2025): the features are scaled to a Euclidean norm of 1. This module follows
  the code of https://github.com/yermandy/GenD at commit e03532d.
"""

import json

import torch

from dfdetect.checkpoints.converters.deepfakebench import TEMPLATE
from dfdetect.checkpoints.converters.registry import FLOOR, Format, Shapes, register_format
from dfdetect.checkpoints.converters.tensors import State, Tensors, one_logit
from dfdetect.checkpoints.io import CheckpointError
from dfdetect.checkpoints.spec import ModelSpec
from dfdetect.faces.geometry import CropRule, ResizeRule
from dfdetect.models.clip import ENCODER
from dfdetect.scoring.aggregation import Aggregation

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EFFORT, GEND = "backbone.", "feature_extractor.vision_model."
WIDTH = 1024
LAYERS = 24
FACTORS = ("weight_main", "U_residual", "S_residual", "V_residual")
OUTER = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "norm_pre.weight": "pre_layrnorm.weight",
    "norm_pre.bias": "pre_layrnorm.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
INNER = {
    "norm1": "layer_norm1",
    "attn.proj": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def recognises_effort(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes is a checkpoint of the detector Effort."""
    return f"{EFFORT}encoder.layers.0.self_attn.q_proj.weight_main" in shapes


def recognises_gend(shapes: Shapes) -> bool:
    """Return whether a file with tensors of these shapes is a checkpoint of the detector GenD."""
    return f"{GEND}encoder.layers.0.self_attn.q_proj.weight" in shapes


def read_effort(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of a checkpoint of the detector Effort.

    The names of the tensors in the returned state dict are timm's.
    """
    known = _take_head(tensors, "head")
    state = _read_encoder(tensors, EFFORT, known, ENCODER, "")
    return _spec(ENCODER, "effort", "not stated", "linear"), state


def read_gend(tensors: Tensors) -> tuple[ModelSpec, State]:
    """Return the specification and the state dict of a checkpoint of the detector GenD.

    The names of the tensors in the returned state dict are timm's. The file `config.json` beside
    the checkpoint names the head of the network: `linear`, which is the default of such a file, or
    `LinearNorm`, a linear layer on normalised features. If there is no such file, the head is
    `LinearNorm`.

    Raises:
        CheckpointError: `config.json` is no configuration of GenD, or names another head.
    """
    tensors.drop("feature_extractor.visual_projection.weight")
    head = "LinearNorm"
    config = tensors.path.with_name("config.json")
    if config.is_file():
        try:
            head = json.loads(config.read_text(encoding="utf-8")).get("head", "linear")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{config}: no JSON object; copy the file again") from error
        if head not in ("linear", "LinearNorm"):
            raise CheckpointError(f"{config}: the head {head!r} of GenD is not supported")
    scaled = head == "LinearNorm"
    architecture, prefix = ("clip_large_normalised", "encoder.") if scaled else (ENCODER, "")
    known = _take_head(tensors, "model.linear")
    state = _read_encoder(tensors, GEND, known, architecture, prefix)
    return _spec(architecture, "gend", "MIT", "bicubic"), state


def _take_head(tensors: Tensors, place: str) -> State:
    head = one_logit(tensors.take(f"{place}.weight"), tensors.take(f"{place}.bias"))
    return {f"head.{part}": tensor for part, tensor in head.items()}


def _read_encoder(
    tensors: Tensors, theirs: str, known: State, architecture: str, ours: str
) -> State:
    if len(tensors.left.get(f"{theirs}embeddings.class_embedding", ())) != WIDTH:
        raise CheckpointError(f"{tensors.path}: only CLIP ViT-L/14 is supported, not other sizes")
    tensors.drop(f"{theirs}embeddings.position_ids")
    known = dict(known)
    token, positions = (tensors.take(f"{theirs}{OUTER[name]}") for name in list(OUTER)[:2])
    known |= {f"{ours}cls_token": token.view(1, 1, -1), f"{ours}pos_embed": positions[None]}
    for number in range(LAYERS):
        place = f"{theirs}encoder.layers.{number}.self_attn."
        block = f"{ours}blocks.{number}.attn."
        parts = [_linear(tensors, f"{place}{one}_proj") for one in "qkv"]
        weights, biases = zip(*parts, strict=True)
        known[f"{block}qkv.weight"] = torch.cat(weights)
        known[f"{block}qkv.bias"] = torch.cat(biases)
        known[f"{block}proj.weight"], known[f"{block}proj.bias"] = _linear(
            tensors, f"{place}out_proj"
        )

    def source(name: str) -> str:
        inner = name.removeprefix(ours)
        if inner in OUTER:
            return theirs + OUTER[inner]
        _, number, rest = inner.split(".", 2)
        module, _, tensor = rest.rpartition(".")
        return f"{theirs}encoder.layers.{number}.{INNER[module]}.{tensor}"

    return tensors.take_model(architecture, source, known)


def _linear(tensors: Tensors, place: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weight and bias of the linear layer whose tensors have the prefix `place`.

    In some layers of the detector Effort, the weight is the sum of two matrices, and the file holds
    the second matrix as three factors.
    """
    bias = tensors.take(f"{place}.bias")
    if f"{place}.weight" in tensors.left:
        return tensors.take(f"{place}.weight"), bias
    main, left, scale, right = (tensors.take(f"{place}.{name}") for name in FACTORS)
    # These are factors of the fixed matrix. Only the losses of the training use them.
    tensors.drop(*(f"{place}.{name}" for name in ("U_r", "S_r", "V_r")))
    return main + (left * scale) @ right, bias


def _spec(architecture: str, format: str, licence: str, interpolation: str) -> ModelSpec:
    return ModelSpec(
        architecture,
        input_size=224,
        mean=MEAN,
        std=STD,
        crop=CropRule(border="zeros", template=TEMPLATE),
        resize=ResizeRule(interpolation=interpolation),
        aggregation=Aggregation("mean_probability", "pooled", floor=FLOOR),
        training={"converted_from": format},
        licence=licence,
    )


register_format(
    Format("effort", "Effort: CLIP ViT-L/14 with trained residuals", recognises_effort, read_effort)
)
register_format(Format("gend", "GenD: CLIP ViT-L/14 on a sphere", recognises_gend, read_gend))
