"""Lessons on the table of cells: all claims at once, nothing else, and back to the very same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import add, confirm, delete, move, relabel
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.regions import Region
from napari_celldetr.core.taught import Taught
from napari_celldetr.pipeline.cell_ids import cell_ids

NAMES = ("a", "b")
COLUMNS = ("boxes", "centres", "scores", "class_ids", "status", "kept")


def claims(n: int = 60, *, x: float = 0, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    corner = np.round(rng.uniform(0, 900, (n, 2)), 2) + np.array([x, 0])
    p = rng.uniform(0.5, 1, n).astype(np.float32)
    return Detections(
        np.column_stack((corner, corner + 10)),
        rng.uniform(0.1, 1, n),
        rng.integers(0, 2, n),
        NAMES,
        rng.normal(size=(n, 3)).astype(np.float16),
        {"class_probability": p, "probability_a": p, "probability_b": 1 - p},
        Source(slide="s"),
    ).ordered()


@dataclass(eq=False)
class ByPlace:
    """Everything left of a line is `name`."""

    line: float
    name: str = "new"
    asked: int = 0

    @property
    def class_names(self) -> tuple[str, ...]:
        return (*NAMES, self.name)

    def teach(self, cells: Detections) -> Taught:
        self.asked += 1
        if cells.class_names != NAMES:
            raise DataError("Another model.")
        left = cells.centres[:, 0] < self.line
        ids = np.where(left, 2, cells.class_ids)
        return Taught(self.class_names, ids, np.full(len(cells), 0.75, np.float32))


def filled(threshold: float = 0.3) -> CellTable:
    table = CellTable(NAMES, cell_ids, threshold=threshold)
    table.replace(Claims.prepared(claims(), cell_ids))
    return table


def held(table: CellTable) -> dict[str, Any]:
    return {name: getattr(table, name).copy() for name in COLUMNS}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in COLUMNS)


def test_claims_change_class_and_what_people_said_stays() -> None:
    table = filled()
    rows = np.flatnonzero(table.kept)[:4]
    table.apply(relabel(table, rows[:2], "b"))
    table.apply(delete(table, rows[2:3]))
    table.apply(add(table, np.array([[1, 1, 9, 9]]), "a"))
    before, keys = held(table), table.keys_of(np.arange(60))
    changed = table.teach(ByPlace(450))
    after = held(table)
    claimed = before["status"] == Status.CLAIMED
    left = claimed & (table.centres[:, 0] < 450)
    assert (after["class_ids"][left] == table.class_names.index("new")).all()
    assert np.array_equal(after["class_ids"][~left], before["class_ids"][~left])
    assert np.array_equal(changed, np.flatnonzero(left))
    for name in ("boxes", "centres", "scores", "status", "kept"):
        assert np.array_equal(after[name], before[name])
    assert np.array_equal(table.keys_of(np.arange(60)), keys)


def corrected_a_little() -> CellTable:
    table = filled()
    rows = np.flatnonzero(table.kept)
    table.apply(relabel(table, rows[:3], "b"))
    table.apply(move(table, int(rows[5]), [3, 3, 20, 20]))
    table.apply(confirm(table, rows[8:10]))
    return table


def test_taken_back_it_is_bit_for_bit_what_it_was() -> None:
    table, before = corrected_a_little(), held(corrected_a_little())
    for lesson in (ByPlace(450), ByPlace(200, "other"), None):
        table.teach(lesson)
    assert same(before, held(table))
    now, then = table.corrected(), corrected_a_little().corrected()
    assert np.array_equal(now.ids, then.ids)
    assert np.array_equal(now.cells.class_labels, then.cells.class_labels)
    sure, was = (c.cells.columns["class_probability"] for c in (now, then))
    assert np.array_equal(sure, was, equal_nan=True)


def test_edits_during_a_lesson_are_undone_to_the_lesson() -> None:
    table = filled()
    table.teach(ByPlace(450))
    rows = np.flatnonzero(table.kept & (table.centres[:, 0] < 450))[:3]
    edit = relabel(table, rows, "a")
    table.apply(edit)
    assert (table.class_ids[rows] == 0).all()
    table.apply(edit.reversed(), back=True)
    assert (table.class_ids[rows] == table.class_names.index("new")).all()
    assert (table.status[rows] == Status.CLAIMED).all()
    table.apply(edit)
    table.teach(None)
    table.apply(edit.reversed(), back=True)
    assert np.array_equal(table.class_ids[rows], table.model_classes(rows))


def test_claims_that_come_later_get_the_lesson_too() -> None:
    table = CellTable(NAMES, cell_ids, threshold=0)
    lesson = ByPlace(1000)
    table.teach(lesson)
    tile = claims(30, seed=3)
    table.add(tile, within=Region(0, 0, 1000, 1000))
    assert (table.class_ids == table.class_names.index("new")).all()
    table.add(claims(20, x=2000, seed=4), within=Region(2000, 0, 1000, 1000))
    assert (table.class_ids[30:] < 2).all()
    table.replace(Claims.prepared(tile, cell_ids))
    assert (table.class_ids == table.class_names.index("new")).all()
    table.teach(None)
    assert np.array_equal(table.class_ids, tile.class_ids)


def test_hidden_claims_come_back_with_the_lesson() -> None:
    table = filled(0)
    own = add(table, np.array([table.boxes[0]]), "a")
    table.apply(own)
    key = (int(own.keys[0, 0]), int(own.keys[0, 1]))
    table.replace(Claims.prepared(claims(), cell_ids), covered={key: 0})
    assert table.status[0] == Status.COVERED
    table.teach(ByPlace(10_000))
    table.apply(own.reversed(), back=True)
    assert table.status[0] == Status.CLAIMED
    assert table.class_ids[0] == table.class_names.index("new")


def test_a_lesson_is_computed_once_and_may_be_computed_beforehand() -> None:
    table, lesson = filled(), ByPlace(450)
    for part in table.claims:
        part.taught_by(lesson)
    table.teach(lesson)
    table.copy().corrected()
    table.select(np.arange(5))
    # Looking at another one meanwhile, on a copy that shares the claims.
    table.copy().teach(ByPlace(100))
    table.select(np.arange(5))
    assert lesson.asked == 1
    assert table.copy().teacher is lesson


def test_how_sure_the_lesson_is() -> None:
    table = filled()
    rows = np.flatnonzero(table.kept)
    table.apply(relabel(table, rows[:1], "new"))
    table.teach(ByPlace(450))
    sure = table.select(rows).columns["class_probability"]
    assert np.isnan(sure[0])
    assert (sure[1:] == 0.75).all()


def test_a_lesson_of_another_model_changes_nothing() -> None:
    class Wrong(ByPlace):
        def teach(self, cells: Detections) -> Taught:
            raise DataError("This lesson is of another model than these cells.")

    table = filled()
    table.teach(good := ByPlace(450))
    before = held(table)
    with pytest.raises(DataError, match="another model"):
        table.teach(Wrong(1))
    assert same(before, held(table))
    assert table.teacher is good


def test_all_probabilities_stay_with_the_claims() -> None:
    table = filled()
    assert table.measured() == ("class_probability",)
    assert set(table.select(np.arange(3)).columns) == {"class_probability"}
    assert "probability_a" in table.claims[0].table.columns
