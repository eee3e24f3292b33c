"""Corrections on top of another run: what they stand for, and what is listed."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_celldetr.core.annotations import Area, Edit
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import add, confirm, delete, mark, move, relabel
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.reapply import Disagreement, reapply, seen_in_areas

NAMES = ("a", "b", "c")
AT = np.array([[100, 100], [200, 100], [300, 100], [400, 100]], float)


def run(centres: Any, classes: Any = 0, *, weights: str = "one", score: float = 0.9) -> Claims:
    xy = np.asarray(centres, float).reshape(-1, 2)
    table = Detections(
        np.column_stack((xy - 8, xy + 8)),
        np.full(len(xy), score),
        np.broadcast_to(classes, len(xy)),
        NAMES,
        source=Source(weights_sha256=weights),
    )
    return Claims.prepared(table, cell_ids)


def table_of(claims: Claims) -> CellTable:
    table = CellTable(NAMES, cell_ids)
    table.replace(claims)
    return table


def again(table: CellTable, claims: Claims) -> tuple[CellTable, list[Any]]:
    """The table after another run, and its conflicts."""
    found = reapply(claims, table.annotations, reach_px=6, threshold=0.5, seen=seen_in_areas(table))
    table.replace(claims, covered=found.covered)
    return table, [(c.kind, c.text) for c in found.conflicts]


def cells(table: CellTable) -> list[tuple[float, float, str]]:
    now = table.corrected().cells
    return [(float(x), float(y), str(n)) for (x, y), n in zip(now.centres, now.class_labels)]  # noqa: B905


def test_the_same_model_again_keeps_everything_without_conflict() -> None:
    table = table_of(run(AT))
    for edit in (delete(table, np.array([0])), relabel(table, np.array([1]), "b")):
        table.apply(edit)
    before = cells(table)
    after, conflicts = again(table, run(AT))
    assert cells(after) == before
    assert conflicts == []


def test_corrections_hold_for_another_models_cells_nearby() -> None:
    table = table_of(run(AT))
    table.apply(delete(table, np.array([0])))
    table.apply(relabel(table, np.array([1]), "b"))
    after, conflicts = again(table, run(AT + 2, weights="two"))
    # Deleted stays deleted, the person's cell stands where it was, the others are the new run's.
    assert cells(after) == [(200, 100, "b"), (302, 102, "a"), (402, 102, "a")]
    assert conflicts == []


def test_farther_than_a_nucleus_is_another_cell() -> None:
    table = table_of(run(AT))
    table.apply(delete(table, np.array([0])))
    after, conflicts = again(table, run(AT + 5, weights="two"))
    assert len(cells(after)) == 4
    assert conflicts == []


def test_a_cell_that_the_model_lost_is_kept_and_listed() -> None:
    table = table_of(run(AT))
    table.apply(confirm(table, np.array([2])))
    after, conflicts = again(table, run(AT[:2], weights="two"))
    assert (300, 100, "a") in cells(after)
    assert [k for k, _ in conflicts] == [Disagreement.GONE]


def test_a_third_class_is_listed() -> None:
    table = table_of(run(AT))
    table.apply(relabel(table, np.array([0, 1, 2]), "b"))
    after, conflicts = again(table, run(AT, [0, 1, 2, 0], weights="two"))
    assert [n for *_, n in cells(after)] == ["b", "b", "b", "a"]
    assert conflicts == [(Disagreement.CLASS, "The model now says c; you said b, which is kept.")]


def test_an_added_cell_that_is_now_found_is_not_doubled() -> None:
    table = table_of(run(AT))
    table.apply(add(table, np.array([[492, 92, 508, 108], [592, 92, 608, 108]]), "a"))
    more = np.vstack((AT, [[501, 100], [600, 101]]))
    after, conflicts = again(table, run(more, [0] * 5 + [1], weights="two"))
    assert [x for x, *_ in cells(after)] == [100, 200, 300, 400, 500, 600]
    assert conflicts == [(Disagreement.CLASS, "The model now says b; you said a, which is kept.")]


def test_a_moved_cell_stands_for_the_claim_where_it_was() -> None:
    table = table_of(run(AT))
    table.apply(move(table, 0, (112, 112, 128, 128)))
    after, conflicts = again(table, run(AT + 1, weights="two"))
    assert [x for x, *_ in cells(after)] == [201, 301, 401, 120]
    assert conflicts == []


def test_one_correction_takes_one_claim() -> None:
    table = table_of(run(AT[:1]))
    table.apply(delete(table, np.array([0])))
    after, _ = again(table, run([[98, 100], [101, 100]], weights="two"))
    assert cells(after) == [(98, 100, "a")]


def test_new_cells_in_a_complete_area_are_listed_and_shown() -> None:
    table = table_of(run(AT))
    table.apply(mark(table, Area(((50, 50), (450, 50), (450, 150), (50, 150)))))
    new = np.vstack((AT + 1, [[150, 100], [800, 100]]))
    after, conflicts = again(table, run(new, weights="two"))
    assert [k for k, _ in conflicts] == [Disagreement.COMPLETE]
    assert len(cells(after)) == 6


def test_claims_below_the_threshold_contradict_nothing() -> None:
    table = table_of(run(AT))
    table.apply(mark(table, Area(((50, 50), (450, 50), (450, 150), (50, 150)))))
    new = np.vstack((AT[1:], [[150, 100]]))
    _, conflicts = again(table, run(new, weights="two", score=0.3))
    # What the area confirmed is not found any more; the new claim in it is too unsure to count.
    assert [k for k, _ in conflicts] == [Disagreement.GONE] * len(AT)


def test_nothing_to_apply() -> None:
    found = reapply(run(AT), table_of(run(AT)).annotations, reach_px=6)
    assert (dict(found.covered), found.conflicts) == ({}, ())
    empty: Edit = delete(table_of(run(AT)), np.array([0]))
    table = table_of(run(AT))
    table.apply(empty)
    assert reapply(run(np.zeros((0, 2))), table.annotations, reach_px=6).conflicts == ()
