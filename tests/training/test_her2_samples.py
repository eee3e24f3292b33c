"""Generated HER2 training images: the truth is what was drawn, and a number gives one sample."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2 import Pattern, cell_scores
from napari_celldetr.slides.membranes import CORNERS, ellipse_radii
from napari_celldetr.slides.stain import H_DAB, dab_od, haematoxylin_od
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.her2_fields import (
    CARCINOMA,
    OTHER,
    UNSURE,
    NucleiField,
    fit_ellipses,
    outline_points,
    read_nuclei,
)
from napari_celldetr.training.her2_ground import GROUNDS, draw_ground
from napari_celldetr.training.her2_plan import PATTERNS, Mix, Plan, draw_mix, spread
from napari_celldetr.training.her2_samples import (
    VALIDATION,
    Held,
    Her2Scenes,
    PixelSamples,
    StainSamples,
    score_shares_of,
)
from napari_celldetr.training.her2_scene import make_scene
from napari_celldetr.training.tumour_patches import TumourPatches, grid_patches, tumour_share

MPP = 0.25
SIDE = 384
BLUE, PALE = (110, 100, 170), (235, 225, 235)


def drawn_field(kinds=CARCINOMA):
    """A pale H&E-like field of 36 round blue nuclei, 13 µm apart."""
    rng = np.random.default_rng(1)
    columns, rows = np.meshgrid(np.arange(6), np.arange(6))
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1) * 13 / MPP + 40
    centres = np.asarray(centres + rng.uniform(-4, 4, centres.shape), np.float32)
    axes = np.full((36, 2), 4.2 / MPP, np.float32)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    image = np.full((SIDE, SIDE, 3), PALE, np.uint8)
    for cx, cy in centres:
        image[np.hypot(x - cx, y - cy) < 4.2 / MPP] = BLUE
    every = np.full(36, kinds, np.int8)
    return NucleiField("drawn", "a", "p", image, MPP, False, centres, axes, axes[:, 0] * 0, every)


def only(pattern):
    shares = np.zeros(len(PATTERNS))
    shares[pattern] = 1
    return Plan(Mix(shares, 0.0, 30.0), blush=0.02)


def scene(pattern, kinds=CARCINOMA, seed=0, **changes):
    plan = replace(only(pattern), **changes)
    return make_scene(drawn_field(kinds), plan, np.random.default_rng(seed), side=SIDE, mpp=MPP)


# --- truth -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pixels_and_cells_have_the_score_of_what_was_drawn(pattern):
    made = scene(pattern)
    score = int(cell_scores(np.array([pattern]))[0])
    assert set(np.unique(made.classes)) == {0, score + 1}
    assert len(made.scores) >= 30
    assert (made.scores == score).all()
    column, row = np.clip(made.shapes.centres.astype(int), 0, SIDE - 1).T
    assert (made.classes[row, column] == score + 1).all()


@pytest.mark.parametrize("ground", GROUNDS)
def test_membranes_are_as_brown_as_their_pattern(ground):
    brown = {}
    for pattern in PATTERNS:
        made = scene(pattern, ground=ground)
        x = made.shapes.centres[:, :1] + made.shapes.radii * np.cos(angles())
        y = made.shapes.centres[:, 1:] + made.shapes.radii * np.sin(angles())
        inside = (x > 1) & (x < SIDE - 1) & (y > 1) & (y < SIDE - 1)
        density = dab_od(made.image)[y[inside].astype(int), x[inside].astype(int)]
        brown[pattern] = float(np.median(density))
    assert brown[Pattern.NONE] < brown[Pattern.COMPLETE_WEAK_MODERATE] - 0.1
    assert brown[Pattern.COMPLETE_WEAK_MODERATE] < brown[Pattern.COMPLETE_INTENSE] - 0.2


def angles():
    return 2 * np.pi * np.arange(CORNERS) / CORNERS


def test_other_cells_are_background_and_unsure_ones_are_not_counted():
    made = scene(Pattern.COMPLETE_INTENSE, OTHER)
    assert not made.classes.any()
    assert not len(made.scores)
    assert float(dab_od(made.image).max()) < 0.3
    unsure = scene(Pattern.COMPLETE_INTENSE, UNSURE)
    assert set(np.unique(unsure.classes)) == {0, 255}
    every = scene(Pattern.COMPLETE_INTENSE, OTHER, every_cell=True)
    assert set(np.unique(every.classes)) == {0, 4}


@pytest.mark.parametrize("ground", GROUNDS)
def test_brown_nuclei_are_no_membranes(ground):
    plain = scene(Pattern.NONE, ground=ground)
    brown = scene(Pattern.NONE, ground=ground, brown_nuclei=(1.0, 1.0))
    assert float(dab_od(brown.image).mean()) > float(dab_od(plain.image).mean()) + 0.03
    assert set(np.unique(brown.classes)) == {0, 1}
    assert not brown.scores.any()


def test_drawn_nuclei_are_blue_where_they_were_asked_for():
    field = drawn_field()
    image = draw_ground(
        field.centres, field.axes, field.angle, np.random.default_rng(2), side=SIDE, mpp=MPP
    )
    blue = haematoxylin_od(image, H_DAB)
    column, row = np.clip(field.centres.astype(int), 0, SIDE - 1).T
    assert float(np.median(blue[row, column])) > float(np.median(blue)) + 0.05


def test_pigment_is_background_and_hides_what_lies_under_it():
    made = scene(Pattern.NONE, dirt=0.1)
    assert 0.01 < np.mean(made.classes == 255) < 0.1
    dark = dab_od(made.image) > 0.3
    assert 0.01 < dark.mean() < 0.15
    assert not (made.classes[dark] == 1).any()


def test_a_field_smaller_than_the_picture_goes_on_mirrored():
    made = make_scene(
        drawn_field(),
        only(Pattern.COMPLETE_INTENSE),
        np.random.default_rng(0),
        side=SIDE * 3 // 2,
        mpp=MPP,
    )
    assert made.classes.shape == (SIDE * 3 // 2, SIDE * 3 // 2)
    beyond = (made.shapes.centres > SIDE).any(axis=1)
    assert beyond.sum() > 20
    assert (made.classes[SIDE:] == 4).mean() > 0.3


# --- what is drawn -------------------------------------------------------------------------------


def test_patterns_are_spread_to_the_cell():
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 200, (200, 2))
    mix = Mix(np.array([0.5, 0.1, 0.1, 0.25, 0.05]), 0.8, 30.0)
    counts = np.bincount(spread(mix, places, rng), minlength=5)
    assert counts.tolist() == [100, 20, 20, 50, 10]
    assert len(spread(mix, places[:0], rng)) == 0


def test_mixes_hold_whole_fields_mixtures_and_unstained_ones():
    mixes = [draw_mix(np.random.default_rng(i)) for i in range(400)]
    shares = np.stack([m.shares for m in mixes])
    assert np.allclose(shares.sum(axis=1), 1)
    assert 0.3 < np.mean(shares.max(axis=1) == 1) < 0.6
    scores = np.stack([shares[:, cell_scores(np.arange(5)) == s].sum(axis=1) for s in range(4)])
    assert (scores.mean(axis=1) > 0.15).all()
    assert {0.0} < {m.patchy for m in mixes}


def test_ellipses_are_those_of_the_regions():
    y, x = np.mgrid[:80, :120] + 0.5
    regions = np.zeros((80, 120), np.int32)
    turned = np.radians(30)
    u = (x - 50) * np.cos(turned) + (y - 40) * np.sin(turned)
    v = (y - 40) * np.cos(turned) - (x - 50) * np.sin(turned)
    regions[np.hypot(u / 20, v / 10) < 1] = 1
    points = np.array([[50, 40], [100, 20]], np.float32)
    centres, axes, angle = fit_ellipses(regions, points)
    assert np.allclose(centres, points, atol=0.2)
    assert np.allclose(axes[0], (20, 10), atol=0.3)
    assert angle[0] == pytest.approx(turned, abs=0.02)
    assert np.allclose(
        ellipse_radii(axes[:1], angle[:1])[0, 6], 20, atol=0.3
    )  # the direction of 30°


def test_dark_pixels_outline_the_nuclei_of_points():
    field = drawn_field()
    regions = outline_points(field.image, field.centres, mpp=MPP, stained=False)
    _, axes, _ = fit_ellipses(regions, field.centres)
    assert np.allclose(axes, 4.2 / MPP, atol=2.5)
    assert not outline_points(field.image, field.centres[:0], mpp=MPP, stained=False).any()


def test_shares_of_a_patch_count_two_unstained_cells_more():
    assert np.allclose(score_shares_of(np.array([3, 3, 1, 0], np.int8)), [3 / 6, 1 / 6, 0, 2 / 6])
    assert score_shares_of(np.zeros(0, np.int8)).tolist() == [1, 0, 0, 0]


def test_the_share_of_tumour_is_of_the_cells_in_the_square():
    points = np.array([[10, 10], [20, 10], [30, 10], [90, 90]], np.float32)
    kinds = np.array([1, 1, 0, 1], np.int16)
    field = Field(
        "a", "p", np.zeros((100, 100, 3), np.uint8), 0.5, points, points * np.nan, kinds,
        ("lymphocyte", "tumour", "stromal"),
    )  # fmt: skip
    assert tumour_share(field, 0, 0, 50) == pytest.approx(2 / 7)
    assert tumour_share(field, 50, 0, 40) == 0


# --- from the real fields ------------------------------------------------------------------------


@pytest.fixture
def root(shared_data):
    return shared_data


def test_a_number_gives_one_scene_whatever_came_before(root):
    make = PixelSamples(Her2Scenes(str(root), "val", 128, 0.5))
    later = make(7)
    make(3)
    again = pickle.loads(pickle.dumps(make))(7)
    assert all(np.array_equal(a, b) for a, b in zip(later, again, strict=True))
    assert not np.array_equal(make(3)[0], later[0])


def test_classes_of_many_scenes_are_in_balance(root):
    held = Held(PixelSamples(Her2Scenes(str(root), "val", 128, 0.5)), 120)
    pixels = np.bincount(
        np.concatenate([held[i][1].ravel() for i in range(len(held))]), minlength=256
    )
    shares = pixels[:5] / pixels.sum()
    assert 0.25 < shares[0] < 0.75
    assert (shares[1:] > 0.03).all()
    assert shares[1:].max() < 6 * shares[1:].min()
    with pytest.raises(IndexError):
        held[120]


def test_patches_have_the_shares_of_their_cells(root):
    make = StainSamples(Her2Scenes(str(root), "val", 224, 0.5))
    image, shares = make(VALIDATION)
    assert image.shape == (224, 224, 3)
    assert shares.sum() == pytest.approx(1)
    scores = make.scenes(VALIDATION).scores
    assert np.allclose(shares, score_shares_of(scores))


def test_no_patient_is_in_both_parts(root):
    train, val = (
        {(f.source, f.group) for f in read_nuclei(str(root), split)} for split in ("train", "val")
    )
    assert train
    assert val
    assert not train & val
    with pytest.raises(DataError, match="no such part"):
        read_nuclei(str(root), "test")


def test_tumour_patches_cover_all_shares(root):
    make = TumourPatches(root / "he_brca_m2c", split="val", side=96)
    shares = np.array([make(i)[1][1] for i in range(60)])
    assert (shares < 0.2).mean() > 0.1
    assert (shares > 0.6).mean() > 0.1
    again = pickle.loads(pickle.dumps(make))
    assert all(np.array_equal(a, b) for a, b in zip(make(5), again(5), strict=True))
    grid = grid_patches(root / "he_brca_m2c", steps=2)
    assert len(grid) == 8 * 4
    assert len({patient for _, _, patient in grid}) == 8
