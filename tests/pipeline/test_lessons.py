"""Lessons in a slide's record: kept whole, gone back to, and told when damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from taught_slide import MPP, say, some, taught_slide

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.lessons import compare
from napari_celldetr.pipeline.project import Project
from napari_celldetr.pipeline.project_record import SlideFacts, SlideRecord
from napari_celldetr.pipeline.replay_lesson import replay
from napari_celldetr.pipeline.teach import TeachSettings, teach, what_differs

FACTS = SlideFacts("s.svs", "a" * 64, (6100, 6100), MPP)


def taught() -> tuple[CellTable, Lesson, Lesson]:
    table, truth = taught_slide(300, side=4000)
    how = TeachSettings(author="ada", mpp=MPP)
    say(table, truth, some(table, 60))
    first = drain(teach(table.copy(), how))
    say(table, truth, some(table, 120, seed=3))
    return table, first, drain(teach(table.copy(), how, parent=first))


TABLE, FIRST, SECOND = taught()


@pytest.fixture
def record(tmp_path: Path) -> Iterator[SlideRecord]:
    with Project.open(tmp_path / "p", author="ada").slide(FACTS) as record:
        yield record


def files(record: SlideRecord) -> list[str]:
    return sorted(p.name for p in (record.folder / "lessons").iterdir())


def test_kept_and_read_again(record: SlideRecord) -> None:
    saved = record.lessons.save(FIRST)
    again = record.lessons.load(saved.id)
    assert again.plain() == FIRST.plain()
    assert again.id == FIRST.id == saved.id
    assert again.head is not None
    assert FIRST.head is not None
    assert again.head.digest() == FIRST.head.digest()
    assert drain(replay(TABLE, again)).same
    # The same lesson twice is one.
    record.lessons.save(FIRST)
    assert len(record.lessons.lessons()) == 1


def test_going_back_is_naming_another(record: SlideRecord) -> None:
    table = TABLE.copy()
    lessons = record.lessons
    assert lessons.current() is None
    states = [table.class_ids.copy()]
    for lesson in (FIRST, SECOND):
        table.teach(lessons.save(lesson).head)
        states.append(table.class_ids.copy())
    before = files(record)
    held = [lessons.hold(id) for id in (FIRST.id, "", SECOND.id)]
    assert [None if h is None else h.id for h in held] == [FIRST.id, None, SECOND.id]
    for lesson, state in zip(held, (states[1], states[0], states[2]), strict=True):
        table.teach(None if lesson is None else lesson.head)
        assert np.array_equal(table.class_ids, state)
    assert files(record) == before
    now = lessons.current()
    assert now is not None
    assert [x.id for x in lessons.history(now)] == [SECOND.id, FIRST.id]
    assert next(x.id for x in lessons.lessons()) in (FIRST.id, SECOND.id)


def test_a_damaged_lesson_is_told_and_the_one_before_holds(record: SlideRecord) -> None:
    record.lessons.save(FIRST)
    record.lessons.save(SECOND)
    path = record.folder / "lessons" / f"{SECOND.id}.npz"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    now = record.lessons.current()
    assert now is not None
    assert now.id == FIRST.id
    assert "other bytes" in " ".join(record.problems)
    assert [x.id for x in record.lessons.lessons()] == [FIRST.id]
    with pytest.raises(AnnotationError, match="cannot be used"):
        record.lessons.hold(SECOND.id)


@pytest.mark.parametrize("change", ["labels", "text", "schema", "no_json", "verdict", "colors"])
def test_what_was_changed_by_hand_is_refused(record: SlideRecord, change: str) -> None:
    record.lessons.save(FIRST)
    path = record.folder / "lessons" / f"{FIRST.id}.json"
    said = json.loads(path.read_text())
    if change == "labels":
        said["lesson"]["class_names"] = said["lesson"]["class_names"][::-1]
    elif change == "text":
        said["lesson"]["author"] = "eve"
    elif change == "schema":
        said["schema"] = 99
    elif change == "colors":
        said["lesson"]["class_colors"] = [1]
    elif change == "verdict":
        said["lesson"]["verdict"]["after"] = 1
    path.write_text("{" if change == "no_json" else json.dumps(said))
    with pytest.raises(AnnotationError):
        record.lessons.load(FIRST.id)
    assert record.lessons.current() is None
    assert record.problems


def test_a_name_cannot_lead_elsewhere(record: SlideRecord) -> None:
    with pytest.raises(AnnotationError, match="no lesson has"):
        record.lessons.load("../../slide")


def test_read_only_records_keep_what_they_have(record: SlideRecord, tmp_path: Path) -> None:
    record.lessons.save(FIRST)
    with Project.open(tmp_path / "p", author="eve").slide(FACTS) as other:
        assert other.read_only
        now = other.lessons.current()
        assert now is not None
        assert now.id == FIRST.id
        for call in (
            lambda: other.lessons.save(SECOND),
            lambda: other.lessons.hold(""),
            lambda: other.lessons.add_asked([(1, 2)]),
        ):
            with pytest.raises(AnnotationError, match="reading only"):
                call()


def test_nothing_is_left_when_the_disk_refuses(
    record: SlideRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    record.lessons.save(FIRST)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez", full)
    with pytest.raises(AnnotationError, match="cannot be written"):
        record.lessons.save(SECOND)
    now = record.lessons.current()
    assert now is not None
    assert now.id == FIRST.id
    assert len(files(record)) == 3


def test_random_cells_are_remembered(record: SlideRecord) -> None:
    record.lessons.add_asked([(2**63 + 5, 1), (3, 4)])
    record.lessons.add_asked([(3, 4), (0, 2**64 - 1)])
    assert record.lessons.asked() == {(2**63 + 5, 1), (3, 4), (0, 2**64 - 1)}


def test_two_versions_beside_each_other() -> None:
    found = compare(FIRST, SECOND)
    assert found.new == len(SECOND.keys) - len(FIRST.keys)
    assert found.gone == found.relabelled == 0
    assert found.second is SECOND.verdict
    renamed = replace(FIRST, class_names=(*FIRST.class_names[:2], "dotted"))
    other = compare(FIRST, replace(renamed, head=None))
    assert other.classes_new == ("dotted",)
    assert other.relabelled == (FIRST.labels == 2).sum()
    changed, rows = what_differs(TABLE, FIRST, SECOND, mpp=MPP)
    assert changed.total == len(rows)
    none, _ = what_differs(TABLE, SECOND, SECOND)
    assert none.flipped == 0
