"""What is said of one HER2 slide is said of that slide alone, and stands where it is read."""

import numpy as np
import pytest
from fakes import FakePredictor, cell_field, fake_card
from her2_docks import LEFT, draw, hold_nuclei, measure
from her2_fakes import her2_slide, her2_state
from napari.layers import Shapes
from qtpy.QtWidgets import QLabel
from viewer_fakes import FakeModels, slide_image

from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_body import TUMOUR_AREAS, VIEWPORT
from napari_celldetr.gui.her2_control import CHOOSE_CONTROL, NO_CONTROL
from napari_celldetr.gui.her2_dock import COVERED_TEXT, DRAW_FIRST, HIDDEN_TEXT
from napari_celldetr.gui.her2_drawing import UNCHOSEN
from napari_celldetr.gui.her2_readout import HIDE_KEY
from napari_celldetr.gui.her2_tumour import LAYER_KEY, NOTHING_KEY, areas_of
from napari_celldetr.gui.layers import point_data
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.pipeline.her2.zones import read_zones
from napari_celldetr.slides.readers import open_slide

SQUARE = np.array([[100, 100], [500, 100], [500, 500], [100, 500]], np.float32)


def outlined(viewer, name, corners=SQUARE):
    """A layer with one outline, as somebody else may add it."""
    layer = Shapes(
        [point_data(corners)],
        shape_type="polygon",
        name=name,
        edge_color="#00ff00",
        scale=(0.25, 0.25),
        units=("um", "um"),
    )
    viewer.add_layer(layer)
    return viewer.layers[name]


def second_slide(viewer, dock, qtbot):
    """Another slide is opened, chosen and measured."""
    with open_slide(her2_slide()[0], probe=False) as slide:
        pixels = slide.read(Region(0, 0, *slide.size))[:, ::-1].copy()
    viewer.add_layer(slide_image(pixels, mpp=0.25))
    dock.slide_box.setCurrentIndex(1)
    qtbot.waitUntil(lambda: dock.session.state != "opening", timeout=10_000)
    hold_nuclei(dock)
    dock.take(her2_state())


def offered(dock):
    box = dock.body.tumour_box
    return [box.itemText(i) for i in range(box.count())]


def remark(dock):
    label = dock.body.score_box.remarks
    return label.text() if label.isVisibleTo(dock.body) else ""


def test_tumour_and_cutoffs_belong_to_their_slide(her2_measured, qtbot):
    viewer, dock = her2_measured
    asked, title = [], dock.body.score_box.title
    dock.where.ask = lambda text: asked.append(text) or False
    draw(viewer, dock)
    usual = title.text()
    assert usual.startswith("HER2 ")
    assert remark(dock) == ""
    dock.body.cutoffs.slider("intense").setValue(140)
    qtbot.waitUntil(lambda: dock.state.cutoffs.intense == 1.4, timeout=2000)
    said, first = "Cut-offs of one's own: Intense from 1.4 (usually 0.6).", title.text()
    assert remark(dock) == said
    second_slide(viewer, dock, qtbot)
    assert dock.body.cutoffs.cutoffs == dock.state.cutoffs == Cutoffs()
    assert dock.body.tumour_box.currentData() == NOTHING_KEY
    assert title.text() == "No HER2 score"
    assert remark(dock) == ""
    # The first slide's outline is another slide's, and needs an answer.
    assert "left (of another slide)" in offered(dock)
    assert not asked
    dock.where.choose(LAYER_KEY + "left")
    assert "drawn on another slide" in asked[0]
    assert title.text() == "No HER2 score"
    status = dock.body.run_bar.status
    assert COVERED_TEXT not in status.text()
    dock.slide_box.setCurrentIndex(0)
    assert COVERED_TEXT in status.text()
    assert title.text() == first
    assert remark(dock) == said
    assert "left" in offered(dock)
    assert len(asked) == 1
    what_is_cut_out_elsewhere_is_not_cut_out_here(viewer, dock, qtbot)


def what_is_cut_out_elsewhere_is_not_cut_out_here(viewer, dock, qtbot):
    cells = dock.state.of_slide(draws=0).n_cells
    dock.slide_box.setCurrentIndex(1)
    dock.where.cut_out()
    layer = viewer.layers.selection.active
    layer.add(point_data(LEFT), shape_type="polygon")
    dock.slide_box.setCurrentIndex(0)
    assert dock.state.of_slide(draws=0).n_cells == cells


def test_a_control_is_drawn_for_it_confirmed_said_and_undone(her2_measured, qtbot):
    viewer, dock = her2_measured
    box = dock.body.control
    draw(viewer, dock)
    assert [box.where.itemText(i) for i in range(box.where.count())] == [NO_CONTROL]
    assert not box.button.isEnabled()
    box.draw_button.click()
    assert "control tissue" in dock.body.guide_label.text()
    layer = viewer.layers.selection.active
    layer.add(point_data(1.5 * LEFT), shape_type="polygon")
    qtbot.waitUntil(lambda: box.where.count() == 2, timeout=2000)
    assert not [text for text in offered(dock) if "Control" in text]
    assert box.where.currentText() == CHOOSE_CONTROL
    assert not box.button.isEnabled()
    box.where.setCurrentIndex(1)
    asked = []
    dock.where.ask = lambda text: asked.append(text) or False
    box.button.click()
    assert layer.name in asked[0]
    assert not dock.runs.running
    assert not box.undo_button.isVisibleTo(box)
    dock.where.ask = lambda _: True
    box.button.click()
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=30_000)
    gain = dock.state.stain.gain
    assert gain != 1
    assert remark(dock) == f"Stain evened out to a control on the slide: DAB × {gain:.2f}."
    assert box.undo_button.isVisibleTo(box)
    box.undo_button.click()
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=30_000)
    assert dock.state.control is None
    assert remark(dock) == ""


def test_the_map_can_be_held_away_and_lit_cells_say_so(her2_measured, qtbot):
    viewer, dock = her2_measured
    draw(viewer, dock)
    seen = [kind for kind in ("map", "outlines") if dock.layers.layer(kind).visible]
    assert len(seen) == 1
    press = next(call for key, call in viewer.keymap.items() if str(key) == HIDE_KEY)(viewer)
    next(press)
    assert not any(dock.layers.layer(kind).visible for kind in ("map", "outlines"))
    next(press, None)
    assert [k for k in ("map", "outlines") if dock.layers.layer(k).visible] == seen
    body = dock.body
    body.tree_fold.button.setChecked(True)
    key = "complete_intense_over_10"
    for end in (body.all_button.click, lambda: body.tree_fold.button.setChecked(False)):
        body.tree.row(key).click()
        assert f"{len(dock.state.rows_of_branch(key)):,} cells" in body.lit_label.text()
        assert body.lit_row.isVisibleTo(body)
        end()
        assert dock.state.branch == ""
        assert not body.lit_row.isVisibleTo(body)
    the_score_stays_in_sight(dock, qtbot)


def the_score_stays_in_sight(dock, qtbot):
    title = dock.body.score_box.title.text()
    for fold in (dock.body.tree_fold, dock.body.cutoff_fold):
        fold.button.setChecked(True)
    frame = dock.window()
    frame.resize(900, 500)
    frame.show()
    # Labels whose text becomes longer grow with it.
    for words in ("Short.", "Many more words than there is room for in one line. " * 4):
        dock.saver.told.emit(words)
        qtbot.wait(100)
        labels = [la for la in dock.findChildren(QLabel) if la.wordWrap() and la.isVisible()]
        assert len(labels) > 5
        assert not [la.text() for la in labels if la.height() < la.heightForWidth(la.width())]
    bar, pinned = dock.scroll_bar, dock.body.pinned
    bar.setValue(bar.maximum())
    qtbot.waitUntil(pinned.isVisible, timeout=2000)
    assert pinned.text().startswith(title)
    bar.setValue(dock.body.score_box.y())
    qtbot.waitUntil(lambda: not pinned.isVisible(), timeout=2000)


def test_drawing_is_guided_ends_and_is_saved(make_her2, her2_layer, qtbot, tmp_path):
    viewer, dock = make_her2(her2_layer)
    hold_nuclei(dock)
    body = dock.body
    # Before anything is measured.
    assert body.tumour_box.isVisibleTo(body)
    body.where.setCurrentIndex(body.where.findData(TUMOUR_AREAS))
    layer = viewer.layers.selection.active
    assert layer.mode == "add_polygon"
    assert body.guide_label.isVisibleTo(body)
    assert "invasive tumour" in body.guide_label.text()
    assert DRAW_FIRST in body.run_bar.status.text()
    assert not body.run_bar.run_button.isEnabled()
    layer.add(point_data(SQUARE), shape_type="polygon")
    qtbot.waitUntil(lambda: layer.mode == "pan_zoom", timeout=2000)
    qtbot.waitUntil(body.run_bar.run_button.isEnabled, timeout=2000)
    assert not body.guide_label.isVisibleTo(body)
    dock.where.cut_out()
    viewer.layers.selection.active.add(point_data(SQUARE / 2), shape_type="polygon")
    target = tmp_path / "tumour.geojson"
    dock.saver.write(target)
    found = read_zones(target)
    np.testing.assert_allclose(found.tumour[0].outline.corners, SQUARE, atol=1e-3)
    assert [len(found.tumour), len(found.cut_out)] == [1, 1]
    assert target.name in body.run_bar.status.text()
    one_outline_is_taken(viewer, dock)
    the_chosen_outline_is_told_apart(viewer, dock)
    a_hidden_slide_is_said(dock, her2_layer)


def one_outline_is_taken(viewer, dock):
    body = dock.body
    dock.where.choose(NOTHING_KEY)
    body.where.setCurrentIndex(body.where.findData(VIEWPORT))
    body.where.setCurrentIndex(body.where.findData(TUMOUR_AREAS))
    assert body.tumour_box.currentText().startswith("Tumour · ")


def the_chosen_outline_is_told_apart(viewer, dock):
    drawn = next(la for la in viewer.layers if la.name.startswith("Tumour · "))
    other = outlined(viewer, "other")
    bright, wide = drawn.edge_color[0].copy(), drawn.edge_width[0]
    dock.where.choose(LAYER_KEY + "other")
    assert np.allclose(other.edge_color[0], [0, 1, 0, 1])
    grey = int(UNCHOSEN[1:3], 16) / 255
    assert np.allclose(drawn.edge_color[0], [grey, grey, grey, 1])
    assert drawn.edge_width[0] < wide
    dock.where.choose(LAYER_KEY + drawn.name)
    assert np.allclose(drawn.edge_color[0], bright)
    assert np.allclose(other.edge_color[0], [grey, grey, grey, 1])


def a_hidden_slide_is_said(dock, layer):
    status = dock.body.run_bar.status
    assert HIDDEN_TEXT not in status.text()
    layer.visible = False
    assert HIDDEN_TEXT in status.text()
    layer.visible = True
    assert HIDDEN_TEXT not in status.text()


@pytest.fixture
def unknown_size(make_her2, qtbot):
    """A slide whose pixel size is not known, covered by pixels; and models for its nuclei."""
    models = FakeModels(FakePredictor(card=fake_card(stain="H-DAB")))
    viewer, dock = make_her2(slide_image(cell_field((960, 720)), mpp=None), models=models)
    measure(dock, qtbot)
    return viewer, dock


def test_a_pixel_size_that_is_given_keeps_the_place(unknown_size, qtbot):
    viewer, dock = unknown_size
    body = dock.body
    # Of coverage there is nothing but the whole.
    assert not body.scope_row.isVisibleTo(body)
    assert body.scope_label.text().startswith("Of the whole slide")
    draw_on = Shapes([point_data(SQUARE)], shape_type="polygon", name="part", units=("pixel",) * 2)
    viewer.add_layer(draw_on)
    dock.where.choose(LAYER_KEY + "part")
    assert "press Measure HER2 again" in body.run_bar.status.text()
    corners = areas_of(viewer.layers["part"], dock.session.frame)[0].corners
    camera = camera_of(viewer)
    camera.zoom, camera.center = 6 * camera.zoom, (0.0, 300.0, 350.0)
    before = dock.session.view()
    body.mpp_spin.setValue(0.5)
    dock.run()
    after = dock.session.view()
    assert dock.session.frame.mpp == (0.5, 0.5)
    assert np.allclose(
        [before.x, before.y, before.x1, before.y1], [after.x, after.y, after.x1, after.y1], atol=2
    )
    assert not body.results.isVisibleTo(body)
    now = areas_of(viewer.layers["part"], dock.session.frame)[0].corners
    np.testing.assert_allclose(now, corners, atol=1e-3)
    cancel_is_heard_at_once(dock, qtbot)


def cancel_is_heard_at_once(dock, qtbot):
    bar, begun = dock.body.run_bar, []
    bar.show_busy = begun.append
    bar.cancel_button.click()
    assert bar.status.text() == "Stopping…"
    assert not bar.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=20_000)
    assert not begun
    assert "Stopped" in bar.status.text()
