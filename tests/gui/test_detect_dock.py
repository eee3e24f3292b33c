import gc
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from fakes import FakePredictor, Faults, fake_card, spaced_centres
from viewer_fakes import FakeModels, refuse_cut_labels, slide_image

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.annotations import Status
from napari_celldetr.core.edits import add
from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.regions import Region
from napari_celldetr.gui import collector
from napari_celldetr.gui.detect_dock import DetectDock
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import view_of
from napari_celldetr.gui.review_dock import ReviewDock
from napari_celldetr.gui.table_dock import TableDock
from napari_celldetr.gui.worker import JobThread
from napari_celldetr.pipeline.journal import Journal

SIZE = (960, 720)
TRUTH = spaced_centres(SIZE)


def label_texts(widget):
    from qtpy.QtWidgets import QLabel

    return [label.text() for label in widget.findChildren(QLabel) if label.text()]


def counted(dock):
    table = dock.table
    cells = [[table.item(r, c).text() for c in range(4)] for r in range(table.rowCount())]
    return {row[0]: row[1:] for row in cells}


def cells_of(dock):
    return 0 if dock.session is None else int(dock.session.cells.kept.sum())


def our_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith("celldetr")]


def no_threads(qtbot, *, but=()):
    """None of ours runs any more, except those that a dock needs while it is open."""

    def none_left():
        assert set(our_threads()) <= set(but)

    qtbot.waitUntil(none_left, timeout=10_000)


SAVING = ("celldetr-journal",)


def test_a_whole_run(make_dock, run_whole, field_image):
    viewer, dock = make_dock(field_image)
    run_whole(dock)
    assert dock.run_bar.status.text() == f"Done: {len(TRUTH):,} cells."
    assert cells_of(dock) == len(TRUTH)
    rows = counted(dock)
    assert int(rows["all cells"][0].replace(",", "")) == len(TRUTH)
    assert rows["all cells"][1] == "100.0 %"
    area_mm2 = 960 * 720 * 0.25 / 1e6
    assert rows["all cells"][2] == f"{len(TRUTH) / area_mm2:,.0f}"
    assert dock.export_button.isEnabled()
    # The slide, three distances, corrections, and what was not analysed.
    assert len(viewer.layers) == 6


def test_model_and_settings_come_back_with_the_slide(
    make_dock, run_whole, make_napari_viewer_proxy, field_image, qtbot
):
    viewer, dock = make_dock(field_image)
    dock.form.editor("flips").setChecked(True)
    dock.form.editor("batch").setValue(3)
    run_whole(dock)
    qtbot.waitUntil(lambda: not dock.session._saver.running, timeout=10_000)
    dock.shut_down()
    other = fake_card(name="other", title="Other", weights_sha256="e" * 64)
    models = FakeModels()
    models.cards = lambda: [other, dock.models.cards()[0]]
    viewer = make_napari_viewer_proxy()
    viewer.add_layer(slide_image(field_image))
    again = DetectDock(viewer, models=models)
    viewer.window.add_dock_widget(again)
    assert again.model_box.currentData().name == "other"
    assert again.form.values()["flips"] is False
    qtbot.waitUntil(lambda: again.session.state == "open", timeout=10_000)
    assert again.model_box.currentData().name == dock.models.cards()[0].name
    now = again.form.values()
    assert (now["flips"], now["batch"], now["tile_px"]) == (True, 3, 256)
    assert cells_of(again) == len(TRUTH)


def test_only_the_merged_cells_stay(make_dock, run_whole, field_image):
    _, dock = make_dock(field_image, models=FakeModels(FakePredictor(faults=Faults(jitter_px=0.5))))
    run_whole(dock)
    assert cells_of(dock) == len(TRUTH)


def test_what_is_on_the_screen(make_dock, qtbot, field_image):
    viewer, dock = make_dock(field_image)
    viewer.scene.camera.center = (0, 250, 300)
    viewer.canvas.size = (400, 400)
    viewer.scene.camera.zoom = 2.0
    region = view_of(viewer, Frame.of_mpp((0.5, 0.5))).region
    dock.choose_where("viewport")
    dock.run()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=10_000)
    inside = [region.contains(x, y) for x, y in TRUTH]
    assert abs(cells_of(dock) - sum(inside)) <= 0.1 * sum(inside)
    x, y = dock.session.corrected().cells.centres.T
    assert x.min() >= region.x
    assert y.max() <= region.y1


def test_a_drawn_region(make_dock, qtbot, field_image):
    viewer, dock = make_dock(field_image)
    dock.draw_region()
    shapes = viewer.layers["Region to analyse"]
    assert dock.chosen_where() == "drawn"
    assert str(shapes.mode) == "add_rectangle"
    # Corners as drawn: y, x in the layer's data, which is napari's pixel-centre frame.
    shapes.add_rectangles([[99.5, 199.5], [599.5, 799.5]])
    dock.run()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=10_000)
    assert dock._within == Region(200, 100, 600, 500)
    centres = dock.session.corrected().cells.centres
    assert len(centres) > 300
    assert (centres >= (200, 100)).all()
    assert (centres < (800, 600)).all()


def test_a_region_in_pixels_over_a_slide_in_um(make_dock, qtbot, field_image):
    viewer, dock = make_dock(field_image)
    viewer.add_shapes([[[0, 0], [0, 100], [100, 100], [100, 0]]])
    dock.choose_where("drawn")
    dock.run()
    # 100 world units are 100 µm, so 200 level-0 px, with the half pixel on each side.
    assert dock._within == Region(0, 0, 201, 201)
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=10_000)


def test_no_region_is_drawn(make_dock, notes, field_image):
    _, dock = make_dock(field_image)
    dock.choose_where("drawn")
    dock.run()
    assert not dock.runner.running
    assert "Draw region" in notes[0]


def test_threshold_acts_at_once_and_loses_nothing(make_dock, run_whole, qtbot, field_image):
    _, dock = make_dock(field_image)
    run_whole(dock)
    scores = np.sort(dock.session.cells.scores)
    dock.slider.setValue(85)
    expected = int((scores >= np.float32(0.85)).sum())
    assert 0 < expected < len(scores)
    qtbot.waitUntil(lambda: counted(dock)["all cells"][0] == f"{expected:,}", timeout=2000)
    assert dock.slider_value.text() == "0.85"
    dock.slider.setValue(50)
    qtbot.waitUntil(lambda: counted(dock)["all cells"][0] == f"{len(scores):,}", timeout=2000)


def test_cancel_keeps_what_is_done(make_dock, qtbot, slow_models, field_image):
    _, dock = make_dock(field_image, models=slow_models)
    dock.choose_where("whole")
    dock.run()
    qtbot.waitUntil(lambda: cells_of(dock) > 0)
    dock.cancel()
    assert dock.run_bar.cancel_button.text() == "Stopping…"
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=5000)
    qtbot.waitUntil(lambda: not dock.joiner.running, timeout=5000)
    assert "Cancelled" in dock.run_bar.status.text()
    found = cells_of(dock)
    assert 0 < found < len(TRUTH)
    ids = dock.session.corrected().ids
    assert len(np.unique(ids, axis=0)) == found
    no_threads(qtbot, but=SAVING)
    # And the next run goes on from there.
    dock.run()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=20_000)
    assert cells_of(dock) == len(TRUTH)
    assert dock._report.reused > 0


@pytest.mark.parametrize("error", [MemoryError("no room"), RuntimeError("CUDA out of memory")])
def test_out_of_memory_is_told(make_dock, run_whole, notes, field_image, error):
    _, dock = make_dock(field_image, models=FakeModels(error=error))
    run_whole(dock)
    assert "not enough memory" in notes[0]
    assert "smaller batch" in notes[0]
    assert dock.run_bar.status.text().startswith("Stopped: There was not enough memory")
    assert dock.run_bar.run_button.isEnabled()
    assert not dock.run_bar.cancel_button.isEnabled()


def test_a_model_that_cannot_be_loaded(make_dock, run_whole, notes, field_image):
    error = ModelError("The weights do not fit.", remedy="take the model folder again")
    _, dock = make_dock(field_image, models=FakeModels(error=error))
    run_whole(dock)
    assert "take the model folder again" in notes[0]


def test_the_model_is_loaded_outside_the_gui_thread(make_dock, qtbot, field_image):
    threads = []

    class Watched(FakeModels):
        def load(self, name, *, device, flips):
            threads.append(threading.current_thread())
            return super().load(name, device=device, flips=flips)

    _, dock = make_dock(field_image, models=Watched(load_seconds=0.2))
    dock.choose_where("whole")
    dock.run()
    assert "Loading the model" in dock.run_bar.status.text()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=20_000)
    assert threads[0] is not threading.main_thread()


def test_a_failed_tile_is_hatched_and_told(make_dock, run_whole, notes, field_image):
    pixels = field_image.copy()
    pixels[300, 300] = (1, 2, 3)
    models = FakeModels(FakePredictor(faults=Faults(numerical=(1, 2, 3))))
    _, dock = make_dock(pixels, models=models)
    run_whole(dock)
    assert dock.session.overlay.layer("failed") is not None
    assert "could not be analysed" in notes[0]
    assert "could not be analysed" in dock.gap_label.text()
    assert dock.gap_label.isVisibleTo(dock)


def test_crowded_tiles_are_told(make_dock, run_whole, field_image):
    pixels = field_image.copy()
    pixels[300, 300] = (1, 2, 3)
    models = FakeModels(FakePredictor(faults=Faults(saturated=(1, 2, 3))))
    _, dock = make_dock(pixels, models=models)
    run_whole(dock)
    assert "more cells than the model can return" in dock.gap_label.text()


def test_missing_pixel_size_is_asked_for(make_dock, run_whole, field_image):
    viewer, dock = make_dock(field_image, mpp=None)
    assert dock.mpp_spin.isVisibleTo(dock)
    assert not dock.run_bar.run_button.isEnabled()
    assert "pixel size" in dock.run_bar.status.text()
    dock.mpp_spin.setValue(0.5)
    assert dock.run_bar.run_button.isEnabled()
    run_whole(dock)
    assert cells_of(dock) == len(TRUTH)
    slide = viewer.layers["slide"]
    np.testing.assert_allclose(slide.scale, (0.5, 0.5))
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"micrometer"}


def test_a_slide_with_a_pixel_size_is_not_asked(make_dock, field_image):
    _, dock = make_dock(field_image)
    assert not dock.mpp_spin.isVisibleTo(dock)


def test_nuclei_of_impossible_size_bring_one_button(make_dock, run_whole, field_image):
    viewer, dock = make_dock(field_image, mpp=1.0)
    assert not dock.mpp_button.isVisibleTo(dock)
    run_whole(dock)
    assert "two times too large" in dock.check_label.text()
    assert dock.mpp_button.text() == "Use 0.5 µm per pixel"
    dock.mpp_button.click()
    assert Frame.of_layer(viewer.layers["slide"]).mpp == (0.5, 0.5)
    assert not dock.check_label.isVisibleTo(dock)
    assert cells_of(dock) == 0
    run_whole(dock)
    assert not dock.mpp_button.isVisibleTo(dock)
    assert cells_of(dock) == len(TRUTH)


def test_empty_dock_says_what_to_do(make_dock):
    viewer, dock = make_dock()
    assert dock.empty_label.isVisibleTo(dock)
    assert "Open a slide" in dock.run_bar.status.text()
    assert not dock.run_bar.run_button.isEnabled()
    viewer.add_image(np.zeros((64, 64)), name="grey")
    assert dock.slide_layer() is None
    viewer.add_layer(slide_image(np.zeros((64, 64, 3), np.uint8)))
    assert dock.slide_layer().name == "slide"
    assert not dock.empty_label.isVisibleTo(dock)
    viewer.layers.remove("slide")
    assert dock.slide_layer() is None


def test_no_model_is_installed(make_dock, field_image):
    models = FakeModels()
    models.cards = list
    _, dock = make_dock(field_image, models=models)
    assert "No model is installed" in dock.model_info.text()
    assert not dock.run_bar.run_button.isEnabled()


def test_the_model_says_what_it_is_for(make_dock, field_image):
    _, dock = make_dock(field_image)
    assert dock.model_info.text() == "H&E · 0.5 µm/px · dark, red"
    assert RESEARCH_USE in label_texts(dock)


def test_no_label_is_cut_in_a_narrow_dock(make_dock, run_whole, field_image, qtbot):
    _, dock = make_dock(
        field_image,
        models=FakeModels(
            FakePredictor(
                fake_card(
                    class_names=("lymphocyte", "tumour", "stromal"),
                    class_colors=((0, 0, 255), (255, 0, 0), (0, 200, 0)),
                    title="Nuclei and their types in H&E (breast)",
                )
            )
        ),
    )
    run_whole(dock)
    dock.setParent(None)
    dock.form.fold.button.setChecked(True)
    refuse_cut_labels(dock, qtbot)


def test_every_control_has_a_tooltip(make_dock):
    from qtpy.QtWidgets import QAbstractSpinBox, QComboBox, QPushButton, QRadioButton, QSlider

    _, dock = make_dock()
    for kind in (QPushButton, QComboBox, QRadioButton, QSlider, QAbstractSpinBox):
        for widget in dock.findChildren(kind):
            assert widget.toolTip(), widget


def test_a_new_run_replaces_the_old_one(make_dock, run_whole, field_image):
    viewer, dock = make_dock(field_image)
    run_whole(dock)
    before = dock.session.corrected()
    run_whole(dock)
    assert len(viewer.layers) == 6
    assert dock.session.corrected().cells == before.cells
    assert cells_of(dock) == len(TRUTH)


def test_a_stale_run_cannot_paint_over_a_new_one(make_dock, run_whole, qtbot, field_image):
    _, dock = make_dock(field_image, models=FakeModels(load_seconds=0.3))
    dock.choose_where("whole")
    dock.run()
    stale = dock.runner.run
    dock.runner.abandon()
    dock.models = FakeModels()
    run_whole(dock)
    assert dock.runner.run == stale + 1
    found = dock.session.corrected().cells
    no_threads(qtbot, but=SAVING)
    qtbot.wait(100)
    assert dock.session.corrected().cells == found
    assert dock.run_bar.status.text() == f"Done: {len(TRUTH):,} cells."


# Closing and removing, mid-run -----------------------------------------------------------


@pytest.mark.parametrize("what", ["slide", "far", "mid", "near", "all"])
@pytest.mark.parametrize("repeat", range(4))
def test_a_layer_removed_mid_run(make_dock, qtbot, slow_models, field_image, what, repeat):
    viewer, dock = make_dock(field_image, models=slow_models)
    dock.choose_where("whole")
    dock.run()
    if repeat:
        qtbot.waitUntil(lambda: cells_of(dock) > 0)
    if what == "all":
        viewer.layers.clear()
    elif what == "slide":
        viewer.layers.remove("slide")
    else:
        viewer.layers.remove(dock.session.overlay.layer(what))
    slow_models.predictor.faults.seconds = 0.0
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=10_000)
    qtbot.waitUntil(lambda: not dock.joiner.running, timeout=10_000)
    if what in ("slide", "all"):
        assert "Cancelled" in dock.run_bar.status.text()
    else:
        assert cells_of(dock) == len(TRUTH)
    no_threads(qtbot, but=SAVING)


@pytest.mark.parametrize("repeat", range(20))
def test_the_viewer_closed_mid_run(make_dock, qtbot, slow_models, field_image, tmp_path, repeat):
    viewer, dock = make_dock(field_image, models=slow_models)
    if repeat % 2:
        review_beside(viewer, dock)
    dock.choose_where("whole")
    dock.run()
    qtbot.wait(10 * (repeat + 1))
    if repeat % 2:
        add_a_cell(dock.session)
    viewer.close()
    assert dock._is_shut
    del dock
    gc.collect()
    no_threads(qtbot)
    qtbot.waitUntil(lambda: not collector.is_on(), timeout=5000)
    assert_ledgers_are_whole(tmp_path)
    if repeat % 2:
        assert added_cells(tmp_path) == 1


@pytest.mark.parametrize("repeat", range(10))
def test_the_dock_closed_mid_run(make_dock, qtbot, slow_models, field_image, tmp_path, repeat):
    viewer, dock = make_dock(field_image, models=slow_models)
    review = review_beside(viewer, dock) if repeat % 2 else None
    dock.choose_where("whole")
    dock.run()
    qtbot.wait(20 * repeat)
    viewer.window.remove_dock_widget(dock)
    dock.close()
    if review is not None:
        # The other dock works on with the slide, whose corrections are kept.
        add_a_cell(review.session)
        no_threads(qtbot, but=SAVING)
    else:
        no_threads(qtbot)
    viewer.scene.camera.zoom = 3.0
    viewer.layers.clear()
    qtbot.wait(200)
    no_threads(qtbot)
    assert_ledgers_are_whole(tmp_path)
    if review is not None:
        assert added_cells(tmp_path) == 1


def review_beside(viewer, dock):
    """*Review cells* and *Cell table* on the same slide."""
    review = ReviewDock(viewer, models=dock.models)
    viewer.window.add_dock_widget(review, name="Review cells")
    viewer.window.add_dock_widget(TableDock(viewer), name="Cell table")
    return review


def add_a_cell(session):
    session.edit(add(session.cells, np.array([[5.0, 5.0, 21.0, 21.0]]), None))


def added_cells(folder):
    """Cells that people added, by the journals in a project."""
    count = 0
    for path in Path(folder).rglob("corrections*.sqlite"):
        with Journal.open(path, author="", read_only=True) as journal:
            states = [said.status for said in journal.annotations().cells.values()]
        count += states.count(Status.ADDED)
    return count


def assert_ledgers_are_whole(folder):
    import sqlite3

    for path in Path(folder).rglob("*.sqlite*"):
        if path.suffix in (".sqlite", ".sqlite3"):
            found = sqlite3.connect(path).execute("pragma integrity_check").fetchone()
            assert found == ("ok",)
    assert not list(Path(folder).rglob("*.tmp"))


CLOSING = """
import sys, time
sys.path[:0] = [{tests!r}, {gui!r}]
import napari
from qtpy.QtCore import QTimer
from fakes import FakePredictor, Faults, cell_field
from viewer_fakes import FakeModels, slide_image
from napari_celldetr.gui.detect_dock import DetectDock

viewer = napari.Viewer(show=True)
viewer.add_layer(slide_image(cell_field()))
models = FakeModels(FakePredictor(faults=Faults(seconds=0.2)))
dock = DetectDock(viewer, models=models, workspace={work!r})
viewer.window.add_dock_widget(dock)
dock.form.editor("tile_px").setValue(256)
dock.form.editor("halo_px").setValue(32)
dock.choose_where("whole")
QTimer.singleShot(100, dock.run)
QTimer.singleShot(1200, viewer.close)
napari.run()
print("left the event loop", dock.runner.run)
"""


def test_a_process_whose_viewer_is_closed_mid_run_ends_well(tmp_path, qtbot):
    tests = Path(__file__).parents[1]
    code = textwrap.dedent(CLOSING).format(
        tests=str(tests), gui=str(tests / "gui"), work=str(tmp_path)
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "left the event loop 1" in done.stdout
    assert "Traceback" not in done.stderr
    assert_ledgers_are_whole(tmp_path)


def test_a_dropped_runner_stops_its_job(qtbot):
    from napari_celldetr.core.progress import Progress
    from napari_celldetr.gui.panel import JobRunner

    def job():
        while True:
            yield Progress(0, 1)

    runner = JobRunner()
    runner.start(job)
    runner.deleteLater()
    no_threads(qtbot)
    assert JobThread(job).running is False


# Export ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".geojson.gz", ".parquet"])
def test_export_round_trip(make_dock, run_whole, qtbot, notes, field_image, tmp_path, suffix):
    from napari_celldetr.pipeline.export import read_detections

    _, dock = make_dock(field_image)
    run_whole(dock)
    dock.slider.setValue(80)
    path = tmp_path / f"cells{suffix}"
    dock.export_to(path)
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=10_000)
    kept = dock.session.corrected().cells
    back = read_detections(path)
    assert len(back) == len(kept) > 0
    np.testing.assert_allclose(back.ordered().boxes, kept.boxes, atol=0.01)
    assert any(
        n.startswith(f"{path.name}: {len(kept):,} cells written and read back") for n in notes
    )


def test_export_to_a_folder_that_is_missing(
    make_dock, run_whole, qtbot, notes, field_image, tmp_path
):
    _, dock = make_dock(field_image)
    run_whole(dock)
    dock.export_to(tmp_path / "nowhere" / "cells.csv")
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=10_000)
    assert "cannot be written" in notes[-1]
    assert dock.export_button.isEnabled()
    assert dock.export_button.text() == "Export…"
