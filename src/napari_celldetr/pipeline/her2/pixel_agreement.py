"""What a pixel network says of a slide's cells, and how far the measured outlines disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.her2 import SCORES
from napari_celldetr.core.predictor import UNKNOWN, PixelPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.outline import Outlines
from napari_celldetr.pipeline.her2.pixel_map import render_cells
from napari_celldetr.pipeline.her2.zone_shapes import Zone, zone_mask
from napari_celldetr.slides.slide import Slide

CORE_PX = 512
PIXEL_CLASSES = ("background", *SCORES)
IGNORED = 255


@dataclass(frozen=True, slots=True, eq=False)
class PixelAgreement:
    """Pixels by the class of the measured outlines (rows) and of the network (columns).

    Attributes
    ----------
    confusion : (5, 5) int64
        In the order of `PIXEL_CLASSES`.
    mpp : float
        µm per pixel that was compared.
    """

    confusion: NDArray[np.int64]
    mpp: float

    @property
    def disagreement(self) -> float:
        """Share of the pixels in measured cells that the network says are stained otherwise.

        Where the measurement says 0, the network's 0 and its background are the same answer:
        nothing is stained there.
        """
        cells = self.confusion[1:]
        whole = float(cells.sum())
        agreed = float(np.trace(cells[:, 1:])) + float(cells[0, 0])
        return 1 - agreed / whole if whole else float("nan")

    @property
    def percent_area(self) -> dict[str, float]:
        """The network's coverage: per cent of what it calls cells, by score."""
        tally = self.confusion.sum(axis=0)[1:]
        whole = float(tally.sum())
        return {
            s: 100 * float(n) / whole if whole else float("nan")
            for s, n in zip(SCORES, tally, strict=True)
        }


@dataclass(frozen=True, slots=True)
class PixelStep(Progress):
    """A tile the network was asked about: its region, and the classes (height, width) it gave."""

    core: Region | None = None
    classes: NDArray[np.uint8] | None = None


def compare_pixels(
    slide: Slide,
    predictor: PixelPredictor,
    outlines: Outlines,
    scores: NDArray[np.int8],
    counted: NDArray[np.bool_],
    zones: tuple[Zone, ...],
    *,
    first: tuple[float, float] | None = None,
) -> Job[PixelAgreement]:
    """Compare the network's pixels with the filled outlines, tile by tile.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    predictor : PixelPredictor
        With the classes `PIXEL_CLASSES`.
    outlines : Outlines
        N cells, level-0 px.
    scores : (N,)
        Index into `SCORES` of each cell.
    counted : (N,) bool
        Cells that count; pixels of others are left out.
    zones : tuple of Zone
        Where to look; everywhere with cells if empty.
    first : (x, y), optional
        Tiles near this place, level-0 px, are asked about first.

    Yields
    ------
    Progress
        A `PixelStep` after every tile.

    Raises
    ------
    ModelError
        The network has other classes.
    """
    _refuse_other_classes(predictor)
    values = np.where(counted, scores + 1, IGNORED).astype(np.uint8)
    mpp = float(predictor.card.mpp)
    step = np.array(mpp) / np.array(slide.known_mpp())
    side = max(predictor.lattice_px, CORE_PX // predictor.lattice_px * predictor.lattice_px)
    tiles = np.unique(np.floor(outlines.centres[counted] / (side * step)).astype(int), axis=0)
    if first is not None:
        tiles = tiles[np.argsort(np.hypot(*((tiles + 0.5) * side * step - first).T), kind="stable")]
    confusion = np.zeros((len(PIXEL_CLASSES),) * 2, np.int64)
    yield Progress(0, len(tiles), "asking the network for pixels")
    for done, tile in enumerate(tiles, start=1):
        core, found = _classes(slide, predictor, tile, side, step)
        rule = render_cells(outlines, values, core, (side, side))
        seen = (rule != IGNORED) & (found != UNKNOWN)
        if zones:
            seen &= zone_mask(zones, core, (side, side))
        pair = rule[seen].astype(np.int64) * len(PIXEL_CLASSES) + found[seen]
        confusion += np.bincount(pair, minlength=confusion.size).reshape(confusion.shape)
        message = "asking the network for pixels"
        yield PixelStep(done, len(tiles), message, core=core, classes=found)
    return PixelAgreement(confusion, mpp)


def _classes(
    slide: Slide, predictor: PixelPredictor, tile: NDArray[Any], side: int, step: NDArray[Any]
) -> tuple[Region, NDArray[np.uint8]]:
    """A tile's core in level-0 px, and the network's classes (side, side) of it."""
    halo, whole = predictor.halo_px, side + 2 * predictor.halo_px
    low, high = np.rint(tile * side * step), np.rint((tile + 1) * side * step)
    outer = np.rint(np.array([low - halo * step, high + halo * step])).astype(int)
    read = Region.from_edges(*outer[0].tolist(), *outer[1].tolist())
    picture = slide.render(read, whole, whole)
    found = predictor.classes(picture[None])[0]
    core = Region.from_edges(*low.astype(int).tolist(), *high.astype(int).tolist())
    return core, found[halo : halo + side, halo : halo + side]


def _refuse_other_classes(predictor: PixelPredictor) -> None:
    names = tuple(str(n) for n in predictor.card.class_names)
    if names != PIXEL_CLASSES:
        raise ModelError(
            f"The model {predictor.card.name!r} names other pixels.",
            expected=", ".join(PIXEL_CLASSES),
            found=", ".join(names),
            remedy="choose a model for HER2 pixels, or leave the networks out",
        )
