"""QuPath's GeoJSON becomes corrections: cells that are added, cells that are meant, areas.

A file may hold detections and cells (of QuPath, or of our own export), annotations that a person
outlined, and points. Each is a cell, unless it is an annotation larger than any nucleus: that is
an area. Cells that are there already are meant, not doubled: by their id, else by their place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import (
    Area,
    AreaChange,
    CellStates,
    CorrectedCells,
    Edit,
    Status,
    new_keys,
)
from napari_celldetr.core.errors import AnnotationError, CellDETRError, ExportError
from napari_celldetr.pipeline.import_features import ClassWords, FileCells, FileObjects
from napari_celldetr.pipeline.json_stream import JsonStream
from napari_celldetr.pipeline.qupath import MEMBER, collection_head, open_text

SAME_BOX_PX = 0.5
"""A box whose sides all lie within this is the same box; writers round."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes
    ----------
    added, confirmed, reclassed, moved, deleted, unchanged : int
        Cells. Unchanged ones were there as the file has them.
    areas : int
        Areas that are new or other than before.
    new_classes : tuple of str
        Class names that were not known.
    left_out : mapping of str to int
        What was not taken, and how often.
    """

    added: int = 0
    confirmed: int = 0
    reclassed: int = 0
    moved: int = 0
    deleted: int = 0
    unchanged: int = 0
    areas: int = 0
    new_classes: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """The report in words for people."""
        told = [
            f"{count:,} {what}"
            for count, what in (
                (self.added, "added"),
                (self.confirmed, "confirmed"),
                (self.reclassed, "with another class"),
                (self.moved, "moved"),
                (self.deleted, "deleted"),
                (self.unchanged, "as they were"),
            )
            if count
        ]
        text = "Cells: " + (", ".join(told) or "none") + "."
        text += f" Areas: {self.areas:,}." if self.areas else ""
        text += f" New classes: {', '.join(self.new_classes)}." if self.new_classes else ""
        if self.left_out:
            text += " Left out: "
            text += ", ".join(f"{n:,} {what}" for what, n in self.left_out.items()) + "."
        return text


def edit_from_geojson(
    path: str | Path,
    *,
    present: CorrectedCells | None,
    class_names: Sequence[str],
    nucleus_px: float,
    offset: tuple[float, float] = (0, 0),
    class_map: Mapping[str, str | None] | None = None,
    radius_px: float | None = None,
) -> tuple[Edit, ImportReport]:
    """What a GeoJSON file says of a slide's cells, as one edit.

    Parameters
    ----------
    path
        ``.geojson``, ``.json``, or either with ``.gz``.
    present : CorrectedCells or None
        The slide's cells and areas as they stand.
    class_names : sequence of str
        Classes that are known. A class of the file is one of them if the names differ in case
        alone; other names become new classes.
    nucleus_px : float
        Usual diameter of a nucleus, level-0 px: the box of a point, and of a cell whose nucleus
        has no outline. An annotation of over 20 times that area is an area.
    offset : (x, y)
        Where the file's (0, 0) lies, level-0 px: the slide's scanned bounds for QuPath. A file
        that `export` wrote says so itself.
    class_map : mapping of str to str or None, optional
        Class of the file to class name; None leaves its objects out. Case does not matter.
    radius_px : float, optional
        A cell of the file whose centre is so near to that of a present cell means that cell.
        By default half of `nucleus_px`.

    Returns
    -------
    Edit, ImportReport
        Cells that nobody mentioned stay as they are. Cells of the file that mean a present one
        confirm it, change its class, or move it; a claim that the file calls a claim stays one.
        Others are added with the file's UUID, or a new key where that is no UUID or is taken.
        An area is ``complete`` only where the file says so; QuPath's own are ``region``.

    Raises `ExportError` for anything that is not such a file, within the limits of
    `read_geojson`, and `AnnotationError` for sizes that cannot be.
    """
    if not (math.isfinite(nucleus_px) and nucleus_px > 0):
        raise _wrong_size("nucleus_px", nucleus_px)
    radius = nucleus_px / 2 if radius_px is None else radius_px
    if not (math.isfinite(radius) and radius >= 0):
        raise _wrong_size("radius_px", radius)
    names = ClassWords((*(() if present is None else present.cells.class_names), *class_names))
    found = FileObjects(nucleus_px, names.mapped(class_map or {}))
    read_objects(Path(path), found, offset)
    cells = found.cells()
    return _edit(Path(path).name, cells, found, present, names, radius)


def read_objects(
    path: Path, found: FileObjects, offset: tuple[float, float]
) -> Mapping[str, object]:
    """Read a file's features into `found`; what the file's writer says of it, if it is ours."""
    try:
        with open_text(path, path.suffix.lower() == ".gz") as file:
            stream = JsonStream(file, "features", "GeoJSON as QuPath writes it")
            about = collection_head(stream).get(MEMBER)
            own = about.get("offset") if isinstance(about, dict) else None
            x, y = offset if own is None else own
            found.offset = (float(x), float(y))
            for feature in stream.members():
                found.add(feature)
        return about if isinstance(about, dict) else {}
    except ExportError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from error
    except (CellDETRError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error)[:150]}") from error
    except (OverflowError, EOFError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {str(error)[:150]}") from error


def _edit(
    name: str,
    cells: FileCells,
    found: FileObjects,
    present: CorrectedCells | None,
    names: ClassWords,
    radius: float,
) -> tuple[Edit, ImportReport]:
    mine = _present_states(present)
    keys = np.zeros((0, 2), np.uint64) if present is None else np.asarray(present.ids, np.uint64)
    partner = _partners(cells, mine.boxes, keys, radius)
    met = np.flatnonzero(partner >= 0)
    before = mine.select(partner[met])
    after, changed = _restated(cells, met, before)
    alone = np.flatnonzero((partner < 0) & (cells.status != Status.DELETED))
    gone = int(((partner < 0) & (cells.status == Status.DELETED)).sum())
    if gone:
        found.left_out["deleted cells that are not there"] += gone
    added = CellStates(
        cells.boxes[alone],
        cells.class_ids[alone],
        np.ones(len(alone), np.float32),
        np.full(len(alone), Status.ADDED, np.uint8),
    )
    areas = _area_changes(found.areas, {} if present is None else present.areas)
    edit = Edit(
        f"import {name}",
        np.concatenate((keys[partner[met[changed]]], _or_new(cells.keys[alone]))),
        _joined(before.select(changed), CellStates.absent(len(alone))),
        _joined(after.select(changed), added),
        tuple(names.all),
        areas,
    )
    tally = _tally(before.select(changed), after.select(changed))
    report = ImportReport(
        added=len(alone),
        unchanged=len(met) - len(changed),
        areas=len(areas),
        new_classes=tuple(names.all[names.known :]),
        left_out=dict(found.left_out),
        **tally,
    )
    return edit, report


def _present_states(present: CorrectedCells | None) -> CellStates:
    if present is None:
        return CellStates.absent(0)
    cells = present.cells
    return CellStates(cells.boxes, cells.class_ids, cells.scores, present.status)


def _partners(
    cells: FileCells, boxes: NDArray[np.float32], keys: NDArray[np.uint64], radius: float
) -> NDArray[np.int64]:
    """Row (N,) of the present cell that each cell of the file means, -1 for none.

    By id first; then nearest pairs first, each cell once.
    """
    partner = np.full(len(cells.boxes), -1, np.int64)
    if not len(boxes) or not len(partner):
        return partner
    likely = np.flatnonzero(np.isin(keys[:, 0], cells.keys[:, 0]))
    place = {
        (a, b): row for row, (a, b) in zip(likely.tolist(), keys[likely].tolist(), strict=True)
    }
    partner[:] = [place.get((a, b), -1) for a, b in cells.keys.tolist()]
    from scipy.spatial import cKDTree

    free = np.setdiff1d(np.arange(len(boxes)), partner)
    open_ = np.flatnonzero(partner < 0)
    tree = cKDTree((boxes[free, :2] + boxes[free, 2:]).astype(np.float64) / 2)
    points = (cells.boxes[open_, :2] + cells.boxes[open_, 2:]).astype(np.float64) / 2
    near = tree.query_ball_point(points, radius) if len(free) and len(open_) else []
    pairs = [(row, other) for row, others in enumerate(near) for other in others]
    if not pairs:
        return partner
    one, other = np.array(pairs).T
    apart = np.hypot(*(points[one] - tree.data[other]).T)
    taken = np.zeros(len(free), bool)
    for k in np.lexsort((other, one, apart)).tolist():
        row = open_[one[k]]
        if partner[row] < 0 and not taken[other[k]]:
            partner[row] = free[other[k]]
            taken[other[k]] = True
    return partner


def _restated(
    cells: FileCells, rows: NDArray[np.int64], before: CellStates
) -> tuple[CellStates, NDArray[np.int64]]:
    """What present cells are after the file's `rows` that mean them, and which of them change."""
    told, was = cells.status[rows], before.status
    moves = np.abs(cells.boxes[rows] - before.boxes).max(axis=1, initial=0) > SAME_BOX_PX
    moves &= cells.has_size[rows]
    other = cells.has_class[rows] & (cells.class_ids[rows] != before.class_ids)
    gone = told == Status.DELETED
    status = np.where(was == Status.CLAIMED, np.uint8(Status.CONFIRMED), was)
    status = np.where(was == Status.DELETED, np.uint8(Status.CONFIRMED), status)
    # A cell that a person added, or moved before, stays one.
    firm = (was == Status.ADDED) | (was == Status.MOVED)
    status = np.where(other & ~firm, np.uint8(Status.RECLASSED), status)
    status = np.where(moves & (was != Status.ADDED), np.uint8(Status.MOVED), status)
    status = np.where(gone, np.uint8(Status.DELETED), status)
    moves, other = moves & ~gone, other & ~gone
    after = CellStates(
        np.where(moves[:, None], cells.boxes[rows], before.boxes),
        np.where(other, cells.class_ids[rows], before.class_ids),
        before.scores,
        status,
    )
    # A claim that the file calls a claim was confirmed by nobody.
    only_claimed = (told == Status.CLAIMED) & (was == Status.CLAIMED) & ~moves & ~other
    changed = (moves | other | (after.status != was)) & ~only_claimed
    return after, np.flatnonzero(changed)


def _tally(before: CellStates, after: CellStates) -> dict[str, int]:
    moved = (before.boxes != after.boxes).any(axis=1)
    gone = after.status == Status.DELETED
    other = (before.class_ids != after.class_ids) & ~moved
    return {
        "moved": int(moved.sum()),
        "deleted": int(gone.sum()),
        "reclassed": int(other.sum()),
        "confirmed": int((~moved & ~gone & ~other).sum()),
    }


def _or_new(wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The wanted keys, and new ones for cells without."""
    keys = wanted.copy()
    missing = np.flatnonzero(~keys.any(axis=1))
    keys[missing] = new_keys(len(missing))
    return keys


def _joined(one: CellStates, other: CellStates) -> CellStates:
    return CellStates(
        np.concatenate((one.boxes, other.boxes)),
        np.concatenate((one.class_ids, other.class_ids)),
        np.concatenate((one.scores, other.scores)),
        np.concatenate((one.status, other.status)),
    )


def _area_changes(found: Mapping[str, Area], present: Mapping[str, Area]) -> tuple[AreaChange, ...]:
    return tuple(
        AreaChange(key, present.get(key), area)
        for key, area in found.items()
        if present.get(key) != area
    )


def _wrong_size(what: str, found: float) -> AnnotationError:
    return AnnotationError(
        "This is no size of a cell.",
        expected=f"{what} as a positive number of level-0 px",
        found=str(found),
        remedy="check the pixel size of the slide",
    )


def _unreadable(path: Path, found: str) -> ExportError:
    return ExportError(
        f"{path.name} cannot be imported.",
        expected="GeoJSON as QuPath writes it",
        found=found,
        remedy="export the objects again from QuPath as GeoJSON",
    )
