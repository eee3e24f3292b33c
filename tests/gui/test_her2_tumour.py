"""What drawn and carried shapes mean as tumour, without a window."""

import numpy as np
from napari.layers import Shapes

from napari_celldetr.gui.carry import CARRIED_KEY
from napari_celldetr.gui.her2_tumour import ALL_KEY, LAYER_KEY, areas_of, choices, tumour_of
from napari_celldetr.gui.layers import Frame, point_data
from napari_celldetr.pipeline.her2.tumour import ASSUMED, CARRIED, DRAWN

FRAME = Frame.of_mpp((0.25, 0.25))
SQUARE = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], np.float32)


def shapes(name="areas", **options):
    data = [point_data(SQUARE), point_data(SQUARE + 200)]
    return Shapes(data, shape_type="polygon", name=name, **FRAME.layer_options(), **options)


def test_drawn_shapes_are_in_level_0_px():
    layer = shapes()
    found = tumour_of(LAYER_KEY + "areas", {}, [layer], FRAME)
    assert found.source == DRAWN
    np.testing.assert_allclose(found.zones[0].outline.corners, SQUARE, atol=1e-4)
    assert found.inside(np.array([[50, 50], [250, 250], [150, 150]])).tolist() == [1, 1, 0]


def test_carried_shapes_that_do_not_match_are_left_out():
    layer = shapes(metadata={CARRIED_KEY: {"from": "H&E"}}, features={"left_out": [True, False]})
    found = tumour_of(LAYER_KEY + "areas", {}, [layer], FRAME)
    assert found.source == CARRIED
    assert found.inside(np.array([[50, 50], [250, 250]])).tolist() == [0, 1]
    # A shape that a person adds to them has no such feature yet.
    layer.add(point_data(SQUARE + 500), shape_type="polygon")
    assert len(areas_of(layer, FRAME)) == 2


def test_everything_that_can_be_chosen_is_offered():
    layer = shapes("drawn")
    keys = [c.key for c in choices({}, [layer])]
    assert keys == ["nothing", LAYER_KEY + "drawn", ALL_KEY]
    assert tumour_of(ALL_KEY, {}, [layer], FRAME).source == ASSUMED
    assert not tumour_of("nothing", {}, [layer], FRAME).confirmed
    assert not tumour_of(LAYER_KEY + "gone", {}, [layer], FRAME).confirmed
