"""What the plot of cells looks like: a density picture for many, dots for few. No Qt, no OpenGL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.space.density import (
    Bounds,
    class_histogram,
    histogram,
    mean_histogram,
)
from napari_celldetr.core.space.lasso import inside_box
from napari_celldetr.gui.plot_colors import Colouring, ramp

MOST_DOTS = 20_000
"""More cells in view are drawn as a density."""
FAINTEST = 70
"""Alpha of a pixel with a single cell: one cell must still be seen."""


@dataclass(frozen=True, eq=False)
class Picture:
    """Either `image` (rows, columns, 4) uint8, its first row at the bounds' y0, or dots.

    `dots` (m,) are places of points, `colors` (m, 3) uint8 theirs.
    """

    image: NDArray[np.uint8] | None
    dots: NDArray[np.int64]
    colors: NDArray[np.uint8]


NO_DOTS = np.zeros(0, np.int64), np.zeros((0, 3), np.uint8)


def picture(
    points: NDArray[np.float32],
    shown: NDArray[np.bool_],
    how: Colouring,
    bounds: Bounds,
    shape: tuple[int, int],
    *,
    most_dots: int = MOST_DOTS,
) -> Picture:
    """Draw those of points (M, 2) that are `shown` (M,) and lie within `bounds`.

    `shape` is (rows, columns) of the picture in screen px.
    """
    in_view = shown & inside_box(points, bounds)
    if np.count_nonzero(in_view) <= most_dots:
        dots = np.flatnonzero(in_view)
        return Picture(None, dots, how.of(dots))
    # The columns that are compared lie together: a copy is cheaper than looking twice.
    here = points[in_view]
    if how.kinds is not None:
        image = _by_kind(here, how.kinds[in_view], how.palette, bounds, shape)
    else:
        assert how.values is not None
        image = _by_value(here, how.values[in_view], how, bounds, shape)
    return Picture(image, *NO_DOTS)


def _by_kind(
    points: NDArray[np.float32],
    kinds: NDArray[np.int16],
    palette: NDArray[np.uint8],
    bounds: Bounds,
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """Each pixel in the mean colour of the cells on it."""
    counts = class_histogram(points, kinds, bounds, shape, classes=len(palette) - 1)
    total = counts.sum(axis=0)
    mixed = np.tensordot(counts.astype(np.float32), palette.astype(np.float32), (0, 0))
    return _image(mixed / np.maximum(total, 1)[..., None], total)


def _by_value(
    points: NDArray[np.float32],
    values: NDArray[np.float32],
    how: Colouring,
    bounds: Bounds,
    shape: tuple[int, int],
) -> NDArray[np.uint8]:
    """Each pixel in the colour of the mean value of the cells on it."""
    total = histogram(points, bounds, shape)
    mean = mean_histogram(points, values, bounds, shape)
    return _image(ramp(mean, how.low, how.high), total)


def _image(
    color: NDArray[np.floating] | NDArray[np.uint8], total: NDArray[np.integer]
) -> NDArray[np.uint8]:
    """Colours (h, w, 3), the more opaque the more cells (logarithmic)."""
    image = np.zeros((*total.shape, 4), np.uint8)
    there = total > 0
    if there.any():
        most = float(np.percentile(total[there], 99.5))
        share = np.minimum(np.log1p(total[there]) / np.log1p(max(most, 1.0)), 1.0)
        image[..., :3] = color
        image[there, 3] = (FAINTEST + (255 - FAINTEST) * share).astype(np.uint8)
    return image
