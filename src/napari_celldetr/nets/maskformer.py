"""MaskFormer: classes of pixels by masks that are classified, not by pixels that are.

Backbone → **pixel decoder** (a feature pyramid) → one embedding per pixel; **transformer decoder**
→ N queries, each with a class and a mask embedding; mask = σ(query · pixel), and the classes of a
pixel are Σ over queries of p(class) · mask (Cheng et al. 2021, sections 3.3 and 3.4). It is network
M of multi-stage HER2 scoring (Oyelade et al. 2025).

Queries see `MaskFormerConfig.window` px of the image: all of a training crop. A larger tile is
decoded in cells of half a window, each from the window around it, over features that all share;
so a pixel does not depend on what lies far away, and a slide's tiles agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr.nets.backbones import Backbone, FeaturePyramid
from napari_celldetr.nets.net_settings import STRIDES, not_a_share, outside, refuse
from napari_celldetr.nets.vit_layers import Block

COARSEST = 32
"""Stride that the pyramid comes down from; sides of images are multiples of it."""
FADE_PX = 32
"""Width of the strip over which the results of neighbouring cells pass into each other."""

_LIMITS = {
    "num_classes": (1, 1000),
    "pyramid_size": (4, 1024),
    "mask_stride": (1, 32),
    "size": (4, 1024),
    "heads": (1, 64),
    "feed_forward": (4, 8192),
    "layers": (1, 24),
    "queries": (1, 1000),
    "window": (128, 4096),
}


@dataclass(frozen=True)
class MaskFormerConfig:
    """Everything that shapes the network.

    Attributes
    ----------
    num_classes : int
        Background counts as one; "no mask" does not.
    backbone, fold_norm
        timm name; whether batch norm is folded into convolutions.
    pyramid_size : int
        Channels of the pixel decoder.
    mask_stride : int
        Side of a pixel of the masks, px: 2, 4 or 8.
    memory_strides : tuple of int
        Level that each decoder layer looks at, in turn (Mask2Former); all of them 32 is
        MaskFormer's own.
    size, heads, feed_forward, dropout, layers
        Transformer decoder.
    queries : int
        Masks at most.
    window : int
        What the queries see, px; a multiple of 128, so that windows of cells begin at tokens.
    """

    num_classes: int = 5
    backbone: str = "mobilenetv2_100"
    fold_norm: bool = True
    pyramid_size: int = 48
    mask_stride: int = 2
    memory_strides: tuple[int, ...] = (32, 16, 8)
    size: int = 128
    heads: int = 4
    feed_forward: int = 256
    dropout: float = 0.0
    layers: int = 3
    queries: int = 12
    window: int = 256

    def __post_init__(self) -> None:
        wrong = outside(self, _LIMITS) + not_a_share(self, "dropout")
        if not isinstance(self.backbone, str) or not isinstance(self.fold_norm, bool):
            wrong.append("backbone or fold_norm of the wrong type")
        given = self.memory_strides
        if not isinstance(given, list | tuple) or not given or len(given) > 24:
            wrong.append(f"memory_strides = {given!r:.80}")
        refuse("MaskFormer", wrong)
        object.__setattr__(self, "memory_strides", tuple(given))
        if self.mask_stride not in (2, 4, 8):
            wrong.append(f"mask_stride {self.mask_stride} (2, 4 or 8)")
        known = [s for s in STRIDES if s >= self.mask_stride]
        wrong += [f"memory stride {s!r:.20}" for s in self.memory_strides if s not in known]
        if self.window % (4 * COARSEST):
            wrong.append(f"window {self.window} is not a multiple of {4 * COARSEST}")
        if self.size % self.heads:
            wrong.append(f"size {self.size} is not a multiple of {self.heads} heads")
        refuse("MaskFormer", wrong)

    @property
    def lattice(self) -> int:
        """Side of a cell, px: what is decoded from one window of a large tile."""
        return self.window // 2


@dataclass(frozen=True)
class PixelFeatures:
    """What an image is to the decoder.

    `pixels` (B, C, H / s, W / s); `memory` has keys and values (B, 2D, H / t, W / t) per decoder
    layer, of stride t each.
    """

    pixels: Tensor
    memory: list[Tensor]


@dataclass(frozen=True)
class Masks:
    """The decoder's word before its first layer and after each.

    `classes` hold logits (B, Q, K + 1), the last for "no mask"; `masks` logits (B, Q, h, w).
    """

    classes: list[Tensor]
    masks: list[Tensor]


class MaskFormer(nn.Module):
    """The network. See `MaskFormerConfig` for its settings.

    Parameters
    ----------
    config : MaskFormerConfig
    backbone_weights : path, optional
        Local ImageNet (or other) weights for the backbone.
    """

    def __init__(
        self, config: MaskFormerConfig, *, backbone_weights: str | Path | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.strides = tuple(s for s in STRIDES if config.mask_stride <= s <= COARSEST)
        self.backbone = Backbone(
            config.backbone, self.strides, fold=config.fold_norm, weights=backbone_weights
        )
        self.pyramid = FeaturePyramid(self.backbone.channels, config.pyramid_size)
        # No encoding of places: what a stain is does not depend on where in a window it lies.
        self.memory_in = nn.ModuleList(
            nn.Conv2d(config.pyramid_size, config.size, 1) for _ in range(config.layers)
        )
        self.queries = nn.Parameter(torch.randn(config.queries, config.size) * 0.1)
        self.blocks = nn.ModuleList(
            Block(
                config.size, config.heads, config.feed_forward, dropout=config.dropout, cross=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.size)
        self.classify = nn.Linear(config.size, config.num_classes + 1)
        self.mask_head = nn.Sequential(
            nn.Linear(config.size, config.size),
            nn.ReLU(inplace=True),
            nn.Linear(config.size, config.pyramid_size + 1),
        )

    def encode(self, image: Tensor) -> PixelFeatures:
        """Normalised image (B, 3, H, W), sides multiples of 32 -> features."""
        levels = self.pyramid(self.backbone(image))
        memory = []
        for i, (enter, block) in enumerate(zip(self.memory_in, self.blocks, strict=True)):
            stride = self.config.memory_strides[i % len(self.config.memory_strides)]
            entered = enter(levels[self.strides.index(stride)]).permute(0, 2, 3, 1)
            cross = cast(Block, block).cross
            assert cross is not None
            memory.append(cross.project(entered).permute(0, 3, 1, 2))
        # A linear map of the pixels, as the paper has it, would only turn the mask embeddings.
        return PixelFeatures(levels[0], memory)

    def decode(self, memory: list[Tensor], *, every: bool = True) -> list[tuple[Tensor, Tensor]]:
        """Memory of windows (B, 2D, h, w) per layer -> class logits and mask embeddings.

        (B, Q, K + 1) and (B, Q, C + 1), before the first layer and after each; after the last
        alone where not `every`.
        """
        x = self.queries.expand(len(memory[0]), -1, -1)
        said = [self._say(x)] if every else []
        for i, (block, seen) in enumerate(zip(self.blocks, memory, strict=True)):
            x = block(x, seen.flatten(2).transpose(1, 2))
            if every or i == len(memory) - 1:
                said.append(self._say(x))
        return said

    def _say(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        return self.classify(x).float(), self.mask_head(x).float()

    def forward(self, image: Tensor) -> Masks:
        """Normalised image (B, 3, H, W), seen as one window -> masks for the losses."""
        features = self.encode(image)
        said = self.decode(features.memory)
        with torch.autocast(image.device.type, enabled=False):
            pixels = features.pixels.float()
            return Masks([c for c, _ in said], [mask_logits(e, pixels) for _, e in said])

    def semantic(self, image: Tensor) -> Tensor:
        """Normalised image (B, 3, H, W), sides multiples of 32 -> shares (B, K, H, W) float32.

        They add up to 1 in every pixel. The image is decoded cell by cell, cells counted from the
        upper left corner, each from the window around it; one of a window's size is one window.
        """
        height, width = image.shape[-2:]
        features = self.encode(image)
        with torch.autocast(image.device.type, enabled=False):
            shares = self._by_cells(features, height, width)
            shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
            return F.interpolate(shares, size=(height, width), mode="bilinear")

    def _by_cells(self, features: PixelFeatures, height: int, width: int) -> Tensor:
        rows = [_Cell.of(i, height, self.config) for i in range(-(-height // self.config.lattice))]
        columns = [_Cell.of(i, width, self.config) for i in range(-(-width // self.config.lattice))]
        step, pixels = self.config.mask_stride, features.pixels.float().permute(0, 2, 3, 1)
        total = pixels.new_zeros(*pixels.shape[:3], self.config.num_classes)
        for row in rows:
            classes, embeddings = self._decode_row(features.memory, row, columns)
            for j, column in enumerate(columns):
                y, x = row.drawn(step), column.drawn(step)
                weight = row.weight(step, pixels)[:, None] * column.weight(step, pixels)
                shares = _semantic_last(classes[j], embeddings[j], pixels[:, y, x])
                total[:, y, x] += shares * weight[..., None]
        return total.permute(0, 3, 1, 2)

    def _decode_row(
        self, memory: list[Tensor], row: _Cell, columns: list[_Cell]
    ) -> tuple[Tensor, Tensor]:
        # Class logits (columns, B, Q, K + 1) and mask embeddings (columns, B, Q, C + 1).
        seen, batch = [], len(memory[0])
        for i, level in enumerate(memory):
            stride = self.config.memory_strides[i % len(self.config.memory_strides)]
            y = row.seen(stride)
            parts = [level[..., y, column.seen(stride)] for column in columns]
            seen.append(torch.cat(parts).float())
        classes, embeddings = self.decode(seen, every=False)[0]
        count = len(columns)
        return (
            classes.view(count, batch, *classes.shape[1:]),
            embeddings.view(count, batch, *embeddings.shape[1:]),
        )


@dataclass(frozen=True)
class _Cell:
    """One side of a cell of a large tile, px: `start` to `stop`, the window it is seen in, length.

    Windows lie in the tile as a whole, so that all have the same size.
    """

    start: int
    stop: int
    window: int
    length: int
    span: int

    @classmethod
    def of(cls, index: int, length: int, config: MaskFormerConfig) -> _Cell:
        start = index * config.lattice
        span = min(config.window, length)
        corner = min(max(start - config.lattice // 2, 0), length - span)
        # Tokens of the coarsest level begin at multiples of their stride.
        corner -= corner % COARSEST
        return cls(start, min(start + config.lattice, length), corner, length, span)

    def seen(self, stride: int) -> slice:
        return slice(self.window // stride, (self.window + self.span) // stride)

    def drawn(self, stride: int) -> slice:
        low = max(self.start - FADE_PX // 2, 0)
        high = min(self.stop + FADE_PX // 2, self.length)
        return slice(low // stride, high // stride)

    def weight(self, stride: int, like: Tensor) -> Tensor:
        # Rises over a strip around the start and falls over one around the end; 1 in between.
        # Those of neighbours add up to 1.
        drawn = self.drawn(stride)
        place = (torch.arange(drawn.start, drawn.stop, device=like.device) + 0.5) * stride
        rise, fall = (place - self.start) / FADE_PX + 0.5, (self.stop - place) / FADE_PX + 0.5
        if self.start == 0:
            rise = torch.ones_like(rise)
        if self.stop == self.length:
            fall = torch.ones_like(fall)
        return torch.minimum(rise, fall).clamp(0, 1)


def mask_logits(embeddings: Tensor, pixels: Tensor) -> Tensor:
    """Embeddings (B, Q, C + 1), the last a bias, of pixels (B, C, h, w) -> (B, Q, h, w)."""
    logits: Tensor = torch.einsum("bqc,bchw->bqhw", embeddings[..., :-1], pixels)
    # The scale of a dot product: masks must not begin sure of themselves.
    scale: float = pixels.shape[1] ** -0.5
    return logits * scale + embeddings[..., -1, None, None]


def semantic(classes: Tensor, masks: Tensor) -> Tensor:
    """Σ over queries of p(class) · mask: (B, Q, K + 1) and logits (B, Q, h, w) -> (B, K, h, w).

    Cheng et al. 2021, section 3.4; "no mask" has no say.
    """
    p = classes.softmax(-1)[..., :-1]
    shares: Tensor = torch.einsum("bqk,bqhw->bkhw", p, masks.sigmoid())
    return shares


def _semantic_last(classes: Tensor, embeddings: Tensor, pixels: Tensor) -> Tensor:
    # `semantic` of `mask_logits`, for pixels (B, h, w, C) as they lie in memory -> (B, h, w, K).
    scale = pixels.shape[-1] ** -0.5
    weight, bias = embeddings[..., :-1] * scale, embeddings[..., -1]
    masks = torch.baddbmm(bias[:, None], pixels.flatten(1, 2), weight.transpose(1, 2)).sigmoid_()
    shares = masks @ classes.softmax(-1)[..., :-1]
    return shares.view(*pixels.shape[:3], -1)
