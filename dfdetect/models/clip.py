"""CLIP's image encoder ViT-L/14 (Radford et al., ICML 2021), with features of Euclidean norm 1.

timm's model `vit_large_patch14_clip_quickgelu_224` is this encoder with a linear layer. The model
here scales the features to norm 1 before the linear layer, as GenD does (Yermakov et al. 2025).
"""

from typing import Any

import timm
import torch
from torch import nn
from torch.nn.functional import normalize

from dfdetect.models.registry import register_model
from dfdetect.models.timm_models import HEAD_STD

ENCODER = "vit_large_patch14_clip_quickgelu_224"


@register_model("clip_large_normalised")
class NormalisedCLIP(nn.Module):
    """CLIP ViT-L/14 whose features are scaled to norm 1, followed by a linear layer.

    Args:
        drop_rate: Dropout before the linear layer, 0 to 1.
        drop_path_rate: Rate of stochastic depth (Huang et al. 2016), 0 to 1.
    """

    encoder: Any

    def __init__(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0):
        super().__init__()
        self.encoder = timm.create_model(
            ENCODER, pretrained=False, num_classes=0, drop_path_rate=drop_path_rate
        )
        self.dropout = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.encoder.num_features, 1)
        nn.init.normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (batch, 1) of normalised images (batch, 3, 224, 224)."""
        return self.head(self.dropout(normalize(self.encoder(images), dim=1)))

    def get_classifier(self) -> nn.Module:
        """Return the last layer, like the method of the same name in timm's models."""
        return self.head
