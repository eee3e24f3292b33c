"""Multi-scale deformable attention: one function, several backends, and its box-constrained form.

Every query looks at a few points on each feature level, where it decides itself to look
(Zhu et al., Deformable DETR, eq. 3). CellDETR's representation decoder keeps those points
inside the cell's box (CellDETR, eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes: TypeAlias = Sequence[tuple[int, int]]
Backend: TypeAlias = Literal["embedding_bag", "grid_sample", "compiled"]
BACKENDS: tuple[Backend, ...] = ("embedding_bag", "grid_sample", "compiled")


def deformable_attention(
    value: Tensor,
    shapes: Shapes,
    locations: Tensor,
    weights: Tensor,
    *,
    backend: Backend = "embedding_bag",
) -> Tensor:
    """Weighted sum of bilinear samples of all levels.

    Parameters
    ----------
    value : (B, S, M, D)
        Features of all levels, flattened and concatenated (S = Σ H·W), for M heads.
    shapes : (H, W) of every level
    locations : (B, Q, M, L, P, 2)
        Sampling points as x, y in 0..1 of each level (pixel i spans i..i+1); points outside
        read as 0.
    weights : (B, Q, M, L, P)
        Attention weights.
    backend : str
        ``grid_sample`` is the reference; ``embedding_bag`` gathers all bilinear taps at once
        and is several times faster on a CPU; ``compiled`` fuses its index arithmetic with
        ``torch.compile`` (first call takes seconds, and needs a C++ compiler).

    Returns
    -------
    (B, Q, M·D)
    """
    if backend == "grid_sample":
        return _by_grid_sample(value, shapes, locations, weights)
    taps = _compiled_taps() if backend == "compiled" else _taps
    return _by_embedding_bag(value, shapes, locations, weights, taps)


def _by_grid_sample(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, size = value.shape
    queries = locations.shape[1]
    parts = value.split([h * w for h, w in shapes], dim=1)
    sampled = []
    for level, (height, width) in enumerate(shapes):
        grid = parts[level].permute(0, 2, 3, 1).reshape(batch * heads, size, height, width)
        where = locations[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1
        sampled.append(
            F.grid_sample(grid, where, mode="bilinear", padding_mode="zeros", align_corners=False)
        )
    points = torch.stack(sampled, dim=-2).flatten(-2)  # (B·M, D, Q, L·P)
    mix = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    return (points * mix).sum(-1).view(batch, heads * size, queries).transpose(1, 2)


def _taps(locations: Tensor, weights: Tensor, sizes: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
    # Index into S and weight of the four neighbours of every sampling point.
    # locations (B, Q, M, L, P, 2); sizes (L, 1, 2) as W, H; starts (L, 1).
    at = locations * sizes - 0.5
    low = at.floor()
    frac = at - low
    wide, tall = sizes[..., 0], sizes[..., 1]
    fx, fy = frac.unbind(-1)
    x0, y0 = low.unbind(-1)
    x1, y1 = x0 + 1, y0 + 1
    # A tap outside its level keeps a legal index and loses its weight.
    wx0 = (1 - fx) * ((x0 >= 0) & (x0 < wide))
    wx1 = fx * ((x1 >= 0) & (x1 < wide))
    wy0 = (1 - fy) * ((y0 >= 0) & (y0 < tall)) * weights
    wy1 = fy * ((y1 >= 0) & (y1 < tall)) * weights
    zero = torch.zeros_like(wide)
    cx0 = torch.minimum(torch.maximum(x0, zero), wide - 1)
    cx1 = torch.minimum(torch.maximum(x1, zero), wide - 1)
    row0 = torch.minimum(torch.maximum(y0, zero), tall - 1) * wide + starts
    row1 = torch.minimum(torch.maximum(y1, zero), tall - 1) * wide + starts
    index = torch.stack((row0 + cx0, row0 + cx1, row1 + cx0, row1 + cx1), dim=-1)
    mix = torch.stack((wx0 * wy0, wx1 * wy0, wx0 * wy1, wx1 * wy1), dim=-1)
    return index, mix


@cache
def _compiled_taps() -> object:
    return torch.compile(_taps, dynamic=True)


def _by_embedding_bag(
    value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor, taps: object
) -> Tensor:
    batch, total, heads, size = value.shape
    queries = locations.shape[1]
    if queries == 0:
        return value.new_zeros(batch, 0, heads * size)
    # Index arithmetic in floats is exact up to 2**24 tokens in float32: far beyond any tile.
    sizes = locations.new_tensor([[[w, h]] for h, w in shapes])
    areas = [h * w for h, w in shapes]
    starts = locations.new_tensor([[sum(areas[:i])] for i in range(len(areas))])
    index, mix = taps(locations, weights, sizes, starts)  # type: ignore[operator]
    # Row of token s of image b and head m in the (B·S·M, D) table.
    base = torch.arange(batch, device=value.device).view(batch, 1, 1, 1) * total
    head = torch.arange(heads, device=value.device).view(1, 1, heads, 1)
    rows = (index.to(torch.int64).flatten(3) + base) * heads + head
    table = value.reshape(batch * total * heads, size)
    bags = batch * queries * heads
    out = F.embedding_bag(
        rows.view(bags, -1),
        table,
        mode="sum",
        per_sample_weights=mix.reshape(bags, -1).to(table.dtype),
    )
    return out.view(batch, queries, heads * size)


class DeformableAttention(nn.Module):
    """Deformable attention of queries over a pyramid of features.

    Parameters
    ----------
    size, heads, levels, points : int
        Width of queries and features, and the number of heads, levels and points per level.
    box_constrained : bool
        Keep every sampling point inside the query's box:
        centre + ½ · tanh(offset) ⊙ (w, h)  (CellDETR, eq. 4). Without it, references that are
        boxes give centre + offset / points · ½ (w, h), and references that are points give
        centre + offset / (W, H) of each level, both as in Deformable DETR.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        levels: int,
        points: int,
        *,
        box_constrained: bool = False,
        backend: Backend = "embedding_bag",
    ) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.box_constrained = box_constrained
        self.backend: Backend = backend
        self.offsets = nn.Linear(size, heads * levels * points * 2)
        self.weights = nn.Linear(size, heads * levels * points)
        self.value = nn.Linear(size, size)
        self.out = nn.Linear(size, size)
        self._start()

    def _start(self) -> None:
        # Heads look in different directions, points at growing distance, as in Deformable DETR.
        angle = torch.arange(self.heads) * (2 * torch.pi / self.heads)
        ray = torch.stack((angle.cos(), angle.sin()), -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        start = ray.view(self.heads, 1, 1, 2).repeat(1, self.levels, self.points, 1) * steps
        if self.box_constrained:
            # tanh would push far points onto the border: spread them inside instead.
            start = torch.atanh(start / (self.points + 1))
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(start.flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def project(self, memory: Tensor) -> Tensor:
        """Features (B, S, C) as values (B, S, M, C/M); computed once for all queries."""
        return self.value(memory).unflatten(-1, (self.heads, -1))

    def forward(self, query: Tensor, references: Tensor, value: Tensor, shapes: Shapes) -> Tensor:
        """Attend.

        Parameters
        ----------
        query : (B, Q, C)
        references : (B, Q, 4) or (B, Q, 2)
            cx, cy, w, h (or only cx, cy) in 0..1 of the image; the same for every level, head
            and point.
        value : (B, S, M, D)
            From `project`.
        shapes : (H, W) per level

        Returns
        -------
        (B, Q, C)
        """
        batch, queries, _ = query.shape
        grid = (batch, queries, self.heads, self.levels, self.points)
        offsets = self.offsets(query).view(*grid, 2)
        weights = self.weights(query).view(*grid[:3], -1).softmax(-1).view(grid)
        centre = references[:, :, None, None, None, :2]
        if references.shape[-1] == 2:
            sides = references.new_tensor([[w, h] for h, w in shapes])
            locations = centre + offsets / sides[:, None]
        else:
            size = references[:, :, None, None, None, 2:]
            reach = offsets.tanh() if self.box_constrained else offsets / self.points
            locations = centre + 0.5 * reach * size
        mixed = deformable_attention(
            value, shapes, locations.to(value.dtype), weights, backend=self.backend
        )
        return self.out(mixed)
