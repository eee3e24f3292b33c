"""Corrections on top of a new run: which new claim each stands for, and where the two disagree.

A correction is known by its cell's key. Another model, or other settings, make other boxes and so
other keys: then the new claim nearest to the place is taken for the same cell, one to one. What a
person said always holds; a disagreement is listed, never resolved silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Annotations, Key, Said, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.regions import Region

REACH_UM = 3.0
"""Centres nearer than this are the same cell, as in the scores of the model."""
USUAL_MPP = 0.5


class Disagreement(StrEnum):
    """How a new run and a correction differ."""

    GONE = "gone"
    CLASS = "class"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Conflict:
    """One disagreement: `key` of the person's cell, or of the claim in a complete area."""

    kind: Disagreement
    key: Key
    box: tuple[float, float, float, float]
    text: str


@dataclass(frozen=True)
class Reapplied:
    """Row of the claims that each correction stands for, where the key is new; and conflicts."""

    covered: Mapping[Key, int]
    conflicts: tuple[Conflict, ...]


def reach_px(mpp: float | None) -> float:
    """`REACH_UM` in level-0 px; of a usual scan where the pixel size is not known."""
    return REACH_UM / (mpp or USUAL_MPP)


def reapply(
    claims: Claims,
    annotations: Annotations,
    *,
    reach_px: float,
    threshold: float = 0.0,
    seen: NDArray[np.floating] | None = None,
    within: Region | None = None,
) -> Reapplied:
    """Find the claims that corrections stand for.

    Parameters
    ----------
    claims : Claims
        Prepared, with keys.
    annotations : Annotations
    reach_px : float
        Level-0 px; see `reach_px`.
    threshold : float
        Claims scored lower contradict nothing.
    seen : (N, 2), optional
        Centres of the cells that a person has seen in complete areas (`seen_in_areas`). Without
        them such areas are not looked at.
    within : Region, optional
        What the run looked at: elsewhere it contradicts nothing.
    """
    keys = list(annotations.cells)
    rows = claims.rows_of(np.array(keys, np.uint64).reshape(-1, 2))
    lost = [k for k, row in zip(keys, rows.tolist(), strict=True) if row < 0]
    taken = np.zeros(len(claims.table), bool)
    taken[rows[rows >= 0]] = True
    covered = _pair(claims, annotations, lost, taken, reach_px)
    conflicts = list(_lost_and_changed(claims, annotations, lost, covered, threshold))
    if seen is not None:
        taken[list(covered.values())] = True
        conflicts += _in_complete_areas(claims, annotations, seen, taken, reach_px, threshold)
    if within is not None:
        conflicts = [c for c in conflicts if within.contains(*_middle(c.box))]
    return Reapplied(covered, tuple(conflicts))


def seen_in_areas(cells: CellTable) -> NDArray[np.float32]:
    """Centres (N, 2) of the cells in areas marked as complete."""
    areas = [a for a in cells.annotations.areas.values() if a.kind == "complete"]
    found = [cells.centres[cells.rows_within(area)] for area in areas]
    return np.concatenate(found) if found else np.zeros((0, 2), np.float32)


def _pair(
    claims: Claims,
    annotations: Annotations,
    lost: list[Key],
    taken: NDArray[np.bool_],
    reach: float,
) -> dict[Key, int]:
    free = np.flatnonzero(~taken)
    if not lost or not len(free):
        return {}
    from scipy.spatial import cKDTree

    places = [_places(annotations.cells[k]) for k in lost]
    owner = np.repeat(np.arange(len(lost)), [len(p) for p in places])
    tree = cKDTree(claims.table.centres[free])
    found = tree.query_ball_point(np.array([xy for p in places for xy in p]), reach)
    at = np.repeat(np.arange(len(owner)), [len(f) for f in found])
    rows = free[np.array([i for f in found for i in f], np.int64)]
    every = np.array([xy for p in places for xy in p])
    apart = np.hypot(*(claims.table.centres[rows] - every[at]).T)
    paired: dict[Key, int] = {}
    used: set[int] = set()
    for i in np.lexsort((rows, apart)):
        key, row = lost[int(owner[at[i]])], int(rows[i])
        if key not in paired and row not in used:
            paired[key] = row
            used.add(row)
    return paired


def _middle(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _places(said: Said) -> list[tuple[float, float]]:
    # Where the model may find it again: where it had claimed it, and where the person put it.
    boxes = [said.box] if said.claim is None else [said.claim[0], said.box]
    return [_middle(box) for box in dict.fromkeys(boxes)]


def _lost_and_changed(
    claims: Claims,
    annotations: Annotations,
    lost: list[Key],
    covered: Mapping[Key, int],
    threshold: float,
) -> Iterable[Conflict]:
    theirs = [*claims.table.class_names, "unknown"]
    ours = [*annotations.class_names, "unknown"]
    for key in lost:
        said, row = annotations.cells[key], covered.get(key)
        if said.status == Status.DELETED:
            continue
        if row is None or claims.table.scores[row] < threshold:
            if said.claim is not None:
                words = "The model does not find this cell any more; yours is kept."
                yield Conflict(Disagreement.GONE, key, said.box, words)
            continue
        now, mine = theirs[claims.table.class_ids[row]], ours[said.class_id]
        then = None if said.claim is None else ours[said.claim[1]]
        if now not in (mine, then):
            words = f"The model now says {now}; you said {mine}, which is kept."
            yield Conflict(Disagreement.CLASS, key, said.box, words)


def _in_complete_areas(
    claims: Claims,
    annotations: Annotations,
    seen: NDArray[np.floating],
    taken: NDArray[np.bool_],
    reach: float,
    threshold: float,
) -> Iterable[Conflict]:
    from scipy.spatial import cKDTree

    assert claims.keys is not None
    for area in annotations.areas.values():
        if area.kind != "complete":
            continue
        sure = ~taken & (claims.table.scores >= np.float32(threshold))
        fresh = np.flatnonzero(sure)
        fresh = fresh[area.contains(claims.table.centres[fresh])]
        if len(seen) and len(fresh):
            apart, _ = cKDTree(seen).query(claims.table.centres[fresh])
            fresh = fresh[apart > reach]
        for row in fresh.tolist():
            first, second = claims.keys[row].tolist()
            box = tuple(claims.table.boxes[row].tolist())
            words = "The model finds a cell in an area that you marked as complete."
            yield Conflict(Disagreement.COMPLETE, (first, second), box, words)
