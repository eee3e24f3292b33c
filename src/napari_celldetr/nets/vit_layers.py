"""Plain attention and the pre-norm layers of vision transformers made of it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention of queries over tokens (Vaswani et al. 2017).

    Keys and values are given already projected, see `project`, so that many sets of queries
    can share them.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key_value = nn.Linear(size, 2 * size)
        self.out = nn.Linear(size, size)

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (B, S, C) -> keys and values (B, S, 2C)."""
        projected: Tensor = self.key_value(tokens)
        return projected

    def forward(self, queries: Tensor, projected: Tensor) -> Tensor:
        """Queries (B, Q, C) over keys and values (B, S, 2C) -> (B, Q, C)."""
        key, value = projected.chunk(2, -1)
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(queries)), self._split(key), self._split(value)
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm layer of a ViT: self-attention, cross-attention where asked for, two-layer net.

    Dosovitskiy et al. 2021; the cross-attention is that of a transformer decoder.
    """

    def __init__(
        self, size: int, heads: int, feed_forward: int, *, dropout: float = 0.0, cross: bool = False
    ) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(size) if cross else None
        self.cross = Attention(size, heads) if cross else None
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.feed_norm = nn.LayerNorm(size)
        self.wide = nn.Linear(size, feed_forward)
        self.narrow = nn.Linear(feed_forward, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """(B, Q, C), and memory as ``cross.project`` gives it, (B, S, 2C) -> (B, Q, C)."""
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            x = x + self.dropout(self.cross(self.cross_norm(x), memory))
        own = self.norm(x)
        x = x + self.dropout(self.attention(own, self.attention.project(own)))
        inner = self.dropout(F.gelu(self.wide(self.feed_norm(x))))
        out: Tensor = x + self.dropout(self.narrow(inner))
        return out
