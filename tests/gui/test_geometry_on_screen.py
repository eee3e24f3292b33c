"""What is drawn lies where the pixels are: a known dot, seen through the viewer's own canvas."""

import numpy as np
import pytest
from napari.layers import Image
from tables import table_of
from viewer_fakes import slide_image

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.regions import TileGrid
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import Overlay, view_of
from napari_celldetr.pipeline.cell_ids import cell_ids

SIZE = (400, 300)
# Pixels 100..108 in x and 60..68 in y: the box of level-0 px 100..109 by 60..69.
BOX = (100, 60, 109, 69)
DOT = (104, 64)


def overlay_of(viewer, frame):
    cells = CellTable(("dot",), cell_ids, threshold=0.5)
    overlay = Overlay(
        viewer, cells=cells, frame=frame, size=SIZE, colors=((255, 0, 0),), name="cells"
    )
    tile = TileGrid(max(SIZE), 0).tile(0, 0)
    overlay.add_tile(tile, table_of([BOX], names=("dot",)), "done")
    return overlay


@pytest.mark.parametrize("mpp", [(0.25, 0.25), (0.5, 0.49)])
@pytest.mark.parametrize("translate", [(0.0, 0.0), (13.0, -7.0)])
def test_layers_and_image_agree_in_world_coordinates(make_napari_viewer_proxy, mpp, translate):
    viewer = make_napari_viewer_proxy()
    image = viewer.add_layer(
        Image(
            np.zeros((SIZE[1], SIZE[0], 3), np.uint8),
            rgb=True,
            scale=mpp[::-1],
            translate=translate,
            units=("um", "um"),
        )
    )
    overlay = overlay_of(viewer, Frame.of_layer(image))
    for zoom in (1.0, 10.0, 40.0):
        viewer.scene.camera.zoom = zoom
        viewer.scene.camera.center = image.data_to_world(DOT[::-1])
        overlay.refresh(view_of(viewer, overlay.frame))
    where = np.asarray(image.data_to_world(DOT[::-1]))
    point = overlay.layer("mid")
    np.testing.assert_allclose(point.data_to_world(point.data[0]), where, atol=1e-6)
    box = overlay.layer("near")
    corners = np.array([box.data_to_world(edge[0]) for edge in box.data])
    np.testing.assert_allclose(corners.mean(axis=0), where, atol=1e-6)
    low = image.data_to_world((BOX[1] - 0.5, BOX[0] - 0.5))
    np.testing.assert_allclose(corners.min(axis=0), low, atol=1e-6)
    far = overlay.layer("far")
    rows, columns = np.nonzero(overlay.raster.arrays[0])
    middle = far.data_to_world((rows.mean(), columns.mean()))
    half_pixel = overlay.raster.factor * np.array(mpp[::-1]) / 2
    assert (np.abs(np.asarray(middle) - where) <= half_pixel + 1e-6).all()


def centre_of(picture, channel):
    """Centre (y, x) of the screen pixels in which one channel outshines the others."""
    others = np.delete(picture[..., :3].astype(int), channel, axis=2).max(axis=2)
    hit = picture[..., channel].astype(int) - others > 80
    assert hit.any()
    return (np.argwhere(hit).min(axis=0) + np.argwhere(hit).max(axis=0)) / 2


@pytest.mark.parametrize(("zoom", "kind"), [(8.0, "near"), (2.5, "mid"), (0.8, "far")])
def test_drawn_cells_cover_the_dot_on_the_screen(make_napari_viewer_proxy, qtbot, zoom, kind):
    viewer = make_napari_viewer_proxy(show=True)
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (0, 255, 0)
    image = viewer.add_layer(slide_image(pixels))
    overlay = overlay_of(viewer, Frame.of_layer(image))
    viewer.scene.camera.center = image.data_to_world((70, 120))
    viewer.scene.camera.zoom = zoom
    overlay.refresh(view_of(viewer, overlay.frame))
    assert str(overlay.level) == kind
    for layer in overlay.layers:
        layer.opacity = 1.0
    drawn = viewer.screenshot(canvas_only=True, flash=False)
    overlay.hidden = True
    overlay.refresh(view_of(viewer, overlay.frame))
    for layer in overlay.layers:
        layer.visible = False
    plain = viewer.screenshot(canvas_only=True, flash=False)
    dot, cell = centre_of(plain, 1), centre_of(drawn, 0)
    # The raster is as coarse as its pixels; points are exact to a screen pixel.
    slack = 1.0 if kind != "far" else 1.0 + overlay.raster.factor * 0.5 * zoom / 2
    assert np.abs(dot - cell).max() <= slack
