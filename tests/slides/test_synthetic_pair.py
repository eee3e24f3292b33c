"""Generated pairs: their truth is the truth, and the same arguments give the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_celldetr.slides.registration_images import density_of
from napari_celldetr.slides.synthetic_pair import PairSettings, Tear, make_pair

TINY = PairSettings(size_um=(1200.0, 1000.0), shift_um=50.0, stain="nuclear")


@pytest.fixture(scope="module")
def pair():
    return make_pair(3, TINY)


def test_the_same_arguments_give_the_same_pixels(pair):
    again = make_pair(3, TINY)
    assert np.array_equal(again.he, pair.he)
    assert np.array_equal(again.ihc, pair.ihc)


def test_tissue_lies_where_the_truth_says(pair):
    points = pair.landmarks(1500)
    tissue = density_of(pair.ihc, (pair.mpp[1],) * 2).tissue
    x, y = pair.truth.forward(points).astype(int).T
    assert tissue[y, x].mean() > 0.97


def test_the_truth_is_better_than_its_neighbours(pair):
    he, ihc = (
        ndimage.gaussian_filter(density_of(p, (m, m)).density, 6)
        for p, m in zip((pair.he, pair.ihc), pair.mpp, strict=True)
    )
    points = pair.landmarks(1500)
    ours = he[tuple(points.astype(int).T[::-1])]

    def alike(off: float) -> float:
        at = (pair.truth.forward(points) + off).T[::-1] - 0.5
        theirs = ndimage.map_coordinates(ihc, at, order=1)
        return float(np.corrcoef(ours, theirs)[0, 1])

    assert alike(0) > 0.35
    assert alike(0) > max(alike(25), alike(-25)) + 0.05


def test_what_is_missing_has_no_partner(pair):
    x, y, radius = pair.truth.missing[0]
    inside = pair.truth.smooth.inverse(np.array([[x, y]]) / pair.mpp[1])
    assert radius > 0
    assert not pair.truth.has_partner(inside).all()


def test_a_tear_opens_and_closes():
    tear = Tear((100, 100), (0.6, 0.8), 80, 30, 60)
    points = np.random.default_rng(0).uniform(0, 200, (300, 2))
    back, gap = tear.pull(tear.push(points))
    assert not gap.any()
    assert np.abs(back - points).max() < 1e-6
    assert tear.pull(np.array([[100.0, 100.0]]))[1].all()


def test_unrelated_tissue_does_not_follow_the_truth(pair):
    other = make_pair(3, PairSettings(**{**TINY_DICT, "unrelated": True}))
    assert np.array_equal(other.he, pair.he)
    assert not np.array_equal(other.ihc, pair.ihc)


TINY_DICT = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
