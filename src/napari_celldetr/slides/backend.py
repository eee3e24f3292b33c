"""What one file format has to give: sizes, a few allowed facts, and pixels of its levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.pixels import WHITE, Rgb


@dataclass(frozen=True, slots=True)
class Facts:
    """The allow-list: everything of a file's metadata that leaves its backend.

    Parameters
    ----------
    level_sizes : tuple of (w, h)
        Real levels, largest first.
    mpp : (x, y) or None
        µm per level-0 pixel as the file claims it, not yet judged.
    mpp_source : str
        Where that claim stands: ``openslide``, ``ome-xml``, ``tiff tag``, …
    objective : float or None
        Objective magnification.
    background : (r, g, b)
        Colour of what was never scanned.
    bounds : Region or None
        The scanned part when it is less than the whole frame.
    identity : str
        The format's own hash of the slide where the file alone does not identify it.
    """

    level_sizes: tuple[tuple[int, int], ...]
    mpp: tuple[float, float] | None = None
    mpp_source: str = "missing"
    objective: float | None = None
    background: Rgb = WHITE
    bounds: Region | None = None
    identity: str = ""
    warnings: tuple[str, ...] = ()


class Backend(Protocol):
    """An open file of one format. Safe to read from many threads."""

    @property
    def facts(self) -> Facts:
        """What the file says about itself."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        ...

    def close(self) -> None:
        """Give descriptors and memory back."""
        ...
