"""Learning, going back and asking, without a window: what the dock takes over is right."""

import numpy as np
import pytest
from tables import random_table

from napari_celldetr.core.annotations import SAID
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import confirm, relabel
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.progress import drain
from napari_celldetr.gui.prepared import prepare
from napari_celldetr.gui.raster import CellRaster
from napari_celldetr.gui.teach_jobs import compare_job, go_back_job, learn_job, next_job, painted
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.project import Project
from napari_celldetr.pipeline.project_record import SlideFacts
from napari_celldetr.pipeline.teach import TeachSettings

SIZE, MPP = (2000, 1500), (0.5, 0.5)
HOW = TeachSettings(author="ada", mpp=MPP)


def claims_of(n=400, seed=0):
    """Cells of which every third has an embedding that the model's class does not show."""
    cells = random_table(n, SIZE, seed=seed)
    vectors = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float16) * 0.3
    vectors[np.arange(n), np.arange(n) % 3] += 3
    classes = np.minimum(np.arange(n) % 3, 1)
    source = Source(slide="s", slide_id="a" * 64, mpp=MPP, model="m", weights_sha256="b" * 64)
    columns = {"class_probability": np.full(n, 0.8, np.float32)}
    return Detections(
        cells.boxes, np.full(n, 0.9), classes, cells.class_names, vectors, columns, source
    )


@pytest.fixture
def store(tmp_path):
    facts = SlideFacts("s", "a" * 64, SIZE, MPP)
    record = Project.open(tmp_path / "project", author="ada").slide(facts)
    yield record.lessons
    record.close()


@pytest.fixture
def table():
    made = claims_of()
    found = CellTable(made.class_names, cell_ids, threshold=0.5)
    found.replace(Claims.prepared(made, cell_ids))
    return found


def taught(table):
    rows = np.arange(60)
    third = rows[rows % 3 == 2]
    table.apply(relabel(table, third, "odd"), author="ada")
    table.apply(confirm(table, rows[rows % 3 != 2]), author="ada")
    return table


def test_a_lesson_is_kept_and_comes_with_all_it_takes_to_show_it(table, store):
    taught(table)
    learned = drain(learn_job(table.copy(), HOW, store, parent=None, size=SIZE))
    assert store.current().id == learned.lesson.id
    before = table.class_ids.copy()
    changed = table.teach(learned.lesson.head)
    assert np.array_equal(changed, learned.rows)
    right = table.class_ids[np.arange(400) % 3 == 2] == table.class_names.index("odd")
    assert right.mean() > 0.95
    slow = CellRaster(SIZE, mpp=MPP[0])
    slow.repaint(table, table.boxes)
    for mine, new in zip(slow.levels, learned.raster.levels, strict=True):
        np.testing.assert_array_equal(mine.keys, new.keys)
    assert (table.class_ids != before).sum() == learned.changes.flipped


def test_going_back_gives_the_picture_and_the_classes_from_before(table, store):
    taught(table)
    before, plain = table.class_ids.copy(), painted(table, SIZE, MPP)
    learned = drain(learn_job(table.copy(), HOW, store, parent=None, size=SIZE))
    table.teach(learned.lesson.head)
    back = drain(go_back_job(table.copy(), store, None, mpp=MPP, size=SIZE))
    table.teach(None)
    assert store.current() is None
    assert np.array_equal(table.class_ids, before)
    for mine, new in zip(plain.levels, back.raster.levels, strict=True):
        np.testing.assert_array_equal(mine.keys, new.keys)
    again, rows = drain(compare_job(table.copy(), None, learned.lesson, mpp=MPP))
    assert again.flipped == len(rows) == learned.changes.flipped


def test_without_a_record_nothing_is_learned(table):
    with pytest.raises(AnnotationError, match="could not be kept"):
        drain(learn_job(taught(table), HOW, None, parent=None, size=SIZE))


def test_claims_that_come_later_are_painted_as_the_lesson_names_them(table, store):
    taught(table)
    learned = drain(learn_job(table.copy(), HOW, store, parent=None, size=SIZE))
    fresh = claims_of(200, seed=5)
    ready = prepare(
        fresh, SIZE, mpp=MPP[0], annotations=table.annotations, teacher=learned.lesson.head
    )
    other = CellTable(fresh.class_names, cell_ids)
    other.load(table.annotations)
    other.teach(learned.lesson.head)
    other.replace(ready.claims)
    shown = painted(other, SIZE, MPP)
    # Corrections of the other run's cells lie beside: compare where there are claims alone.
    raster = CellRaster(SIZE, mpp=MPP[0])
    claimed = np.flatnonzero(~SAID[other.status])
    assert len(claimed) == 200
    for row in claimed:
        x, y = (other.centres[row] / raster.factor).astype(int)
        mine, new = ready.raster.levels[0].keys[y, x], shown.levels[0].keys[y, x]
        assert mine == new or new >> 8 == 250  # A person's cell wins.


def test_random_cells_are_written_down_before_any_answer(table, store):
    asked = drain(next_job(taught(table), store, mpp=MPP, seed=1))
    assert len(asked.rows) == 20
    keys = {(int(a), int(b)) for a, b in table.keys_of(asked.rows[asked.random]).tolist()}
    assert store.asked() == keys
    assert keys
    assert not SAID[table.status[asked.rows]].any()
    assert "not known yet" in asked.sentence
