"""A crop put together from four parts: more laboratories, and more to tell apart, in one look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.crops import Crop, Piece

SEAM_PX = 2
"""Nothing is learned within this distance of a cut."""
_LEAST_SHARE = 0.3
"""Seams keep at least this share of the side away from its ends."""


def draw_seams(size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Where the cuts run, x and y, px."""
    x, y = (round(size * rng.uniform(_LEAST_SHARE, 1 - _LEAST_SHARE)) for _ in range(2))
    return x, y


def part_shapes(size: int, seams: tuple[int, int]) -> list[tuple[int, int]]:
    """Width and height of the parts: upper left, upper right, lower left, lower right."""
    x, y = seams
    return [(x, y), (size - x, y), (x, size - y), (size - x, size - y)]


def trim_part(piece: Piece, corner: int) -> Crop:
    """A piece as part `corner` (0..3, as `part_shapes`) of a mosaic.

    A nucleus whose box reaches one of the part's two cuts, or whose centre is nearer than
    `SEAM_PX` to one, is no target, and nothing is learned in its box (but nearer to another
    nucleus's centre than to its own). A nucleus of unknown size is taken to reach as far as
    `Piece.reach`. So a nucleus that only looks in from beyond a cut is no background either.
    """
    height, width = piece.image.shape[:2]
    is_right, is_low = corner % 2 == 1, corner >= 2
    low = np.array([0.0 if is_right else -np.inf, 0.0 if is_low else -np.inf])
    high = np.array([np.inf if is_right else width, np.inf if is_low else height])
    half = np.where(np.isfinite(piece.sizes), piece.sizes / 2, piece.reach)
    first, last = piece.points - half, piece.points + half
    # What ends within a px of a cut has lost its edge to it.
    crosses = ((first < low + 1) | (last > high - 1)).any(axis=1)
    near = ((piece.points < low + SEAM_PX) | (piece.points >= high - SEAM_PX)).any(axis=1)
    touches = ((last > 0) & (first < (width, height))).all(axis=1)
    kept = piece.in_frame & ~crosses & ~near
    whole = piece.crop()
    valid = whole.valid.copy()
    lost = touches & (crosses | near)
    for row in np.flatnonzero(lost):
        _forget(valid, piece.points[row], first[row], last[row], piece.points[kept])
    x, y = (0 if is_right else width), (0 if is_low else height)
    valid[:, max(x - SEAM_PX, 0) : x + SEAM_PX] = False
    valid[max(y - SEAM_PX, 0) : y + SEAM_PX] = False
    chosen = kept[whole.rows]
    return replace(
        whole,
        points=whole.points[chosen],
        sizes=whole.sizes[chosen],
        class_ids=whole.class_ids[chosen],
        valid=valid,
        rows=whole.rows[chosen],
    )


def _forget(
    valid: NDArray[np.bool_],
    centre: NDArray[np.floating],
    first: NDArray[np.floating],
    last: NDArray[np.floating],
    kept: NDArray[np.floating],
) -> None:
    """Mark a box as unknown, but for what lies nearer to a kept nucleus than to its own."""
    height, width = valid.shape
    x0, y0 = np.maximum(np.floor(first).astype(int), 0)
    x1, y1 = np.minimum(np.ceil(last).astype(int), (width, height))
    x, y = np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5
    own = (y[:, None] - centre[1]) ** 2 + (x[None, :] - centre[0]) ** 2
    reach = 2 * (last - first)
    near = kept[(np.abs(kept - centre) < reach).all(axis=1)]
    forgotten = np.ones(own.shape, bool)
    for px, py in near:
        forgotten &= (y[:, None] - py) ** 2 + (x[None, :] - px) ** 2 >= own
    valid[y0:y1, x0:x1] &= ~forgotten


def join_parts(parts: Sequence[Crop], size: int, seams: tuple[int, int]) -> Crop:
    """One square crop of four trimmed parts, in the order of `part_shapes`.

    It is complete when all are, and has class shares, weighed by area, when all have some.
    """
    corners = [(0, 0), (seams[0], 0), (0, seams[1]), seams]
    image = np.empty((size, size, 3), np.uint8)
    valid = np.empty((size, size), bool)
    for part, (x, y) in zip(parts, corners, strict=True):
        height, width = part.valid.shape
        image[y : y + height, x : x + width] = part.image
        valid[y : y + height, x : x + width] = part.valid
    points = [p.points + np.array(c, np.float32) for p, c in zip(parts, corners, strict=True)]
    return Crop(
        image,
        np.concatenate(points),
        np.concatenate([p.sizes for p in parts]),
        np.concatenate([p.class_ids for p in parts]),
        valid,
        all(p.complete for p in parts),
        np.full(sum(len(p.points) for p in parts), -1, np.intp),
        _mean_composition(parts),
        exhaustive=all(p.exhaustive for p in parts),
    )


def _mean_composition(parts: Sequence[Crop]) -> NDArray[np.float32] | None:
    shares = [p.composition for p in parts if p.composition is not None]
    if len(shares) < len(parts):
        return None
    area = np.array([p.valid.size for p in parts], np.float64)
    return np.average(np.stack(shares), axis=0, weights=area).astype(np.float32)
