"""What a person can do to cells, each as an `Edit`: nothing here changes the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import (
    SHOWN,
    Area,
    AreaChange,
    CellStates,
    Edit,
    Status,
    new_keys,
)
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Rows
from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import AnnotationError

UNKNOWN_WORD = "unknown"
AREA_WORDS = {"complete": "complete area", "region": "region"}


def relabel(table: CellTable, rows: Rows, class_name: str | None) -> Edit:
    """Give cells another class, None for unknown; a claim that has it already is confirmed."""
    class_id = _class_id(table, class_name)
    now = table.states(rows)
    status = now.status.copy()
    claimed = np.isin(status, (Status.CLAIMED, Status.CONFIRMED, Status.RECLASSED))
    status[claimed] = np.where(
        _claimed_classes(table, rows)[claimed] == class_id, Status.CONFIRMED, Status.RECLASSED
    )
    after = CellStates(now.boxes, np.full(len(rows), class_id, np.int16), now.scores, status)
    return _edit(table, f"change {{}} to {class_name or UNKNOWN_WORD}", rows, now, after)


def confirm(table: CellTable, rows: Rows) -> Edit:
    """Say that cells are right as they are."""
    now = table.states(rows)
    status = np.where(now.status == Status.CLAIMED, Status.CONFIRMED, now.status)
    after = CellStates(now.boxes, now.class_ids, now.scores, status)
    return _edit(table, "confirm {}", rows, now, after)


def delete(table: CellTable, rows: Rows) -> Edit:
    """Say that there are no cells; cells that a person added are gone for good."""
    now = table.states(rows)
    own = now.status == Status.ADDED
    status = np.where(own, Status.ABSENT, Status.DELETED)
    after = CellStates(now.boxes, now.class_ids, now.scores, status)
    return _edit(table, "delete {}", rows, now, after)


def move(table: CellTable, row: int, box: Sequence[float]) -> Edit:
    """Give one cell another box (xyxy, level-0 px)."""
    rows = np.array([row], np.int64)
    now = table.states(rows)
    status = np.where(now.status == Status.ADDED, Status.ADDED, Status.MOVED)
    boxes = np.array([box], np.float32)
    sides = boxes[:, 2:] - boxes[:, :2], now.boxes[:, 2:] - now.boxes[:, :2]
    what = "move {}" if np.allclose(*sides, rtol=0, atol=0.01) else "resize {}"
    return _edit(table, what, rows, now, CellStates(boxes, now.class_ids, now.scores, status))


def add(
    table: CellTable,
    boxes: NDArray[np.floating],
    class_name: str | None,
    *,
    scores: NDArray[np.floating] | None = None,
) -> Edit:
    """Add cells (N, 4) xyxy of one class, or of unknown type; `scores` where a model gave them."""
    n = len(boxes)
    after = CellStates(
        np.asarray(boxes, np.float32),
        np.full(n, _class_id(table, class_name), np.int16),
        np.ones(n, np.float32) if scores is None else np.asarray(scores, np.float32),
        np.full(n, Status.ADDED, np.uint8),
    )
    words = f"add {_cells(n)} as {class_name or UNKNOWN_WORD}"
    return Edit(words, new_keys(n), CellStates.absent(n), after, table.class_names)


def mark(table: CellTable, area: Area) -> Edit:
    """Add a drawn area; what is shown in a complete one is confirmed by that."""
    name = AREA_WORDS[area.kind]
    change = AreaChange(str(uuid4()), None, area)
    if area.kind != "complete":
        return _areas(table, f"mark {name}", change)
    edit = confirm(table, table.rows_within(area))
    words = f"mark {name}" + (f", {edit.what}" if len(edit) else "")
    return replace(edit, what=words, areas=(change,))


def unmark(table: CellTable, area_id: str) -> Edit:
    """Take a drawn area away; its cells stay. `AnnotationError` when there is none of that id."""
    area = table.annotations.areas.get(area_id)
    if area is None:
        raise AnnotationError(
            "This area is not there any more.",
            expected=f"one of {len(table.annotations.areas)} areas",
            found=repr(area_id),
            remedy="choose one that is shown",
        )
    return _areas(table, f"remove {AREA_WORDS[area.kind]}", AreaChange(area_id, area, None))


def _areas(table: CellTable, what: str, change: AreaChange) -> Edit:
    none = CellStates.absent(0)
    return Edit(what, np.zeros((0, 2), np.uint64), none, none, table.class_names, (change,))


def _edit(table: CellTable, what: str, rows: Rows, now: CellStates, after: CellStates) -> Edit:
    # What stays as it was is no part of an edit, nor is what is not there any more: a selection
    # may be older than the claims.
    moved = (now.boxes != after.boxes).any(axis=1)
    other = (now.class_ids != after.class_ids) | (now.status != after.status) | moved
    changed = np.flatnonzero(other & SHOWN[now.status])
    return Edit(
        what.replace("{}", _cells(len(changed)), 1),
        table.keys_of(rows[changed]),
        now.select(changed),
        after.select(changed),
        table.class_names,
    )


def _class_id(table: CellTable, class_name: str | None) -> int:
    return UNKNOWN if class_name is None else table.annotations.translate([class_name])[0]


def _claimed_classes(table: CellTable, rows: Rows) -> NDArray[np.int16]:
    # The class that the model claims for each row; for a cell it never claimed, its present one.
    classes = table.class_ids[rows].copy()
    touched = np.flatnonzero(table.status[rows] != Status.CLAIMED)
    for i, (high, low) in zip(touched, table.keys_of(rows[touched]).tolist(), strict=True):
        said = table.annotations.cells.get((high, low))
        if said is not None and said.claim is not None:
            classes[i] = said.claim[1]
    return classes


def _cells(n: int) -> str:
    return "1 cell" if n == 1 else f"{n:,} cells"
