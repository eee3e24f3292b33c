"""Pixels and points of a piece of a field: which place of the field a place of the piece shows.

The map is affine, optionally after a smooth bend. By slicing where it is a quarter turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.scanner import blur

BEND_STEP = 48
"""Distance of a bend's nodes, px."""
_STEEPEST = 1 / 8
"""A bend moves a node by at most this share of the distance to the next: it cannot fold."""


@dataclass(frozen=True)
class Bend:
    """A displacement, bilinear between nodes on a grid over a piece.

    `x` (nx,) and `y` (ny,) are the nodes' whole px, from 0 to the piece's sides; `shift`
    (ny, nx, 2) moves them, px. Beyond the piece the shift of its edge goes on.
    """

    x: NDArray[np.int_]
    y: NDArray[np.int_]
    shift: NDArray[np.float64]

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Shift (N, 2) at points (N, 2)."""
        (i, u), (j, v) = self._cell(self.x, points[:, 0]), self._cell(self.y, points[:, 1])
        u, v, s = u[:, None], v[:, None], self.shift
        upper = s[j, i] * (1 - u) + s[j, i + 1] * u
        lower = s[j + 1, i] * (1 - u) + s[j + 1, i + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    def slopes(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Derivative (N, 2, 2) of the shift at points: [n, component, direction]."""
        (i, u), (j, v) = self._cell(self.x, points[:, 0]), self._cell(self.y, points[:, 1])
        u, v, s = u[:, None], v[:, None], self.shift
        across = (s[j, i + 1] - s[j, i]) * (1 - v) + (s[j + 1, i + 1] - s[j + 1, i]) * v
        down = (s[j + 1, i] - s[j, i]) * (1 - u) + (s[j + 1, i + 1] - s[j, i + 1]) * u
        width, height = np.diff(self.x)[i][:, None], np.diff(self.y)[j][:, None]
        return np.stack([across / width, down / height], axis=2)

    def back(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """The points (N, 2) that the bend moves to `moved`, to a thousandth of a px."""
        points = moved.copy()
        for _ in range(40):  # every round halves the error, or better
            step = moved - self(points) - points
            points += step
            if not len(step) or np.abs(step).max() < 5e-4:
                break
        return points

    @staticmethod
    def _cell(nodes: NDArray[Any], place: NDArray[np.floating]) -> tuple[Any, Any]:
        place = np.clip(place, nodes[0], nodes[-1])
        cell = np.clip(np.searchsorted(nodes, place, side="right") - 1, 0, len(nodes) - 2)
        return cell, (place - nodes[cell]) / (nodes[cell + 1] - nodes[cell])


def draw_bend(shape: tuple[int, int], most: float, rng: np.random.Generator) -> Bend:
    """A bend over a piece of `shape` (width, height) that moves no place by over `most` px."""
    x, y = (
        np.rint(np.linspace(0, side, max(round(side / BEND_STEP), 1) + 1)).astype(int)
        for side in shape
    )
    most = min(most, _STEEPEST * float(min(np.diff(x).min(), np.diff(y).min())))
    return Bend(x, y, rng.uniform(-most, most, (len(y), len(x), 2)))


@dataclass(frozen=True)
class Placement:
    """Place p of a piece shows place ``matrix @ (p + bend(p)) + offset`` of the field.

    `shape` is the piece's (width, height); `matrix` (2, 2) is free, or a quarter turn where
    `exact`, and then `offset` (2,) lies on whole px and there is no bend.
    """

    shape: tuple[int, int]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]
    exact: bool
    bend: Bend | None = None

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """Inverse of the matrix."""
        return np.asarray(np.linalg.inv(self.matrix), np.float64)

    def to_field(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Places (N, 2) of the piece in the field."""
        bent = points if self.bend is None else points + self.bend(points)
        return np.asarray(bent @ self.matrix.T + self.offset, np.float64)

    def to_piece(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Places (N, 2) of the field in the piece."""
        made = np.asarray((points - self.offset) @ self.inverse.T, np.float64)
        return made if self.bend is None else self.bend.back(made)

    def stretch(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Derivative (N, 2, 2) of `to_piece` at places (N, 2) of the piece."""
        if self.bend is None:
            return np.broadcast_to(self.inverse, (len(points), 2, 2))
        return np.linalg.inv(np.eye(2) + self.bend.slopes(points)) @ self.inverse

    def cut(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels (h, w, 3) of the piece, and which (h, w) lie in the field; others mirror it."""
        if self.exact:
            return _slice(image, self)
        return _resample(image, self), _covered(image.shape, self)

    def cut_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The piece (h, w) of a mask over the field, nearest px; undefined outside the field."""
        levels = mask.astype(np.uint8)
        if self.exact:
            return _slice(levels[..., None], self)[0][..., 0].astype(bool)
        return _resample(levels, self, smooth=False).astype(bool)


def _window(
    image: NDArray[np.uint8], x0: int, y0: int, x1: int, y1: int, *, mirror: bool = True
) -> NDArray[np.uint8]:
    """A part of the image, mirrored (or 0) where it reaches outside; some must lie inside."""
    height, width = image.shape[:2]
    inside = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if inside.shape[:2] == (y1 - y0, x1 - x0):
        return inside
    lacking = [(max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0)]
    return np.pad(inside, lacking[: image.ndim], mode="symmetric" if mirror else "constant")


def _slice(
    image: NDArray[np.uint8], place: Placement
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A piece mirrored and turned by quarters."""
    height, width = image.shape[:2]
    ends = place.to_field(np.array([[0, 0], place.shape]))
    x0, y0 = np.rint(ends.min(axis=0)).astype(int).tolist()
    x1, y1 = np.rint(ends.max(axis=0)).astype(int).tolist()
    inside_x = (np.arange(x0, x1) >= 0) & (np.arange(x0, x1) < width)
    inside_y = (np.arange(y0, y1) >= 0) & (np.arange(y0, y1) < height)
    valid = inside_y[:, None] & inside_x[None, :]
    window = _window(image, x0, y0, x1, y1)
    (a, b), (c, d) = place.matrix.astype(int).tolist()
    if b == 0:
        turned, mask = window[::d, ::a], valid[::d, ::a]
    else:
        turned, mask = window.transpose(1, 0, 2)[::b, ::c], valid.T[::b, ::c]
    # A copy also where nothing turned: a crop must never write into its field.
    return np.array(turned, order="C"), np.ascontiguousarray(mask)


def _grid(place: Placement) -> NDArray[np.float64]:
    """Places of the field (ny, nx, 2) that the piece's corners and nodes show."""
    width, height = place.shape
    x, y = np.array([0, width]), np.array([0, height])
    if place.bend is not None:
        x, y = place.bend.x, place.bend.y
    nodes = np.stack(np.meshgrid(x, y), axis=-1).astype(np.float64)
    return place.to_field(nodes.reshape(-1, 2)).reshape(nodes.shape)


def _resample(
    image: NDArray[np.uint8], place: Placement, *, smooth: bool = True
) -> NDArray[np.uint8]:
    """A piece under a free map, bilinear; shrinking far is preceded by a blur against aliasing.

    Not `smooth`: the nearest px as it is, and 0 outside the field.
    """
    from PIL import Image

    grid = _grid(place)
    x0, y0 = np.floor(grid.min(axis=(0, 1)) - 2).astype(int).tolist()
    x1, y1 = np.ceil(grid.max(axis=(0, 1)) + 2).astype(int).tolist()
    window = _window(image, x0, y0, x1, y1, mirror=smooth)
    step = math.hypot(*place.matrix[:, 0])  # field px a piece's px
    if smooth and step > 1.5:
        # Bilinear taps spread like a box of √2 px, which suits a step up to about there.
        window = blur(window, math.sqrt((step**2 - 2) / 12))
    method, data = Image.Transform.MESH, _quads(place, grid - (x0, y0))
    if place.bend is None:
        (a, b), (c, d) = place.matrix.tolist()
        method = Image.Transform.AFFINE
        data = (a, b, place.offset[0] - x0, c, d, place.offset[1] - y0)
    kind = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    picture = Image.fromarray(np.ascontiguousarray(window))
    return np.array(picture.transform(place.shape, method, data, kind))


def _quads(place: Placement, grid: NDArray[np.float64]) -> Any:
    """The bend's cells and the four places each shows: nw, sw, se, ne."""
    if place.bend is None:
        return []
    x, y = place.bend.x.tolist(), place.bend.y.tolist()
    corners = [grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]]
    sources = np.concatenate(corners, axis=-1).tolist()
    return [
        ((x[i], y[j], x[i + 1], y[j + 1]), sources[j][i])
        for j in range(len(y) - 1)
        for i in range(len(x) - 1)
    ]


def _covered(shape: tuple[int, ...], place: Placement) -> NDArray[np.bool_]:
    """Px (h, w) of the piece whose centre lies in the field."""
    limit = np.array([shape[1], shape[0]])
    width, height = place.shape
    grid = _grid(place)
    if (grid >= 0).all() and (grid <= limit).all():
        return np.ones((height, width), bool)
    if place.bend is not None:
        return place.cut_mask(np.ones(shape[:2], bool))
    x, y = (np.arange(side, dtype=np.float32) + 0.5 for side in place.shape)
    inside = np.ones((height, width), bool)
    for row, start, length in zip(place.matrix, place.offset, limit, strict=True):
        along = (row[0] * x + start)[None, :] + (row[1] * y)[:, None]
        inside &= (along >= 0) & (along < length)
    return inside
