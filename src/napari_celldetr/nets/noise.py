"""Noise on boxes: copies of a nucleus that are a little off, or too far off to be it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from napari_celldetr.core.errors import ConfigError

_LEAST_SCALE = 0.1
"""Negative noise never shrinks a side below this share: a box stays a box."""


@dataclass(frozen=True)
class BoxNoise:
    """How strongly boxes are disturbed (CellDETR, supplement A.2).

    Attributes
    ----------
    low, high : float
        Range of the noise ratio u, as a share of the box: 0.1 to 0.4 in the paper.
    outer : float or None
        Upper end of the ratio of negative copies, which starts at `high` (DINO, Zhang et al.
        2022: a box disturbed by more than λ1 = `high` and less than λ2 = `outer` is no object).
        None: twice `high`.
    grow : float
        Probability that a side grows instead of shrinking.
    """

    low: float = 0.1
    high: float = 0.4
    outer: float | None = None
    grow: float = 0.5

    def __post_init__(self) -> None:
        ordered = 0 <= self.low <= self.high < 1 and self.high <= self.far <= 2
        if not ordered or not 0 <= self.grow <= 1:
            raise ConfigError(
                "This box noise makes no sense.",
                expected="0 <= low <= high < 1, high <= outer <= 2, 0 <= grow <= 1",
                found=f"low {self.low}, high {self.high}, outer {self.outer}, grow {self.grow}",
                remedy="change the named settings; the paper uses low 0.1 and high 0.4",
            )

    @property
    def far(self) -> float:
        """Upper end of the ratio of negative copies."""
        return 2 * self.high if self.outer is None else self.outer


def noise_boxes(
    boxes: Tensor,
    noise: BoxNoise,
    generator: torch.Generator | None = None,
    *,
    negative: bool = False,
) -> Tensor:
    """Disturbed copies of boxes (CellDETR, supplement A.2, eqs. 5 and 6).

    Width and height are scaled by 1 ± u, the centre moves by ± u · (w, h) / 2, every u and sign
    drawn on its own. The centre stays inside the image and the box is clipped to it.

    Parameters
    ----------
    boxes : (…, 4)
        cx, cy, w, h in 0..1; NaN stays NaN.
    noise : BoxNoise
    generator : torch.Generator, optional
        On the boxes' device.
    negative : bool
        Ratios from ``high`` to ``far`` instead of ``low`` to ``high``: boxes that no longer show
        their nucleus.

    Returns
    -------
    (…, 4), of the boxes' dtype
    """
    low, high = (noise.high, noise.far) if negative else (noise.low, noise.high)
    ratio, coin = torch.rand(
        (2, *boxes.shape), generator=generator, device=boxes.device, dtype=boxes.dtype
    )
    even = coin.new_tensor([0.5, 0.5, noise.grow, noise.grow])
    shift = (low + (high - low) * ratio) * torch.where(coin < even, 1.0, -1.0)
    size = boxes[..., 2:] * (1 + shift[..., 2:]).clamp(min=_LEAST_SCALE)
    centre = (boxes[..., :2] + shift[..., :2] * boxes[..., 2:] / 2).clamp(0, 1)
    first, last = (centre - size / 2).clamp(0, 1), (centre + size / 2).clamp(0, 1)
    return torch.cat(((first + last) / 2, last - first), -1)
