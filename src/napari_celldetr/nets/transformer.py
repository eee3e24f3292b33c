"""Encoder and decoder layers of CellDETR, and the encodings of position they use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from napari_celldetr.nets.attention import Backend, DeformableAttention, Shapes


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What all layers share: width, heads, levels, points, feed-forward width, dropout."""

    size: int
    heads: int
    levels: int
    points: int
    feed_forward: int
    dropout: float
    backend: Backend = "embedding_bag"


class FeedForward(nn.Module):
    """Two linear layers with a residual connection and layer norm after it."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.wide = nn.Linear(config.size, config.feed_forward)
        self.narrow = nn.Linear(config.feed_forward, config.size)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.size)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        inner = self.dropout(torch.relu(self.wide(x)))
        out: Tensor = self.norm(x + self.dropout(self.narrow(inner)))
        return out


class EncoderLayer(nn.Module):
    """Every token of the pyramid looks at a few points of every level."""

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(
            config.size, config.heads, config.levels, config.points, backend=config.backend
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.size)
        self.feed_forward = FeedForward(config)

    def forward(self, memory: Tensor, position: Tensor, boxes: Tensor, shapes: Shapes) -> Tensor:
        """Tokens (B, S, C), positions (B, S, C), their grid cells (1, S, 4) -> (B, S, C)."""
        value = self.attention.project(memory)
        centres = boxes[..., :2].expand(len(memory), -1, -1)
        mixed = self.attention(memory + position, centres, value, shapes)
        out: Tensor = self.feed_forward(self.norm(memory + self.dropout(mixed)))
        return out


class DecoderLayer(nn.Module):
    """Queries look at each other (optional), then at the features around their box.

    With `box_constrained` and without self-attention this is CellDETR's representation layer.
    """

    def __init__(
        self, config: LayerConfig, *, self_attention: bool, box_constrained: bool = False
    ) -> None:
        super().__init__()
        self.self_attention: nn.MultiheadAttention | None = None
        if self_attention:
            self.self_attention = nn.MultiheadAttention(
                config.size, config.heads, dropout=config.dropout, batch_first=True
            )
            self.self_norm = nn.LayerNorm(config.size)
        self.cross = DeformableAttention(
            config.size,
            config.heads,
            config.levels,
            config.points,
            box_constrained=box_constrained,
            backend=config.backend,
        )
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.size)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        query: Tensor,
        position: Tensor | None,
        references: Tensor,
        value: Tensor,
        shapes: Shapes,
        *,
        padding: Tensor | None = None,
        mask: Tensor | None = None,
        placed: bool = True,
    ) -> Tensor:
        """One round of decoding.

        Parameters
        ----------
        query, position : (B, Q, C)
            Content and (optional) positional part of the queries.
        references : (B, Q, 4) or (B, Q, 2)
            cx, cy, w, h (or only cx, cy) in 0..1.
        value : (B, S, M, D)
            From ``cross.project(memory)``.
        padding : (B, Q) bool, optional
            True where a slot holds no cell: nobody attends to it.
        mask : (Q, Q) or (B·M, Q, Q) bool, optional
            True where attention between queries is forbidden.
        placed : bool
            Whether self-attention knows the queries' positions.

        Returns
        -------
        (B, Q, C)
        """
        if self.self_attention is not None:
            own = query if position is None or not placed else query + position
            mixed, _ = self.self_attention(
                own,
                own,
                query,
                key_padding_mask=padding,
                attn_mask=mask,
                need_weights=False,
            )
            query = self.self_norm(query + self.dropout(mixed))
        own = query if position is None else query + position
        mixed = self.cross(own, references, value, shapes)
        out: Tensor = self.feed_forward(self.norm(query + self.dropout(mixed)))
        return out


def sine_position(xy: Tensor, size: int, *, temperature: float = 10_000.0) -> Tensor:
    """Sine encoding of coordinates (…, 2) in 0..1 -> (…, size), half for y and half for x."""
    half = size // 2
    steps = torch.arange(half, device=xy.device, dtype=xy.dtype)
    wave = temperature ** (2 * torch.div(steps, 2, rounding_mode="floor") / half)
    angle = xy[..., None] * 2 * math.pi / wave
    parts = torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2)
    return torch.cat((parts[..., 1, :], parts[..., 0, :]), -1)


def token_boxes(shapes: Shapes, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Grid cell of every token as cx, cy, w, h in 0..1, (1, S, 4)."""
    boxes = []
    for height, width in shapes:
        y = (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=dtype) + 0.5) / width
        cy, cx = torch.meshgrid(y, x, indexing="ij")
        side = torch.ones_like(cx)
        boxes.append(torch.stack((cx, cy, side / width, side / height), -1).flatten(0, 1))
    return torch.cat(boxes)[None]
