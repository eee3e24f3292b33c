"""H&E images as if they were stained with haematoxylin and a nuclear DAB marker."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.slides.stain import H_DAB, H_E
from napari_celldetr.training.colour import density_planes, mix_planes, planes_to_rgb

NUCLEUS_RADIUS_UM = 3.0
"""How far around its centre a nucleus is painted."""


def nucleus_radius_px(mpp: float | None) -> float:
    """`NUCLEUS_RADIUS_UM` in px of a field; where its µm/px is unknown, as at 0.5."""
    return NUCLEUS_RADIUS_UM / (mpp or 0.5)


def restain_to_hdab(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    points: NDArray[np.floating] | None = None,
    instances: NDArray[np.integer] | None = None,
    positive: tuple[float, float] = (0.0, 1.0),
    radius_px: float = 6.0,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An H&E image as if stained with haematoxylin and a nuclear DAB marker.

    Haematoxylin is unmixed and kept, eosin is left as a faint blue-grey counterstain, and a
    random share of the nuclei is painted with DAB of random strength that follows their own
    texture, over a faint unspecific brown.

    Parameters
    ----------
    image : (H, W, 3) uint8
    points : (N, 2), with pixel 0 spanning 0..1
        Nuclei by their centre; they are painted where haematoxylin is dense within about
        `radius_px`.
    instances : (H, W) integer
        Nuclei by their mask, id i + 1 for row i; used instead of `points` where given.
    positive : (float, float)
        Limits of the share of nuclei that become positive.

    Returns
    -------
    image : (H, W, 3) uint8
    positive : (N,) bool
        Which nuclei carry DAB.

    Raises
    ------
    DataError
        Neither points nor instances.
    """
    count = _count_nuclei(points, instances)
    is_positive = np.asarray(rng.random(count) < rng.uniform(*positive))
    usual = rng.uniform(0.45, 1.1)
    strength = np.clip(usual * rng.lognormal(0.0, 0.35, count), 0.25, 1.8)
    strength[~is_positive] = 0.0
    blue, pink = np.maximum(mix_planes(density_planes(image), np.linalg.inv(H_E)[:, :2]), 0)
    relative = blue / (np.percentile(blue[::2, ::2], 90) + 1e-3)
    if instances is not None:
        paint = _paint_masks(instances, strength)
    else:
        paint = _paint_points(np.asarray(points), strength, relative, radius_px)
    brown = paint * (0.55 + 0.45 * np.minimum(relative, 1.5))
    brown += rng.uniform(0.0, 0.06) * (1 + pink)
    # DAB hides part of the haematoxylin beneath it.
    blue = blue * rng.uniform(0.45, 0.9) / (1 + 0.8 * paint) + pink * rng.uniform(0.05, 0.25)
    planes = np.stack([blue, brown]).astype(np.float32, copy=False)
    return planes_to_rgb(mix_planes(planes, H_DAB[:2])), is_positive


def _count_nuclei(points: Any, instances: Any) -> int:
    if instances is not None:
        return int(instances.max(initial=0))
    if points is not None:
        return len(points)
    raise DataError(
        "There are no nuclei to restain.",
        expected="points or an instance map",
        found="neither",
        remedy="give one of them",
    )


def _paint_masks(
    instances: NDArray[np.integer], strength: NDArray[np.float64]
) -> NDArray[np.float32]:
    from scipy import ndimage

    table = np.concatenate([[0.0], strength]).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(np.take(table, instances), 0.7, truncate=2.5))


def _paint_points(
    points: NDArray[np.floating],
    strength: NDArray[np.float64],
    relative_blue: NDArray[np.floating],
    radius_px: float,
) -> NDArray[np.float32]:
    """Strength of the nearest nucleus, faded out by distance and by lack of haematoxylin."""
    from scipy import ndimage

    height, width = relative_blue.shape
    column = np.clip(points[:, 0].astype(int), 0, width - 1)
    row = np.clip(points[:, 1].astype(int), 0, height - 1)
    mass, painted = np.zeros((2, height, width), np.float32)
    np.add.at(mass, (row, column), 1)
    np.add.at(painted, (row, column), strength)
    sigma = radius_px / 2
    mass = ndimage.gaussian_filter(mass, sigma, mode="constant", truncate=3)
    painted = ndimage.gaussian_filter(painted, sigma, mode="constant", truncate=3)
    edge = math.exp(-2.0) / (2 * math.pi * sigma**2)  # mass of one nucleus at radius_px
    near = mass / (mass + edge)
    dark = 1 / (1 + np.exp(-10 * (relative_blue - 0.45)))
    return np.asarray(painted / np.maximum(mass, 1e-9) * near * dark, np.float32)
