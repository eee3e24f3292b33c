"""A few pieces of a slide's tissue and its glass: what colours are told from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import dab_od
from napari_celldetr.slides.tissue import USUAL_MPP, find_tissue

Rgb = NDArray[np.uint8]

OVERVIEW_UM = 4.0
LEAST_SIDE, MOST_SIDE = 256, 3072
CLOSE_UM = 32.0
AWAY_UM = 12.0
"""Glass is read this far from tissue: near it lies what has bled out of it."""
GLASS_LOWEST, GLASS_SPREAD = 160, 24
"""Darkest glass, and how far its channels may lie apart: scanners' whites are nearly grey."""
LOWEST_WHITE = 200.0
FEWEST_GLASS = 400
"""Pixels of the overview, and at least `GLASS_SHARE` of it."""
GLASS_SHARE = 0.002
PATCH_UM, PATCHES = 256.0, 24
LEAST_TISSUE = 0.3
"""Share of a piece that must be tissue."""


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """A whole slide as a picture (h, w, 3), its tissue (h, w) bool, and µm per px.

    Of a slide without a pixel size 0.5 µm per level-0 px is assumed.
    """

    picture: Rgb
    tissue: NDArray[np.bool_]
    mpp: float

    def brightest(self) -> NDArray[np.float64]:
        """The level (3,) that one pixel in a thousand exceeds."""
        return np.asarray(np.percentile(self.picture, 99.9, axis=(0, 1)), np.float64)

    def away_from_tissue(self) -> NDArray[np.bool_]:
        """What lies so far from tissue that nothing of it is there (h, w)."""
        if not self.tissue.any():
            return ~self.tissue
        return np.asarray(ndimage.distance_transform_edt(~self.tissue) * self.mpp > AWAY_UM)

    def glass(self) -> tuple[NDArray[np.float64] | None, str]:
        """The colour (3,) of glass and how it was found; None and the reason if it was not."""
        pixels = self.picture[self.away_from_tissue()]
        bright = pixels[pixels.min(axis=1, initial=255) >= GLASS_LOWEST]
        # What was never scanned is filled with pure white.
        scanned = bright[bright.min(axis=1) < 255]
        if len(scanned) > len(bright) / 20:
            bright = scanned
        if len(bright) < max(FEWEST_GLASS, GLASS_SHARE * self.tissue.size):
            return None, f"only {len(bright)} px of the overview are glass"
        colour = np.median(bright, axis=0)
        if colour.min() < LOWEST_WHITE:
            return None, f"what looks like glass is as dark as {in_words(colour)}"
        if np.ptp(colour) > GLASS_SPREAD:
            return None, f"what looks like glass is coloured, {in_words(colour)}"
        return np.asarray(colour, np.float64), f"the median of {len(bright)} px of glass"


def in_words(colour: NDArray[np.floating]) -> str:
    """A colour as it is printed."""
    return "/".join(f"{c:.0f}" for c in colour)


def look_over(slide: Slide) -> Overview:
    """The overview of a slide at about 4 µm/px. `SlideError` if unreadable."""
    mpp = max(_pixel_size(slide))
    longest = max(slide.size) * mpp
    picture = slide.thumbnail(int(np.clip(longest / OVERVIEW_UM, LEAST_SIDE, MOST_SIDE)))
    step = slide.size[0] * mpp / picture.shape[1]
    tissue, _, _ = find_tissue(picture, close_px=max(2.0, CLOSE_UM / step))
    return Overview(picture, tissue, step)


def _pixel_size(slide: Slide) -> tuple[float, float]:
    return slide.mpp or (USUAL_MPP, USUAL_MPP)


def tissue_pixels(slide: Slide, over: Overview, mpp: float, *, count: int = PATCHES) -> Rgb:
    """Colours (N, 3) of at most `count` pieces of tissue, 256 µm wide, read at `mpp` µm/px.

    Half of them where most is brown, the rest spread over the slide. `SlideError` if unreadable.
    """
    native = _pixel_size(slide)
    parts = [np.zeros((0, 3), np.uint8)]
    for region in _patches(slide, over, count):
        width = max(1, round(region.width * min(1.0, native[0] / mpp)))
        height = max(1, round(region.height * min(1.0, native[1] / mpp)))
        parts.append(slide.render(region, width, height).reshape(-1, 3))
    return np.concatenate(parts)


def _patches(slide: Slide, over: Overview, count: int) -> list[Region]:
    """Squares of tissue: half where most is brown, the rest spread over the slide."""
    side = np.maximum(np.minimum(PATCH_UM / np.array(_pixel_size(slide)), slide.size), 1)
    columns, rows = np.maximum(np.array(slide.size) // side, 1).astype(int)
    height, width = over.tissue.shape
    brown = np.maximum(dab_od(over.picture), 0) * over.tissue
    found = []
    for row in range(rows):
        y = slice(row * height // rows, max((row + 1) * height // rows, 1))
        for column in range(columns):
            x = slice(column * width // columns, max((column + 1) * width // columns, 1))
            if over.tissue[y, x].size and over.tissue[y, x].mean() > LEAST_TISSUE:
                found.append((float(brown[y, x].mean()), column, row))
    found.sort(reverse=True)
    most, rest = found[: count // 2], found[count // 2 :]
    few = max(1, count - len(most))
    spread = rest[:: max(1, len(rest) // few)][:few]
    return [
        Region(int(c * side[0]), int(r * side[1]), int(side[0]), int(side[1]))
        for _, c, r in most + spread
    ]
