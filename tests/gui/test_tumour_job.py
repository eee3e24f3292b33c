"""Tumour that a network finds in the H&E and that is carried to the IHC; no viewer."""

from types import SimpleNamespace

import numpy as np
import pytest
from aligned_pair import HE_MPP, HE_SIZE, known_transform
from numpy.testing import assert_allclose, assert_array_equal

from napari_celldetr.core.progress import drain
from napari_celldetr.gui.sources import LayerSource
from napari_celldetr.gui.tumour_job import (
    TumourRequest,
    trusted_cells,
    tumour_job,
    zones_without_holes,
)
from napari_celldetr.pipeline.her2.tumour import tumour_zones
from napari_celldetr.pipeline.her2.zones import contained

SIDE = 20


class DarkIsTumour:
    """Probability 0.9 where a patch is dark."""

    device = "cpu"
    patch_px = SIDE
    card = SimpleNamespace(class_names=("other", "tumour"), mpp=HE_MPP)

    def predict(self, patches):
        dark = patches.reshape(len(patches), -1).mean(axis=1) < 120
        share = np.where(dark, 0.9, 0.2).astype(np.float32)
        return np.stack([1 - share, share], axis=1)


def he_with_tumour():
    """Pink tissue with a dark band across, glass around it."""
    pixels = np.full((HE_SIZE[1], HE_SIZE[0], 3), 244, np.uint8)
    pixels[40:360, 40:560] = (225, 130, 190)
    pixels[160:240, 100:540] = (110, 40, 120)
    return pixels


@pytest.fixture(scope="module")
def found():
    source = LayerSource("he.svs", (he_with_tumour(),), HE_SIZE, (HE_MPP, HE_MPP))
    return drain(tumour_job(TumourRequest(source, known_transform(), DarkIsTumour)))


def test_the_map_holds_probabilities_and_zero_where_nobody_asked(found):
    heat = found.on_he
    assert heat.cell == (SIDE, SIDE)
    assert heat.share.shape == (20, 30)
    assert_allclose(heat.share[8:12, 5:27], 0.9)
    assert heat.share[0].max() == 0
    assert_allclose(heat.share[5, 10], 0.2)


def test_the_map_on_the_ihc_lies_where_the_transform_says(found):
    transform, laid = known_transform(), found.on_ihc
    rows, columns = np.nonzero(laid.share > 0.5)
    centres = (np.stack([columns, rows], 1) + 0.5) * laid.cell
    back = transform.inverse(centres)
    assert len(back) > 100
    assert (back >= (99.9, 159.9)).all()
    assert (back <= (540.1, 240.1)).all()


def test_zones_lie_on_the_tumour_and_badly_aligned_ones_are_apart(found):
    transform = known_transform()
    kept = [o for o in found.outlines if not o.excluded]
    out = [o for o in found.outlines if o.excluded]
    assert len(kept) == 1
    assert out
    # The error is over the limit from x = 400 on.
    back = transform.inverse(kept[0].corners)
    assert_allclose(back.min(axis=0), (100, 160), atol=0.1)
    assert back[:, 0].max() <= 400.1
    assert kept[0].error_um <= 50 or np.isclose(back[:, 0].max(), 400, atol=0.1)
    for outline in out:
        assert transform.inverse(outline.corners)[:, 0].min() >= 379.9
    assert len(tumour_zones(found.answers)) == 1


def test_a_square_of_which_a_part_is_not_aligned_is_not_trusted():
    mask = np.ones((10, 15), bool)
    trusted = trusted_cells(mask, (40.0, 40.0), known_transform(bent=False, limit_um=1000.0))
    assert not trusted[0, 0]
    assert trusted[3:7, 3:8].all()


def test_what_is_in_a_hole_is_in_no_zone():
    mask = np.zeros((9, 12), bool)
    mask[1:8, 1:11] = True
    mask[3:5, 3:5] = False
    mask[5, 7:9] = False
    zones = list(zones_without_holes(mask, (10.0, 10.0)))
    assert not any(zone.holes for zone in zones)
    points = np.stack(np.meshgrid(np.arange(12), np.arange(9)), -1).reshape(-1, 2) * 10.0 + 5
    assert_array_equal(contained(zones, points).reshape(9, 12), mask)
    assert sum(zone.area_px for zone in zones) == mask.sum() * 100
