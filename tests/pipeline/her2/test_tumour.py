"""Tumour from wherever it comes: what counts, what does not, and why there may be none."""

from __future__ import annotations

import numpy as np
import pytest
from her2_slides import FakePatches, box, zone_of
from numpy.testing import assert_array_equal
from PIL import Image

from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import ErrorMap, SlideFrame, SlideTransform
from napari_celldetr.pipeline.her2.tumour import (
    CARRIED,
    NETWORK,
    carried_tumour,
    carry,
    drawn_tumour,
    tumour_map,
    tumour_zones,
    unconfirmed,
)
from napari_celldetr.slides.readers import open_slide

SIZE = (1200, 1000)
MPP = 0.5


def picture(path, *, left=(180, 120, 190), right=(225, 190, 220)):
    """Tissue in two colours, the left half darker, on glass."""
    pixels = np.full((SIZE[1], SIZE[0], 3), 244, np.uint8)
    rng = np.random.default_rng(0)
    pixels[100:900, 100:600] = left
    pixels[100:900, 600:1100] = right
    noise = rng.normal(0, 12, pixels.shape) * (pixels[..., :1] < 240)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tumour")
    picture(folder / "he.png")
    picture(folder / "ihc.png", left=(190, 170, 140))
    with (
        open_slide(folder / "he.png", mpp=MPP, probe=False) as he,
        open_slide(folder / "ihc.png", mpp=MPP, probe=False) as ihc,
    ):
        yield he, ihc


def transform(he, ihc, *, affine=None, errors=None, tissue=None, **changes):
    """The identity, or `affine`; `errors` (rows, columns) in µm on squares of 100 µm."""
    frames = [SlideFrame(s.name, s.identity(), s.size, s.mpp) for s in (he, ihc)]
    known = None
    if errors is not None:
        whole = np.ones_like(errors) if tissue is None else tissue
        known = ErrorMap((100.0, 100.0), errors, whole)
    matrix = np.eye(2, 3) if affine is None else np.asarray(affine, float)
    return SlideTransform(*frames, matrix, error_map=known, **changes)


def test_what_is_drawn_counts_but_for_what_is_cut_out():
    zones = [zone_of(box(0, 0, 100, 100)), zone_of(box(50, 0, 200, 100))]
    found = drawn_tumour(zones, [zone_of(box(60, 0, 70, 100))])
    points = np.array([[10, 10], [55, 10], [65, 10], [150, 10], [300, 10]])
    assert_array_equal(found.inside(points), [1, 1, 0, 1, 0])
    assert_array_equal(found.inside(points, zones[0]), [1, 1, 0, 0, 0])
    assert found.confirmed
    assert not drawn_tumour([]).confirmed


def test_a_zone_is_carried_to_where_its_points_go(pair):
    turned = [[0, -1, 480], [1, 0, 20]]
    t = transform(*pair, affine=turned)
    zone = zone_of(box(100, 200, 700, 500), "a", box(300, 300, 400, 400))
    moved = carry(zone, t)
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 1000, (500, 2))
    assert_array_equal(moved.contains(t.forward(points)), zone.contains(points))
    assert moved.name == "a"


def test_badly_aligned_parts_do_not_count_and_are_measured(pair):
    errors = np.full((5, 6), 10.0)
    errors[:, 2] = 80.0
    errors[0, 1] = np.nan
    t = transform(*pair, errors=errors, limit_um=50.0)
    zone = zone_of(box(0, 0, 1000, 800))
    found = drain(carried_tumour(None, pair[1], t, zones=[zone]))
    points = np.array([[100, 300], [500, 300], [300, 100], [700, 300], [1100, 300]])
    assert_array_equal(found.inside(points), [1, 0, 0, 1, 0])
    assert_array_equal(found.misplaced(points), [0, 1, 1, 0, 0])
    assert found.confirmed
    assert found.source == CARRIED
    # One column of four squares and one square more, of 5 × 4 squares.
    assert found.alignment.excluded_um2 == pytest.approx(5 * 100**2, rel=0.03)
    assert found.alignment.excluded_share == pytest.approx(6 / 30)


def test_tumour_that_is_aligned_badly_all_over_is_refused(pair):
    t = transform(*pair, errors=np.full((5, 6), 80.0), limit_um=50.0)
    found = drain(carried_tumour(None, pair[1], t, zones=[zone_of(box(0, 0, 500, 500))]))
    assert not found.confirmed
    assert "50 µm" in found.refusal.reason
    assert "landmarks" in found.refusal.remedy


def test_tumour_that_is_carried_beside_the_slide_is_refused(pair):
    t = transform(*pair, affine=[[1, 0, 5000], [0, 1, 0]])
    found = drain(carried_tumour(None, pair[1], t, zones=[zone_of(box(0, 0, 500, 500))]))
    assert not found.confirmed
    assert "beside" in found.refusal.reason
    assert "landmarks" in found.refusal.remedy


def test_zones_that_reach_beyond_the_he_slide_are_noted_and_overlaps_count_once(pair):
    t = transform(*pair, errors=np.full((5, 6), 10.0))
    t.error_map.error_um[:, 0] = 80.0
    twice = [zone_of(box(0, 0, 400, 1000)), zone_of(box(0, 0, 400, 1000))]
    found = drain(carried_tumour(None, pair[1], t, zones=[*twice, zone_of(box(1100, 0, 1300, 9))]))
    assert any("H&E slide" in note for note in found.alignment.notes)
    # One column of five squares, of 100 µm each, once.
    assert found.alignment.excluded_um2 == pytest.approx(5 * 100**2, rel=0.03)


def test_a_transform_of_other_slides_is_refused(pair):
    he, ihc = pair
    t = transform(ihc, he)
    found = drain(carried_tumour(he, ihc, t, zones=[zone_of(box(0, 0, 500, 500))]))
    assert not found.confirmed
    assert "another slide" in found.refusal.reason
    assert "register" in found.refusal.remedy


def test_slides_that_do_not_match_are_refused(tmp_path, pair):
    Image.fromarray(np.full((400, 400, 3), 244, np.uint8)).save(tmp_path / "blank.png")
    with open_slide(tmp_path / "blank.png", mpp=MPP, probe=False) as blank:
        found = drain(carried_tumour(blank, pair[1], None, zones=[zone_of(box(0, 0, 90, 90))]))
    assert not found.confirmed
    assert "tissue" in found.refusal.reason


def tumour_network():
    """Tumour where it is dark."""
    return FakePatches(("other", "tumour"), lambda mean: (mean.mean(1) < 190).astype(int))


def test_the_network_is_asked_about_tissue_alone(pair):
    network = tumour_network()
    answers = drain(tumour_map(pair[0], network))
    # Patches of 64 px: 12.5 × 15.6 squares of tissue.
    assert 150 < network.asked < 230
    zones = tumour_zones(answers)
    assert len(zones) == 1
    low, high = zones[0].outline.corners.min(axis=0), zones[0].outline.corners.max(axis=0)
    np.testing.assert_allclose(low, [100, 100], atol=64)
    np.testing.assert_allclose(high, [600, 900], atol=64)


def test_tumour_of_the_network_is_carried_and_says_so(pair):
    he, ihc = pair
    t = transform(he, ihc, affine=[[1, 0, 30], [0, 1, 0]], errors=np.full((5, 6), 5.0))
    found = drain(carried_tumour(he, ihc, t, predictor=tumour_network()))
    assert found.source == NETWORK
    assert found.confirmed
    assert "no person drew it" in found.words
    assert_array_equal(found.inside(np.array([[400, 500], [900, 500]])), [1, 0])
    assert found.map is not None


def test_no_tumour_no_network_no_slide_are_reasons(pair):
    he, ihc = pair
    t = transform(he, ihc, errors=np.full((5, 6), 5.0))
    nothing = FakePatches(("other", "tumour"), lambda mean: np.zeros(len(mean), int))
    answers = [
        drain(carried_tumour(he, ihc, t, predictor=nothing)),
        drain(carried_tumour(he, ihc, t)),
        drain(carried_tumour(None, ihc, t)),
        drain(carried_tumour(None, ihc, None, zones=[zone_of(box(0, 0, 9, 9))])),
        unconfirmed(),
    ]
    reasons = [found.refusal.reason for found in answers]
    assert len(set(reasons)) == len(reasons)
    assert not any(found.confirmed for found in answers)
