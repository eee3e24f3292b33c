"""Aperio SVS: OpenSlide says what is there, our decoder reads it where the pixels agree.

Direct decoding is several times faster. Whether it is right is not assumed but measured at
opening: tiles of every level are read both ways, and one differing value sends the whole slide
to OpenSlide.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.backend import Backend, Facts
from napari_celldetr.slides.openslide_slide import OpenSlideBackend
from napari_celldetr.slides.tiff_image import TiffImage
from napari_celldetr.slides.tiff_map import PositionedFile, walk
from napari_celldetr.slides.tiff_slide import SEGMENT_CACHE_BYTES
from napari_celldetr.slides.tile_cache import TileCache


class AperioBackend:
    """An SVS whose tiles we decode ourselves. Made by `open_vendor`. See `Backend`."""

    def __init__(self, file: PositionedFile, images: list[TiffImage], facts: Facts) -> None:
        self._file = file
        self._images = images
        self._facts = facts

    @property
    def facts(self) -> Facts:
        """What the file says about itself, through OpenSlide."""
        return self._facts

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        return self._images[level].read(x, y, width, height)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def open_vendor(path: Path) -> Backend:
    """OpenSlide; for Aperio the faster backend when it gives OpenSlide's pixels."""
    reference = OpenSlideBackend(path)
    if reference.vendor != "aperio":
        return reference
    file = PositionedFile(path)
    try:
        images = _images_of_levels(file, reference)
    except SlideError:
        # A directory we do not decode (YCbCr JPEG 2000, say) is no fault of the slide.
        images = []
    if not images or not all(_agree(image, reference, i) for i, image in enumerate(images)):
        file.close()
        return reference
    facts = reference.facts
    reference.close()
    return AperioBackend(file, images, facts)


def _images_of_levels(file: PositionedFile, reference: OpenSlideBackend) -> list[TiffImage]:
    """The tiled directory of every level, by size; empty when one is missing or has holes."""
    tiled = {d.size: d for d in reversed(walk(file)) if d.is_tiled}
    sizes = reference.facts.level_sizes
    if not all(size in tiled for size in sizes):
        return []
    cache = TileCache(SEGMENT_CACHE_BYTES)
    background = reference.facts.background
    images = [TiffImage(tiled[s], background=background, cache=cache) for s in sizes]
    # OpenSlide paints tiles of zero bytes from other levels; that is left to it.
    return images if all((image.counts != 0).all() for image in images) else []


def _agree(image: TiffImage, reference: OpenSlideBackend, level: int) -> bool:
    """Whether first, middle and fullest tile of a level come out equal both ways."""
    fullest = int(np.argmax(image.counts))
    total = image.columns * image.rows
    for index in {0, total // 2, fullest}:
        row, column = divmod(index, image.columns)
        tile_w, tile_h = image.segment_size
        x, y = column * tile_w, row * tile_h
        box = (x, y, min(tile_w, image.size[0] - x), min(tile_h, image.size[1] - y))
        try:
            ours, theirs = image.read(*box), reference.read(level, *box)
        except SlideError:
            return False
        if level == 0 and not np.array_equal(ours, theirs):
            return False
        # OpenSlide smears lower levels by part of a pixel, so there colour has to do.
        if np.abs(ours.mean(axis=(0, 1)) - theirs.mean(axis=(0, 1))).max() > 2:
            return False
    return True
