"""*Align slides* where a person slips: the wrong slide, no pixel size, a closed window."""

import numpy as np
import pytest
from aligned_pair import HE_MPP, IHC_MPP, known_alignment, pictures
from viewer_fakes import slide_image

from napari_celldetr.core.progress import Progress
from napari_celldetr.gui import align_runs, mark_keeping
from napari_celldetr.gui.align_dock import AlignDock
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_signs import MARKS_NAME
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.layers import SLIDE_KEY, Frame
from napari_celldetr.pipeline.register import RegistrationError

MARKS = Landmarks.of([((100.0, 50.0), (222.0, 111.0))])


def finish(qtbot, dock):
    qtbot.waitUntil(lambda: not dock.runs.running, timeout=20_000)


def test_landmarks_come_back_after_the_window_was_closed(open_pair, notes, qtbot):
    viewer, dock = open_pair(*pictures())
    dock.marks.use(MARKS)
    viewer.close()
    assert not notes
    _, dock = open_pair(*pictures())
    assert dock.view.marks == MARKS
    assert dock.landmark_fold.button.isChecked()
    assert dock.landmark_box.table.rowCount() == 1
    assert "1 landmark." in notes[-1]
    # The same slides the other way round are another pair.
    dock.choice.swap()
    assert dock.view.marks == Landmarks()


@pytest.mark.parametrize("look", [Look.SWIPE, Look.PLAIN])
def test_a_dock_that_was_closed_goes_on_with_its_alignment(known, look):
    viewer, dock = known
    transform = dock.view.transform
    dock.show_look(look)
    viewer.window.remove_dock_widget(dock)
    dock.close()
    count = len(viewer.layers)
    again = AlignDock(viewer)
    viewer.window.add_dock_widget(again, name="Align slides")
    assert again.view.transform is transform
    assert again.files.save_button.isEnabled()
    again.show_look(Look.BLEND)
    # What the first dock left is used, not added to.
    assert len(viewer.layers) == count if look is Look.SWIPE else count + 2
    assert again.view.pyramid.later is again.pairs._maker


def test_landmarks_that_cannot_be_kept_are_told_once(open_pair, notes, monkeypatch):
    def full(*_args):
        raise OSError("no space left")

    _, dock = open_pair(*pictures())
    monkeypatch.setattr(mark_keeping, "keep", full)
    dock.marks.use(MARKS)
    dock.marks.use(Landmarks())
    assert len(notes) == 1
    assert "save them as a file" in notes[0]


def test_one_slide_opened_twice_is_refused(open_pair, notes, qtbot, tmp_path):
    he, _ = pictures()
    _, dock = open_pair(he, he.copy(), mpp=(HE_MPP, HE_MPP))
    dock.run()
    finish(qtbot, dock)
    text = dock.run_bar.status.text()
    assert text.startswith("Not aligned. The H&E and the IHC are the same slide.")
    assert "choose the other slide" in text
    # Of files it is known without reading them.
    path = tmp_path / "a.svs"
    path.touch()
    for layer in dock.choice.pair:
        layer.metadata[SLIDE_KEY] = str(path)
    dock._check_ready()
    assert "same file" in dock.run_bar.status.text()
    assert not dock.run_bar.run_button.isEnabled()


def test_a_wrong_pair_is_told_in_plain_words(open_pair, notes, qtbot, monkeypatch):
    def job(_request):
        yield Progress(0, 0, "")
        raise RegistrationError(
            "The two slides do not seem to show the same tissue.", found="12% of the windows"
        )

    monkeypatch.setattr(align_runs, "align_job", job)
    _, dock = open_pair(*pictures())
    dock.run()
    finish(qtbot, dock)
    text = dock.run_bar.status.text()
    assert "do not seem to show the same tissue" in text
    assert "check that both slides are of one block" in text
    assert "windows" not in text


def test_a_pixel_size_can_be_mended(open_pair, notes, qtbot, monkeypatch):
    asked = []

    def job(request):
        asked.append(request.he.mpp)
        yield Progress(0, 0, "")
        return known_alignment()

    monkeypatch.setattr(align_runs, "align_job", job)
    viewer, dock = open_pair(*pictures(), mpp=(None, IHC_MPP))
    _, spin = dock.choice.mpp["he"]
    for size in (0.25, 1.0):
        spin.setValue(size)
        dock.run()
        finish(qtbot, dock)
        assert spin.isVisibleTo(dock)
        np.testing.assert_allclose(viewer.layers["he.svs"].scale, size)
    assert asked == [(0.25, 0.25), (1.0, 1.0)]
    # It stays with its slide.
    third = slide_image(pictures(3)[0], mpp=None)
    viewer.add_layer(third)
    assert spin.value() == 1.0
    dock.choice.he_box.setCurrentIndex(2)
    assert spin.value() == 0.0
    assert "pixel size" in dock.run_bar.status.text()
    dock.choice.he_box.setCurrentIndex(0)
    assert spin.value() == 1.0


def test_clicks_set_landmarks_only_while_the_button_says_so(known):
    _, dock = known
    dock.landmark_box.set_button.setChecked(True)
    dock.show_look(Look.SWIPE)
    assert not dock.landmark_box.set_button.isChecked()


def test_napari_tools_leave_landmarks_alone(known):
    viewer, dock = known
    for marks in (MARKS, Landmarks()):
        dock.marks.use(marks)
        assert not viewer.layers[MARKS_NAME].editable


@pytest.mark.parametrize("what", ["limit", "alignment"])
def test_regions_of_an_earlier_alignment_are_not_taken_for_those_of_this_one(known, what):
    viewer, dock = known
    dock.show_look(Look.HE)
    viewer.add_shapes(
        [np.array([[80.0, 100.0], [150.0, 100.0], [150.0, 200.0]])],
        shape_type="polygon",
        name="A",
        units=("um", "um"),
    )
    dock.regions.carry(inverse=False)
    assert "carried over" in dock.region_box.said.text()
    if what == "limit":
        dock.result.limit_spin.setValue(9)
    else:
        dock.take(dock.view, known_alignment(bent=False))
    assert "Carry them over again" in dock.region_box.said.text()
    dock.take(dock.view, known_alignment())
    assert not dock.region_box.said.text()


def test_regions_are_shown_where_they_lie_and_carried_from_there_alone(known, notes):
    viewer, dock = known
    dock.show_look(Look.HE)
    dock.draw_regions()
    drawn = viewer.layers["Regions"]
    ring = np.array([[80.0, 100.0], [150.0, 100.0], [150.0, 200.0]])
    drawn.add_polygons(ring)
    dock.regions.carry(inverse=True)
    assert "lie on the H&E" in notes[-1]
    assert "Regions · from IHC" not in viewer.layers
    # From another view, too: where it was drawn is known.
    dock.show_look(Look.SWIPE)
    assert not drawn.visible
    dock.regions.carry(inverse=False)
    carried = viewer.layers["Regions · from H&E"]
    world = np.array([carried.data_to_world(c) for c in carried.data[0]])
    he = Frame.of_layer(dock.view.he).from_world(ring)
    there = dock.view.world_of_ihc(dock.view.transform.forward(he))
    for corner in there:
        assert np.hypot(*(world - corner).T).min() < 0.01
    dock.region_box.box.setCurrentText(carried.name)
    dock.regions.carry(inverse=False)
    assert "lie on the IHC" in notes[-1]
    dock.show_look(Look.HE)
    assert (drawn.visible, carried.visible) == (True, False)
    # Without the dock both slides are as they were, and so are the regions.
    dock.show_look(Look.PLAIN)
    assert (drawn.visible, carried.visible) == (True, True)


def test_landmarks_can_be_hidden_and_come_back_to_be_set(known):
    viewer, dock = known
    dock.marks.use(MARKS)
    layer = viewer.layers[MARKS_NAME]
    dock.landmark_box.show_box.setChecked(False)
    assert not len(layer.data)
    dock.show_look(Look.HE)
    assert not len(layer.data)
    assert dock.view.marks == MARKS
    dock.landmark_box.set_button.setChecked(True)
    assert len(layer.data)
    dock.marks.end()
    # Hidden in the list of layers they stay hidden.
    layer.visible = False
    dock.show_look(Look.HE)
    dock.show_look(Look.BLEND)
    assert not layer.visible


def test_long_names_are_told_in_full(make_napari_viewer_proxy):
    viewer = make_napari_viewer_proxy()
    layer = slide_image(pictures()[0])
    layer.name = "a-very-long-name-of-a-slide-of-a-block-of-a-case.svs"
    viewer.add_layer(layer)
    dock = AlignDock(viewer)
    viewer.window.add_dock_widget(dock)
    assert layer.name in dock.choice.he_box.toolTip()
