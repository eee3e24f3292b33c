"""Regions carried from one slide to the other; layers without a viewer."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from aligned_pair import HE_MPP, IHC_MPP, known_transform
from napari.layers import Shapes

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.gui.carry import ALIGNMENT_KEY, CARRIED_KEY, carry_regions
from napari_celldetr.gui.layers import Frame
from napari_celldetr.pipeline.her2.tumour import Alignment

HE, IHC = Frame.of_mpp((HE_MPP, HE_MPP)), Frame.of_mpp((IHC_MPP, IHC_MPP))


def regions(frame, **options):
    return Shapes(ndim=2, name="Tumour", **frame.layer_options(), **options)


def there(layer, frame=IHC):
    """Corners (N, 2) x, y in level-0 px of each shape."""
    corners = []
    for data in layer.data:
        world = np.array([layer.data_to_world(c) for c in data])
        corners.append(frame.from_world(world))
    return corners


def test_a_rectangle_on_the_he_lies_where_the_transform_says_on_the_ihc():
    transform = known_transform()
    layer = regions(HE)
    # Level-0 px 100..300 x, 80..200 y.
    layer.add_rectangles([[79.5, 99.5], [199.5, 299.5]])
    carried = carry_regions(layer, HE.from_world, transform, frame=IHC, inverse=False)
    assert carried.layer.shape_type == ["polygon"]
    (ring,) = there(carried.layer)
    back = transform.inverse(ring)
    corners = np.array([(100, 80), (300, 80), (300, 200), (100, 200)])
    for corner in corners:
        assert np.hypot(*(back - corner).T).min() < 1e-3
    # Long edges got corners in between, all of them on the rectangle's rim.
    assert len(ring) > 4
    on_rim = np.isclose(back, (100, 80)) | np.isclose(back, (300, 200))
    assert on_rim.any(axis=1).all()


def test_the_layer_says_where_it_is_from_and_how_sure_it_is():
    layer = regions(HE)
    layer.add_rectangles([[80, 100], [150, 200]])
    layer.add_rectangles([[80, 450], [150, 550]])
    carried = carry_regions(layer, HE.from_world, known_transform(), frame=IHC, inverse=False)
    made = carried.layer
    assert made.name == "Tumour · from H&E"
    assert made.metadata[CARRIED_KEY] == {"from": "H&E", "slide": "he.svs", "layer": "Tumour"}
    assert list(made.features["from"]) == ["H&E · he.svs"] * 2
    assert list(made.features["error_um"]) == [10.0, 120.0]
    assert list(made.features["left_out"]) == [False, True]
    assert (carried.count, carried.excluded) == (2, 1)
    assert carried.sentence().startswith("2 regions carried over; 1 lies")
    assert not np.allclose(made.edge_color[0], made.edge_color[1])


def test_the_layer_holds_the_registration_that_carried_it():
    layer, transform = regions(HE), known_transform(limit_um=40.0)
    layer.add_rectangles([[80, 100], [150, 200]])
    layer.add_rectangles([[80, 450], [150, 550]])
    made = carry_regions(layer, HE.from_world, transform, frame=IHC, inverse=False).layer
    found = Alignment(**made.metadata[ALIGNMENT_KEY])
    assert (found.he_name, found.he_identity, found.method) == ("he.svs", "1", "registered")
    assert (found.limit_um, found.error_um) == (40.0, 10.0)
    assert found.excluded_share == transform.excluded_share
    # The second rectangle, 100 by 70 µm, is where the error is 120 µm.
    assert found.excluded_um2 == pytest.approx(7000, rel=1e-3)
    assert found.sha256 == hashlib.sha256(transform.to_json().encode()).hexdigest()


@pytest.mark.parametrize("limit_um", [50.0, 200.0])
def test_what_is_lost_is_an_area_of_the_he_whichever_way_it_is_carried(limit_um):
    layer, transform = regions(IHC), known_transform(bent=False, limit_um=limit_um)
    ring = transform.forward(np.array([(450, 80), (550, 80), (550, 150), (450, 150)], float))
    layer.add_polygons([IHC.to_world(ring) / IHC.scale])
    made = carry_regions(layer, IHC.from_world, transform, frame=HE, inverse=True).layer
    lost = made.metadata[ALIGNMENT_KEY]["excluded_um2"]
    assert lost == pytest.approx(7000 if limit_um < 120 else 0, rel=1e-3)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_region_drawn_over_glass_around_the_tissue_is_judged_by_the_tissue(inverse):
    transform = known_transform(bent=False)
    glass = np.ones((8, 12), bool)
    glass[3:5, 3:6] = False
    errors = transform.error_map
    transform = replace(
        transform,
        error_map=replace(
            errors,
            error_um=np.where(glass, np.nan, errors.error_um),
            tissue=np.where(glass, 0.0, 1.0),
        ),
    )
    ring = np.array([(110.0, 110.0), (340.0, 110.0), (340.0, 290.0), (110.0, 290.0)])
    ring = transform.forward(ring) if inverse else ring
    here, there = (IHC, HE) if inverse else (HE, IHC)
    layer = regions(here)
    layer.add_polygons([here.to_world(ring) / here.scale])
    carried = carry_regions(layer, here.from_world, transform, frame=there, inverse=inverse)
    assert carried.excluded == 0
    assert list(carried.layer.features["error_um"]) == [10.0]
    # With a limit below the tissue's error it is left out all the same.
    strict = replace(transform, limit_um=5.0)
    carried = carry_regions(layer, here.from_world, strict, frame=there, inverse=inverse)
    assert carried.excluded == 1


def test_there_and_back_again():
    transform = known_transform()
    layer = regions(IHC)
    layer.add_polygons([[200, 150], [260, 330], [300, 200]])
    carried = carry_regions(layer, IHC.from_world, transform, frame=HE, inverse=True)
    assert carried.layer.name == "Tumour · from IHC"
    again = carry_regions(carried.layer, HE.from_world, transform, frame=IHC, inverse=False)
    (ring,) = there(again.layer)
    for y, x in ((200, 150), (260, 330), (300, 200)):
        assert np.hypot(*(ring - (x + 0.5, y + 0.5)).T).min() < 1e-2


@pytest.mark.parametrize(
    ("kind", "shape", "closed"),
    [
        ("ellipse", [[80, 100], [80, 300], [160, 300], [160, 100]], True),
        ("path", [[80, 100], [90, 140], [160, 300]], False),
    ],
)
def test_round_and_open_shapes(kind, shape, closed):
    layer = regions(HE)
    getattr(layer, {"ellipse": "add_ellipses", "path": "add_paths"}[kind])(shape)
    transform = known_transform()
    carried = carry_regions(layer, HE.from_world, transform, frame=IHC, inverse=False)
    assert carried.layer.shape_type == ["polygon" if closed else "path"]
    back = transform.inverse(there(carried.layer)[0]) - 0.5
    if closed:
        x, y = (back - (200, 120)).T
        np.testing.assert_allclose((x / 100) ** 2 + (y / 40) ** 2, 1, atol=1e-3)
    else:
        np.testing.assert_allclose(back[[0, -1]], [[100, 80], [300, 160]], atol=1e-3)


def test_an_empty_layer_is_refused():
    with pytest.raises(ConfigError, match="no regions"):
        carry_regions(regions(HE), HE.from_world, known_transform(), frame=IHC, inverse=False)
