"""Where a layer's pixels come from: its slide file, or the arrays it shows."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_celldetr.gui.layers import MPP_KEY, SLIDE_KEY
from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.pixels import to_rgb
from napari_celldetr.slides.slide import Slide

VIEW_KEY = "celldetr_view_of"
"""In the metadata of a layer that shows another slide's pixels: no slide of its own."""
HASHED_BYTES = 256 * 2**20
"""Arrays up to this size are hashed whole, so that the same pixels are known again."""


def is_slide_layer(layer: Any) -> bool:
    """Whether cells can be looked for in a layer: a flat RGB image that is no view of another."""
    is_picture = isinstance(layer, Image) and bool(layer.rgb) and layer.ndim == 2
    return is_picture and VIEW_KEY not in layer.metadata


def levels_of(layer: Any) -> list[Any]:
    """The layer's arrays (H, W, 3 or 4), finest first."""
    return list(layer.data) if layer.multiscale else [layer.data]


def source_of_layer(layer: Any, *, mpp: tuple[float, float] | None) -> Any:
    """How a job gets at the pixels of a layer; `mpp` is what the layer's scale says, in µm/px."""
    levels = levels_of(layer)
    size = (int(levels[0].shape[1]), int(levels[0].shape[0]))
    path = layer.metadata.get(SLIDE_KEY)
    if path is None or not Path(path).exists():
        return LayerSource(layer.name, tuple(levels), size, mpp)
    # What the file says is left to the file; a pixel size the user gave replaces it.
    said = layer.metadata.get(MPP_KEY)
    given = None if mpp is None or mpp == said else math.sqrt(mpp[0] * mpp[1])
    return FileSource(Path(path), size, given)


@dataclass(frozen=True)
class FileSource:
    """A slide file; opened anew for each run, so a run never depends on the layer."""

    path: Path
    size: tuple[int, int]
    mpp: float | None = None

    def open(self) -> Slide:
        """The open slide; `SlideError` when it cannot be opened."""
        from napari_celldetr.slides.readers import open_slide

        # It was probed when the viewer opened it.
        return open_slide(self.path, mpp=self.mpp, probe=False)


@dataclass(frozen=True)
class LayerSource:
    """The arrays of a layer that has no slide file."""

    name: str
    levels: Sequence[Any]
    size: tuple[int, int]
    mpp: tuple[float, float] | None

    def open(self) -> Slide:
        """The arrays as a slide."""
        return ArraySlide(self.name, self.levels, self.mpp)


class ArrayBackend:
    """What the slide reader needs of arrays (H, W, 3 or 4), finest first."""

    def __init__(self, levels: Sequence[Any], mpp: tuple[float, float] | None) -> None:
        self._levels = levels
        sizes = tuple((int(a.shape[1]), int(a.shape[0])) for a in levels)
        self.facts = Facts(sizes, mpp=mpp, mpp_source="layer" if mpp else "missing")

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level."""
        return to_rgb(np.asarray(self._levels[level][y : y + height, x : x + width]))

    def close(self) -> None:
        """Nothing is held."""


class ArraySlide(Slide):
    """A slide that is not a file."""

    def __init__(self, name: str, levels: Sequence[Any], mpp: tuple[float, float] | None) -> None:
        super().__init__(Path(name), ArrayBackend(levels, mpp))
        self._levels = levels
        self._hash = self._pixels_hash = ""

    def pixels_identity(self) -> str:
        """sha256 of the pixels alone, whatever size they are said to have."""
        if not self._pixels_hash:
            full = self._levels[0]
            sha = hashlib.sha256(repr((full.shape, str(full.dtype))).encode())
            if full.nbytes <= HASHED_BYTES:
                sha.update(np.ascontiguousarray(full).tobytes())
            else:
                sha.update(uuid.uuid4().bytes)
            self._pixels_hash = sha.hexdigest()
        return self._pixels_hash

    def identity(self) -> str:
        """sha256 of pixels and pixel size; of a random name where there are too many to look at.

        A sample would not do: the user may have changed a few pixels since the last run, and
        old tiles would be taken for this picture's.
        """
        if not self._hash:
            sha = hashlib.sha256(f"{self.pixels_identity()} {self.mpp}".encode())
            self._hash = sha.hexdigest()
        return self._hash
