"""Teaching: labels become a head that names every cell, and what cannot be learned is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from taught_slide import MPP, NAMES, TRUE, say, some, taught_slide

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.edits import add, delete, move, relabel
from napari_celldetr.core.errors import DataError, JobError
from napari_celldetr.core.head import no_lesson
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.gather import gather
from napari_celldetr.pipeline.replay_lesson import replay
from napari_celldetr.pipeline.teach import TeachSettings, still_wrong, teach, what_changes

HOW = TeachSettings(author="ada", colors={"spotted": (1, 2, 3)}, mpp=MPP)


def share_right(table: CellTable, truth: Any) -> float:
    labels = np.array([*table.class_names, "unknown"])[table.class_ids]
    return float((labels == np.array(TRUE)[truth]).mean())


def test_a_new_class_is_learned_and_old_ones_keep_their_meaning() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 120))
    before = share_right(table, truth)
    lesson = drain(teach(table.copy(), HOW))
    table.teach(lesson.head)
    assert before < 0.8
    assert share_right(table, truth) > 0.95
    assert lesson.class_names == TRUE
    assert lesson.class_colors["spotted"] == (1, 2, 3)
    assert lesson.verdict is not None
    assert lesson.verdict.gain.low > 0
    assert lesson.verdict.after.accuracy.value > 0.9
    assert lesson.verdict.after.ece < 0.15
    assert lesson.verdict.model.f1["spotted"].value == 0
    assert lesson.guard.sum() == lesson.verdict.after.cells


def test_where_nothing_new_is_said_the_model_keeps_its_word() -> None:
    table, truth = taught_slide()
    known = np.flatnonzero(truth < 2)[:80]
    say(table, truth, known)
    found, rows = what_changes(table, drain(teach(table.copy(), HOW)), mpp=MPP)
    assert found.flipped <= 0.03 * len(rows)


def test_only_ever_saying_what_is_wrong_does_not_turn_everything() -> None:
    table, truth = taught_slide()
    wrong = np.flatnonzero(truth == 2)[:60]
    say(table, truth, wrong[:50])
    table.apply(relabel(table, np.flatnonzero(truth == 0)[:3], "long"))
    lesson = drain(teach(table.copy(), HOW))
    table.teach(lesson.head)
    old = np.flatnonzero((truth < 2) & (table.status == Status.CLAIMED))
    assert (table.class_ids[old] == truth[old]).mean() > 0.9


def test_runs_without_all_probabilities_can_be_taught() -> None:
    table, truth = taught_slide(stored=False)
    say(table, truth, some(table, 120))
    lesson = drain(teach(table.copy(), HOW))
    table.teach(lesson.head)
    assert share_right(table, truth) > 0.95


def test_the_guard_set_is_never_learned_from_and_sides_are_kept() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 80))
    first = drain(teach(table.copy(), HOW))
    wrong = first.keys[first.guard]
    # Whatever was said of cells kept aside, the head is the same.
    other, _ = taught_slide()
    say(other, truth, some(other, 80))
    rows = other.rows_of([(a, b) for a, b in wrong.tolist()])
    other.apply(relabel(other, rows[:2], NAMES[0]))
    again = drain(teach(other.copy(), HOW, parent=first))
    assert first.head is not None
    assert again.head is not None
    assert again.head.digest() == first.head.digest()
    say(table, truth, some(table, 200, seed=2))
    second = drain(teach(table.copy(), HOW, parent=first))
    sides = second.sides()
    assert all(sides[key] == aside for key, aside in first.sides().items())
    assert second.parent == first.id
    assert second.verdict is not None
    assert second.verdict.before is not None


def test_a_replay_gives_the_same_head() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 90))
    lesson = drain(teach(table.copy(), HOW))
    table.teach(lesson.head)
    say(table, truth, some(table, 30, seed=9))
    found = drain(replay(table, lesson))
    assert found.same, found.difference
    empty, _ = taught_slide(seed=5)
    with pytest.raises(DataError, match="fitted again"):
        drain(replay(empty, lesson))


def test_cells_added_by_hand_need_to_be_asked_about() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 40))
    table.apply(add(table, np.array([[1, 1, 17, 17], [30, 1, 46, 17]]), "spotted"))
    told = gather(table, mpp=MPP)
    assert len(told) == 40
    assert sum(told.left_out.values()) == 2
    assert "2 labels were left out" in told.warnings()[0]

    def ask(xy: Any) -> Detections:
        # Of the second cell, what is seen is another one, far away.
        assert len(xy) == 2
        at = np.where(xy[:, :1] < 20, xy, xy + 300)
        boxes = np.concatenate((at - 8, at + 8), axis=1)
        vector = np.zeros((2, 8), np.float16)
        return Detections(boxes, [0.9, 0.9], [1, 1], NAMES, vector)

    asked = gather(table, mpp=MPP, ask=ask)
    assert len(asked) == 41
    assert asked.asked.sum() == 1
    lesson = drain(teach(table.copy(), TeachSettings(mpp=MPP, ask=ask)))
    assert drain(replay(table, lesson)).same


def test_what_cannot_be_learned_from_is_counted() -> None:
    table, truth = taught_slide()
    rows = some(table, 40)
    say(table, truth, rows)
    table.apply(relabel(table, rows[:1], None))
    table.apply(delete(table, rows[1:2]))
    table.apply(move(table, int(rows[2]), [4000, 4000, 4016, 4016]))
    told = gather(table, mpp=MPP)
    assert len(told) == 37
    assert dict(told.left_out) == {
        "of unknown class": 1,
        "moved to where another cell may be": 1,
    }


def test_labels_that_contradict_each_other() -> None:
    table, truth = taught_slide()
    rows = some(table, 40)
    say(table, truth, rows)
    claims = table.claims[0].table
    assert claims.embeddings is not None
    vectors = claims.embeddings.copy()
    one = rows[truth[rows] == 0][0]
    other = rows[truth[rows] == 2][0]
    vectors[one] = vectors[other]
    same = Detections(
        claims.boxes,
        claims.scores,
        claims.class_ids,
        NAMES,
        vectors,
        dict(claims.columns),
        claims.source,
    )
    table.replace(Claims.prepared(same, cell_ids))
    told = gather(table, mpp=MPP)
    assert told.alike == 1
    assert "1 pair of labelled cells look the same" in " ".join(told.warnings())


@pytest.mark.parametrize(
    ("kind", "found"),
    [("few", "6 that can be used"), ("one", "all round"), ("none", "none"), ("bare", "without")],
)
def test_too_little(kind: str, found: str) -> None:
    table, truth = taught_slide(100)
    if kind == "few":
        say(table, truth, some(table, 6))
    elif kind == "one":
        say(table, truth, np.flatnonzero(truth == 0)[:20])
    elif kind == "none":
        table = CellTable(NAMES, cell_ids)
    else:
        cells = table.claims[0].table
        bare = Detections(cells.boxes, cells.scores, cells.class_ids, NAMES)
        table.replace(Claims.prepared(bare, cell_ids))
    with pytest.raises(DataError, match="too little") as error:
        drain(teach(table.copy(), HOW))
    assert found in str(error.value)
    assert error.value.remedy


def test_a_class_that_nobody_teaches_any_more_is_told() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 80))
    first = drain(teach(table.copy(), HOW))
    again, truth = taught_slide()
    say(again, truth, np.flatnonzero(truth < 2)[:60])
    second = drain(teach(again.copy(), HOW, parent=first))
    assert "spotted" not in second.class_names
    assert any("No label of spotted" in w for w in second.warnings)


def test_a_lesson_of_another_model_before_keeps_its_guard_set_alone() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 80))
    first = drain(teach(table.copy(), HOW))
    other = replace(first, weights="c" * 64, head=no_lesson(("x", "y"), 4)).sealed()
    second = drain(teach(table.copy(), HOW, parent=other))
    assert second.verdict is not None
    assert second.verdict.before is None
    assert any("another model" in w for w in second.warnings)
    assert second.sides() == first.sides()


def test_lack_of_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("napari_celldetr.pipeline.teach.fit_head", full)
    table, truth = taught_slide()
    say(table, truth, some(table, 80))
    with pytest.raises(JobError, match="not enough memory"):
        drain(teach(table.copy(), HOW))


def test_it_can_be_stopped_at_any_step() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 60))
    for steps in range(1, 5):
        job = teach(table.copy(), HOW)
        for _ in range(steps):
            next(job)
        job.close()
    assert table.teacher is None


def test_how_much_is_still_wrong_by_random_cells_alone() -> None:
    table, truth = taught_slide()
    audit = some(table, 60, seed=4)
    keys = {(a, b) for a, b in table.keys_of(audit).tolist()}
    assert still_wrong(table, keys).asked == 0
    say(table, truth, audit)
    say(table, truth, some(table, 100, seed=8))
    gone = delete(table, audit[:1])
    table.apply(gone)
    assert still_wrong(table, keys).asked == 59
    table.apply(gone.reversed(), back=True)
    start = still_wrong(table, keys)
    assert start.asked == 60
    assert start.wrong == (truth[audit] == 2).sum()
    lesson = drain(teach(table.copy(), TeachSettings(mpp=MPP, audited=keys)))
    assert not any(lesson.sides()[k] is False for k in keys if k in lesson.sides())
    table.teach(lesson.head)
    assert still_wrong(table, keys).wrong < 6


def test_what_changes_is_told_and_changes_nothing() -> None:
    table, truth = taught_slide()
    say(table, truth, some(table, 90))
    lesson = drain(teach(table.copy(), HOW))
    before = table.class_ids.copy()
    found, rows = what_changes(table, lesson, mpp=MPP)
    assert np.array_equal(table.class_ids, before)
    assert found.gained()["spotted"] == found.flipped == found.lost()["long"]
    assert found.changed.sum() == found.flipped
    table.teach(lesson.head)
    back, _ = what_changes(table, None, mpp=MPP)
    assert back.lost()["spotted"] == found.flipped
    assert len(rows) == len(table)
