"""What of a warped picture is seen: all of it, one side of a seam, the fields of a chequerboard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SEAM_COLOR = (255, 212, 0, 255)

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


class Mask(Protocol):
    """What of the picture is left out when it is handed out."""

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear pixels (h, w, 4) in place; `x` (w,) and `y` (h,) are level-0 px of the target."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything is shown."""

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Nothing is cleared."""


@dataclass(frozen=True, slots=True)
class Swipe:
    """Shown left of a seam at `at` level-0 px, which is drawn `width` px wide."""

    at: float
    width: float = 1.0

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear what is right of the seam."""
        rgba[:, x > self.at, 3] = 0
        rgba[:, np.abs(x - self.at) <= self.width / 2] = SEAM_COLOR


@dataclass(frozen=True, slots=True)
class Checker:
    """Shown in every other field of a chequerboard; `side` (x, y) is a field's in level-0 px."""

    side: tuple[float, float]

    def cut(self, rgba: Bytes, x: Floats, y: Floats) -> None:
        """Clear every other field."""
        column = np.floor(x / self.side[0]).astype(np.int64)
        row = np.floor(y / self.side[1]).astype(np.int64)
        rgba[..., 3][(row[:, None] + column[None, :]) % 2 == 1] = 0


WHOLE = Whole()
