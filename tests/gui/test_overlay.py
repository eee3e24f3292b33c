import numpy as np
import pytest
from napari.components import ViewerModel
from tables import NAMES, random_table, table_of
from viewer_fakes import slide_image

from napari_celldetr.core.annotations import SAID, SHOWN, Status
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.edits import add, confirm, delete, move, relabel
from napari_celldetr.core.regions import Region, TileGrid
from napari_celldetr.gui.coverage import Seen
from napari_celldetr.gui.layers import CELLS_KEY, Frame
from napari_celldetr.gui.marks import MAX_MARKS, marks_of
from napari_celldetr.gui.overlay import MAX_BOXES, Level, Overlay, View, choose_level, view_of
from napari_celldetr.gui.prepared import prepare
from napari_celldetr.gui.raster import CellRaster, raster_keys
from napari_celldetr.pipeline.cell_ids import cell_ids

COLORS = ((0, 0, 200), (200, 0, 0))
SIZE = (2000, 1500)
OWNER = object()


@pytest.fixture
def viewer():
    model = ViewerModel()
    model.add_layer(slide_image(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)))
    return model


@pytest.fixture
def overlay(viewer):
    cells = CellTable(NAMES, cell_ids, threshold=0.5)
    made = Overlay(
        viewer,
        cells=cells,
        frame=Frame.of_mpp((0.5, 0.5)),
        size=SIZE,
        colors=COLORS,
        name="cells",
        owner=OWNER,
    )
    made.listen(True)
    return made


def add_tile(overlay, table, state="done"):
    """All cells as those of one tile as large as the slide."""
    overlay.add_tile(TileGrid(max(SIZE), 0).tile(0, 0), table, state)


def count_in(overlay, region):
    return len(overlay.cells.rows_in(region))


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
    add_tile(overlay, random_table(3000, SIZE))
    overlay.refresh(View(Region(0, 0, *SIZE), 0.1))
    assert visible(overlay) == ["far"]
    overlay.refresh(View(Region(0, 0, 1000, 1000), 0.5))
    assert visible(overlay) == ["mid"]
    assert len(overlay.layer("mid").data) == count_in(overlay, Region(-250, -250, 1500, 1500))
    overlay.refresh(View(Region(100, 100, 300, 200), 2.0))
    assert visible(overlay) == ["near"]
    assert len(overlay.layer("near").data) == 4 * count_in(overlay, Region(25, 25, 450, 350))


def test_points_and_boxes_have_the_colours_of_their_class(overlay):
    add_tile(overlay, table_of([[10, 10, 26, 26], [40, 40, 56, 56]], class_ids=[0, 1]))
    overlay.refresh(View(Region(0, 0, 100, 100), 0.5))
    rgb = np.asarray(overlay.layer("mid").face_color)[:, :3]
    np.testing.assert_allclose(rgb, np.array(COLORS) / 255, atol=1e-6)
    overlay.refresh(View(Region(0, 0, 100, 100), 3.0))
    rgb = np.asarray(overlay.layer("near").edge_color)[:, :3]
    np.testing.assert_allclose(rgb, np.repeat(np.array(COLORS) / 255, 4, axis=0), atol=1e-6)


def test_threshold_acts_on_every_level(overlay):
    add_tile(overlay, table_of([[10, 10, 26, 26], [40, 40, 56, 56]], scores=[0.9, 0.55]))
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
    add_tile(overlay, random_table(100, SIZE))
    overlay.refresh(View(Region(0, 0, 1000, 1000), 0.5))
    overlay.layer("mid").visible = False
    overlay.refresh(View(Region(0, 0, 300, 300), 3.0))
    assert visible(overlay) == []
    overlay.layer("far").visible = True
    assert visible(overlay) == ["near"]


@pytest.mark.parametrize("kind", ["far", "mid", "near"])
def test_a_removed_layer_never_comes_back(overlay, viewer, kind):
    viewer.layers.remove(overlay.layer(kind))
    add_tile(overlay, random_table(200, SIZE))
    table = random_table(300, SIZE, seed=1)
    for zoom in (0.1, 0.5, 3.0):
        overlay.refresh(View(Region(0, 0, 400, 400), zoom))
    ready = prepare(table, SIZE, mpp=0.5)
    overlay.replace(ready.claims, ready.raster)
    overlay.refresh(View(Region(0, 0, 400, 400), 0.5))
    assert overlay.layer(kind) is None
    # Slide, corrections, coverage, and the two distances that are left.
    assert len(viewer.layers) == 5
    assert int(overlay.cells.kept.sum()) == int((table.scores >= 0.5).sum())


def test_everything_removed(overlay, viewer):
    viewer.layers.clear()
    add_tile(overlay, random_table(20, SIZE))
    overlay.refresh(View(Region(0, 0, 400, 400), 0.5))
    overlay.set_threshold(0.1)
    assert overlay.layers == []


@pytest.mark.parametrize("state", ["failed", "saturated"])
def test_tiles_that_cannot_be_trusted_are_hatched(overlay, viewer, state):
    grid = TileGrid(256, 32)
    overlay.see(grid.tile(0, 0), state)
    one = len(overlay.layer(state).data)
    overlay.see(grid.tile(0, 1), state)
    assert len(overlay.layer(state).data) == 2 * one
    viewer.layers.remove(overlay.layer(state))
    overlay.see(grid.tile(1, 1), state)
    assert overlay.layer(state) is None


def test_a_veil_lies_over_what_was_not_looked_at(overlay, viewer):
    grid = TileGrid(512, 32)
    overlay.add_tile(grid.tile(0, 0), table_of([[10, 10, 26, 26]]), "done")
    overlay.add_tile(grid.tile(0, 1), None, "failed")
    overlay.add_tile(grid.tile(1, 0), None, "skipped")
    veil = overlay.layer("coverage")
    middles = {
        (0, 0): Seen.LOOKED_AT,
        (0, 1): Seen.FAILED,
        (1, 0): Seen.NO_TISSUE,
        (1, 1): Seen.NOT_YET,
    }
    for (row, column), seen in middles.items():
        world = overlay.frame.to_world(np.array([[column * 512 + 256.0, row * 512 + 256.0]]))
        assert veil.data[tuple(np.round(veil.world_to_data(world[0])).astype(int))] == seen
    # Under the cells, over the slide.
    names = [layer.name for layer in viewer.layers]
    assert names.index("slide") < names.index(veil.name) < names.index("Overview · cells")


def test_a_second_look_at_a_tile_takes_the_place_of_the_first(overlay):
    add_tile(overlay, table_of([[10, 10, 26, 26], [40, 40, 56, 56]]))
    add_tile(overlay, table_of([[10, 10, 26, 26]], class_ids=[1]))
    assert overlay.cells.counts() == {"dark": 0, "red": 1}
    assert overlay.raster.arrays[0][18 // 4, 18 // 4] == 3
    assert overlay.raster.arrays[0][48 // 4, 48 // 4] == 0


def painted_anew(overlay):
    """The raster as painting the present table from nothing gives it."""
    cells, raster = overlay.cells, CellRaster(SIZE, mpp=0.5)
    rows = np.flatnonzero(SHOWN[cells.status])
    keys = raster_keys(cells.scores[rows], cells.class_ids[rows], SAID[cells.status[rows]])
    raster.paint(cells.boxes[rows], keys, cells.threshold)
    return raster


def test_after_any_edit_the_raster_is_as_if_painted_anew(overlay):
    ready = prepare(random_table(3000, SIZE).ordered(), SIZE, mpp=0.5)
    overlay.replace(ready.claims, ready.raster)
    cells = overlay.cells
    rng = np.random.default_rng(1)
    done = []
    for _ in range(12):
        rows = rng.choice(np.flatnonzero(cells.kept), 40, replace=False)
        x, y = rng.uniform(0, 1400, 2)
        done.append(
            (
                rng.choice([0, 1, 2, 3, 4])
                and (
                    lambda r=rows, x=x, y=y: [
                        relabel(cells, r, "red"),
                        delete(cells, r),
                        move(cells, int(r[0]), (x, y, x + 20, y + 20)),
                        add(cells, np.array([[x, y, x + 14, y + 15]]), "dark"),
                    ]
                )()[int(rng.integers(4))]
            )
            or confirm(cells, rows)
        )
        edit = done[-1]
        changed = cells.apply(edit)
        overlay.restated(changed, edit.before.boxes[edit.before.status != Status.ABSENT])
        for one, other in zip(overlay.raster.levels, painted_anew(overlay).levels, strict=True):
            np.testing.assert_array_equal(one.keys, other.keys)
            np.testing.assert_array_equal(one.shown, other.shown)
    overlay.set_threshold(0.8)
    for edit in reversed(done):
        changed = cells.apply(edit.reversed())
        overlay.restated(changed, edit.after.boxes[edit.after.status != Status.ABSENT])
    for one, other in zip(overlay.raster.arrays, painted_anew(overlay).arrays, strict=True):
        np.testing.assert_array_equal(one, other)


def test_corrected_and_selected_cells_look_different(overlay):
    add_tile(overlay, table_of([[10, 10, 26, 26], [40, 40, 56, 56], [70, 70, 86, 86]]))
    cells, view = overlay.cells, View(Region(0, 0, 100, 100), 3.0)
    overlay.refresh(view)
    marks = overlay.layer("marks")
    assert len(marks.data) == 0
    for edit in (relabel(cells, np.array([0]), "red"), delete(cells, np.array([1]))):
        overlay.restated(cells.apply(edit), edit.before.boxes)
    overlay.select(np.array([2]))
    overlay.refresh(view)
    assert {str(s) for s in marks.symbol} == {"diamond", "x", "square"}
    assert len(overlay.layer("near").data) == 8
    overlay.select(np.zeros(0, np.int64))
    overlay.refresh(view)
    assert len(marks.data) == 2


def test_hiding_the_corrections_hides_nothing_else(overlay):
    add_tile(overlay, random_table(100, SIZE))
    overlay.refresh(View(Region(0, 0, 1000, 1000), 0.5))
    overlay.layer("marks").visible = False
    assert visible(overlay) == ["mid"]


def test_fewer_cells_after_a_look_from_far_are_drawn(overlay):
    # napari slices only what is visible: data given to a hidden layer must not meet an old slice.
    add_tile(overlay, random_table(3000, SIZE))
    overlay.refresh(View(Region(0, 0, 1500, 1500), 0.5))
    many = len(overlay.layer("mid").data)
    overlay.refresh(View(Region(0, 0, *SIZE), 0.1))
    overlay.refresh(View(Region(0, 0, 400, 400), 0.5))
    few = overlay.layer("mid")
    assert 0 < len(few.data) < many
    assert len(few._view_data) <= len(few.data)
    overlay.layer("mid").visible = False
    overlay.refresh(View(Region(0, 0, 200, 200), 0.5))
    overlay.layer("far").visible = True
    overlay.refresh(View(Region(0, 0, 100, 100), 0.5))
    assert visible(overlay) == ["mid"]
    assert len(few.data) == count_in(overlay, Region(-25, -25, 150, 150))


def test_marks_hidden_by_the_user_are_right_when_they_come_back(overlay):
    add_tile(overlay, random_table(300, SIZE))
    overlay.select(np.flatnonzero(overlay.cells.kept))
    overlay.refresh(View(Region(0, 0, 1500, 1500), 0.5))
    marks = overlay.layer("marks")
    before = len(marks.data)
    marks.visible = False
    overlay.select(np.flatnonzero(overlay.cells.kept)[:3])
    overlay.refresh(View(Region(0, 0, 1500, 1500), 0.5))
    assert len(marks.data) == before
    marks.visible = True
    assert len(marks.data) <= 3


def test_a_new_class_gets_its_colour(overlay):
    add_tile(overlay, table_of([[10, 10, 26, 26]]))
    edit = relabel(overlay.cells, np.array([0]), "new")
    overlay.restated(overlay.cells.apply(edit), edit.before.boxes)
    overlay.set_colors((*COLORS, (0, 255, 0)))
    overlay.refresh(View(Region(0, 0, 100, 100), 3.0))
    rgb = np.asarray(overlay.layer("near").edge_color)[:, :3]
    np.testing.assert_allclose(rgb, np.tile([0, 1, 0], (4, 1)), atol=1e-6)
    assert overlay.raster.arrays[0].max() == 4
    shown = overlay.layer("far").colormap.map(np.array([4], np.uint8))
    np.testing.assert_allclose(shown[0, :3], [0, 1, 0], atol=1e-6)


def test_layers_lie_on_the_slide_and_carry_units(overlay):
    for layer in overlay.layers:
        assert [str(u) for u in layer.units] == ["micrometer", "micrometer"]
        assert layer.axis_labels == ("y", "x")
    assert overlay.layer("mid").metadata[CELLS_KEY] is OWNER


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


def test_an_overlay_that_no_longer_listens_leaves_the_layers(overlay, viewer):
    overlay.listen(False)
    assert len(viewer.layers) == 5
    gone = viewer.layers.pop()
    overlay.listen(True)
    assert gone not in overlay.layers
    assert len(overlay.layers) == 3


def test_what_is_selected_is_seen_among_many_confirmed_cells():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 4000, (MAX_MARKS + 50, 2))
    table = table_of(np.concatenate((low, low + 16), axis=1))
    cells = CellTable(table.class_names, cell_ids, threshold=0.1)
    cells.replace(Claims.prepared(table, cell_ids))
    every = np.arange(len(table))
    cells.apply(confirm(cells, every))
    marks = marks_of(cells, every, every[-3:], every[:0], ((0, 0, 200),), nucleus_px=16)
    assert len(marks) == MAX_MARKS
    assert (marks.symbol == "square").sum() == 3
