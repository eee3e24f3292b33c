"""The HER2 dock in a real viewer: measure, say what is tumour, look around, report."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from aligned_pair import known_transform
from fakes import FakePredictor, cell_field, fake_card
from her2_docks import LEFT, draw, hold_nuclei, measure, new_layer
from her2_fakes import SIZE, her2_slide, nuclei
from napari.layers import Shapes
from viewer_fakes import FakeModels, slide_image

from napari_celldetr.core.edits import delete
from napari_celldetr.core.her2 import Cutoffs, assess
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.gui import her2_judging
from napari_celldetr.gui.carry import ALIGNMENT_KEY, CARRIED_KEY, SOURCE_KEY
from napari_celldetr.gui.her2_cutoffs import in_order
from napari_celldetr.gui.her2_dock import EMPTY_TEXT
from napari_celldetr.gui.her2_layers import Show
from napari_celldetr.gui.her2_network import NetworkMap
from napari_celldetr.gui.her2_readout import BUSY_TEXT
from napari_celldetr.gui.her2_state import NOT_COUNTED
from napari_celldetr.gui.her2_tumour import ALL_KEY, LAYER_KEY, NOTHING_KEY, areas_of
from napari_celldetr.gui.her2_where import TUMOUR_LAYER
from napari_celldetr.gui.layers import Frame, point_data
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.her2.replay import replay
from napari_celldetr.pipeline.her2.seal import read_report
from napari_celldetr.pipeline.her2.tumour import NETWORK, alignment_of
from napari_celldetr.slides.readers import open_slide


@pytest.fixture
def measured(her2_measured):
    """A viewer whose slide's nuclei are known and measured."""
    return her2_measured


def carry(viewer, dock):
    """The left from the H&E slide, and the right where the two do not match; what is said of it."""
    said = asdict(alignment_of(known_transform()))
    right = LEFT + np.array([800, 0], np.float32)
    layer = Shapes(
        [point_data(LEFT), point_data(right)],
        shape_type="polygon",
        name="T · from H&E",
        features={"left_out": [False, True]},
        metadata={CARRIED_KEY: {"from": "H&E"}, ALIGNMENT_KEY: said},
        **dock.session.frame.layer_options(),
    )
    viewer.add_layer(layer)
    dock.where.choose(LAYER_KEY + layer.name)
    return said


def test_tumour_that_a_network_found_is_the_networks_once_it_is_chosen(measured):
    viewer, dock = measured
    corners = [[-0.5, -0.5], [-0.5, 799.5], [1199.5, 799.5], [1199.5, -0.5]]
    layer = Shapes(
        [corners],
        shape_type="polygon",
        name="Tumour found by a network · from H&E",
        metadata={CARRIED_KEY: {"from": "H&E", SOURCE_KEY: NETWORK}},
        **Frame.of_mpp((0.25, 0.25)).layer_options(),
    )
    viewer.add_layer(layer)
    assert dock.body.score_box.title.text() == "No HER2 score"
    assert "network" not in dock.body.scope_label.text()
    dock.where.choose(LAYER_KEY + layer.name)
    assert dock.state.tumour.source == NETWORK
    assert dock.body.score_box.title.text().startswith("HER2 ")
    assert "found by a network on the H&E slide" in dock.body.scope_label.text()
    assert "no person drew it" in dock.body.scope_label.text()


def test_without_a_slide_the_dock_says_what_to_do(make_her2):
    _, dock = make_her2()
    assert dock.empty_label.text() == EMPTY_TEXT
    assert dock.empty_label.isVisibleTo(dock)
    assert not dock.body.isVisibleTo(dock)


def test_the_whole_path(make_her2, her2_layer, qtbot, tmp_path):
    viewer, dock = make_her2(her2_layer)
    hold_nuclei(dock)
    measure(dock, qtbot)
    state = dock.state
    assert len(state) == len(her2_slide()[1].cells)
    assert dock.body.score_box.title.text() == "No HER2 score"
    assert [la.name.split(" ·")[0] for la in viewer.layers][-2:] == ["HER2 map", "HER2 outlines"]
    said = carry(viewer, dock)
    judged = state.judged
    left = judged.centres[:, 0] < 800
    told = assess(judged, left, tumour_confirmed=True)
    assert dock.body.score_box.title.text().startswith(f"HER2 {told.score.score} (")
    dock.body.scope.setCurrentIndex(1)
    for score, percent in told.percent_cells.items():
        assert dock.body.bars.texts(score)[0].startswith(f"{percent:.1f} % (")
        assert dock.body.bars.texts(score)[1] == f"{told.percent_area[score]:.0f} %"
    target = tmp_path / "report.json"
    dock.write_report(target)
    qtbot.waitUntil(lambda: not dock.body.reporter.running, timeout=90_000)
    report = json.loads(target.read_text())
    assert report["score"] == told.score.score
    assert report["n_cells"] == told.n_cells
    assert report["tumour_confirmed"]
    assert report["percent_cells"] == pytest.approx(told.percent_cells)
    facts = report["registration"]
    assert {k: facts[k] for k in ("method", "limit_um", "sha256", "excluded_share")} == {
        k: said[k] for k in ("method", "limit_um", "sha256", "excluded_share")
    }
    assert facts["excluded_cells"] == (judged.centres[:, 0] > 800).sum()
    assert facts["excluded_um2"] == pytest.approx(800 * 1200 / 16)
    with open_slide(her2_slide()[0], probe=False) as slide:
        again = drain(replay(read_report(target), slide))
    assert again.is_equal, [d.sentence() for d in again.differences]


def test_figures_follow_the_view(measured, qtbot):
    viewer, dock = measured
    camera_of(viewer).zoom = 12.0
    qtbot.waitUntil(
        lambda: dock.body.scope_label.text().startswith(
            f"{len(dock.state.rows_in(dock.session.view()))} cells"
        ),
        timeout=3000,
    )
    assert len(dock.state.rows_in(dock.session.view())) < len(dock.state) / 2
    assert dock.layers.layer("outlines").visible
    assert len(dock.layers.layer("outlines").data) > 0
    branches_light_their_cells(viewer, dock)
    sliders_act_on_measured_cells(dock, qtbot)
    cells_say_what_was_measured(dock)


def branches_light_their_cells(viewer, dock):
    dock.where.ask = lambda _: True
    dock.where.choose(ALL_KEY)
    camera_of(viewer).zoom = 4.0
    before = tuple(camera_of(viewer).center)
    key = "complete_intense_over_10"
    rows = dock.state.rows_of_branch(key)
    dock.body.tree.row(key).click()
    assert dock.state.branch == key
    assert tuple(camera_of(viewer).center) == before
    values = dock.layers.map.values
    assert np.flatnonzero((values > 0) & (values < 5)).tolist() == rows.tolist()
    assert dock.body.tree.row(key).answer.text() == "lit on the slide"
    dock.body.tree.row(key).click()
    assert dock.state.branch == ""
    # Far from all cells.
    camera_of(viewer).center = (0.0, -5000.0, -5000.0)
    dock.body.tree.row(key).click()
    view = dock.session.view()
    assert set(rows) <= set(dock.state.rows_in(view).tolist())


def sliders_act_on_measured_cells(dock, qtbot):
    dock.body.scope.setCurrentIndex(1)
    intense = dock.state.of_slide().counts
    dock.body.cutoffs.slider("intense").setValue(140)
    qtbot.waitUntil(lambda: dock.state.cutoffs.intense == 1.4, timeout=2000)
    now = dock.state.of_slide()
    assert now.counts != intense
    assert f"{now.percent_cells['3+']:.1f} %" in dock.body.bars.texts("3+")[0]
    dock.body.cutoffs.reset_button.click()
    qtbot.waitUntil(lambda: dock.state.of_slide().counts == intense, timeout=2000)
    # They cannot pass one another.
    dock.body.cutoffs.slider("weak").setValue(100)
    assert dock.body.cutoffs.cutoffs.weak == pytest.approx(0.29)
    assert in_order(Cutoffs(), "complete", 0.0).complete == pytest.approx(0.16)


def test_what_is_tumour(measured, qtbot):
    viewer, dock = measured
    asked = []
    dock.where.ask = lambda text: asked.append(text) or False
    dock.where.choose(ALL_KEY)
    assert len(asked) == 1
    assert dock.body.tumour_box.currentData() == NOTHING_KEY
    assert not dock.state.tumour.confirmed
    dock.where.ask = lambda _: True
    dock.where.choose(ALL_KEY)
    assert dock.state.tumour.confirmed
    assert dock.body.score_box.title.text() == "HER2 3+ (positive)"
    corrected_cells_leave_the_count(dock, qtbot)
    drawing_the_tumour(viewer, dock, qtbot)


def drawing_the_tumour(viewer, dock, qtbot):
    dock.where.draw()
    layer = next(la for la in viewer.layers if la.name.startswith(TUMOUR_LAYER))
    assert viewer.layers.selection.active == layer
    assert layer.mode == "add_polygon"
    assert not dock.state.tumour.confirmed
    layer.add(point_data(LEFT), shape_type="polygon")
    qtbot.waitUntil(lambda: dock.state.tumour.confirmed, timeout=2000)
    assert dock.state.of_slide().n_cells == int((dock.state.centres[:, 0] < 800).sum())
    ellipse = point_data(np.array([[100, 100], [500, 100], [500, 300], [100, 300]], np.float32))
    layer.add(ellipse, shape_type="ellipse")
    found = areas_of(layer, dock.session.frame)
    assert found[1].area_px == pytest.approx(np.pi * 200 * 100, rel=0.01)
    qtbot.waitUntil(lambda: dock.body.scope.count() == 4, timeout=2000)
    viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: not dock.state.tumour.confirmed, timeout=2000)


def corrected_cells_leave_the_count(dock, qtbot):
    session = dock.session
    n = len(dock.state)
    session.edit(delete(session.cells, np.arange(3)))
    qtbot.waitUntil(lambda: len(dock.state) == n - 3, timeout=3000)
    assert not dock.body.report_button.isEnabled()
    session.undo()
    qtbot.waitUntil(lambda: len(dock.state) == n, timeout=3000)
    assert dock.body.report_button.isEnabled()


def cells_say_what_was_measured(dock):
    position = dock.session.frame.to_world(dock.state.centres[7:8].astype(float))[0]
    dock.pointer.point(tuple(position))
    assert "% of its outline is stained" in dock.body.cell_label.text()
    box = her2_slide()[1].cells.boxes[4]
    row = np.flatnonzero((dock.session.cells.boxes == box).all(axis=1)).item()
    dock.session.select(np.array([row]))
    assert dock.pointer.pinned == 4


def test_layers_can_be_chosen_and_come_back(measured, qtbot):
    viewer, dock = measured
    shown = {Show.MAP: ["map"], Show.OUTLINES: ["outlines"], Show.NOTHING: []}
    for show, kinds in shown.items():
        dock.body.show_box.setCurrentIndex(dock.body.show_box.findData(show))
        seen = [k for k in ("map", "outlines") if dock.layers.layer(k).visible]
        assert seen == kinds
    dock.body.nuclei_tick.setChecked(True)
    assert not dock.session.overlay.hidden
    for kind in ("map", "outlines"):
        viewer.layers.remove(dock.layers.layer(kind))
    dock.body.cutoffs.slider("intense").setValue(80)
    qtbot.waitUntil(lambda: dock.state.cutoffs.intense == 0.8, timeout=2000)
    measure(dock, qtbot)
    assert dock.layers.layer("map") is not None
    assert SIZE[::-1] == dock.layers.map.levels()[0].shape


def test_nuclei_are_found_first_where_there_are_none(make_her2, qtbot):
    card = fake_card(stain="H-DAB")
    models = FakeModels(FakePredictor(card=card))
    _, dock = make_her2(slide_image(cell_field((960, 720))), models=models)
    measure(dock, qtbot)
    assert len(dock.session.cells.kept.nonzero()[0]) > 100
    assert len(dock.state) > 100
    assert "cells are measured" in dock.body.run_bar.status.text()


def closed(dock, qtbot):
    """The dock and the slide's record are closed, with all that is being saved."""
    qtbot.waitUntil(lambda: not dock.session._saver.running, timeout=10_000)
    dock.shut_down()


def test_measurements_outlive_the_window(make_her2, qtbot):
    viewer, dock = make_her2(new_layer())
    hold_nuclei(dock)
    draw(viewer, dock)
    part = LEFT * np.float32([1, 0.4])
    cut = Shapes([point_data(part)], name="Cut out", **dock.session.frame.layer_options())
    viewer.add_layer(cut)
    measure(dock, qtbot)
    dock.body.cutoffs.slider("intense").setValue(80)
    qtbot.waitUntil(lambda: dock.state.cutoffs.intense == 0.8, timeout=2000)
    before, title = dock.state.of_slide(draws=0), dock.body.score_box.title.text()
    assert before.n_cells < (dock.state.centres[:, 0] < 800).sum()
    closed(dock, qtbot)
    viewer, dock = make_her2(new_layer())
    qtbot.waitUntil(lambda: dock.state is not None, timeout=10_000)
    assert "are back" in dock.body.run_bar.status.text()
    assert {"left", "Cut out"} <= {layer.name for layer in viewer.layers}
    assert dock.body.cutoffs.cutoffs.intense == 0.8
    assert dock.body.score_box.title.text() == title
    after = dock.state.of_slide(draws=0)
    assert (after.counts, after.percent_area) == (before.counts, before.percent_area)
    assert dock.body.report_button.isEnabled()
    # Measured nuclei that the slide has no longer do not come back.
    table = nuclei()
    hold_nuclei(dock, replace(table, boxes=table.boxes + 1))
    closed(dock, qtbot)
    _, dock = make_her2(new_layer())
    qtbot.waitUntil(lambda: "other nuclei" in dock.body.run_bar.status.text(), timeout=10_000)
    assert dock.state is None


def test_the_map_of_the_whole_slide_follows_what_is_chosen(measured, qtbot):
    """The coarsest level, too, which napari reads once."""
    viewer, dock = measured
    camera_of(viewer).zoom = 0.5
    dock.body.show_box.setCurrentIndex(dock.body.show_box.findData(Show.MAP))
    layer = dock.layers.layer("map")
    qtbot.waitUntil(lambda: layer.data_level == len(layer.data) - 1, timeout=5000)
    right = int(np.argmax(dock.state.centres[:, 0]))
    place = dock.session.frame.to_world(dock.state.centres[right : right + 1].astype(float))[0]

    def shown():
        value = layer.get_value(tuple(place), world=True)
        return value[1] if isinstance(value, tuple) else value

    assert shown() == dock.state.values()[right] != NOT_COUNTED
    draw(viewer, dock)
    assert shown() == NOT_COUNTED


def test_many_cells_are_judged_beside_the_window(measured, qtbot, monkeypatch):
    _, dock = measured
    dock.where.ask = lambda _: True
    dock.where.choose(ALL_KEY)
    title, before = dock.body.score_box.title.text(), dock.state.verdict
    assert title == "HER2 3+ (positive)"
    monkeypatch.setattr(her2_judging, "AT_ONCE", 0)
    dock.body.cutoffs.slider("intense").setValue(150)
    qtbot.waitUntil(lambda: dock.readout.judging.busy, timeout=2000)
    # What stood before stands, and says so.
    assert dock.state.verdict is before
    assert dock.body.scope_label.text().startswith(BUSY_TEXT)
    qtbot.waitUntil(lambda: not dock.readout.judging.busy, timeout=5000)
    assert dock.state.cutoffs.intense == 1.5
    assert dock.body.score_box.title.text() != title
    assert BUSY_TEXT not in dock.body.scope_label.text()
    with qtbot.waitSignal(dock.readout.judging.drawn, timeout=5000):
        pass
    assert dock.state.of_slide(draws=0) is dock.state.of_slide()


def test_nothing_in_the_dock_is_cut_off(measured, qtbot):
    _, dock = measured
    for fold in (dock.body.tree_fold, dock.body.cutoff_fold, dock.body.control_fold):
        fold.button.setChecked(True)
    qtbot.wait(50)
    column = dock.body
    assert column.minimumSizeHint().width() <= 345, column.minimumSizeHint()


def test_without_a_pixel_size_there_is_coverage_alone(make_her2, qtbot, tmp_path):
    field = cell_field((960, 720))
    viewer, dock = make_her2(slide_image(field, mpp=None))
    measure(dock, qtbot)
    assert dock.state is None
    assert dock.body.score_box.title.text() == "No HER2 score"
    assert "pixel size is not known" in dock.body.score_box.reason.text()
    assert dock.body.score_box.doubts.text() == "Enter the true pixel size above."
    assert dock.body.bars.texts("3+")[0] == "–"
    assert dock.body.bars.texts("3+")[1].endswith("%")
    assert not dock.body.tree_fold.isVisibleTo(dock)
    coverage_has_a_report_too(viewer, dock, qtbot, tmp_path)


def coverage_has_a_report_too(viewer, dock, qtbot, tmp_path):
    for name in ("coverage.json", "coverage.html"):
        dock.write_report(tmp_path / name)
        qtbot.waitUntil(lambda: not dock.body.reporter.running, timeout=30_000)
    report = read_report(tmp_path / "coverage.json")
    assert report["score"] is None
    assert "pixel size is not known" in report["reason"]
    assert report["percent_area"] == pytest.approx(dock.covered.coverage.percent)
    source = source_of_layer(dock.session.layer, mpp=None)
    with source.open() as slide:
        again = drain(replay(report, slide))
    assert again.is_equal, [d.sentence() for d in again.differences]
    assert dock.body.report_button.isEnabled()
    # A tumour that nobody measured in must not be reported as if.
    drawn = Shapes([point_data(LEFT / 4)], name="part")
    viewer.add_layer(drawn)
    dock.where.choose(LAYER_KEY + "part")
    assert not dock.body.report_button.isEnabled()
    assert "press Measure HER2 again" in dock.body.report_button.toolTip()


def test_closing_in_the_middle(make_her2, her2_layer, qtbot):
    viewer, dock = make_her2(her2_layer)
    hold_nuclei(dock)
    dock.run()
    dock.runs.stop()
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=10_000)
    assert "Stopped" in dock.body.run_bar.status.text() or dock.state is not None
    assert dock.session.cells.kept.any()
    dock.run()
    assert dock.runs.running
    viewer.layers.remove(her2_layer)
    assert not dock.runs.running
    assert dock.session is None
    qtbot.wait(300)
    assert dock.state is None
    assert not [la for la in viewer.layers if la.name.startswith("HER2")]
    viewer.window.remove_dock_widget(dock)
    assert viewer.mouse_move_callbacks == []


class FakePixels:
    """A network that sees 3+ everywhere."""

    card = SimpleNamespace(name="fake", mpp=0.5, class_names=("background", "0", "1+", "2+", "3+"))
    halo_px = 16
    lattice_px = 8

    def classes(self, pictures):
        return np.full(pictures.shape[:3], 4, np.uint8)


def test_the_network_has_a_map_and_a_figure_of_its_own(measured, qtbot):
    viewer, dock = measured
    network = dock.body.network
    network.load = FakePixels
    dock.ask_network()
    qtbot.waitUntil(lambda: not network.runs.running, timeout=20_000)
    not_3 = 100 - dock.state.of_slide().percent_area["3+"]
    told = float(network.words.text().split("staining of ")[1].split(" %")[0])
    assert told == pytest.approx(not_3, abs=2)
    assert "3+ 100 %" in network.words.text()
    layer = next(la for la in viewer.layers if la.name.startswith("HER2 network"))
    found = np.asarray(layer.data)
    assert set(np.unique(found)) == {0, 4} or (found == 4).all()
    # Half a pixel of its own, in the slide's frame.
    assert layer.scale.tolist() == [0.5, 0.5]


def test_a_network_map_is_painted_where_it_belongs():
    found = NetworkMap((1000, 600), 2.0)
    found.paint(Region(100, 40, 200, 100), np.full((50, 100), 3, np.uint8))
    assert (found.pixels[20:70, 50:150] == 3).all()
    assert found.pixels.sum() == 3 * 50 * 100
    found.paint(Region(-50, -50, 100, 100), np.full((50, 50), 2, np.uint8))
    assert (found.pixels[:25, :25] == 2).all()
    found.paint(Region(900, 500, 200, 200), np.full((100, 100), 255, np.uint8))
    assert not found.pixels[250:, 450:].any()
