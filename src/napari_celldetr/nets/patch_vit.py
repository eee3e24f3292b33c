"""PatchViT: a vision transformer that names the class of a patch, on a convolutional stem.

The two classifiers of multi-stage HER2 scoring (Oyelade et al. 2025, networks C and L) are plain
ViTs, and whether convolutions would help is the paper's first open question. On little data they
do: a trunk with ImageNet weights makes the tokens ("hybrid", Dosovitskiy et al. 2021), few
transformer layers let them see each other. Without a backbone it is the paper's plain ViT.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from napari_celldetr.nets.backbones import Backbone
from napari_celldetr.nets.net_settings import STRIDES, not_a_share, outside, refuse
from napari_celldetr.nets.transformer import sine_position
from napari_celldetr.nets.vit_layers import Block

_LIMITS = {
    "num_classes": (1, 1000),
    "stride": (2, 32),
    "patch": (32, 1024),
    "size": (8, 1024),
    "depth": (0, 24),
    "heads": (1, 32),
    "feed_forward": (8, 4096),
}


@dataclass(frozen=True)
class PatchViTConfig:
    """Everything that shapes the network.

    Attributes
    ----------
    num_classes : int
    backbone : str
        timm name of the convolutional stem; empty cuts the image into squares, as a plain ViT.
    fold_norm : bool
        Whether the stem's batch norm is folded into its convolutions.
    stride : int
        Side of the square that one token stands for, px. timm computes a stem to its coarsest
        level whatever is asked for, so that finer tokens cost more and use less of it.
    patch : int
        Side of a patch, px.
    size, depth, heads, feed_forward, dropout
        Transformer width and number of layers; 0 layers leave a convolutional network.
    """

    num_classes: int = 2
    backbone: str = "mobilenetv2_100"
    fold_norm: bool = True
    stride: int = 32
    patch: int = 224
    size: int = 192
    depth: int = 4
    heads: int = 3
    feed_forward: int = 384
    dropout: float = 0.1

    def __post_init__(self) -> None:
        wrong = outside(self, _LIMITS) + not_a_share(self, "dropout")
        if not isinstance(self.backbone, str) or not isinstance(self.fold_norm, bool):
            wrong.append("backbone or fold_norm of the wrong type")
        if not wrong and self.stride not in STRIDES:
            wrong.append(f"stride {self.stride} (a power of 2)")
        if not wrong and self.patch % self.stride:
            wrong.append(f"patch {self.patch} is not a multiple of stride {self.stride}")
        if not wrong and (self.size % self.heads or self.size % 4):
            wrong.append(f"size {self.size} is not a multiple of 4 and of {self.heads} heads")
        refuse("PatchViT", wrong)


class PatchViT(nn.Module):
    """Stem → tokens with a place → transformer layers → mean → class logits.

    Parameters
    ----------
    config : PatchViTConfig
    backbone_weights : path, optional
        Local ImageNet (or other) weights for the stem.
    """

    def __init__(
        self, config: PatchViTConfig, *, backbone_weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone: Backbone | SquareStem
        if config.backbone:
            self.backbone = Backbone(
                config.backbone, (config.stride,), fold=config.fold_norm, weights=backbone_weights
            )
        else:
            self.backbone = SquareStem(config.stride, config.size)
        self.embed = nn.Linear(self.backbone.channels[0], config.size)
        self.blocks = nn.ModuleList(
            Block(config.size, config.heads, config.feed_forward, dropout=config.dropout)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.size)
        self.classify = nn.Linear(config.size, config.num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised patches (B, 3, P, P) -> class logits (B, K), float32.

        The mean over tokens stands for the patch: no class token has to be learned.
        """
        (features,) = self.backbone(image)
        height, width = features.shape[-2:]
        x = self.embed(features.flatten(2).transpose(1, 2))
        x = x + grid_position(height, width, self.config.size, like=x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classify(self.norm(x).mean(1)).float()
        return logits


class SquareStem(nn.Module):
    """The stem of a plain ViT: one linear map per square of `stride` px."""

    def __init__(self, stride: int, size: int) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (size,)
        self.cut = nn.Conv2d(3, size, stride, stride=stride)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised image (B, 3, H, W) -> features (B, C, H / s, W / s)."""
        return [self.cut(image)]


def grid_position(height: int, width: int, size: int, *, like: Tensor) -> Tensor:
    """Sine encoding (1, height · width, size) of a grid's places, of the type of `like`."""
    y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
    cy, cx = torch.meshgrid(y, x, indexing="ij")
    places = torch.stack((cx, cy), -1).flatten(0, 1)
    return sine_position(places, size)[None].to(like.dtype)
