"""The parts of registration by themselves: measures, search, matches and fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from napari_celldetr.core.transform import (
    SlideFrame,
    SlideTransform,
    TransformError,
    identity_affine,
)
from napari_celldetr.pipeline.register_nonrigid import fit_affine, fit_warp, match, similarity
from napari_celldetr.pipeline.register_search import Pose, distinct, rotation, search
from napari_celldetr.pipeline.register_similarity import (
    likeness,
    mutual_information,
    resampled,
    structure,
)
from napari_celldetr.slides.registration_images import DensityImage

SIDE = 160


def texture(seed: int = 0, side: int = SIDE, step: float = 4.0) -> DensityImage:
    chance = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(chance.standard_normal((side, side)), 2.5)
    density = (0.4 + 0.2 * noise / noise.std()).clip(0, 1.2).astype(np.float32)
    return DensityImage(density, np.ones((side, side), bool), (step, step))


def frames(image: DensityImage) -> tuple[SlideFrame, SlideFrame]:
    height, width = image.density.shape
    frame = SlideFrame("a", "1", (width, height), image.step)
    return frame, replace(frame, name="b", identity="2")


def shifted(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y]], float)


def unmoved(image: DensityImage) -> SlideTransform:
    return SlideTransform(*frames(image), identity_affine())


def moved(image: DensityImage, affine: np.ndarray) -> DensityImage:
    """The picture after an affine (2, 3) in µm."""
    turn = SlideTransform(*frames(image), affine)
    swapped = np.linalg.inv(turn.affine[:, :2])
    back = np.column_stack([swapped, -swapped @ affine[:, 2]])
    return resampled(image, replace(turn, affine=back), image)


def test_mutual_information_does_not_mind_another_stain():
    image = texture().density
    other = texture(1).density
    assert mutual_information(image, 1 - image**2) > 5 * mutual_information(image, other)
    assert mutual_information(image, np.zeros_like(image)) == pytest.approx(0, abs=1e-9)


def test_edges_count_whatever_their_sign():
    image = texture()
    negative = replace(image, density=1 - image.density)
    edges, other = structure(image)[1:], structure(negative)[1:]
    assert np.abs(edges - other).max() < 0.02
    assert np.abs(structure(image)[0] + structure(negative)[0])[20:-20, 20:-20].max() < 0.05


def test_nothing_outside_tissue():
    image = texture()
    image.tissue[:, :40] = False
    assert not structure(image)[:, :, :40].any()


def test_likeness_is_highest_in_place():
    image = texture()
    there = unmoved(image)
    scores = [
        likeness(image, image, replace(there, affine=shifted(d, 0))).sum for d in (0, 4, 12, 40)
    ]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("angle", "flip", "scale"), [(31, False, 1.0), (218, True, 1.05)])
def test_search_finds_a_turned_picture(angle, flip, scale):
    image = texture(2)
    image = replace(image, tissue=_disc(image))
    matrix = scale * rotation(angle, flip)
    middle = np.array(image.extent_um) / 2
    affine = np.column_stack([matrix, middle + np.array([20, -12]) - matrix @ middle])
    poses = [pose for some in search(image, moved(image, affine)) for pose in some]
    best = distinct(poses, 3, image.extent_um)[0]
    assert best.flip == flip
    assert abs((best.angle_deg - angle + 180) % 360 - 180) <= 3.1
    at = best.affine[:, :2] @ middle + best.affine[:, 2]
    assert np.hypot(*(at - middle - (20, -12))) < 15


def _disc(image: DensityImage) -> np.ndarray:
    y, x = np.indices(image.density.shape) - SIDE / 2
    return np.hypot(x, y * 1.3) < 0.4 * SIDE


def test_distinct_leaves_out_neighbours():
    near = [Pose(shifted(d, 0), 1 - d / 1000) for d in (0, 5, 300)]
    assert [p.score for p in distinct(near, 5, (1000, 1000))] == [1, 0.7]


def test_matches_find_a_shift_to_a_fraction_of_a_pixel():
    image = texture(3)
    affine = shifted(9, -6)
    found = match(image, moved(image, affine), unmoved(image), half_px=20, radius_px=8, step_px=16)
    inner = found.select(found.sure)
    assert len(inner.points) > 20
    assert np.abs(np.median(inner.offset_um, axis=0) - (9, -6)).max() < 0.4
    assert np.allclose(found.found, found.points + found.offset_um)


def test_no_tissue_no_matches():
    image = texture()
    image.tissue[:] = False
    found = match(image, image, unmoved(image), half_px=20, radius_px=8, step_px=16)
    assert not len(found.points)


def pairs(count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chance = np.random.default_rng(9)
    points = chance.uniform(0, 600, (count, 2))
    affine = np.column_stack([1.04 * rotation(200, True), (900, 30)])
    found = points @ affine[:, :2].T + affine[:, 2]
    found[: count // 4] += chance.uniform(-200, 200, (count // 4, 2))
    return points, found, affine


@pytest.mark.parametrize("rigid", [False, True])
def test_affine_ignores_what_is_far_off(rigid):
    points, found, affine = pairs()
    fitted = fit_affine(points, found, np.ones(len(points)), scale_um=5, rigid=rigid)
    corners = np.array([[0, 0], [600, 0], [0, 600], [600, 600]])
    miss = corners @ (fitted - affine)[:, :2].T + (fitted - affine)[:, 2]
    assert np.abs(miss).max() < 3


def test_too_few_matches_make_no_affine():
    points, found, _ = pairs(5)
    assert fit_affine(points, found, np.ones(5), scale_um=5) is None


def test_similarity_keeps_the_flip():
    points, found, affine = pairs()
    fitted = similarity(points[60:], found[60:], np.ones(140))
    assert np.allclose(fitted, affine, atol=1e-6)


def bend(points: np.ndarray) -> np.ndarray:
    return points + 6 * np.stack([np.sin(points[:, 1] / 150), np.cos(points[:, 0] / 150)], 1)


def test_a_smooth_bend_is_followed_and_outliers_are_not():
    chance = np.random.default_rng(4)
    start = unmoved(texture())
    points = chance.uniform(0, 640, (400, 2))
    found = bend(points)
    found[:60] += chance.uniform(-40, 40, (60, 2))
    fitted = fit_warp(
        start, points, found, np.ones(400), spacing_um=80, stiffness=1e-5, scale_um=10
    )
    inner = chance.uniform(50, 590, (200, 2))
    assert np.hypot(*(fitted.forward_um(inner) - bend(inner)).T).max() < 1.5


def test_matches_that_cross_over_do_not_fold_the_map():
    start = unmoved(texture())
    x, y = np.meshgrid(np.arange(40.0, 640, 40), np.arange(40.0, 640, 40))
    points = np.stack([x.ravel(), y.ravel()], 1)
    mirrored = np.stack([640 - points[:, 0], points[:, 1]], 1)
    settings = {"spacing_um": 80.0, "stiffness": 1e-5, "scale_um": 500.0}
    with pytest.raises(TransformError, match="folds"):
        fit_warp(start, points, mirrored, np.ones(len(points)), **settings)


def test_a_little_crossing_is_made_smooth():
    chance = np.random.default_rng(2)
    start = unmoved(texture())
    points = chance.uniform(0, 640, (300, 2))
    found = points + chance.uniform(-60, 60, points.shape)
    fitted = fit_warp(
        start, points, found, np.ones(300), spacing_um=40, stiffness=1e-9, scale_um=500
    )
    assert fitted.warp.determinants().min() > 0
