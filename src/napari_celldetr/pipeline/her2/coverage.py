"""Coverage without cells: how much of the tissue is stained how strongly, pixel by pixel.

For slides on which membranes cannot be seen: without a pixel size, or too coarse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_celldetr.core.her2 import SCORES, Cutoffs
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.tumour import Tumour
from napari_celldetr.pipeline.her2.zone_shapes import zone_mask
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask

TILE_PX = 1024
LEAST_OD = 0.05
"""A pixel with less density in every channel is glass or a gap between cells."""


@dataclass(frozen=True, slots=True)
class StainCoverage:
    """Pixels of stained tissue by DAB optical density: under weak, moderate, intense, and over.

    `pixels` are level-0 pixels that were looked at and are no glass.
    """

    percent: dict[str, float]
    pixels: int


def stain_coverage(
    slide: Slide, stain: SlideStain, tumour: Tumour, cutoffs: Cutoffs
) -> Job[StainCoverage]:
    """Tell a slide's pixels apart by their DAB density, in the tumour or all tissue; level 0."""
    mask = tissue_mask(slide)
    tally = np.zeros(len(SCORES), np.int64)
    width, height = slide.size
    tiles = [
        tile
        for y in range(0, height, TILE_PX)
        for x in range(0, width, TILE_PX)
        if (tile := Region(x, y, TILE_PX, TILE_PX).intersect(slide.region)) and mask.covers(tile)
    ]
    yield Progress(0, len(tiles), "measuring stain")
    for done, tile in enumerate(tiles, start=1):
        tally += _tally(slide, tile, stain, tumour, cutoffs)
        yield Progress(done, len(tiles), "measuring stain")
    whole = int(tally.sum())
    percent = {
        s: 100 * float(n) / whole if whole else float("nan")
        for s, n in zip(SCORES, tally, strict=True)
    }
    return StainCoverage(percent, whole)


def _tally(
    slide: Slide, tile: Region, stain: SlideStain, tumour: Tumour, cutoffs: Cutoffs
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    shape = (tile.height, tile.width)
    meant = zone_mask(tumour.zones, tile, shape) if tumour.zones else np.ones(shape, bool)
    meant &= ~zone_mask((*tumour.cut_out, *tumour.untrusted), tile, shape)
    pixels = slide.read(tile)
    darkest = (pixels / np.array(stain.white)).min(axis=2)
    meant &= darkest < 10**-LEAST_OD
    levels = (cutoffs.weak, cutoffs.moderate, cutoffs.intense)
    kinds = np.searchsorted(levels, stain.dab(pixels)[meant], side="right")
    return np.bincount(kinds, minlength=len(SCORES)).astype(np.int64)
