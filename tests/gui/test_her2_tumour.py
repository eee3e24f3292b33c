"""What drawn and carried shapes mean as tumour, without a window."""

from dataclasses import replace

import numpy as np
import pytest
from aligned_pair import known_transform
from napari.layers import Shapes

from napari_celldetr.core.annotations import Area
from napari_celldetr.gui.carry import CARRIED_KEY, carry_regions
from napari_celldetr.gui.her2_tumour import (
    ALL_KEY,
    AREAS_KEY,
    LAYER_KEY,
    areas_of,
    choices,
    tumour_of,
)
from napari_celldetr.gui.layers import Frame, point_data
from napari_celldetr.pipeline.her2.tumour import ASSUMED, CARRIED, DRAWN, alignment_of

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
    assert found.misplaced(np.array([[50, 50], [250, 250]])).tolist() == [1, 0]
    # A shape that a person adds to them has no such feature yet.
    layer.add(point_data(SQUARE + 500), shape_type="polygon")
    assert len(areas_of(layer, FRAME)) == 3
    assert len(tumour_of(LAYER_KEY + "areas", {}, [layer], FRAME).untrusted) == 1


def test_everything_that_can_be_chosen_is_offered():
    layer = shapes("drawn")
    keys = [c.key for c in choices({}, [layer])]
    assert keys == ["nothing", LAYER_KEY + "drawn", ALL_KEY]
    assert tumour_of(ALL_KEY, {}, [layer], FRAME).source == ASSUMED
    assert not tumour_of("nothing", {}, [layer], FRAME).confirmed
    assert not tumour_of(LAYER_KEY + "gone", {}, [layer], FRAME).confirmed


def test_what_is_cut_out_by_class_or_name_is_no_tumour():
    said = {"classification": ["Tumor", "DCIS", "Stroma"], "label": [7, 8, 9]}
    data = [point_data(SQUARE), point_data(SQUARE / 2), point_data(SQUARE + 200)]
    options = FRAME.layer_options()
    layer = Shapes(data, shape_type="polygon", name="areas", features=said, **options)
    hole = Shapes([point_data(SQUARE / 4 + 70)], name="Cut out · a", **options)
    found = tumour_of(LAYER_KEY + "areas", {}, [layer, hole], FRAME)
    points = np.array([[60, 20], [20, 20], [80, 80], [250, 250]])
    assert found.inside(points).tolist() == [True, False, False, False]
    assert len(found.zones) == 1
    assert len(found.cut_out) == 2
    # It is cut out of all that is measured, too, and is no tumour itself.
    assert not tumour_of(ALL_KEY, {}, [hole], FRAME).inside(points[2:3]).any()
    assert [c.key for c in choices({}, [hole])] == ["nothing", ALL_KEY]
    regions = {"1": Area(tuple(map(tuple, SQUARE.tolist())), "region", "nest"),
               "2": Area(tuple(map(tuple, (SQUARE / 2).tolist())), "region", "hole")}  # fmt: skip
    drawn = tumour_of(AREAS_KEY, regions, [], FRAME)
    assert drawn.inside(points[:2]).tolist() == [True, False]


def test_a_carried_layer_says_how_it_was_carried():
    transform = known_transform(limit_um=40.0)
    he = Shapes([point_data(SQUARE + 300)], name="T", **FRAME.layer_options())
    he.features = {"class": ["carcinoma"]}
    frame = Frame.of_mpp(transform.ihc.mpp)
    moved = carry_regions(he, FRAME.from_world, transform, frame=frame, inverse=False).layer
    found = tumour_of(LAYER_KEY + moved.name, {}, [moved], frame)
    assert found.source == CARRIED
    facts = found.alignment
    assert (facts.method, facts.limit_um) == (transform.method, 40.0)
    assert (facts.he_name, facts.he_identity) == (transform.he.name, transform.he.identity)
    assert replace(facts, excluded_um2=0.0) == alignment_of(transform)
    assert list(moved.features["class"]) == ["carcinoma"]
    # Shapes that lie too badly are named and measured, and nothing in them counts.
    moved.features = {**moved.features, "left_out": [True]}
    found = tumour_of(LAYER_KEY + moved.name, {}, [moved], frame)
    assert not found.confirmed
    assert "to within 40 µm" in found.refusal.reason
    um2 = found.untrusted[0].area_px * np.prod(transform.ihc.mpp)
    assert found.alignment.excluded_um2 == pytest.approx(um2)
