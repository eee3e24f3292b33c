"""Outlines as pixels: which pixel centres lie inside a polygon with holes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Vertices x, y (V, 2) in px, pixel 0 spanning 0..1; closed or not."""


def rings_box(rings: Iterable[Ring]) -> NDArray[np.float64]:
    """Smallest and largest x, y (4,) of all vertices."""
    points = np.concatenate(list(rings))
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def rings_area(rings: Sequence[Ring]) -> float:
    """Area in px² of a ring less its holes: the first ring is the outer one."""
    areas = [_ring_area(ring) for ring in rings]
    return areas[0] - sum(areas[1:])


def _ring_area(ring: Ring) -> float:
    x, y = (ring - ring[0]).T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2


def rings_mask(
    rings: Iterable[Ring], origin: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Pixels (H, W) of a window at `origin` (x, y) whose centre an odd number of rings holds."""
    from skimage import draw

    inside = np.zeros(shape, bool)
    polygon: Any = draw.polygon  # scikit-image is not typed
    for ring in rings:
        x, y = (ring - origin - 0.5).T
        rows, columns = polygon(y, x, shape)
        inside[rows, columns] ^= True
    return inside


def rings_hold(rings: Iterable[Ring], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether an odd number of rings holds each point x, y (N, 2)."""
    from skimage.measure import points_in_poly

    held: Any = points_in_poly  # scikit-image is not typed
    listed = list(rings)
    box = rings_box(listed)
    inside = np.asarray(((points >= box[:2]) & (points <= box[2:])).all(axis=1))
    near = np.flatnonzero(inside)
    if len(near):
        inside[near] = sum(held(points[near], ring).astype(int) for ring in listed) % 2 == 1
    return inside


def paint_instances(
    cells: Sequence[Sequence[Ring]], origin: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.int32]:
    """Instance map (H, W) of a window: cell i has id i + 1; the first keeps shared pixels."""
    instances = np.zeros(shape, np.int32)
    limit = np.array([shape[1], shape[0]])
    for number, rings in enumerate(cells, 1):
        box = rings_box(rings).reshape(2, 2) - origin
        low = np.clip(np.floor(box[0]), 0, limit).astype(int)
        high = np.clip(np.ceil(box[1]), 0, limit).astype(int)
        if (high <= low).any():
            continue
        window = instances[low[1] : high[1], low[0] : high[0]]
        corner = (int(low[0]) + origin[0], int(low[1]) + origin[1])
        mask = rings_mask(rings, corner, (window.shape[0], window.shape[1]))
        window[mask & (window == 0)] = number
    return instances
