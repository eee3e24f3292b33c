import gc
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from aligned_pair import HE_MPP, IHC_MPP, known_alignment, no_threads, pictures
from viewer_fakes import refuse_cut_labels, slide_image

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.progress import Progress
from napari_celldetr.gui import align_runs, collector
from napari_celldetr.gui.align_dock import AlignDock
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_sides import DRAWN_KEY
from napari_celldetr.gui.align_signs import CURSOR_NAME, MARKS_NAME
from napari_celldetr.gui.align_veil import VEIL_NAME
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.pipeline.register import RegisterConfig, RegistrationError
from napari_celldetr.pipeline.transform_file import read_transform, write_transform
from napari_celldetr.slides.synthetic_pair import PairSettings, make_pair

SETTINGS = PairSettings(
    size_um=(1200.0, 1000.0), mpp=(2.0, 2.0), shift_um=60.0, angle_deg=75.0, flip=False, scale=1.0
)
PICTURE = "H&E on IHC · he.svs"


@pytest.fixture(scope="module")
def sections():
    return make_pair(5, SETTINGS)


@pytest.fixture
def slow_job(monkeypatch):
    """An alignment that goes on until it is stopped; the event tells that it was closed."""
    closed = threading.Event()

    def job(request):
        try:
            for i in range(2000):
                time.sleep(0.005)
                yield Progress(i % 12, 12, "affine (stages)")
        finally:
            closed.set()
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(align_runs, "align_job", job)
    return closed


def finish(qtbot, dock, timeout=60_000):
    qtbot.waitUntil(lambda: not dock.runs.runner.running, timeout=timeout)


def names(viewer):
    return [layer.name for layer in viewer.layers]


def click(dock, world):
    """A press and a release of the mouse, as the viewer tells them."""

    class Event:
        type, button = "mouse_press", 1
        pos, position = (5.0, 5.0), tuple(world)

    event = Event()
    going = dock.marks.on_press(dock.viewer, event)
    next(going, None)
    event.type = "mouse_release"
    next(going, None)


def drag(dock, world):
    class Event:
        type, button = "mouse_press", 1
        pos, position = (5.0, 5.0), tuple(world)

    event = Event()
    going = dock.marks.on_press(dock.viewer, event)
    next(going, None)
    event.type, event.pos = "mouse_move", (80.0, 5.0)
    next(going, None)
    event.type = "mouse_release"
    next(going, None)


# The whole path --------------------------------------------------------------------------


def test_from_two_slides_to_carried_regions(open_pair, sections, qtbot, notes, tmp_path):
    viewer, dock = open_pair(sections.he, sections.ihc, mpp=sections.mpp)
    assert (dock.choice.he_box.layer.name, dock.choice.ihc_box.layer.name) == ("he.svs", "ihc.svs")
    assert dock.run_bar.run_button.isEnabled()
    before = names(viewer)
    seen = []
    dock.runs.runner.progressed.connect(lambda step: seen.append(dock.run_bar.status.text()))
    dock.run()
    assert not dock.run_bar.run_button.isEnabled()
    finish(qtbot, dock)
    assert any("rotation" in text for text in seen)
    assert any("step 12 of" in text or "Measuring" in text for text in seen)
    # What was found is said, and is right.
    assert dock.run_bar.status.text() == "Aligned."
    assert "turned by" in dock.result.result_label.text()
    assert "clockwise" in dock.result.result_label.text()
    assert "% of the tissue is left out" in dock.result.share_label.text()
    transform = dock.view.transform
    points = sections.landmarks(200)
    miss = (transform.forward(points) - sections.truth.forward(points)) * sections.mpp[1]
    assert np.median(np.hypot(*miss.T)) < 6.0
    # It is shown over the IHC, which stays as it was.
    assert names(viewer) == [*before, PICTURE, VEIL_NAME]
    assert not viewer.layers["he.svs"].visible
    assert dock.result.look_box.look is Look.BLEND
    # A region drawn on the H&E beside comes out at its place on the IHC.
    dock.show_look(Look.BESIDE)
    ring = np.array([[300.0, 250.0], [450.0, 250.0], [450.0, 380.0], [300.0, 380.0]])
    shapes = viewer.add_shapes(
        [dock.view.world_of_he(ring)], shape_type="polygon", name="Tumour", units=("um", "um")
    )
    assert dock.region_box.layer == shapes
    dock.regions.carry(inverse=False)
    carried = viewer.layers["Tumour · from H&E"]
    world = np.array([carried.data_to_world(c) for c in carried.data[0]])
    told = dock.view.ihc_at(world)
    for corner in transform.forward(ring):
        assert np.hypot(*(told - corner).T).min() < 0.01
    assert "1 region carried over" in dock.region_box.said.text()
    # Saved and loaded again it is the same.
    path = tmp_path / "pair.json"
    dock.files.save(path)
    assert read_transform(path).to_json() == transform.to_json()
    assert any("pair.json is saved" in note for note in notes)
    dock.load(path)
    finish(qtbot, dock)
    assert dock.view.transform.to_json() == transform.to_json()
    dock.shut_down()
    no_threads(qtbot)


def test_slides_of_different_tissue_are_refused_and_landmarks_offered(
    open_pair, sections, qtbot, notes
):
    other = make_pair(5, PairSettings(**{**vars_of(SETTINGS), "unrelated": True}))
    viewer, dock = open_pair(sections.he, other.ihc, mpp=sections.mpp)
    before = names(viewer)
    dock.run()
    finish(qtbot, dock)
    text = dock.run_bar.status.text()
    assert text.startswith("Not aligned.")
    assert "Set landmarks" in text
    assert dock.landmark_fold.button.isChecked()
    assert len(notes) == 1
    assert names(viewer) == before
    assert dock.view.transform is None
    assert dock.run_bar.run_button.isEnabled()
    assert not dock.files.save_button.isEnabled()


def vars_of(settings):
    return {name: getattr(settings, name) for name in type(settings).__dataclass_fields__}


# Choosing --------------------------------------------------------------------------------


def test_an_empty_dock_says_what_to_do(open_pair):
    viewer, dock = open_pair()
    assert dock.empty_label.isVisibleTo(dock)
    assert "Open both slides" in dock.run_bar.status.text()
    assert not dock.run_bar.run_button.isEnabled()
    he, ihc = (slide_image(p) for p in pictures())
    viewer.add_layer(he)
    assert dock.empty_label.isVisibleTo(dock)
    assert dock.view is None
    viewer.add_layer(ihc)
    assert not dock.empty_label.isVisibleTo(dock)
    assert dock.choice.he_box.layer != dock.choice.ihc_box.layer
    assert dock.run_bar.run_button.isEnabled()


def test_the_ihc_is_told_by_its_name_and_can_be_exchanged(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy()
    for name, pixels in zip(("A2 HER2.svs", "A1.svs"), pictures(), strict=True):
        layer = slide_image(pixels)
        layer.name = name
        viewer.add_layer(layer)
    dock = AlignDock(viewer)
    viewer.window.add_dock_widget(dock)
    assert (dock.choice.he_box.layer.name, dock.choice.ihc_box.layer.name) == (
        "A1.svs",
        "A2 HER2.svs",
    )
    dock.choice.swap()
    assert (dock.choice.he_box.layer.name, dock.choice.ihc_box.layer.name) == (
        "A2 HER2.svs",
        "A1.svs",
    )
    dock.choice.he_box.setCurrentIndex(dock.choice.ihc_box.currentIndex())
    assert "two different slides" in dock.run_bar.status.text()
    assert not dock.run_bar.run_button.isEnabled()


def test_a_missing_pixel_size_is_asked_for(open_pair, qtbot, notes, slow_job):
    _, dock = open_pair(*pictures(), mpp=(None, IHC_MPP))
    label, spin = dock.choice.mpp["he"]
    assert spin.isVisibleTo(dock)
    assert label.isVisibleTo(dock)
    assert not dock.choice.mpp["ihc"][1].isVisibleTo(dock)
    assert "Enter the pixel size of the H&E" in dock.run_bar.status.text()
    dock.run()
    assert not dock.runs.runner.running
    spin.setValue(HE_MPP)
    dock.run()
    assert dock.runs.runner.running
    assert dock.view.he.scale.tolist() == [HE_MPP, HE_MPP]
    dock.runs.cancel()
    finish(qtbot, dock)


def test_settings_reach_the_job(open_pair, monkeypatch, qtbot, notes):
    asked = []

    def job(request):
        asked.append(request)
        yield Progress(0, 0, "")
        raise RegistrationError("no", remedy="set three landmarks by hand")

    monkeypatch.setattr(align_runs, "align_job", job)
    _, dock = open_pair(*pictures())
    dock.form.editor("flips").setChecked(False)
    dock.result.limit_spin.setValue(80)
    dock.marks.use(Landmarks.of([((1.0, 2.0), (3.0, 4.0))]))
    dock.run()
    finish(qtbot, dock)
    dock.run(with_landmarks=True)
    finish(qtbot, dock)
    plain, marked = asked
    assert plain.config == RegisterConfig(limit_um=80.0, flips=False)
    assert plain.landmarks == ()
    assert marked.landmarks == (((1.0, 2.0), (3.0, 4.0)),)


def test_another_pair_and_back_keeps_what_is_known(known):
    viewer, dock = known
    third = slide_image(pictures(3)[1], mpp=IHC_MPP)
    third.name = "other.svs"
    viewer.add_layer(third)
    assert dock.choice.ihc_box.layer.name == "ihc.svs"
    transform = dock.view.transform
    dock.choice.ihc_box.setCurrentIndex(2)
    assert dock.view.transform is None
    assert not dock.result.result_label.isVisibleTo(dock)
    assert PICTURE not in names(viewer)
    assert viewer.layers["he.svs"].visible
    dock.choice.ihc_box.setCurrentIndex(1)
    assert dock.view.transform is transform
    dock.show_look(Look.BLEND)
    assert PICTURE in names(viewer)


# Ends ------------------------------------------------------------------------------------


def test_cancel_leaves_everything_as_it_was(open_pair, slow_job, qtbot, notes):
    viewer, dock = open_pair(*pictures())
    before = names(viewer)
    dock.run()
    qtbot.waitUntil(lambda: "step" in dock.run_bar.status.text(), timeout=5000)
    dock.runs.cancel()
    finish(qtbot, dock)
    assert slow_job.is_set()
    assert dock.run_bar.status.text() == "Cancelled. Nothing was changed."
    assert names(viewer) == before
    assert dock.run_bar.run_button.isEnabled()
    no_threads(qtbot)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError()])
def test_whatever_happens_is_told(open_pair, monkeypatch, qtbot, notes, error):
    def broken(*args, **kwargs):
        yield Progress(0, 12, "affine (stages)")
        raise error

    monkeypatch.setattr("napari_celldetr.pipeline.register.register", broken)
    _, dock = open_pair(*pictures())
    dock.run()
    finish(qtbot, dock)
    assert dock.run_bar.status.text().startswith("Not aligned.")
    assert len(notes) == 1
    assert "detection" not in notes[0]
    assert dock.run_bar.run_button.isEnabled()


@pytest.mark.parametrize("what", ["he.svs", "ihc.svs", "all"])
def test_a_slide_removed_mid_run(open_pair, slow_job, qtbot, notes, what):
    viewer, dock = open_pair(*pictures())
    dock.run()
    qtbot.wait(50)
    if what == "all":
        viewer.layers.clear()
    else:
        viewer.layers.remove(what)
    finish(qtbot, dock, 5000)
    assert slow_job.is_set()
    assert dock.view is None
    assert "Cancelled" in dock.run_bar.status.text()
    no_threads(qtbot)


@pytest.mark.parametrize("what", ["he.svs", PICTURE, VEIL_NAME, "all"])
def test_layers_removed_after_aligning(known, what, qtbot):
    viewer, dock = known
    if what == "all":
        viewer.layers.clear()
    else:
        viewer.layers.remove(what)
    dock._pointer = (100.0, 100.0)
    dock._show_here()
    dock.result.limit_spin.setValue(33)
    for look in Look:
        dock.show_look(look)
    if what in (PICTURE, VEIL_NAME):
        assert dock.view.transform.limit_um == 33
        dock.show_look(Look.BLEND)
        assert {PICTURE, VEIL_NAME} <= set(names(viewer))
    else:
        assert dock.view is None
        assert PICTURE not in names(viewer)
        assert not dock.files.save_button.isEnabled()


@pytest.mark.parametrize("repeat", range(3))
def test_the_viewer_closed_mid_run(open_pair, slow_job, qtbot, notes, repeat):
    viewer, dock = open_pair(*pictures())
    if repeat % 2:
        dock.show_look(Look.BESIDE)
    dock.run()
    qtbot.wait(10 + 30 * repeat)
    viewer.close()
    assert dock._is_shut
    del dock
    gc.collect()
    no_threads(qtbot)
    assert slow_job.is_set()
    qtbot.waitUntil(lambda: not collector.is_on(), timeout=5000)


@pytest.mark.parametrize("aligned", [False, True])
def test_the_viewer_closed_with_an_alignment(open_pair, qtbot, notes, aligned):
    viewer, dock = open_pair(*pictures())
    if aligned:
        dock.take(dock.view, known_alignment())
    dock.show_look(Look.BESIDE)
    qtbot.wait(10)
    viewer.close()
    assert dock._is_shut


def test_the_dock_closed_leaves_the_alignment_in_the_viewer(known, qtbot):
    viewer, dock = known
    dock.show_look(Look.SWIPE)
    dock._pointer = (150.0, 200.0)
    dock._show_here()
    viewer.window.remove_dock_widget(dock)
    dock.close()
    assert names(viewer) == ["he.svs", "ihc.svs", PICTURE, VEIL_NAME]
    assert np.asarray(viewer.layers[PICTURE].data[0])[..., 3].any()
    # Nothing of the dock hears of the viewer any more.
    assert dock._on_move not in viewer.mouse_move_callbacks
    assert dock.marks.on_press not in viewer.mouse_drag_callbacks
    viewer.scene.camera.zoom = 3.0
    viewer.layers.clear()


# Looking ---------------------------------------------------------------------------------


def test_looks_that_need_an_alignment_wait_for_it(open_pair):
    _, dock = open_pair(*pictures())
    model = dock.result.look_box.box.model()
    ready = {
        Look(dock.result.look_box.box.itemData(i)): model.item(i).isEnabled()
        for i in range(dock.result.look_box.box.count())
    }
    assert [look for look, on in ready.items() if on] == [Look.PLAIN, Look.BESIDE, Look.HE]
    dock.show_look(Look.SWIPE)
    assert dock.result.look_box.look is Look.BESIDE


def test_the_slider_sets_blend_seam_and_fields(known, qtbot):
    viewer, dock = known
    pyramid = dock.view.pyramid
    dock.result.look_box.slider.setValue(20)
    qtbot.waitUntil(lambda: viewer.layers[PICTURE].opacity == pytest.approx(0.2))
    dock.show_look(Look.SWIPE)
    middle = pyramid.mask.at
    dock.result.look_box.slider.setValue(80)
    qtbot.waitUntil(lambda: pyramid.mask.at > middle)
    dock.show_look(Look.CHECKER)
    before = pyramid.mask.side
    dock.result.look_box.slider.setValue(70)
    qtbot.waitUntil(lambda: pyramid.mask.side > before)
    assert dock.result.look_box.right.text().endswith("µm")
    # Each look keeps its own place of the slider.
    dock.show_look(Look.BLEND)
    assert dock.result.look_box.slider.value() == 20


def test_the_seam_is_seen_at_every_zoom(open_pair, notes, qtbot):
    he, ihc = pictures()
    viewer, dock = open_pair(0 * he, 0 * ihc + 255, show=True)
    dock.take(dock.view, known_alignment(limit_um=2000.0))
    dock.show_look(Look.SWIPE)
    y, x = dock.view.world_of_he(np.array([[300.0, 200.0]]))[0]
    for zoom in (4.0, 0.5):
        viewer.scene.camera.center, viewer.scene.camera.zoom = (0, y, x), zoom
        qtbot.wait(150)
        row = viewer.screenshot(flash=False)
        row = row[row.shape[0] // 2, :, :3].max(axis=1)
        left, right = row[len(row) // 2 - 20], row[len(row) // 2 + 20]
        assert (left, right) == (0, 255), zoom


def test_the_seam_stays_on_the_screen(known, qtbot):
    viewer, dock = known
    dock.show_look(Look.SWIPE)
    pyramid = dock.view.pyramid
    before = pyramid.mask.at
    center = viewer.scene.camera.center
    viewer.scene.camera.center = (*center[:-1], center[-1] + 80.0)
    qtbot.waitUntil(lambda: pyramid.mask.at == pytest.approx(before + 100.0, abs=0.01))


def test_the_limit_acts_at_once(known):
    viewer, dock = known
    assert dock.result.limit_spin.value() == 50
    assert dock.result.share_label.text().startswith("34.4 %")
    shown = viewer.layers[VEIL_NAME].data.sum()
    dock.result.limit_spin.setValue(200)
    assert dock.result.share_label.text().startswith("1.0 %")
    assert viewer.layers[VEIL_NAME].data.sum() < shown / 5
    assert dock.view.transform.limit_um == 200


def test_the_cursor_is_linked(known, qtbot):
    viewer, dock = known
    dock.show_look(Look.BESIDE)
    he = np.array([[300.0, 200.0]])

    class Event:
        position = tuple(dock.view.world_of_he(he)[0])

    dock._on_move(viewer, Event())
    qtbot.waitUntil(lambda: CURSOR_NAME in names(viewer), timeout=2000)
    there = dock.view.world_of_ihc(dock.view.transform.forward(he))[0]
    np.testing.assert_allclose(viewer.layers[CURSOR_NAME].data[0], there, atol=1e-3)
    assert dock.result.here_label.text() == "Here: up to about 10 µm off"
    dock.result.loupe_fold.button.setChecked(True)
    dock._show_here()


# Landmarks -------------------------------------------------------------------------------


def test_landmarks_are_set_by_clicks_on_both_slides(open_pair, notes, tmp_path):
    viewer, dock = open_pair(*pictures())
    box = dock.landmark_box
    assert not box.align_button.isEnabled()
    box.set_button.setChecked(True)
    assert dock.result.look_box.look is Look.BESIDE
    view = dock.view
    he, ihc = np.array([[100.0, 50.0]]), np.array([[222.0, 111.0]])
    click(dock, view.world_of_he(he)[0])
    assert "same place on the IHC" in box.hint.text()
    assert box.table.item(0, 1).text() == "click the IHC"
    drag(dock, view.world_of_ihc(ihc)[0])
    assert view.marks.wanted == "ihc"
    click(dock, (99_999.0, 99_999.0))
    assert "Click on one of the two slides." in notes
    click(dock, view.world_of_ihc(ihc)[0])
    np.testing.assert_allclose(view.marks.pairs, [[he[0], ihc[0]]])
    assert box.table.item(0, 1).text() == "on both slides"
    assert box.table.item(0, 2).text() == "–"
    assert box.align_button.isEnabled()
    assert MARKS_NAME in names(viewer)
    # Half a landmark is dropped when setting ends.
    click(dock, view.world_of_he(he + 9)[0])
    box.set_button.setChecked(False)
    assert len(view.marks.items) == 1
    click(dock, view.world_of_he(he + 30)[0])
    assert len(view.marks.items) == 1
    # To a file and back.
    path = tmp_path / "marks"
    dock.marks.save(path)
    saved = path.with_name("marks.csv")
    assert saved.exists()
    box.table.selectRow(0)
    box.delete_button.click()
    assert view.marks.items == ()
    dock.marks.load(saved)
    np.testing.assert_allclose(view.marks.pairs, [[he[0], ihc[0]]])
    dock.marks.load(tmp_path / "gone.csv")
    assert "gone.csv" in notes[-1]
    np.testing.assert_allclose(view.marks.pairs, [[he[0], ihc[0]]])


def test_each_landmark_says_what_the_alignment_misses_it_by(known):
    _, dock = known
    transform = dock.view.transform
    he = np.array([[300.0, 200.0], [200.0, 150.0]])
    ihc = transform.forward(he) + np.array([[0.0, 0.0], [30.0, 40.0]])
    pairs = [(tuple(a), tuple(b)) for a, b in zip(he.tolist(), ihc.tolist(), strict=True)]
    dock.marks.use(Landmarks.of(pairs))
    table = dock.landmark_box.table
    # 50 px of 0.8 µm.
    assert [table.item(row, 2).text() for row in (0, 1)] == ["0.0 µm", "40 µm"]


# Regions and files -----------------------------------------------------------------------


def test_regions_come_back_from_the_ihc(known, notes):
    viewer, dock = known
    ring = np.array([[300.0, 200.0], [420.0, 200.0], [420.0, 300.0]])
    viewer.add_shapes(
        [dock.view.world_of_ihc(ring)], shape_type="polygon", name="DCIS", units=("um", "um")
    )
    dock.regions.carry(inverse=True)
    made = viewer.layers["DCIS · from IHC"]
    assert dock.result.look_box.look is Look.HE
    assert not viewer.layers["DCIS"].visible
    world = np.array([made.data_to_world(c) for c in made.data[0]])
    told = dock.view.he_at(world)
    for corner in dock.view.transform.inverse(ring):
        assert np.hypot(*(told - corner).T).min() < 0.01


def test_regions_are_not_guessed_where_they_could_be_on_either_slide(known, notes):
    viewer, dock = known
    dock.draw_regions()
    drawn = viewer.layers["Regions"]
    assert viewer.layers.selection.active == drawn
    assert str(drawn.mode) == "add_polygon"
    drawn.add_polygons([[10, 10], [10, 60], [60, 60]])
    # Drawn over the IHC, they are not the H&E's; of other layers nobody knows.
    dock.regions.carry(inverse=False)
    assert "lie on the IHC" in notes.pop()
    del drawn.metadata[DRAWN_KEY]
    for count, look in enumerate((Look.BLEND, Look.SWIPE, Look.CHECKER), 1):
        dock.show_look(look)
        dock.regions.carry(inverse=False)
        assert "Regions · from H&E" not in names(viewer)
        assert "Side by side" in notes[-1]
        assert len(notes) == count
    # Beside each other they must lie on the slide they are carried from.
    dock.show_look(Look.BESIDE)
    on_ihc = dock.view.world_of_ihc(np.array([[100.0, 100.0], [200.0, 100.0], [200.0, 200.0]]))
    viewer.add_shapes([on_ihc], shape_type="polygon", name="A", units=("um", "um"))
    assert dock.region_box.layer.name == "A"
    dock.regions.carry(inverse=False)
    assert "other slide" in notes[-1]
    dock.regions.carry(inverse=True)
    assert "A · from IHC" in names(viewer)


def test_an_alignment_of_another_pair_is_refused(open_pair, qtbot, notes, tmp_path):
    _, dock = open_pair(*pictures())
    path = tmp_path / "other.json"
    write_transform(known_alignment().transform, path)
    dock.load(path)
    finish(qtbot, dock)
    assert "another slide" in dock.run_bar.status.text()
    assert dock.view.transform is None


def test_point_pairs_of_another_program_are_measured(open_pair, sections, qtbot, notes, tmp_path):
    from napari_celldetr.gui.align_job import says_lengths

    _, dock = open_pair(sections.he, sections.ihc, mpp=sections.mpp)
    he = sections.landmarks(40)
    ihc = sections.truth.forward(he)
    path = tmp_path / "valis.csv"
    rows = [",".join(f"{v:.2f}" for v in (*a, *b)) for a, b in zip(he, ihc, strict=True)]
    path.write_text("\n".join(["he_x,he_y,ihc_x,ihc_y", *rows]))
    assert says_lengths(path)
    dock.load(path)
    finish(qtbot, dock)
    assert dock.view.transform.method == "point pairs"
    assert dock.view.transform.error_map is not None
    assert "Expected error" in dock.result.result_label.text()


def test_a_matrix_needs_to_be_told_what_its_lengths_mean(tmp_path, qtbot):
    from napari_celldetr.gui.align_dialog import PhysicalDialog
    from napari_celldetr.gui.align_job import says_lengths

    path = tmp_path / "M.txt"
    path.write_text("1 0 0\n0 1 0\n0 0 1\n")
    assert not says_lengths(path)
    dialog = PhysicalDialog("M.txt")
    qtbot.addWidget(dialog)
    assert not dialog.mpp.isEnabled()
    dialog.unit.setCurrentIndex(dialog.unit.findData("small"))
    assert dialog.mpp.isEnabled()
    dialog.fixed.setCurrentIndex(1)
    how = dialog.physical()
    assert (how.unit, how.fixed, how.px_mpp) == ("px", "ihc", 4.0)


# Form ------------------------------------------------------------------------------------


def test_no_label_is_cut_in_a_narrow_low_dock(known, qtbot):
    from napari_celldetr.gui.parts import Fold

    _, dock = known
    dock.marks.use(Landmarks.of([((300.0, 200.0), (301.0, 202.0))] * 6))
    dock.setParent(None)
    dock.show_look(Look.CHECKER)
    for fold in dock.findChildren(Fold):
        fold.button.setChecked(True)
    refuse_cut_labels(dock, qtbot)


def test_every_control_has_a_tooltip_and_the_dock_its_notice(open_pair):
    from qtpy.QtWidgets import QAbstractSpinBox, QComboBox, QLabel, QPushButton, QSlider

    _, dock = open_pair()
    for kind in (QPushButton, QComboBox, QSlider, QAbstractSpinBox):
        for widget in dock.findChildren(kind):
            assert widget.toolTip(), widget
    assert RESEARCH_USE in [label.text() for label in dock.findChildren(QLabel)]


def test_nothing_is_written_beside_the_slides(known, tmp_path):
    assert not [p for p in Path(tmp_path).rglob("*") if p.is_file()]
