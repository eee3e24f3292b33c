"""*Review cells* and *Cell table* in a real viewer."""

import json

import numpy as np
import pytest
from fakes import spaced_centres
from qtpy.QtCore import Qt
from viewer_fakes import FakeModels, slide_image

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.gui import files, marks
from napari_celldetr.gui.files import HISTORY_FILTER
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.review_dock import EMPTY_TEXT, HEAT_LAYER, ReviewDock
from napari_celldetr.gui.review_jobs import SlideAsker
from napari_celldetr.gui.table_dock import ALL, CORRECTED, SELECTED, VIEW, TableDock
from napari_celldetr.gui.tool_kinds import Proposal, Tool

SIZE = (960, 720)
TRUTH = spaced_centres(SIZE)


@pytest.fixture
def review(make_dock, run_whole, field_image):
    """A viewer with found cells, and the dock to review them."""
    viewer, detect = make_dock(field_image)
    run_whole(detect)
    dock = ReviewDock(viewer, models=detect.models)
    viewer.window.add_dock_widget(dock, name="Review cells")
    return viewer, dock


def shown(table):
    rows = [[table.item(r, c).text() for c in range(4)] for r in range(table.rowCount())]
    return {row[0]: row[1:] for row in rows}


def test_without_a_slide_the_dock_says_what_to_do(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy()
    dock = ReviewDock(viewer, models=FakeModels())
    viewer.window.add_dock_widget(dock)
    assert dock.empty_label.text() == EMPTY_TEXT
    assert dock.empty_label.isVisibleTo(dock)
    assert not dock.body.isVisibleTo(dock)


def test_correcting_with_keys_and_buttons(review, qtbot):
    viewer, dock = review
    session = dock.session
    dock.use_tool(Tool.SELECT)
    assert viewer.layers.selection.active == session.overlay.layer("marks")
    xy = tuple(float(v) for v in session.cells.centres[0])
    dock.tools.stroke(xy).end()
    assert "the model's claim" in dock.selection_label.text()
    dock.classes.button("red").click()
    row = session.cells.nearest(xy, 5)
    assert session.cells.status[row] in (Status.RECLASSED, Status.CONFIRMED)
    dock.tools.stroke(xy).end()
    assert f"by {session.author}" in dock.selection_label.text()
    assert dock.undo_button.isEnabled()
    assert "change 1 cell to red" in dock.undo_button.toolTip()
    dock.delete_button.click()
    assert int(session.cells.kept.sum()) == len(TRUTH) - 1
    dock.undo_button.click()
    dock.undo_button.click()
    assert int(session.cells.kept.sum()) == len(TRUTH)
    assert not session.cells.annotations.cells
    dock.redo_button.click()
    qtbot.waitUntil(lambda: "saved" in dock.state_label.text(), timeout=5000)


def test_counts_of_screen_slide_and_area(review, qtbot):
    viewer, dock = review
    session = dock.session
    camera_of(viewer).zoom = 8.0
    qtbot.waitUntil(
        lambda: (
            shown(dock.readout.table).get("all cells", [""])[0]
            == f"{len(session.cells.rows_in(session.view())):,}"
        ),
        timeout=3000,
    )
    view = session.view()
    density = len(session.cells.rows_in(view)) / (view.area * 0.25 / 1e6)
    assert shown(dock.readout.table)["all cells"][2] == f"{density:,.0f}"
    dock.readout.where.setCurrentIndex(1)
    qtbot.waitUntil(
        lambda: shown(dock.readout.table)["all cells"][0] == f"{len(TRUTH):,}", timeout=3000
    )
    dock.use_tool(Tool.AREA)
    dock.tools.stroke((100, 100)).to((400, 100), (400, 300), (100, 300)).end()
    qtbot.waitUntil(lambda: dock.readout.where.count() == 3, timeout=3000)
    dock.readout.where.setCurrentIndex(2)
    inside = len(session.cells.rows_in(Region(100, 100, 300, 200)))
    qtbot.waitUntil(
        lambda: shown(dock.readout.table)["all cells"][:1] == [f"{inside}"], timeout=3000
    )
    assert shown(dock.readout.table)["all cells"][2] == f"{inside / (300 * 200 * 0.25 / 1e6):,.0f}"


def test_keys_reach_the_tools_through_the_viewer(review, qtbot):
    _, dock = review
    dock.use_tool(Tool.SELECT)
    layer = dock.session.overlay.layer("marks")
    pressed = {str(key): call for key, call in layer.keymap.items()}
    pressed["L"](layer)
    assert dock.tools.tool is Tool.LASSO
    assert dock.tool_box.button(Tool.LASSO).isChecked()
    pressed["F1"](layer)
    assert dock.keys_button.isChecked()
    dock.session.select(np.arange(3))
    pressed["Delete"](layer)
    assert int(dock.session.cells.kept.sum()) == len(TRUTH) - 3
    pressed["Ctrl+Z"](layer)
    assert int(dock.session.cells.kept.sum()) == len(TRUTH)
    pressed["H"](layer)
    assert dock.session.overlay.hidden


def test_the_dock_says_when_another_layer_has_the_mouse(review):
    viewer, dock = review
    dock.use_tool(Tool.LASSO)
    assert dock.tool_box.button(Tool.LASSO).isChecked()
    viewer.layers.selection.active = dock.session.layer
    assert not any(dock.tool_box.button(t).isChecked() for t in Tool)
    assert f"“{dock.session.layer.name}”" in dock.tool_box.hint.text()
    dock.tool_box.button(Tool.ADD).click()
    assert viewer.layers.selection.active == dock.session.overlay.layer("marks")
    assert dock.tool_box.button(Tool.ADD).isChecked()
    assert dock.tool_box.hint.text().startswith("Click where a cell is missing")


def test_tools_take_hold_when_cells_come(make_dock, run_whole, field_image):
    viewer, detect = make_dock(field_image)
    dock = ReviewDock(viewer, models=detect.models)
    viewer.window.add_dock_widget(dock, name="Review cells")
    assert dock.tool_box.hint.text() == "Press a tool to begin."
    assert not any(dock.tool_box.button(t).isChecked() for t in Tool)
    run_whole(detect)
    assert dock.tools.attached
    assert dock.tool_box.button(Tool.SELECT).isChecked()
    assert viewer.layers.selection.active == dock.session.overlay.layer("marks")


def test_the_class_list_says_whose_class_it_shows(review):
    _, dock = review
    session = dock.session
    dock.use_tool(Tool.SELECT)
    assert dock.classes.heading.text() == "Class of the next cells:"
    ids = session.cells.class_ids
    dark, red = (np.flatnonzero(ids == i)[:1] for i in (0, 1))
    session.select(red)
    assert dock.classes.heading.text() == "Class of the selected cell:"
    assert dock.classes.button("red").isChecked()
    session.select(np.concatenate((dark, red)))
    assert dock.classes.heading.text() == "Class of 2 cells:"
    assert not dock.classes.button("red").isChecked()
    assert not dock.classes.button("dark").isChecked()
    dock.tools.propose(Proposal((1, 1, 20, 20), "red", 0.6))
    assert dock.classes.heading.text() == "Class of the answer:"
    assert dock.classes.button("red").isChecked()


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (0.0, "sees no cell here (score 0.00). Its best guess would be red."),
        (0.3, "is unsure: red, score 0.30; 0.30 is below the 0.50 that you show."),
        (0.9, "sees a cell here: red, score 0.90. Press a class's number"),
    ],
)
def test_an_answer_says_how_sure_the_model_is(review, score, words):
    _, dock = review
    dock.use_tool(Tool.ASK)
    dock.session.set_threshold(0.5)
    dock.tools.propose(Proposal((1, 1, 20, 20), "red", score))
    assert words in dock.selection_label.text()


def test_a_new_class_gets_a_key_and_a_colour(review):
    _, dock = review
    dock.use_tool(Tool.SELECT)
    dock.session.select(np.array([0]))
    dock.classes.added.emit("mitosis")
    assert "(3)" in dock.classes.button("mitosis").text()
    assert dock.session.cells.class_names[-1] == "mitosis"
    assert dock.session.corrected().cells.counts()["mitosis"] == 1


def test_asking_the_model_and_its_heat(review, qtbot, monkeypatch):
    viewer, dock = review

    def ask(self, xy):
        yield from ()
        return Proposal((xy[0] - 8, xy[1] - 8, xy[0] + 8, xy[1] + 8), "dark", 0.61)

    def heat(self, region):
        yield from ()
        return np.full((region.height // 4, region.width // 4), 0.5, np.float32), 4.0

    monkeypatch.setattr(SlideAsker, "ask", ask)
    monkeypatch.setattr(SlideAsker, "heatmap", heat)
    dock.use_tool(Tool.ASK)
    dock.tools.stroke((480, 11)).end()
    qtbot.waitUntil(lambda: dock.tools.proposal is not None, timeout=5000)
    assert "dark, score 0.61" in dock.selection_label.text()
    dock.right_button.click()
    assert int(dock.session.cells.kept.sum()) == len(TRUTH) + 1
    dock.heat_button.setChecked(True)
    qtbot.waitUntil(lambda: HEAT_LAYER in viewer.layers, timeout=5000)
    view, layer = dock.session.view(), viewer.layers[HEAT_LAYER]
    corner = layer.data_to_world((-0.5, -0.5))
    np.testing.assert_allclose(
        dock.session.frame.from_world(np.array([corner]))[0], (view.x, view.y), atol=1e-6
    )
    dock.heat_button.setChecked(False)
    assert HEAT_LAYER not in viewer.layers


def test_a_picture_has_marks_but_no_selection(make_dock, run_whole, field_image, qtbot, tmp_path):
    from PIL import Image

    viewer, detect = make_dock(field_image, show=True)
    run_whole(detect)
    dock = ReviewDock(viewer, models=detect.models)
    viewer.window.add_dock_widget(dock, name="Review cells")
    session = dock.session
    camera_of(viewer).zoom = 8.0
    qtbot.wait(400)

    def taken(name):
        dock.save_picture(tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            return np.asarray(picture)

    plain = taken("plain.png")
    rows = session.cells.rows_in(session.view())
    assert len(rows) > 0
    session.select(rows)
    np.testing.assert_array_equal(taken("selected.png"), plain)
    yellow = (session.overlay.layer("near").edge_color == np.array(marks.SELECTED, np.float32)).all(
        axis=1
    )
    assert yellow.sum() == 4 * len(rows)
    dock.tools.accept()
    assert (taken("confirmed.png") != plain).any()


def test_the_history_is_exported_beside_the_cells(review, qtbot, tmp_path):
    _, dock = review
    qtbot.waitUntil(lambda: dock.session.state == "open", timeout=5000)
    dock.session.select(np.array([0, 1, 2]))
    dock.use_tool(Tool.SELECT)
    dock.tools.delete()
    dock.export_to(tmp_path / "said.history.csv")
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=20_000)
    assert dock.message.text().startswith("said.history.csv: 3 rows written. Folder: ")
    lines = (tmp_path / "said.history.csv").read_text().splitlines()
    assert len(lines) == 4
    assert all(",claimed," in line and ",deleted," in line for line in lines[1:])


def test_without_a_record_there_is_no_history(review, tmp_path, notes):
    _, dock = review
    dock.session._record = None
    dock.export_to(tmp_path / "said.history.csv")
    assert "history of these corrections is not kept" in notes[-1]
    assert not dock.exporter.running
    assert dock.export_button.isEnabled()
    assert not list(tmp_path.glob("*.history.csv"))


@pytest.mark.parametrize(
    ("given", "kind", "wanted"),
    [
        ("/a/my-cells.csv", "CSV (*.csv)", "/a/my-cells.csv"),
        ("/a/my-cells.csv", "Parquet (*.parquet)", "/a/my-cells.parquet"),
        ("/a/my-cells.csv", HISTORY_FILTER, "/a/my-cells.history.csv"),
        ("/a/b.h5ad", "Parquet (*.parquet)", "/a/b.h5ad"),
        ("/a/b", "QuPath GeoJSON (*.geojson *.geojson.gz)", "/a/b.geojson"),
        ("/a/b", "", "/a/b.csv"),
        ("", "CSV (*.csv)", ""),
    ],
)
def test_what_is_chosen_in_the_dialog_decides_the_kind_of_file(monkeypatch, given, kind, wanted):
    asked = []

    def answer(*words):
        asked.append(words)
        return given, kind

    monkeypatch.setattr(files.QFileDialog, "getSaveFileName", answer)
    assert files.ask_export_path(None, "my.svs", history=True) == wanted
    assert asked[0][2] == "my-cells.csv"
    assert HISTORY_FILTER in asked[0][3]
    files.ask_export_path(None, "my.svs")
    assert HISTORY_FILTER not in asked[1][3]


def test_a_file_the_dialog_did_not_ask_about_is_asked_about(monkeypatch, tmp_path):
    offered = str(tmp_path / "my-cells.csv")
    there = tmp_path / "my-cells.parquet"
    there.write_text("old")
    asked = []
    answers = [files.QMessageBox.StandardButton.No, files.QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(
        files.QMessageBox, "question", lambda *words: asked.append(words) or answers.pop(0)
    )
    monkeypatch.setattr(
        files.QFileDialog, "getSaveFileName", lambda *_: (offered, "Parquet (*.parquet)")
    )
    assert files.ask_export_path(None, "my.svs") == ""
    assert files.ask_export_path(None, "my.svs") == str(there)
    assert "my-cells.parquet" in asked[0][2]
    there.unlink()
    assert files.ask_export_path(None, "my.svs") == str(there)
    assert len(asked) == 2
    given = str(tmp_path / "slide v1.2")
    monkeypatch.setattr(files.QFileDialog, "getSaveFileName", lambda *_: (given, ""))
    assert files.ask_picture_path(None, "my.svs") == f"{given}.png"


def test_the_history_can_be_exported_when_no_cell_is_left(review):
    _, dock = review
    dock.use_tool(Tool.SELECT)
    dock.session.select(np.flatnonzero(dock.session.cells.kept))
    dock.tools.delete()
    assert not dock.session.cells.kept.any()
    assert dock.export_button.isEnabled()
    assert not dock.table_button.isEnabled()


def test_an_import_never_undoes_what_was_said_meanwhile(review, qtbot, tmp_path, notes):
    _, dock = review
    session = dock.session
    dock.use_tool(Tool.SELECT)
    session.select(np.array([0, 1]))
    dock.tools.accept()
    path = tmp_path / "cells.geojson"
    dock.export_to(path)
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=20_000)
    dock.tools.undo()
    dock.import_from(path)
    assert not dock.import_button.isEnabled()
    session.select(np.array([0]))
    dock.tools.delete()
    qtbot.waitUntil(lambda: not dock.importer.running, timeout=20_000)
    assert "1 cells that were changed meanwhile" in notes[-1]
    assert session.cells.status[0] == Status.DELETED
    assert dock.import_button.isEnabled()
    dock.import_from(path)
    qtbot.waitUntil(lambda: not dock.importer.running, timeout=20_000)
    assert int(session.cells.kept.sum()) == len(TRUTH)


def test_a_removed_layer_of_corrections_comes_back_with_a_tool(review):
    viewer, dock = review
    dock.use_tool(Tool.SELECT)
    viewer.layers.remove(dock.session.overlay.layer("marks"))
    viewer.layers.selection.active = dock.session.layer
    assert "“Corrections” is gone" in dock.tool_box.hint.text()
    dock.tool_box.button(Tool.ADD).click()
    assert viewer.layers.selection.active == dock.session.overlay.layer("marks")
    dock.tools.stroke((700, 9)).end()
    assert dock.message.text() == "Added 1 cell as dark."


def test_an_area_that_no_model_saw_is_not_called_analysed(make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy()
    viewer.add_layer(slide_image(np.full((400, 500, 3), 250, np.uint8)))
    dock = ReviewDock(viewer, models=FakeModels())
    viewer.window.add_dock_widget(dock)
    qtbot.waitUntil(lambda: dock.session.state == "open", timeout=5000)
    dock.use_tool(Tool.REGION)
    dock.tools.stroke((10, 10)).to((300, 10), (300, 300), (10, 300)).end()
    qtbot.waitUntil(lambda: "no model has looked" in dock.readout.note.text(), timeout=3000)
    assert "analysed" not in dock.readout.note.text()


def test_names_of_areas_are_never_given_again(review):
    _, dock = review
    dock.use_tool(Tool.REGION)
    corners = (400, 100), (400, 400), (100, 400)

    def names():
        return [a.name for a in dock.session.cells.annotations.areas.values()]

    dock.tools.stroke((100, 100)).to(*corners).end()
    dock.tools.stroke((110, 100)).to(*corners).end()
    assert names() == ["Region 1", "Region 2"]
    first = next(iter(dock.session.cells.annotations.areas))
    dock.tools.remove_area(first)
    assert dock.readout.combo().itemText(2) == "Region 2"
    dock.tools.undo()
    assert sorted(names()) == ["Region 1", "Region 2"]
    dock.tools.remove_area(next(iter(dock.session.cells.annotations.areas)))
    dock.tools.remove_area(next(iter(dock.session.cells.annotations.areas)))
    dock.tools.stroke((120, 100)).to(*corners).end()
    assert names() == ["Region 3"]


def test_a_drawn_region_is_counted_at_once_and_can_be_removed(review, qtbot):
    _, dock = review
    session = dock.session
    camera_of(dock.viewer).zoom = 2.0
    assert not dock.readout.remove_button.isVisibleTo(dock)
    dock.use_tool(Tool.REGION)
    stroke = dock.tools.stroke((100, 100))
    stroke.to((400, 100), (400, 400), (100, 400)).end()
    (name,) = session.cells.annotations.areas
    assert dock.readout.combo().currentData() == name
    assert dock.readout.combo().currentText() == "Region 1"
    assert dock.readout.remove_button.isVisibleTo(dock)
    inside = session.cells.rows_within(session.cells.annotations.areas[name])
    qtbot.waitUntil(
        lambda: shown(dock.readout.table).get("all cells", [""])[0] == f"{len(inside):,}",
        timeout=3000,
    )
    dock.readout.remove_button.click()
    assert not session.cells.annotations.areas
    assert dock.readout.combo().currentText() == "What is on the screen"
    assert not dock.readout.remove_button.isVisibleTo(dock)
    dock.undo_button.click()
    assert list(session.cells.annotations.areas) == [name]


def test_export_import_and_picture(review, qtbot, tmp_path, notes):
    _, dock = review
    session = dock.session
    session.select(np.array([0, 1]))
    dock.use_tool(Tool.SELECT)
    dock.tools.delete()
    dock.tools.choose(Tool.ADD)
    dock.tools.stroke((700, 9)).end()
    path = tmp_path / "cells.geojson"
    dock.export_to(path)
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=20_000)
    assert "read back" in dock.message.text()
    features = json.loads(path.read_text())["features"]
    assert len(features) == len(TRUTH) - 1
    before = session.corrected()
    dock.tools.undo()
    dock.import_from(path)
    qtbot.waitUntil(lambda: not dock.importer.running, timeout=20_000)
    after = session.corrected()
    assert len(after) == len(before)
    assert "1 added" in dock.message.text()
    dock.save_picture(tmp_path / "view")
    from PIL import Image

    with Image.open(tmp_path / "view.png") as picture:
        assert picture.size[0] > 200
    dock.import_from(tmp_path / "none.geojson")
    qtbot.waitUntil(lambda: not dock.importer.running, timeout=5000)
    assert isinstance(notes[-1], str)
    assert len(session.corrected()) == len(before)
    dock.export_to(tmp_path / "none" / "cells.csv")
    qtbot.waitUntil(lambda: not dock.exporter.running, timeout=5000)
    assert dock.export_button.text() == "Export…"
    with pytest.raises(ExportError):
        session.write(tmp_path / "cells.doc")


def test_the_table_follows_the_slide_and_the_slide_the_table(review, qtbot):
    viewer, dock = review
    session = dock.session
    table = TableDock(viewer)
    viewer.window.add_dock_widget(table, name="Cell table", area="bottom")
    assert table.model.rowCount() == len(TRUTH)
    place = table.which.findData
    model, view = table.model, table.view
    table._on_heading(1)
    scores = [float(model.data(model.index(i, 1))) for i in range(model.rowCount())]
    assert scores == sorted(scores)
    table._on_heading(1)
    assert float(model.data(model.index(0, 1))) == max(scores)
    view.selectRow(5)
    assert session.selected.tolist() == [model.rows[5]]
    centre = session.cells.centres[session.selected[0]]
    shown_at = session.view().centre
    assert np.hypot(*(np.array(shown_at) - centre)) < 3
    table.which.setCurrentIndex(place(SELECTED))
    assert model.rowCount() == 1
    session.select(np.arange(7))
    qtbot.waitUntil(lambda: model.rowCount() == 7, timeout=3000)
    table.which.setCurrentIndex(place(VIEW))
    assert model.rowCount() == len(session.cells.rows_in(session.view()))
    table.which.setCurrentIndex(place(CORRECTED))
    assert model.rowCount() == 0
    dock.use_tool(Tool.SELECT)
    dock.tools.accept()
    qtbot.waitUntil(lambda: model.rowCount() == 7, timeout=3000)
    assert model.data(model.index(0, 2)) == "confirmed"
    table.which.setCurrentIndex(place(ALL))
    assert model.rowCount() == len(TRUTH)
    assert model.headerData(3, Qt.Orientation.Horizontal) == "x µm"


def test_every_control_has_a_tooltip_and_no_label_is_cut(review, qtbot):
    from qtpy.QtWidgets import QAbstractButton, QComboBox, QLabel

    _, dock = review
    for kind in (QAbstractButton, QComboBox):
        for widget in dock.findChildren(kind):
            if widget.isVisibleTo(dock) and widget.objectName() != "qt_toolbar_ext_button":
                assert widget.toolTip(), widget
    dock.resize(330, 780)
    qtbot.wait(50)
    for label in dock.findChildren(QLabel):
        if label.isVisible() and label.text() and not label.wordWrap():
            assert label.width() >= label.sizeHint().width() - 1, label.text()


def test_closing_the_dock_leaves_the_cells_and_saves(review, qtbot):
    viewer, dock = review
    session = dock.session
    dock.use_tool(Tool.SELECT)
    session.select(np.array([0]))
    dock.tools.delete()
    count = len(viewer.layers)
    # As a click on the dock's cross does it: the dock's own close() is not called.
    frames = dict(viewer.window.dock_widgets)
    viewer.window.remove_dock_widget(frames["Review cells"])
    qtbot.waitUntil(lambda: dock.session is None, timeout=3000)
    assert len(viewer.layers) == count
    assert session.users
    again = ReviewDock(viewer, models=FakeModels())
    viewer.window.add_dock_widget(again, name="Review cells")
    assert again.session is session
    assert again.session.can_undo == "delete 1 cell"


def test_without_cells_a_person_can_begin(make_napari_viewer_proxy, qtbot):
    viewer = make_napari_viewer_proxy()
    viewer.add_layer(slide_image(np.full((300, 400, 3), 255, np.uint8)))
    dock = ReviewDock(viewer, models=FakeModels())
    viewer.window.add_dock_widget(dock)
    qtbot.waitUntil(lambda: dock.session.state == "open", timeout=10_000)
    assert dock.no_cells_label.isVisibleTo(dock)
    dock._on_new_class("mine")
    dock.use_tool(Tool.ADD)
    dock.tools.stroke((100, 100)).end()
    assert dock.session.corrected().cells.counts() == {"mine": 1}
    assert not dock.no_cells_label.isVisibleTo(dock)
    dock.use_tool(Tool.ASK)
    dock.tools.stroke((200, 100)).end()
    assert "Detect cells first" in dock.message.text()
