"""Residual adapters: small layers that change what a trained network sees, and begin as nothing.

A 1×1 bottleneck whose last layer starts at zero is added to what comes in (Houlsby et al., ICML
2019; Rebuffi et al., NeurIPS 2017), so a network with fresh adapters gives what it gave without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """Features (B, C, H, W) plus what a bottleneck of `inner` channels makes of them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, inner, 1)
        self.up = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """The features, changed."""
        change: Tensor = self.up(F.relu(self.down(features)))
        return features + change


def adapters(channels: Sequence[int], inner: int) -> nn.ModuleList:
    """One `Adapter` for each of the levels' channels; none where `inner` is 0."""
    return nn.ModuleList(Adapter(c, inner) for c in channels if inner)
