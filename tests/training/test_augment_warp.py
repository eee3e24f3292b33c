import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_celldetr.training.augment import Augmentation, random_crop
from napari_celldetr.training.crops import random_piece
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.warp import Placement, draw_bend

COLOURS_OFF = {"hed_p": 0, "light_p": 0, "blur_p": 0, "jpeg_p": 0, "noise_p": 0}
BENDS = Augmentation(warp_p=0, elastic_p=1, elastic_px=4, **COLOURS_OFF)
BENT_WARPS = Augmentation(warp_p=1, elastic_p=1, elastic_px=4, **COLOURS_OFF)
TURNS = Augmentation(warp_p=0, **COLOURS_OFF)
WARPS = Augmentation(warp_p=1, **COLOURS_OFF)


def placement(rng, shape=(100, 80), bend=True):
    angle, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.7, 1.4)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = np.array([[cos, -sin], [sin, cos]])
    made = draw_bend(shape, 5.0, rng) if bend else None
    return Placement(shape, matrix, rng.uniform(230, 260, 2), False, made)


def disc_field(shape=(220, 260), masks=False, **changes):
    height, width = shape
    y, x = np.mgrid[:height, :width] + 0.5
    ids = np.zeros(shape, np.int32)
    points = [(cx, cy) for cx in range(30, width - 20, 40) for cy in range(25, height - 20, 40)]
    for i, (cx, cy) in enumerate(points):
        ids[(x - cx) ** 2 + (y - cy) ** 2 <= 36] = i + 1
    image = np.where(ids > 0, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    n = len(points)
    values = {"class_names": ("a",), "instances": ids if masks else None} | changes
    return Field(
        "d", "g", image, 0.5, np.array(points, float), np.full((n, 2), 12.0), np.zeros(n), **values
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_there_and_back_again(seed):
    rng = np.random.default_rng(seed)
    place = placement(rng)
    points = rng.uniform(-30, 130, (200, 2))
    np.testing.assert_allclose(place.to_piece(place.to_field(points)), points, atol=2e-3)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    most=st.floats(0, 5),
)
def test_a_bend_never_folds_and_never_moves_too_far(seed, shape, most):
    rng = np.random.default_rng(seed)
    bend = draw_bend(shape, most, rng)
    points = rng.uniform(0, 1, (300, 2)) * shape
    assert np.abs(bend(points)).max() <= most + 1e-9
    slopes = np.eye(2) + bend.slopes(points)
    assert (np.linalg.det(slopes) > 0.2).all()
    step = 1e-5
    for axis in range(2):
        moved = points.copy()
        moved[:, axis] += step
        cell = all(
            np.array_equal(
                np.searchsorted(nodes, points[:, k], side="right"),
                np.searchsorted(nodes, moved[:, k], side="right"),
            )
            for k, nodes in enumerate((bend.x, bend.y))
        )
        if cell:
            measured = (bend(moved) - bend(points)) / step
            np.testing.assert_allclose(bend.slopes(points)[:, :, axis], measured, atol=1e-4)


@pytest.mark.parametrize("bend", [True, False])
def test_pixels_are_where_the_map_says(bend):
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.uniform(0, 255, (500, 500)), 3)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    image = smooth.astype(np.uint8)[..., None].repeat(3, axis=2)
    for _ in range(5):
        place = placement(rng, bend=bend)
        made, inside = place.cut(image)
        width, height = place.shape
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
        seen = place.to_field(grid.reshape(-1, 2).astype(float)).reshape(height, width, 2) - 0.5
        expected = ndimage.map_coordinates(
            image[..., 0].astype(float), [seen[..., 1], seen[..., 0]], order=1
        )
        assert made.shape == (height, width, 3)
        assert inside.all()
        assert np.abs(made[..., 0] - expected).max() < 2


@pytest.mark.parametrize("plan", [TURNS, WARPS, BENDS, BENT_WARPS])
def test_the_area_outside_and_the_fields_own_mask(plan):
    rng = np.random.default_rng(1)
    mask = ndimage.gaussian_filter(rng.normal(size=(90, 120)), 6) > 0
    colours = np.where(mask, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=2)
    none = np.zeros((0, 2))
    for fields_mask in (None, mask):
        field = Field("m", "g", colours, 0.5, none, none, np.zeros(0), (), valid=fields_mask)
        for _ in range(5):
            piece = random_piece(field, (110, 100), rng, plan)
            assert 0.2 < piece.inside.mean() <= 1
            if fields_mask is None:
                np.testing.assert_array_equal(piece.valid, piece.inside)
                continue
            assert not (piece.valid & ~piece.inside).any()
            sure = piece.inside & np.isin(piece.image[..., 0], (0, 255))
            differ = piece.valid[sure] != (piece.image[..., 0] == 255)[sure]
            assert differ.mean() < (0.02 if plan is not TURNS else 1e-9)


def test_bent_coverage_is_that_of_every_pixel_centre():
    rng = np.random.default_rng(3)
    image = np.zeros((90, 100, 3), np.uint8)
    for _ in range(5):
        place = placement(rng, shape=(90, 70))
        place = Placement(place.shape, place.matrix, rng.uniform(0, 60, 2), False, place.bend)
        _, inside = place.cut(image)
        grid = np.stack(np.meshgrid(np.arange(90), np.arange(70)), -1).reshape(-1, 2) + 0.5
        seen = place.to_field(grid)
        expected = ((seen >= 0) & (seen < (100, 90))).all(axis=1).reshape(70, 90)
        assert (inside != expected).mean() < 1e-3


def centre_of_dark(image, point, reach):
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width] + 0.5
    window = (np.abs(x - point[0]) < reach) & (np.abs(y - point[1]) < reach)
    mass = (255.0 - image[..., 0]) * window
    return np.array([(mass * x).sum(), (mass * y).sum()]) / mass.sum()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("plan", [BENDS, BENT_WARPS])
def test_points_and_boxes_follow_a_bend(plan, masks):
    field, rng = disc_field(masks=masks), np.random.default_rng(0)
    seen = 0
    for _ in range(12):
        crop = random_crop(field, 128, rng, plan)
        for point, size in zip(crop.points, crop.sizes, strict=True):
            reach = 0.75 * size.max()
            if not ((point > reach + 1) & (point < 127 - reach)).all():
                continue
            measured = centre_of_dark(crop.image, point, reach)
            # A bend moves a nucleus's middle and its parts a little differently.
            np.testing.assert_allclose(measured, point, atol=0.6 if masks else 1.3)
            x0, y0 = np.maximum(point - reach, 0).astype(int)
            x1, y1 = (point + reach).astype(int) + 1
            rows, columns = np.nonzero(crop.image[y0:y1, x0:x1, 0] < 128)
            sides = [np.ptp(columns) + 1, np.ptp(rows) + 1]
            np.testing.assert_allclose(size, sides, atol=2.2 if masks else 3.5)
            seen += 1
    assert seen > 25


@pytest.mark.parametrize("plan", [TURNS, WARPS, BENT_WARPS])
def test_pieces_need_not_be_square(plan):
    field, rng = disc_field(), np.random.default_rng(0)
    seen = 0
    for _ in range(15):
        piece = random_piece(field, (70, 120), rng, plan)
        assert piece.image.shape == (120, 70, 3)
        assert piece.valid.shape == (120, 70)
        assert len(piece.points) == len(field)
        for row in np.flatnonzero(piece.in_frame):
            point, reach = piece.points[row], 0.75 * piece.sizes[row].max()
            if (point > reach).all() and (point < (70 - reach, 120 - reach)).all():
                measured = centre_of_dark(piece.image, point, reach)
                np.testing.assert_allclose(measured, point, atol=0.6)
                seen += 1
    assert seen > 15


def test_a_crop_knows_the_class_shares_when_it_shows_half_of_the_field():
    shares = np.array([0.25, 0.75], np.float32)
    image, none = np.zeros((100, 100, 3), np.uint8), np.zeros((0, 2))
    field = Field("c", "g", image, 0.5, none, none, [], ("a", "b"), False, composition=shares)
    rng = np.random.default_rng(0)
    for size, known in ((60, False), (70, False), (71, True), (128, True)):
        crop = random_crop(field, size, rng, TURNS)
        assert (crop.composition is not None) == known
        if known:
            np.testing.assert_array_equal(crop.composition, shares)
    plan = Augmentation(warp_p=1, scale=(2.0, 2.0), **COLOURS_OFF)
    assert random_crop(field, 100, rng, plan).composition is None
