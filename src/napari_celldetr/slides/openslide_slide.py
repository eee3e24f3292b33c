"""Vendor formats through OpenSlide, with handles that recover from its latched errors.

OpenSlide remembers the first error of a handle and fails every later read on it. So a failed
read is tried once more on a private new handle, and the shared one is replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.limits import check_size
from napari_celldetr.slides.pixels import WHITE, Rgb, over_background


class OpenSlideBackend:
    """A slide OpenSlide reads. See `Backend`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        with as_slide_error(path.name, "opening"):
            self._handle: openslide.OpenSlide | None = openslide.OpenSlide(path)
            self._facts = _facts(self._handle)
        check_size(path.name, *self._facts.level_sizes[0])

    @property
    def facts(self) -> Facts:
        """What the file says about itself."""
        return self._facts

    @property
    def vendor(self) -> str:
        """OpenSlide's word for the format."""
        return str(self._shared().properties.get(openslide.PROPERTY_NAME_VENDOR, ""))

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        handle = self._shared()
        try:
            return self._read(handle, level, (x, y), (width, height))
        except openslide.OpenSlideError:
            return self._read_again(handle, level, (x, y), (width, height))

    def _shared(self) -> openslide.OpenSlide:
        with as_slide_error(self._path.name, "reading"), self._lock:
            if self._handle is None:
                raise ValueError("the slide is closed")
            return self._handle

    def _read_again(
        self,
        failed: openslide.OpenSlide,
        level: int,
        corner: tuple[int, int],
        size: tuple[int, int],
    ) -> NDArray[np.uint8]:
        with as_slide_error(self._path.name, f"reading level {level} at {corner}"):
            with self._lock:
                if self._handle is failed:
                    # Other threads may be inside the old one: it closes when the last lets go.
                    self._handle = openslide.OpenSlide(self._path)
            # Private: on a shared handle another thread's bad tile would latch ours.
            with openslide.OpenSlide(self._path) as private:
                return self._read(private, level, corner, size)

    def _read(
        self,
        handle: openslide.OpenSlide,
        level: int,
        corner: tuple[int, int],
        size: tuple[int, int],
    ) -> NDArray[np.uint8]:
        ratio = handle.level_downsamples[level]
        (x, skip_x), (y, skip_y) = (_anchor(c, ratio) for c in corner)
        wanted = (size[0] + skip_x, size[1] + skip_y)
        rgba = np.asarray(handle.read_region((x, y), level, wanted))[skip_y:, skip_x:]
        return over_background(
            np.ascontiguousarray(rgba[..., :3]), rgba[..., 3], self._facts.background
        )

    def close(self) -> None:
        """Let go of the handle; it closes when no thread reads from it any more."""
        with self._lock:
            self._handle = None


def _anchor(at: int, ratio: float) -> tuple[int, int]:
    """Level-0 coordinate to ask OpenSlide for, and how many level pixels to drop again.

    OpenSlide takes whole level-0 pixels, so with a real downsample few level pixels can be hit
    exactly, and the rest come shifted and smeared. Of the 16 pixels up to `at`, the one that is
    hit best is asked for.
    """
    starts = np.arange(max(at - 15, 0), at + 1)[::-1]
    asked = np.rint(starts * ratio)
    best = int(np.argmin(np.abs(asked / ratio - starts)))
    return int(asked[best]), best


def _facts(handle: openslide.OpenSlide) -> Facts:
    said = handle.properties
    x, y = (
        _number(said, openslide.PROPERTY_NAME_MPP_X),
        _number(said, openslide.PROPERTY_NAME_MPP_Y),
    )
    corner = [_number(said, f"openslide.bounds-{k}") for k in ("x", "y", "width", "height")]
    bounds = None
    if None not in corner and min(c for c in corner[2:] if c is not None) >= 1:
        bounds = Region(*(int(c) for c in corner if c is not None))
    return Facts(
        level_sizes=tuple((int(w), int(h)) for w, h in handle.level_dimensions),
        mpp=None if x is None or y is None else (x, y),
        mpp_source="missing" if x is None or y is None else "openslide",
        objective=_number(said, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        background=_colour(said.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR)),
        bounds=bounds,
        identity=str(said.get(openslide.PROPERTY_NAME_QUICKHASH1, "")),
    )


def _number(said: Mapping[str, str], key: str) -> float | None:
    try:
        value = float(said.get(key, ""))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _colour(text: str | None) -> Rgb:
    try:
        value = bytes.fromhex(text or "")
    except ValueError:
        return WHITE
    return (value[0], value[1], value[2]) if len(value) == 3 else WHITE
