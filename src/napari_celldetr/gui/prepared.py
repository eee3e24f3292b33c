"""Cells made ready to be shown: all that would block the window, done in a job's thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Annotations, Key
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import UNKNOWN, Detections, concatenate
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.regions import Region
from napari_celldetr.core.taught import Teacher
from napari_celldetr.gui.raster import CellRaster, raster_keys
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.reapply import Conflict, reach_px, reapply


@dataclass(frozen=True)
class Prepared:
    """Claims with index and keys, their raster, and what corrections make of them."""

    claims: Claims
    raster: CellRaster
    covered: Mapping[Key, int] = field(default_factory=dict)
    conflicts: tuple[Conflict, ...] = ()


def prepare(
    table: Detections,
    size: tuple[int, int],
    *,
    mpp: float | None,
    annotations: Annotations | None = None,
    threshold: float = 0.0,
    seen: NDArray[np.floating] | None = None,
    within: Region | None = None,
    teacher: Teacher | None = None,
) -> Prepared:
    """Index, keys and raster of claims on a slide of `size` (width, height).

    `seen` are the centres of cells in complete areas, and `within` what was looked at, see
    `reapply`; `teacher` is the lesson that gives the claims their classes.
    """
    claims = Claims.prepared(table, cell_ids)
    raster = CellRaster(size, mpp=mpp)
    raster.paint(
        table.boxes, raster_keys(table.scores, _classes(claims, annotations, teacher)), threshold
    )
    if annotations is None or not (annotations.cells or annotations.areas):
        return Prepared(claims, raster)
    reach = reach_px(mpp)
    found = reapply(
        claims, annotations, reach_px=reach, threshold=threshold, seen=seen, within=within
    )
    return Prepared(claims, raster, found.covered, found.conflicts)


def _classes(
    claims: Claims, annotations: Annotations | None, teacher: Teacher | None
) -> NDArray[np.int16]:
    """Class ids of claims, in the order that the classes will have in the session's table."""
    taught = claims.taught_by(teacher)
    if taught is None:
        return claims.table.class_ids
    said = () if annotations is None else annotations.class_names
    order = list(dict.fromkeys((*claims.table.class_names, *said, *taught.class_names)))
    ids = np.array([*(order.index(name) for name in taught.class_names), UNKNOWN], np.int16)
    return ids[taught.class_ids]


def with_earlier(table: Detections, earlier: Detections | None, region: Region) -> Detections:
    """A run's cells in `region`, and an earlier run's of the same model everywhere else."""
    if earlier is None or not len(earlier):
        return table
    around = earlier.select(~inside(earlier.centres, region))
    if not len(around):
        return table
    return concatenate([table, around]).ordered().with_source(table.source)
