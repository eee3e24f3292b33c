"""The table of cells against a slow one: edits, thresholds, new claims, places, counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from napari_celldetr.core import claims as claims_module
from napari_celldetr.core.annotations import Annotations, Area, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import add, confirm, delete, mark, move, relabel, unmark
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.regions import Region

NAMES = ("a", "b", "c")


def keys(table: Detections) -> Any:
    """Keys from the boxes alone, as `cell_ids` makes them, but readable."""
    corner = np.round(table.boxes[:, :2].astype(np.float64) * 100).astype(np.int64)
    return corner.astype(np.uint64)


def claims(n: int, seed: int = 0, side: float = 2000) -> Detections:
    rng = np.random.default_rng(seed)
    corner = np.round(rng.uniform(0, side, (n, 2)), 2)
    boxes = np.column_stack((corner, corner + np.round(rng.uniform(5, 20, (n, 2)), 2)))
    return Detections(
        boxes,
        rng.uniform(0.1, 1, n),
        rng.integers(-1, 3, n),
        NAMES,
        rng.normal(size=(n, 4)).astype(np.float16),
        {"area": rng.uniform(size=n).astype(np.float32)},
        Source(slide="s"),
    ).ordered()


def filled(n: int = 50, threshold: float = 0.5, **options: Any) -> CellTable:
    table = CellTable(NAMES, keys, threshold=threshold)
    table.replace(Claims.prepared(claims(n, **options), keys))
    return table


def snapshot(table: CellTable) -> list[tuple[Any, ...]]:
    """Everything that holds, in an order of its own."""
    now = table.corrected()
    return sorted(
        zip(
            now.ids.tolist(),
            now.cells.boxes.tolist(),
            now.cells.class_labels.tolist(),
            now.status.tolist(),
            now.cells.scores.tolist(),
            strict=True,
        )
    )


class Slow:
    """What the table must be, one cell at a time."""

    def __init__(self, table: Detections) -> None:
        self.cells = {
            tuple(k): [tuple(b), int(c), float(s), Status.CLAIMED]
            for k, b, c, s in zip(
                keys(table).tolist(),
                table.boxes.tolist(),
                table.class_ids.tolist(),
                table.scores.tolist(),
                strict=True,
            )
        }

    def kept(self, threshold: float) -> dict[Any, Any]:
        limit = np.float32(threshold)
        return {
            k: c
            for k, c in self.cells.items()
            if c[3] in (1, 2, 3, 4) or (c[3] == 0 and np.float32(c[2]) >= limit)
        }


@pytest.fixture(autouse=True)
def _index_even_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "FEW", 10)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_edits_give_what_a_slow_table_gives(data: Any) -> None:
    source = claims(data.draw(st.sampled_from([0, 1, 40])), seed=3)
    table = CellTable(NAMES, keys)
    table.replace(Claims.prepared(source, keys))
    slow, threshold, done = Slow(source), 0.5, []
    history = [snapshot(table)]
    for _ in range(data.draw(st.integers(1, 8))):
        rows = np.flatnonzero(table.kept)
        what = data.draw(st.sampled_from(["relabel", "delete", "move", "add", "confirm"]))
        some = rows[:: data.draw(st.integers(1, 7))] if len(rows) else rows
        names = [tuple(k) for k in table.keys_of(some).tolist()]
        if what == "relabel":
            wanted = data.draw(st.integers(0, 2))
            edit = relabel(table, some, NAMES[wanted])
            for name in names:
                cell = slow.cells[name]
                cell[1] = wanted
                if cell[3] in (Status.CLAIMED, Status.CONFIRMED, Status.RECLASSED):
                    claimed = Slow(source).cells[name][1]
                    cell[3] = Status.CONFIRMED if claimed == wanted else Status.RECLASSED
        elif what == "delete":
            edit = delete(table, some)
            for name in names:
                slow.cells[name][3] = Status.DELETED
        elif what == "confirm":
            edit = confirm(table, some)
            for name in names:
                cell = slow.cells[name]
                cell[3] = Status.CONFIRMED if cell[3] == Status.CLAIMED else cell[3]
        elif what == "move" and len(rows):
            box = (*np.random.default_rng(len(rows)).uniform(0, 1500, 2).astype(np.float32), 0, 0)
            box = (box[0], box[1], box[0] + np.float32(9), box[1] + np.float32(9))
            edit = move(table, int(rows[0]), box)
            name = tuple(table.keys_of(rows[:1])[0].tolist())
            cell = slow.cells[name]
            cell[0] = tuple(map(float, box))
            cell[3] = Status.ADDED if cell[3] == Status.ADDED else Status.MOVED
        else:
            edit = add(table, np.array([[5.0, 6.0, 15.0, 16.0], [900, 900, 907, 908]]), "b")
            for k, b in zip(edit.keys.tolist(), edit.after.boxes.tolist(), strict=True):
                slow.cells[tuple(k)] = [tuple(b), 1, 1.0, Status.ADDED]
        table.apply(edit)
        done.append(edit)
        history.append(snapshot(table))
        wanted_cells = slow.kept(threshold)
        assert [tuple(s[0]) for s in snapshot(table)] == sorted(wanted_cells)
        for key, box, label, status, _ in snapshot(table):
            cell = wanted_cells[tuple(key)]
            assert tuple(box) == cell[0]
            assert label == ([*NAMES, "unknown"][cell[1]])
            assert status == cell[3]
        region = Region(*data.draw(st.tuples(*[st.integers(-50, 1500)] * 2)), 600, 400)
        found = table.rows_in(region)
        assert len(np.unique(found)) == len(found)
        inside = {
            k
            for k, c in wanted_cells.items()
            if region.contains(*(np.float32((c[0][i] + c[0][i + 2]) / 2) for i in (0, 1)))
        }
        assert {tuple(k) for k in table.keys_of(found).tolist()} == inside
        # Claims that come again, as after a second run, change nothing.
        if data.draw(st.booleans()):
            table.replace(Claims.prepared(source, keys))
            assert snapshot(table) == history[-1]
    for edit, before in zip(reversed(done), reversed(history[:-1]), strict=True):
        table.apply(edit.reversed())
        assert snapshot(table) == before
    assert not table.annotations.cells


def test_a_person_vouches_for_a_cell_whatever_its_score() -> None:
    table = filled(threshold=0.1)
    weakest = int(np.argmin(table.scores))
    table.apply(confirm(table, np.array([weakest])))
    table.threshold = 0.99
    assert np.flatnonzero(table.kept).tolist() == [weakest]
    assert table.counts() == {**dict.fromkeys(NAMES, 0), **table.counts()}
    assert sum(table.counts().values()) == 1


def test_tiles_and_the_merged_table_hold_the_same_edits() -> None:
    source = claims(60)
    table = CellTable(NAMES, keys, threshold=0.0)
    table.add(source.select(slice(0, 30)))
    table.add(source.select(slice(30, 60)))
    rows = np.array([3, 40])
    table.apply(delete(table, rows[:1]))
    table.apply(relabel(table, rows[1:], "c"))
    before = snapshot(table)
    table.replace(Claims.prepared(source, keys))
    assert snapshot(table) == before
    assert len(before) == 59


def test_tiles_of_a_second_run_take_the_place_of_the_first_ones_cells() -> None:
    table = filled(60, threshold=0.0)
    table.apply(delete(table, np.array([3])))
    before = snapshot(table)
    source = claims(60)
    for top in (0, 1000):
        core = Region(0, top, 2100, 1000 if not top else 1100)
        rows = [i for i, (x, y) in enumerate(source.centres) if core.contains(x, y)]
        table.add(source.select(np.array(rows)), within=core)
        assert snapshot(table) == before
    # A tile without cells: what was claimed there is no longer.
    table.add(Detections.empty(NAMES), within=Region(0, 0, 2100, 1000))
    assert len(snapshot(table)) == sum(y >= 1000 for _, y in source.centres[table.kept[-60:]])


def test_a_claim_that_comes_late_takes_up_what_was_said_of_it() -> None:
    table, said = filled(30, threshold=0.0), Annotations(NAMES)
    for edit in (delete(table, np.array([3])), relabel(table, np.array([7]), "c")):
        table.apply(edit)
        said.apply(edit)
    streamed = CellTable(NAMES, keys, threshold=0.0)
    streamed.load(said)
    assert len(streamed.corrected()) == 1
    streamed.add(claims(30))
    assert snapshot(streamed) == snapshot(table)


def test_a_persons_cell_outlives_the_claim_it_was_made_from() -> None:
    table = filled(10, threshold=0.0)
    table.apply(relabel(table, np.array([4]), "c"))
    touched = table.select(np.array([4]))
    other = claims(10, seed=9)
    table.replace(Claims.prepared(other, keys))
    assert len(table.corrected()) == 11
    row = table.nearest((touched.centres[0, 0], touched.centres[0, 1]), 1.0)
    assert row is not None
    assert table.status[row] == Status.RECLASSED


def test_a_covered_claim_is_hidden_until_the_correction_is_taken_back() -> None:
    table = filled(10, threshold=0.0)
    edit = delete(table, np.array([4]))
    table.apply(edit)
    key = tuple(edit.keys[0].tolist())
    other = Claims.prepared(claims(10, seed=9), keys)
    table.replace(other, covered={key: 7})
    assert not table.kept[7]
    assert len(table.corrected()) == 9
    table.apply(edit.reversed())
    assert table.kept[7]
    # The old claim does not come back: the new run does not make it.
    assert len(table.corrected()) == 10
    table.apply(edit)
    assert not table.kept[7]


def test_loading_a_journal_gives_the_same_cells() -> None:
    table, said = filled(80), Annotations(("x", "c"))
    for make in (
        lambda: relabel(table, np.array([1, 2, 3]), "c"),
        lambda: add(table, np.array([[1.0, 2, 8, 9]]), "new"),
        lambda: delete(table, np.array([5])),
        lambda: mark(table, Area(((0, 0), (9, 0), (9, 9)))),
    ):
        edit = make()
        table.apply(edit, author="ada")
        said.apply(edit, author="ada")
    other = filled(80)
    other.load(said)
    assert snapshot(other) == snapshot(table)
    assert other.annotations.digest() == table.annotations.digest() == said.digest()
    other.load(Annotations())
    assert snapshot(other) == snapshot(filled(80))


def test_corrected_cells_know_ids_authors_and_lose_stale_measurements() -> None:
    table = filled(20, threshold=0.0)
    table.apply(move(table, 3, (1, 1, 9, 9)), author="ada")
    table.apply(add(table, np.array([[1000.0, 2, 1008, 9]]), None), author="bo")
    now = table.corrected()
    assert now.cells == now.cells.ordered()
    assert sorted(now.authors[now.authors != ""].tolist()) == ["ada", "bo"]
    moved, added = (np.flatnonzero(now.status == s)[0] for s in (Status.MOVED, Status.ADDED))
    assert np.isnan(now.cells.columns["area"][[moved, added]]).all()
    assert np.isfinite(now.cells.columns["area"]).sum() == 19
    assert now.cells.embeddings is not None
    assert np.isnan(now.cells.embeddings[added]).all()
    # The model's vector of a moved cell still says what it saw there.
    assert np.isfinite(now.cells.embeddings[moved]).all()
    assert now.cells.class_ids[added] == -1
    assert len(np.unique(now.ids, axis=0)) == 21


def test_the_nearest_cell_is_the_one_under_the_pointer() -> None:
    table = CellTable(NAMES, keys, threshold=0.0)
    boxes = np.array([[0, 0, 40, 40], [30, 30, 50, 50], [100, 100, 110, 110]], np.float32)
    table.add(Detections(boxes, np.ones(3), np.zeros(3), NAMES))
    assert table.nearest((34, 34), 5) == 1
    assert table.nearest((5, 5), 5) == 0
    assert table.nearest((97, 105), 9) == 2
    assert table.nearest((97, 105), 7) is None
    table.apply(delete(table, np.array([1])))
    assert table.nearest((34, 34), 5) == 0


def test_cells_within_an_area() -> None:
    table = filled(300, threshold=0.0)
    area = Area(((100, 100), (900, 150), (500, 1200)))
    rows = table.rows_within(area)
    assert sorted(rows) == np.flatnonzero(area.contains(table.centres)).tolist()
    assert len(rows) > 10
    assert sum(table.counts(rows).values()) == len(rows)


def test_areas_come_and_go() -> None:
    table = filled(3)
    table.apply(mark(table, Area(((0, 0), (9, 0), (9, 9)), name="x")))
    ((name, area),) = table.annotations.areas.items()
    assert area.name == "x"
    table.apply(unmark(table, name))
    assert not table.annotations.areas
    with pytest.raises(AnnotationError, match="not there"):
        unmark(table, name)


def test_a_complete_area_confirms_what_is_shown_in_it() -> None:
    table = filled(300)
    area = Area(((100, 100), (900, 150), (500, 1200)))
    inside = table.rows_within(area)
    table.apply(delete(table, inside[:2]))
    table.apply(relabel(table, inside[2:3], "c"), author="ada")
    start = snapshot(table)
    edit = mark(table, area)
    assert edit.what == f"mark complete area, confirm {len(inside) - 3} cells"
    table.apply(edit, author="bob")
    assert set(table.status[inside[3:]]) == {Status.CONFIRMED}
    assert set(table.status[inside[:2]]) == {Status.DELETED}
    outside = np.setdiff1d(np.arange(len(table)), inside)
    assert set(table.status[outside]) == {Status.CLAIMED}
    table.threshold = 0.99
    assert set(table.rows_within(area)) == set(inside[2:].tolist())
    table.threshold = 0.5
    table.apply(edit.reversed(), back=True)
    assert snapshot(table) == start
    assert not len(mark(table, Area(area.polygon, "region")))


def test_a_copy_is_another_table() -> None:
    table = filled(80)
    table.apply(add(table, np.array([[5, 5, 9, 9]]), "new"))
    table.apply(relabel(table, np.flatnonzero(table.kept)[:4], "c"), author="ada")
    table.apply(mark(table, Area(((0, 0), (9, 0), (9, 9)))))
    held, copy = snapshot(table), table.copy()
    table.apply(delete(table, np.flatnonzero(table.kept)[:9]))
    table.threshold = 0.9
    table.replace(Claims.prepared(claims(20, seed=5), keys))
    assert snapshot(table) != held
    assert snapshot(copy) == held
    assert len(copy.annotations.areas) == 1
    copy.apply(delete(copy, np.flatnonzero(copy.kept)))
    assert not copy.kept.any()


def test_an_edit_leaves_out_what_it_does_not_change() -> None:
    table = filled(5, threshold=0.0)
    table.apply(confirm(table, np.array([0, 1])))
    again = confirm(table, np.arange(5))
    assert len(again) == 3
    assert again.what == "confirm 3 cells"


def test_deleting_an_added_cell_leaves_no_trace() -> None:
    table = filled(5, threshold=0.0)
    start = snapshot(table)
    table.apply(add(table, np.array([[1.0, 2, 8, 9]]), "a"))
    table.apply(delete(table, np.array([5])))
    assert snapshot(table) == start
    assert not table.annotations.cells


def test_equal_first_halves_of_keys_are_told_apart() -> None:
    def same(table: Detections) -> Any:
        return np.column_stack((np.full(len(table), 7), np.arange(len(table)))).astype(np.uint64)

    found = Claims.prepared(claims(6), same).rows_of(
        np.array([[7, 4], [7, 0], [7, 9], [8, 0], [6, 0]], np.uint64)
    )
    assert found.tolist() == [4, 0, -1, -1, -1]
