"""The *Embedding* dock in a real viewer: linked both ways, teaching, asking, closing."""

import gc
import time
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from tables import random_table
from viewer_fakes import refuse_cut_labels, session_with, slide_image

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.edits import confirm, relabel
from napari_celldetr.core.progress import Progress
from napari_celldetr.gui import finetune_box
from napari_celldetr.gui.plot_canvas import BOX, MOVE
from napari_celldetr.gui.plot_colors import CHANGE, SCORE
from napari_celldetr.gui.session import SESSION_KEY, session_of

SIZE, N = (960, 720), 300


def claims():
    cells = random_table(N, SIZE)
    vectors = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float16) * 0.3
    vectors[np.arange(N), np.arange(N) % 3] += 3
    source = Source(
        slide="slide", slide_id="a" * 64, mpp=(0.5, 0.5), model="m", weights_sha256="b" * 64
    )
    columns = {"class_probability": np.full(N, 0.8, np.float32)}
    classes = np.minimum(np.arange(N) % 3, 1)
    return Detections(
        cells.boxes, np.full(N, 0.9), classes, cells.class_names, vectors, columns, source
    )


@pytest.fixture
def dock(make_napari_viewer_proxy, qtbot):
    """A dock in a real viewer whose slide has cells."""
    from napari_celldetr.gui.embedding_dock import EmbeddingDock
    from napari_celldetr.gui.prepared import prepare

    viewer = make_napari_viewer_proxy()
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    viewer.add_layer(slide_image(pixels))
    made = EmbeddingDock(viewer)
    viewer.window.add_dock_widget(made, name="Embedding")
    session = made.session
    qtbot.waitUntil(lambda: session.state == "open", timeout=10_000)
    session.weights = "b" * 64
    table = claims()
    session.start_over(table.class_names, ((0, 0, 255), (255, 0, 0)), 0.5)
    session.take(prepare(table, session.size, mpp=0.5))
    qtbot.waitUntil(lambda: made.plot.placed is not None, timeout=10_000)
    yield made
    made.shut_down()
    gc.collect()


def label(session):
    rows = np.arange(60)
    session.edit(relabel(session.cells, rows[rows % 3 == 2], "odd"))
    session.edit(confirm(session.cells, rows[rows % 3 != 2]))


def learn(dock, qtbot):
    dock.teach.learn()
    qtbot.waitUntil(lambda: not dock.teach.runner.running, timeout=20_000)


def test_a_lasso_selects_on_the_slide_and_the_slide_in_the_plot(dock, qtbot):
    plot, session = dock.plot, dock.session
    x0, y0, x1, y1 = plot.canvas.bounds
    middle = (x0 + x1) / 2
    polygon = np.array([(x0, y0), (middle, y0), (middle, y1), (x0, y1)])
    plot.canvas.enclosed.emit(polygon, False)
    wanted = np.flatnonzero(plot.placed.points[:, 0] < middle)
    assert np.array_equal(session.selected, wanted)
    assert np.array_equal(session.overlay.selected, wanted)
    assert f"{len(wanted):,} cells are selected" in dock.similar.heading.text()
    session.select(np.array([4]))
    assert plot.canvas._dots["chosen"].visible
    assert dock.similar.heading.text() == "1 cell is selected:"
    plot.canvas.enclosed.emit(polygon, True)
    assert np.array_equal(session.selected, np.union1d(wanted, [4]))


def test_cells_below_the_threshold_can_not_be_selected(dock):
    session, plot = dock.session, dock.plot
    session.edit(relabel(session.cells, np.array([5]), "odd"))
    session.set_threshold(0.95)
    x0, y0, x1, y1 = plot.canvas.bounds
    plot.canvas.enclosed.emit(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), False)
    assert list(session.selected) == [5]


def test_the_mouse_draws_a_box_clicks_moves_and_zooms(dock, qtbot):
    plot, canvas = dock.plot, dock.plot.canvas
    native = canvas.canvas.native
    plot.use(BOX)
    rows, columns = canvas.shape
    start, end = QPoint(2, 2), QPoint(columns // 2, rows - 2)
    with qtbot.waitSignal(canvas.enclosed) as drawn:
        qtbot.mousePress(native, Qt.MouseButton.LeftButton, pos=start)
        # Qt's test mouse moves without a button; what the canvas sees is a drag all the same.
        canvas._path = [(2.0, 2.0), (end.x(), 2.0), (end.x(), end.y()), (2.0, end.y())]
        qtbot.mouseRelease(native, Qt.MouseButton.LeftButton, pos=end)
    polygon = drawn.args[0]
    assert len(polygon) == 4
    np.testing.assert_allclose(polygon[0], canvas.to_plot((2, 2)))
    there = canvas.to_canvas(tuple(plot.placed.points[7].tolist()))
    with qtbot.waitSignal(canvas.clicked):
        at = QPoint(round(there[0]), round(there[1]))
        qtbot.mouseClick(native, Qt.MouseButton.LeftButton, pos=at)
    assert len(dock.session.selected) == 1
    near = plot.placed.points[dock.session.selected[0]]
    assert np.hypot(*(np.array(canvas.to_canvas(tuple(near.tolist()))) - there)) < 15
    plot.use(MOVE)
    before = canvas.bounds
    fixed = canvas.to_plot((30, 40))
    canvas.zoom(0.5, at=fixed)
    np.testing.assert_allclose(canvas.to_canvas(fixed), (30, 40), atol=1e-6)
    assert canvas.bounds[2] - canvas.bounds[0] == pytest.approx((before[2] - before[0]) / 2)


def test_the_gallery_shows_the_selection_and_what_is_around_the_pointer(dock, qtbot):
    session = dock.session
    session.select(np.array([3, 9]))
    gallery = dock.similar.gallery
    qtbot.waitUntil(lambda: [t.row for t in gallery.thumbnails] == [3, 9], timeout=5_000)
    x, y = session.cells.centres[3]
    middle = session.layer.data[int(y), int(x)]
    assert np.abs(gallery.thumbnails[0].pixels.astype(int) - middle).min() < 60
    dock.plot.canvas.hovered.emit(tuple(dock.plot.placed.points[20].tolist()))
    qtbot.waitUntil(lambda: any(t.row == 20 for t in gallery.thumbnails), timeout=5_000)
    assert dock.similar.heading.text() == "Around the pointer:"
    dock.plot.canvas.hovered.emit(None)
    assert dock.similar.heading.text() == "2 cells are selected:"


def test_similar_cells_are_shown_before_they_are_selected(dock, qtbot):
    session, similar = dock.session, dock.similar
    session.select(np.array([2]))
    similar.find_similar()
    qtbot.waitUntil(lambda: similar.similar.isVisibleTo(dock), timeout=5_000)
    similar.slider.setValue(similar.slider.maximum())
    assert list(session.selected) == [2]
    found = similar._found
    assert 0.2 * N < len(found) < 0.4 * N
    assert (found % 3 == 2).mean() > 0.95  # Those whose embedding is like that of cell 2.
    assert dock.plot.canvas._dots["likely"].visible
    similar.slider.setValue(0)
    assert len(similar._found) <= 1
    similar.slider.setValue(similar.slider.maximum())
    similar.take()
    assert np.array_equal(session.selected, np.sort(found))
    assert not dock.plot.canvas._dots["likely"].visible


def test_a_class_given_here_is_a_correction_like_any_other(dock):
    session = dock.session
    session.select(np.arange(6))
    dock.similar.give_class("odd")
    assert {session.cells.class_names[i] for i in session.cells.class_ids[:6]} == {"odd"}
    assert session.can_undo == "change 6 cells to odd"
    assert "vouched for" in dock.message.text()


def test_learning_names_all_cells_and_going_back_is_exact(dock, qtbot):
    session = dock.session
    assert not dock.teach.bar.run_button.isEnabled()
    label(session)
    before = session.cells.class_ids.copy()
    raster = [a.copy() for a in session.overlay.raster.arrays]
    assert dock.teach.bar.run_button.isEnabled()
    learn(dock, qtbot)
    odd = session.cells.class_names.index("odd")
    third = np.arange(N) % 3 == 2
    assert (session.cells.class_ids[third] == odd).mean() > 0.95
    assert "changed class" in dock.teach.change.text()
    assert "kept aside" in dock.teach.verdict.text()
    assert dock.plot.by.currentData() == CHANGE
    assert any((a != b).any() for a, b in zip(raster, session.overlay.raster.arrays, strict=True))
    assert dock.teach.list.count() == 2
    dock.teach.select_button.click()
    assert len(session.selected) == (session.cells.class_ids != before).sum()
    dock.teach.list.setCurrentRow(0)
    dock.teach.use_button.click()
    qtbot.waitUntil(lambda: not dock.teach.runner.running, timeout=20_000)
    assert np.array_equal(session.cells.class_ids, before)
    for old, now in zip(raster, session.overlay.raster.arrays, strict=True):
        np.testing.assert_array_equal(old, now)
    dock.teach.list.setCurrentRow(1)
    dock.teach.compare_button.click()
    qtbot.waitUntil(lambda: not dock.teach.comparer.running, timeout=20_000)
    assert dock.teach.change.text().startswith("With the chosen one: ")


def test_a_lesson_comes_back_with_the_slide(dock, qtbot):
    session = dock.session
    label(session)
    learn(dock, qtbot)
    lesson, layer, viewer = session.lesson, session.layer, dock.viewer
    qtbot.waitUntil(lambda: not session._saver.running, timeout=10_000)
    classes = session.cells.class_ids.copy()
    dock.shut_down()
    layer.metadata.pop(SESSION_KEY, None)
    user = object()
    again = session_of(viewer, layer, user)
    qtbot.waitUntil(lambda: again.state == "open", timeout=10_000)
    assert again.lesson.id == lesson.id
    assert np.array_equal(again.cells.class_ids, classes)
    again.leave(user)


def test_too_little_is_refused_in_words_and_changes_nothing(dock, qtbot):
    session = dock.session
    session.edit(confirm(session.cells, np.arange(0, 60, 3)))
    before = session.cells.class_ids.copy()
    learn(dock, qtbot)
    assert "too little to learn from" in dock.teach.bar.status.text()
    assert np.array_equal(session.cells.class_ids, before)
    assert session.lesson is None


def test_cancel_while_learning_leaves_everything_as_it_was(dock, qtbot):
    label(dock.session)
    before = dock.session.cells.class_ids.copy()
    dock.teach.learn()
    dock.teach.bar.cancel_button.click()
    qtbot.waitUntil(lambda: not dock.teach.runner.running, timeout=20_000)
    if dock.session.lesson is None:  # It may have been quicker.
        assert np.array_equal(dock.session.cells.class_ids, before)
        assert "nothing has changed" in dock.teach.bar.status.text()


def test_asking_is_answered_by_keys_alone(dock, qtbot):
    session, box = dock.session, dock.next
    label(session)
    box.start()
    qtbot.waitUntil(lambda: box.row is not None, timeout=10_000)
    first = box.row
    assert list(session.selected) == [first]
    qtbot.keyClick(box, Qt.Key.Key_1)
    assert session.cells.class_ids[first] == 0
    second = box.row
    assert second != first
    qtbot.keyClick(box, Qt.Key.Key_Backspace)
    assert box.row == first
    assert session.cells.status[first] == 0
    qtbot.keyClick(box, Qt.Key.Key_Return)
    qtbot.keyClick(box, Qt.Key.Key_Delete)
    assert not session.cells.kept[second]
    while box.row is not None:
        qtbot.keyClick(box, Qt.Key.Key_Space)
    assert dock.tabs.currentWidget() is dock.teach


def test_the_plot_follows_other_claims_and_colours(dock, qtbot):
    plot, session = dock.plot, dock.session
    plot.colour_by(SCORE)
    assert "0.9" not in plot.legend.text()
    assert "1" in plot.legend.text()
    old = plot.placed
    session.start_over(("dark", "red"), ((0, 0, 255), (255, 0, 0)), 0.5)
    assert plot.placed is None
    qtbot.waitUntil(lambda: "No cells yet" in plot.state.text(), timeout=5_000)
    assert old is not None


def fake_tuning(tmp_path, *, steps=3, seconds=0.0):
    def job(request):
        for i in range(steps):
            time.sleep(seconds)
            yield Progress(i, steps, "loss 0.5", seconds=1.0)
        card = SimpleNamespace(title="Mine", name="mine")
        return SimpleNamespace(
            folder=tmp_path / "mine", card=card, as_text=lambda: f"{len(request.cells())} cells"
        )

    return job


def test_fine_tuning_says_what_it_made(dock, qtbot, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune_box, "finetune_job", fake_tuning(tmp_path))
    box = dock.teach.tuning
    assert box.name.text().endswith("-tuned")
    with qtbot.waitSignal(box.made, timeout=5_000) as made:
        box.run()
    assert made.args[0] == tmp_path / "mine"
    assert "Detect cells lists it as Mine." in box.bar.status.text()
    assert box.result.text() == f"{N} cells"


def test_fine_tuning_can_be_stopped_and_the_viewer_closed_meanwhile(
    dock, qtbot, tmp_path, monkeypatch
):
    slow = fake_tuning(tmp_path, steps=200, seconds=0.02)
    monkeypatch.setattr(finetune_box, "finetune_job", slow)
    box = dock.teach.tuning
    box.run()
    qtbot.waitUntil(lambda: "of 200" in box.bar.status.text(), timeout=5_000)
    box.bar.cancel_button.click()
    qtbot.waitUntil(lambda: not box.runner.running, timeout=5_000)
    assert "no model was written" in box.bar.status.text()
    box.run()
    qtbot.wait(100)
    dock.viewer.close()
    assert not box.runner.running


def test_closing_the_slide_or_the_dock_while_learning_is_harmless(dock, qtbot):
    label(dock.session)
    dock.teach.learn()
    dock.viewer.layers.remove(dock.session.layer)
    assert dock.session is None
    dock.teach.learn()
    dock.shut_down()
    qtbot.wait(100)


def test_nothing_is_cut_in_a_low_window(make_napari_viewer_proxy, qtbot):
    from napari_celldetr.gui.embedding_dock import WIDTH, EmbeddingDock

    viewer = make_napari_viewer_proxy()
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    layer = viewer.add_layer(slide_image(pixels))
    session_with(claims(), viewer, layer)
    refuse_cut_labels(EmbeddingDock(viewer), qtbot, WIDTH + 20)
