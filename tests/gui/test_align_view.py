"""How a pair of slides is shown; a viewer's model, no window."""

import numpy as np
import pytest
from aligned_pair import HE_MPP, IHC_MPP, known_alignment, pictures
from napari.components import ViewerModel
from viewer_fakes import slide_image

from napari_celldetr.gui.align_places import TRANSFORM_KEY, Look
from napari_celldetr.gui.align_signs import CURSOR_NAME, MARKS_NAME
from napari_celldetr.gui.align_veil import VEIL_NAME
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.sources import is_slide_layer
from napari_celldetr.gui.warp_masks import WHOLE, Checker, Swipe

POINTS = np.array([[120.0, 80.0], [333.3, 222.2], [480.0, 310.0]])
DRAWN = (Look.BESIDE, Look.BLEND, Look.SWIPE, Look.CHECKER, Look.HE)


@pytest.fixture
def pair():
    viewer = ViewerModel()
    he, ihc = pictures()
    layers = [
        viewer.add_layer(slide_image(he, mpp=HE_MPP)),
        viewer.add_layer(slide_image(ihc, mpp=IHC_MPP, translate=(40.0, 30.0))),
    ]
    layers[0].name, layers[1].name = "he.svs", "ihc.svs"
    return viewer, *layers


@pytest.fixture
def view(pair):
    return AlignView(*pair, known_alignment())


def state(layer):
    return [np.array(v).tolist() for v in (layer.scale, layer.translate, layer.opacity)]


@pytest.mark.parametrize("look", DRAWN)
def test_places_go_to_the_screen_and_back(view, look):
    view.show(look)
    np.testing.assert_allclose(view.he_at(view.world_of_he(POINTS)), POINTS, atol=1e-3)
    np.testing.assert_allclose(view.ihc_at(view.world_of_ihc(POINTS)), POINTS, atol=1e-9)


@pytest.mark.parametrize("look", [Look.BESIDE, Look.BLEND])
def test_the_picture_shows_pixels_where_the_geometry_says(pair, look):
    viewer, he, ihc = pair
    # One white pixel block on black: it must be found where its place is said to be.
    he.data = np.zeros_like(he.data)
    he.data[200:206, 300:306] = 255
    view = AlignView(viewer, he, ihc, known_alignment())
    view.show(look)
    pixels = np.asarray(view.picture.data[0]).astype(float)[..., 0]
    rows, columns = np.nonzero((pixels > 100) & (np.asarray(view.picture.data[0])[..., 3] > 0))
    middle = view.picture.data_to_world((rows.mean(), columns.mean()))
    told = view.world_of_he(np.array([[303.0, 203.0]]))[0]
    np.testing.assert_allclose(middle, told, atol=0.6 * IHC_MPP)


def test_sources_are_hidden_but_never_changed(pair):
    viewer, he, ihc = pair
    before = state(he), state(ihc), he.data.copy(), ihc.data.copy()
    view = AlignView(viewer, he, ihc, known_alignment())
    for look in DRAWN:
        view.show(look)
        assert he.visible is (look is Look.HE)
        assert ihc.visible is (look is not Look.HE)
    view.show(Look.PLAIN)
    assert he.visible
    assert ihc.visible
    assert (state(he), state(ihc)) == before[:2]
    np.testing.assert_array_equal(he.data, before[2])
    np.testing.assert_array_equal(ihc.data, before[3])
    assert list(viewer.layers) == [he, ihc]


def test_without_an_alignment_they_only_go_side_by_side(pair):
    view = AlignView(*pair)
    view.show(Look.SWIPE)
    assert view.look is Look.BESIDE
    viewer = pair[0]
    assert [layer.name for layer in viewer.layers] == [
        "he.svs",
        "ihc.svs",
        "H&E beside IHC · he.svs",
    ]
    assert view.here(view.world_of_he(POINTS[:1])[0]).ihc is None
    # Nothing lies on the other slide.
    right = view.picture.extent.world[1, 1]
    assert right < 30.0 - IHC_MPP / 2


def test_the_picture_is_no_slide_and_carries_its_transform(pair, view):
    view.show(Look.BLEND)
    assert not is_slide_layer(view.picture)
    assert view.picture.metadata[TRANSFORM_KEY] == view.transform
    view.set_limit(20.0)
    assert view.picture.metadata[TRANSFORM_KEY].limit_um == 20.0


def test_which_slide_is_where(view):
    view.show(Look.BESIDE)
    on_he, on_ihc = view.world_of_he(POINTS)[0], view.world_of_ihc(POINTS)[0]
    assert view.sides(on_he) == ("he",)
    assert view.sides(on_ihc) == ("ihc",)
    here = view.here(on_he)
    np.testing.assert_allclose(here.he, POINTS[0], atol=1e-3)
    np.testing.assert_allclose(here.ihc, view.transform.forward(POINTS[:1])[0], atol=1e-3)
    view.show(Look.BLEND)
    assert view.sides(on_ihc) == ("he", "ihc")
    view.show(Look.PLAIN)
    assert view.sides(on_ihc) == ()


def test_the_error_at_a_place(view):
    view.show(Look.BLEND)

    def error(he):
        here = view.here(view.world_of_he(np.array([he]))[0])
        return here.error_um, here.trusted

    assert error((120.0, 80.0)) == (10.0, True)
    assert error((480.0, 310.0)) == (120.0, False)
    unknown, trusted = error((20.0, 20.0))
    assert np.isnan(unknown)
    assert not trusted
    assert error((-40.0, 20.0)) == (None, True)


def test_the_cursor_is_shown_on_the_other_slide_in_a_ring_of_the_error(pair, view):
    viewer = pair[0]
    viewer.scene.camera.zoom = 4.0
    view.show(Look.BESIDE)
    view.show_cursor(view.here(view.world_of_he(POINTS[2:])[0]))
    layer = viewer.layers[CURSOR_NAME]
    there = view.world_of_ihc(view.transform.forward(POINTS[2:]))[0]
    np.testing.assert_allclose(layer.data, [there, there], atol=1e-3)
    # The ring's width is twice the error of 120 µm; the world is in µm.
    assert layer.size[1] == pytest.approx(240.0)
    view.show_cursor(view.here(view.world_of_ihc(view.transform.forward(POINTS[:1]))[0]))
    np.testing.assert_allclose(layer.data[0], view.world_of_he(POINTS[:1])[0], atol=1e-3)
    assert layer.size[1] == pytest.approx(20.0)
    view.show_cursor(None)
    assert len(layer.data) == 0


def test_what_is_left_out_follows_the_limit_at_once(pair, view):
    viewer = pair[0]
    view.show(Look.BLEND)
    veil = viewer.layers[VEIL_NAME]
    places = np.array([[x, y] for x in range(0, 700, 23) for y in range(0, 500, 23)], float)
    world = view.world_of_ihc(places)

    def shown():
        values = [veil.get_value(w, world=True) for w in world]
        return np.array([v == 1 for v in values])

    def wanted(limit):
        he = view.transform.inverse(places)
        errors = view.transform.error_map
        tissue = errors.tissue_at(he * HE_MPP) > 0
        return tissue & ~(errors.at(he * HE_MPP) <= limit)

    for limit in (50.0, 5.0, 500.0):
        view.set_limit(limit)
        # A pixel of the veil is wider than a place.
        assert (shown() == wanted(limit)).mean() > 0.97
    assert view.transform.excluded_share == pytest.approx(1 / 96)


def test_masks_of_the_looks(pair, view):
    viewer = pair[0]
    view.show(Look.SWIPE)
    pyramid = view.pyramid
    camera = viewer.scene.camera
    camera.center, camera.zoom = (0, 200.0, 300.0), 2.0
    view.compare(seam=0.5)
    assert isinstance(pyramid.mask, Swipe)
    # The middle of the screen, 300 µm, less the slide's shift of 30, and half a pixel.
    assert pyramid.mask.at == pytest.approx((300.0 - 30.0) / IHC_MPP + 0.5)
    camera.center = (0, 200.0, 380.0)
    view.follow_camera()
    assert pyramid.mask.at == pytest.approx((380.0 - 30.0) / IHC_MPP + 0.5)
    view.show(Look.CHECKER)
    view.compare(cell_um=80.0)
    assert pyramid.mask == Checker((100.0, 100.0))
    view.show(Look.BLEND)
    view.compare(opacity=0.25)
    assert pyramid.mask == WHOLE
    assert view.picture.opacity == 0.25
    view.show(Look.BESIDE)
    assert view.picture.opacity == 1.0


def test_landmarks_are_numbered_on_both_slides_and_move_with_the_look(pair, view):
    viewer = pair[0]
    marks = Landmarks.of([((120.0, 80.0), (400.0, 100.0))]).clicked("he", (200.0, 200.0))
    view.show(Look.BESIDE)
    view.show_marks(marks)
    layer = viewer.layers[MARKS_NAME]
    assert [n.strip() for n in layer.features["number"]] == ["1", "", "1", "", "2", ""]
    np.testing.assert_allclose(layer.data[2], view.world_of_ihc(np.array([[400.0, 100.0]]))[0])
    first = layer.data[0].copy()
    view.show(Look.BLEND)
    assert not np.allclose(first, layer.data[0])
    np.testing.assert_allclose(
        layer.data[0], view.world_of_he(np.array([[120.0, 80.0]]))[0], atol=1e-3
    )
    view.show_marks(Landmarks())
    assert len(layer.data) == 0


def test_layers_the_user_removed_come_back_with_the_next_look(pair, view):
    viewer = pair[0]
    view.show(Look.BLEND)
    view.show_marks(Landmarks.of([((120.0, 80.0), (400.0, 100.0))]))
    for layer in list(viewer.layers)[2:]:
        viewer.layers.remove(layer)
    view.set_limit(30.0)
    view.show_cursor(None)
    view.follow_camera()
    view.show(Look.SWIPE)
    names = {layer.name for layer in viewer.layers}
    assert {"H&E on IHC · he.svs", VEIL_NAME, MARKS_NAME} <= names


def test_layers_of_the_user_stay_above_the_pictures(pair, view):
    viewer = pair[0]
    viewer.add_points(np.zeros((1, 2)), name="cells")
    view.show(Look.BESIDE)
    view.show_marks(Landmarks.of([((120.0, 80.0), (400.0, 100.0))]))
    view.take(known_alignment())
    expected = ["he.svs", "ihc.svs", "H&E beside IHC · he.svs", VEIL_NAME, "cells", MARKS_NAME]
    assert [layer.name for layer in viewer.layers] == expected


def test_adding_layers_leaves_the_selection_alone(pair, view):
    viewer, he, _ = pair
    viewer.layers.selection.active = he
    view.show(Look.BLEND)
    view.show_cursor(view.here(view.world_of_he(POINTS)[0]))
    assert viewer.layers.selection.active == he


def test_leaving_keeps_the_alignment_and_takes_the_rest(pair, view):
    viewer = pair[0]
    view.show(Look.BESIDE)
    view.show_marks(Landmarks.of([((120.0, 80.0), (400.0, 100.0))]))
    view.leave()
    assert [layer.name for layer in viewer.layers] == [
        "he.svs",
        "ihc.svs",
        "H&E on IHC · he.svs",
        VEIL_NAME,
    ]
    assert viewer.layers[2].metadata[TRANSFORM_KEY] is view.transform


@pytest.mark.parametrize("look", [Look.BESIDE, Look.BLEND, Look.HE])
def test_fitting_shows_both_slides_or_the_one(pair, view, look):
    viewer, he, ihc = pair
    view.show(look)
    view.fit()
    camera = viewer.scene.camera
    half = np.array(viewer.canvas.size) / camera.zoom / 2
    low, high = camera.center[-2:] - half, camera.center[-2:] + half
    shown = {Look.BESIDE: [ihc, view.picture], Look.BLEND: [ihc], Look.HE: [he]}[look]
    for layer in shown:
        ends = np.array(layer.extent.world)
        assert (ends[0] >= low).all()
        assert (ends[1] <= high).all()


def test_the_other_slide_as_a_small_picture(pair, view):
    viewer = pair[0]
    viewer.scene.camera.zoom = 1 / IHC_MPP
    view.show(Look.BESIDE)
    at = np.array([[350.0, 250.0]])
    on_he = view.he_at(view.world_of_he(view.transform.inverse(at)))
    seen = view.other_slide(view.here(view.world_of_he(on_he)[0]), (100, 60))
    # Seen from the H&E it is the IHC: what lies there, but for the part of a pixel.
    ihc = pair[2].data[220:280, 300:400].astype(float)
    assert np.abs(seen - ihc).mean() < 3
    back = view.other_slide(view.here(view.world_of_ihc(at)[0]), (100, 60))
    x, y = (np.array([350, 250]) - view.pyramid.origin).astype(int)
    whole = np.asarray(view.pyramid.unmasked[0])[y - 30 : y + 30, x - 50 : x + 50, :3]
    np.testing.assert_allclose(back, whole, atol=1)
    view.show(Look.PLAIN)
    assert view.other_slide(view.here(at[0]), (100, 60)) is None
