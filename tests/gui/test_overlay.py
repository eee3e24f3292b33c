import numpy as np
import pytest
from napari.components import ViewerModel
from tables import NAMES, random_table, table_of
from viewer_fakes import slide_image

from napari_celldetr.core.regions import Region, TileGrid
from napari_celldetr.gui.layers import CELLS_KEY, Frame
from napari_celldetr.gui.overlay import MAX_BOXES, Level, Overlay, View, choose_level, view_of
from napari_celldetr.gui.raster import CellRaster
from napari_celldetr.gui.store import CellStore

COLORS = ((0, 0, 200), (200, 0, 0))
SIZE = (2000, 1500)


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.add_layer(slide_image(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)))
    return model


@pytest.fixture
def overlay(viewer):
    store = CellStore(NAMES, threshold=0.5)
    return Overlay(
        viewer, store=store, frame=Frame.of_mpp((0.5, 0.5)), size=SIZE, colors=COLORS, name="cells"
    )


def visible(overlay):
    return [kind for kind in ("far", "mid", "near") if overlay.layer(kind).visible]


@pytest.mark.parametrize(
    ("nucleus_px", "points", "boxes", "level"),
    [
        (1.0, 100, 100, Level.FAR),
        (8.0, 1_000, 1_000, Level.MID),
        (8.0, 1_000_000, 1_000_000, Level.FAR),
        (40.0, 100, 100, Level.NEAR),
        (40.0, MAX_BOXES + 1, MAX_BOXES + 1, Level.MID),
    ],
)
def test_level_of_detail(nucleus_px, points, boxes, level):
    assert choose_level(nucleus_px, points, boxes) is level


def test_one_level_is_shown_and_holds_the_cells_in_view(overlay):
    overlay.add_tile(random_table(3000, SIZE))
    overlay.refresh(View(Region(0, 0, *SIZE), 0.1))
    assert visible(overlay) == ["far"]
    overlay.refresh(View(Region(0, 0, 1000, 1000), 0.5))
    assert visible(overlay) == ["mid"]
    assert len(overlay.layer("mid").data) == overlay.store.count_in(Region(-250, -250, 1500, 1500))
    overlay.refresh(View(Region(100, 100, 300, 200), 2.0))
    assert visible(overlay) == ["near"]
    assert len(overlay.layer("near").data) == 4 * overlay.store.count_in(Region(25, 25, 450, 350))


def test_points_and_boxes_have_the_colours_of_their_class(overlay):
    overlay.add_tile(table_of([[10, 10, 26, 26], [40, 40, 56, 56]], class_ids=[0, 1]))
    overlay.refresh(View(Region(0, 0, 100, 100), 0.5))
    rgb = np.asarray(overlay.layer("mid").face_color)[:, :3]
    np.testing.assert_allclose(rgb, np.array(COLORS) / 255, atol=1e-6)
    overlay.refresh(View(Region(0, 0, 100, 100), 3.0))
    rgb = np.asarray(overlay.layer("near").edge_color)[:, :3]
    np.testing.assert_allclose(rgb, np.repeat(np.array(COLORS) / 255, 4, axis=0), atol=1e-6)


def test_threshold_acts_on_every_level(overlay):
    overlay.add_tile(table_of([[10, 10, 26, 26], [40, 40, 56, 56]], scores=[0.9, 0.55]))
    view = View(Region(0, 0, 100, 100), 0.5)
    overlay.refresh(view)
    assert len(overlay.layer("mid").data) == 2
    overlay.set_threshold(0.7)
    overlay.refresh(view)
    assert len(overlay.layer("mid").data) == 1
    assert overlay.raster.arrays[0].max() == 2
    assert overlay.raster.arrays[0][48 // 4, 48 // 4] == 0
    overlay.set_threshold(0.95)
    overlay.refresh(view)
    assert len(overlay.layer("mid").data) == 0


def test_hiding_one_hides_all_until_one_is_shown(overlay):
    overlay.add_tile(random_table(100, SIZE))
    overlay.refresh(View(Region(0, 0, 1000, 1000), 0.5))
    overlay.layer("mid").visible = False
    overlay.refresh(View(Region(0, 0, 300, 300), 3.0))
    assert visible(overlay) == []
    overlay.layer("far").visible = True
    assert visible(overlay) == ["near"]


@pytest.mark.parametrize("kind", ["far", "mid", "near"])
def test_a_removed_layer_never_comes_back(overlay, viewer, kind):
    viewer.layers.remove(overlay.layer(kind))
    overlay.add_tile(random_table(200, SIZE))
    table = random_table(300, SIZE, seed=1)
    for zoom in (0.1, 0.5, 3.0):
        overlay.refresh(View(Region(0, 0, 400, 400), zoom))
    raster = CellRaster(SIZE, mpp=0.5)
    overlay.replace(table, raster)
    overlay.refresh(View(Region(0, 0, 400, 400), 0.5))
    assert overlay.layer(kind) is None
    assert len(viewer.layers) == 3
    assert len(overlay.store) == 300


def test_everything_removed(overlay, viewer):
    viewer.layers.clear()
    overlay.add_tile(random_table(20, SIZE))
    overlay.refresh(View(Region(0, 0, 400, 400), 0.5))
    overlay.set_threshold(0.1)
    assert overlay.layers == []


def test_failed_tiles_are_hatched(overlay, viewer):
    grid = TileGrid(256, 32)
    overlay.fail_tile(grid.tile(0, 0))
    one = len(overlay.layer("failed").data)
    overlay.fail_tile(grid.tile(0, 1))
    assert len(overlay.layer("failed").data) == 2 * one
    assert len(viewer.layers) == 5


def test_layers_lie_on_the_slide_and_carry_units(overlay):
    for layer in overlay.layers:
        assert [str(u) for u in layer.units] == ["micrometer", "micrometer"]
        assert layer.axis_labels == ("y", "x")
    assert overlay.layer("mid").metadata[CELLS_KEY] is overlay.store


def test_the_users_selection_stays(overlay, viewer):
    assert viewer.layers.selection.active is viewer.layers[0]


def test_viewport_is_camera_centre_and_canvas(viewer):
    frame = Frame.of_mpp((0.5, 0.5))
    viewer.canvas.size = (400, 600)
    viewer.scene.camera.zoom = 4.0
    viewer.scene.camera.center = (0.0, 100.0, 200.0)
    view = view_of(viewer, frame)
    # 600 px / 4 = 150 µm = 300 level-0 px wide, around x = 200 µm = 400 px (+ the half pixel).
    assert view.zoom == 2.0
    assert view.region == Region(250, 100, 301, 201)


def test_a_close_leaves_the_layers(overlay, viewer):
    overlay.close()
    assert len(viewer.layers) == 4
    viewer.layers.pop()
    assert overlay.layers == []
