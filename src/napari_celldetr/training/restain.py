"""H&E images as if they were stained with haematoxylin and a DAB marker of some part of cells."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.slides.stain import H_DAB, H_E
from napari_celldetr.training.colour import density_planes, mix_planes, planes_to_rgb

Marker = Literal["nucleus", "membrane", "cytoplasm"]
"""What a marker is found in."""
MARKERS: tuple[Marker, ...] = get_args(Marker)
SHARES = (0.65, 0.25, 0.1)
"""How often `random_marker` takes each: most markers in use are nuclear."""
NUCLEUS_RADIUS_UM = 3.0
"""How far around its centre a nucleus is painted."""


def nucleus_radius_px(mpp: float | None) -> float:
    """`NUCLEUS_RADIUS_UM` in px of a field; where its µm/px is unknown, as at 0.5."""
    return NUCLEUS_RADIUS_UM / (mpp or 0.5)


def random_marker(rng: np.random.Generator) -> Marker:
    """A marker as often as `SHARES` says."""
    return MARKERS[int(rng.choice(len(MARKERS), p=SHARES))]


def restain_to_hdab(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    points: NDArray[np.floating] | None = None,
    instances: NDArray[np.integer] | None = None,
    positive: tuple[float, float] = (0.0, 1.0),
    radius_px: float = 6.0,
    marker: Marker = "nucleus",
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An H&E image as if stained with haematoxylin and a DAB marker.

    Haematoxylin is unmixed and kept, eosin is left as a faint blue-grey counterstain, and a
    random share of the cells is painted with DAB of random strength, over a faint unspecific
    brown: nuclei following their own texture, membranes as lines of uneven strength around cells
    that meet half-way, or what lies between the two.

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
    marker : str
        ``nucleus``, ``membrane`` or ``cytoplasm``.

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
    if marker == "nucleus":
        if instances is not None:
            paint = _paint_masks(instances, strength)
        else:
            paint = _paint_points(np.asarray(points), strength, relative, radius_px)
        brown = paint * (0.55 + 0.45 * np.minimum(relative, 1.5))
    else:
        ids, nuclei = _cells(image.shape[:2], points, instances, rng, radius_px)
        paint = _paint_around(ids, nuclei, strength, rng, radius_px, marker)
        brown = paint.copy()
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


def _cells(
    size: tuple[int, int],
    points: Any,
    instances: Any,
    rng: np.random.Generator,
    radius_px: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Number of the cell (H, W) that a pixel belongs to, from 1, 0 between cells; and nuclei."""
    from scipy import ndimage

    seeds = np.zeros(size, np.int64)
    if instances is not None:
        seeds[:] = instances
        count, reach = int(instances.max(initial=0)), 0.0
    else:
        at = np.asarray(points)
        column = np.clip(at[:, 0].astype(int), 0, size[1] - 1)
        row = np.clip(at[:, 1].astype(int), 0, size[0] - 1)
        seeds[row, column] = np.arange(1, len(at) + 1)
        count, reach = len(at), radius_px
    if not seeds.any():
        return seeds, np.zeros(size, bool)
    distance, (near_row, near_column) = ndimage.distance_transform_edt(
        seeds == 0, return_indices=True
    )
    nearest = seeds[near_row, near_column]
    # From a thin rim of cytoplasm to one as wide as the nucleus, and no two alike: a network
    # would soon find perfect circles, which no tissue has.
    rim = radius_px * rng.uniform(0.3, 0.9) * rng.lognormal(0.0, 0.3, count + 1)
    bumps = _smooth_noise(size, rng, radius_px / 2) * radius_px * rng.uniform(0.1, 0.35)
    return np.where(distance + bumps < reach + rim[nearest], nearest, 0), distance <= reach


def _paint_around(
    ids: NDArray[np.int64],
    nuclei: NDArray[np.bool_],
    strength: NDArray[np.float64],
    rng: np.random.Generator,
    radius_px: float,
    marker: Marker,
) -> NDArray[np.float32]:
    """DAB (H, W) in membranes or in cytoplasm of cells `ids`, uneven along the way."""
    from scipy import ndimage

    table = np.concatenate([[0.0], strength]).astype(np.float32)
    density = table[ids]
    um = radius_px / NUCLEUS_RADIUS_UM
    if marker == "cytoplasm":
        paint = ndimage.gaussian_filter(density * ~nuclei, 0.4 * um, truncate=2.5)
        paint *= 0.6
    else:
        # The stronger of two cells that meet makes the line between them.
        line = np.zeros_like(density)
        for axis in (0, 1):
            across = np.diff(ids, axis=axis, prepend=np.take(ids, [0], axis=axis)) != 0
            other = np.roll(density, 1, axis=axis)
            line = np.maximum(line, np.where(across, np.maximum(density, other), 0))
        sigma = rng.uniform(0.25, 0.6) * um
        # A line one px wide keeps its height when it is blurred.
        paint = ndimage.gaussian_filter(line, sigma, truncate=3) * sigma * math.sqrt(2 * math.pi)
    patchy = _smooth_noise((ids.shape[0], ids.shape[1]), rng, 2.0 * um)
    uneven = np.clip(1 + rng.uniform(0.1, 0.8) * patchy, 0.1, 1.8)
    return np.asarray(np.minimum(paint, 2.0) * uneven, np.float32)


def _smooth_noise(
    size: tuple[int, int], rng: np.random.Generator, sigma: float
) -> NDArray[np.float32]:
    """Noise (H, W) of mean 0 and standard deviation 1 whose patches are about `sigma` px wide."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.standard_normal(size).astype(np.float32), sigma, truncate=2)
    return np.asarray(noise / (float(noise.std()) or 1.0), np.float32)
