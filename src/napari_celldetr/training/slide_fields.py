"""Fields of limited size out of areas of a slide, with every cell in exactly one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.regions import Region
from napari_celldetr.training.fields import Field
from napari_celldetr.training.label_files import data_error
from napari_celldetr.training.polygons import Ring, paint_instances, rings_box, rings_mask

if TYPE_CHECKING:
    from napari_celldetr.slides.slide import Slide

TILE_PX = 1024
HALO_UM = 12.0
"""Seen around each field, so that a nucleus on its edge is whole; no labels count there."""


@dataclass(frozen=True, eq=False)
class SlideCells:
    """Cells of a slide in level-0 px.

    Attributes
    ----------
    points, sizes : (N, 2); sizes are NaN where the extent is unknown
    class_ids : (N,) int16
    outlines : one list of rings per cell; empty where there is none
    """

    points: NDArray[np.float64]
    sizes: NDArray[np.float64]
    class_ids: NDArray[np.int16]
    outlines: Sequence[Sequence[Ring]]

    def __len__(self) -> int:
        return len(self.points)


def slide_mpp(slide: Slide) -> float:
    """µm per level-0 px, both sides averaged. Raises `DataError` where it is unknown."""
    if slide.mpp is None:
        raise data_error(
            f"The slide {slide.name!r} has no known pixel size.",
            "µm per pixel in the file, or given",
            slide.mpp_source,
            "add @µm/px to the data set's word",
        )
    return (slide.mpp[0] + slide.mpp[1]) / 2


def cut_fields(
    slide: Slide,
    cells: SlideCells,
    areas: Sequence[Sequence[Ring]],
    *,
    stem: str,
    group: str,
    class_names: tuple[str, ...],
    complete: bool,
    ignored: Sequence[Sequence[Ring]] = (),
    tile: int = TILE_PX,
    halo_um: float = HALO_UM,
) -> Iterator[Field]:
    """Fields ``<stem>_<x>_<y>`` of at most `tile` px a side and a halo, at the slide's own µm/px.

    An area is a polygon with holes in level-0 px. Labels count (`Field.valid`) inside the areas,
    outside `ignored` ones, and off the halo. A cell belongs to the field in whose core its
    centre lies; where areas overlap, to the first. Fields without labels are left out, unless
    they are `complete`.
    """
    mpp = slide_mpp(slide)
    halo = math.ceil(halo_um / mpp)
    for number, area in enumerate(areas):
        for core in _cores(area, slide.region, tile):
            read = Region.from_edges(
                core.x - halo, core.y - halo, core.x1 + halo, core.y1 + halo
            ).intersect(slide.region)
            assert read is not None
            valid = _labelled(read, core, area, (*areas[:number], *ignored))
            if not valid.any():
                continue
            rows = _cells_in(cells, read, valid)
            if not len(rows) and not complete:
                continue
            yield Field(
                name=f"{stem}_{core.x}_{core.y}",
                group=group,
                image=slide.read(read),
                mpp=mpp,
                points=(cells.points[rows] - (read.x, read.y)).astype(np.float32),
                sizes=cells.sizes[rows].astype(np.float32),
                class_ids=cells.class_ids[rows],
                class_names=class_names,
                complete=complete,
                instances=_instances(cells, rows, read),
                valid=None if valid.all() else valid,
            )


def _cores(area: Sequence[Ring], frame: Region, tile: int) -> Iterator[Region]:
    """The area's box in equal rectangles of at most `tile` px a side."""
    box = rings_box(area)
    x0, y0 = (math.floor(v) for v in box[:2])
    x1, y1 = (math.ceil(v) for v in box[2:])
    if x1 <= x0 or y1 <= y0:
        return
    part = Region.from_edges(x0, y0, x1, y1).intersect(frame)
    if part is None:
        return
    columns = _edges(part.x, part.x1, tile)
    rows = _edges(part.y, part.y1, tile)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            yield Region.from_edges(left, top, right, bottom)


def _edges(start: int, stop: int, most: int) -> list[int]:
    pieces = math.ceil((stop - start) / most)
    return [start + round((stop - start) * i / pieces) for i in range(pieces + 1)]


def _labelled(
    read: Region, core: Region, area: Sequence[Ring], excluded: Sequence[Sequence[Ring]]
) -> NDArray[np.bool_]:
    origin, shape = (read.x, read.y), (read.height, read.width)
    valid = np.zeros(shape, bool)
    rows = slice(core.y - read.y, core.y1 - read.y)
    columns = slice(core.x - read.x, core.x1 - read.x)
    valid[rows, columns] = rings_mask(area, origin, shape)[rows, columns]
    for other in excluded:
        box = rings_box(other)
        if box[0] < read.x1 and box[1] < read.y1 and box[2] > read.x and box[3] > read.y:
            valid &= ~rings_mask(other, origin, shape)
    return valid


def _cells_in(cells: SlideCells, read: Region, valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    at = np.floor(cells.points).astype(np.int64) - (read.x, read.y)
    rows = np.flatnonzero(((at >= 0) & (at < [read.width, read.height])).all(axis=1))
    return np.asarray(rows[valid[at[rows, 1], at[rows, 0]]])


def _instances(cells: SlideCells, rows: NDArray[np.intp], read: Region) -> NDArray[np.int32] | None:
    outlines = [cells.outlines[row] for row in rows]
    if not outlines or not all(outlines):
        return None
    return paint_instances(outlines, (read.x, read.y), (read.height, read.width))
