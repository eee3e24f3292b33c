"""The plot of cells without a window: who is in it, in what colour, as dots or as a density."""

from dataclasses import replace

import numpy as np
import pytest
from tables import random_table

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.edits import relabel
from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import drain
from napari_celldetr.gui.plot_cells import Beside, Embedded, place_job
from napari_celldetr.gui.plot_colors import (
    CHANGE,
    CHANGED,
    CLASS,
    DOUBT,
    GREY,
    MEASURED,
    SCORE,
    SLIDE_COLORS,
    STATUS,
    STATUS_COLORS,
    by_slide,
    choices,
    colouring,
    ramp,
)
from napari_celldetr.gui.plot_picture import FAINTEST, picture
from napari_celldetr.pipeline.cell_ids import cell_ids

COLORS = {"dark": (0, 0, 200), "red": (200, 0, 0)}


def embedded_table(n=200, *, size=6, seed=0):
    cells = random_table(n, seed=seed)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, size)).astype(np.float16)
    vectors[:, 0] += 6 * cells.class_ids
    columns = {
        "class_probability": np.linspace(0.5, 1, n).astype(np.float32),
        "area_um2": np.linspace(10, 60, n).astype(np.float32),
    }
    made = Detections(
        cells.boxes, cells.scores, cells.class_ids, cells.class_names, vectors, columns
    )
    table = CellTable(made.class_names, cell_ids, threshold=0.3)
    table.replace(Claims.prepared(made, cell_ids))
    return table


def test_all_cells_with_an_embedding_are_placed_without_copying_them():
    table = embedded_table()
    cells = Embedded.of(table)
    assert np.array_equal(cells.rows, np.arange(200))
    assert cells.vectors is table.claims[0].table.embeddings
    placed = drain(place_job(table))
    assert placed.points.shape == (200, 2)
    left, right = (placed.points[table.class_ids == i, 0].mean() for i in (0, 1))
    assert abs(left - right) > 4  # The first axis is what parts the classes.
    assert np.array_equal(placed.places(np.array([3, 7])), [3, 7])


def test_cells_of_several_tiles_are_gathered_and_own_ones_have_no_place():
    table = embedded_table(40)
    more = embedded_table(60, seed=3).claims[0].table
    table.add(more)
    cells = Embedded.of(table)
    assert len(cells) == 100
    np.testing.assert_array_equal(cells.vectors[40:], more.embeddings)
    placed = drain(place_job(table))
    assert list(placed.places(np.array([99, 400]))) == [99]


@pytest.mark.parametrize("size", [None, 0])
def test_cells_without_embeddings_are_refused_in_words(size):
    cells = random_table(30)
    vectors = None if size is None else np.zeros((30, 0), np.float16)
    cells = Detections(cells.boxes, cells.scores, cells.class_ids, cells.class_names, vectors)
    table = CellTable(cells.class_names, cell_ids)
    table.replace(Claims.prepared(cells, cell_ids))
    with pytest.raises(EmbeddingError, match="nothing to show"):
        drain(place_job(table))


def test_colours_say_class_status_change_and_measurements():
    table = embedded_table()
    rows = np.arange(200)
    by_class = colouring(table, rows, CLASS, COLORS)
    assert np.array_equal(
        by_class.of(rows), np.array([COLORS["dark"], COLORS["red"]])[table.class_ids]
    )
    assert [name for name, _ in by_class.legend()] == ["dark", "red"]
    table.apply(relabel(table, rows[:3], "odd"), author="ada")
    status = colouring(table, rows, STATUS, COLORS).of(rows)
    assert (status[:3] == STATUS_COLORS[Status.RECLASSED]).all()
    assert (status[3:] == STATUS_COLORS[Status.CLAIMED]).all()
    change = colouring(table, rows, CHANGE, COLORS).of(rows)
    assert np.array_equal(np.flatnonzero((change == CHANGED).all(axis=1)), rows[:3])
    doubt = colouring(table, rows, DOUBT, COLORS).values
    assert np.isnan(doubt[:3]).all()  # The model's certainty says nothing of a person's class.
    np.testing.assert_allclose(doubt[3:], 1 - np.linspace(0.5, 1, 200)[3:], atol=1e-6)
    assert colouring(table, rows, SCORE, COLORS).high == 1.0
    area = colouring(table, rows, f"{MEASURED}area_um2", COLORS)
    assert 10 < area.low < 12
    assert 58 < area.high < 60
    assert ("measured:area_um2", "Area (µm²)") in choices(table)


def test_the_ramp_is_grey_where_there_is_no_value():
    colors = ramp(np.array([0, 1, np.nan], np.float32), 0, 1)
    assert colors.tolist() == [[68, 1, 84], [253, 231, 37], list(GREY)]


def test_few_cells_are_dots_and_many_a_density_of_the_same_cells():
    table = embedded_table(500)
    points = np.random.default_rng(1).random((500, 2)).astype(np.float32)
    shown = table.kept[np.arange(500)]
    how = colouring(table, np.arange(500), CLASS, COLORS)
    dots = picture(points, shown, how, (0, 0, 1, 1), (50, 50))
    assert dots.image is None
    assert np.array_equal(dots.dots, np.flatnonzero(shown))
    density = picture(points, shown, how, (0, 0, 1, 1), (50, 50), most_dots=10)
    assert not len(density.dots)
    place = (points[shown] * 50).astype(int)
    there = np.zeros((50, 50), bool)
    there[place[:, 1], place[:, 0]] = True
    assert np.array_equal(density.image[..., 3] > 0, there)
    assert density.image[there, 3].min() >= FAINTEST
    # A pixel with cells of one class alone has its colour.
    row, column = place[0, 1], place[0, 0]
    alone = (place == place[0]).all(axis=1)
    ids = set(table.class_ids[np.flatnonzero(shown)[alone]].tolist())
    if len(ids) == 1:
        name = table.class_names[ids.pop()]
        assert tuple(density.image[row, column, :3]) == COLORS[name]


def test_only_what_is_in_view_is_drawn():
    table = embedded_table(100)
    points = np.random.default_rng(1).random((100, 2)).astype(np.float32)
    how = colouring(table, np.arange(100), SCORE, COLORS)
    drawn = picture(points, np.ones(100, bool), how, (0, 0, 0.5, 1), (20, 20))
    assert np.array_equal(drawn.dots, np.flatnonzero(points[:, 0] <= 0.5))
    values = picture(points, np.ones(100, bool), how, (0, 0, 1, 1), (20, 20), most_dots=5)
    assert values.image.shape == (20, 20, 4)


def test_slides_lie_beside_each_other_in_one_plot_and_other_models_do_not():
    table, other = embedded_table(120), embedded_table(300, seed=4)
    shifted = other.claims[0].table
    moved = shifted.embeddings + np.float16(20)
    other.replace(Claims.prepared(replace(shifted, embeddings=moved), cell_ids))
    foreign = embedded_table(100, size=9)
    beside = [Beside("b", other), Beside("c", foreign)]
    placed = drain(place_job(table, name="a", beside=beside))
    assert len(placed.points) == 120
    ((name, points),) = placed.beside
    assert name == "b"
    assert len(points) == 120  # Not more than of the slide itself.
    assert abs(points[:, 0].mean() - placed.points[:, 0].mean()) > 10
    assert "The slides lie 100 % apart" in placed.axes
    colors = by_slide(["a", "b"], [120, 120])
    assert (colors.of(np.arange(120)) == SLIDE_COLORS[0]).all()
    assert (colors.of(np.arange(120, 240)) == SLIDE_COLORS[1]).all()
