"""Which of a million points a drawn line encloses, exactly, in the time of a frame.

A raster of the polygon's surroundings says for most points at once whether they lie inside; only
points in squares that the line passes are compared with it, each with the edges at its height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError

SIDE = 512
"""Squares of the raster along each side."""
_MARGIN = 2
_BLOCK = 1 << 16
_OUTSIDE, _INSIDE, _RIM = 0, 1, 2
_PAIRS = 1 << 20
"""Points times edges that are compared at once."""
_FEW = 1 << 18
"""So many pairs are compared faster than a raster is made."""
_FARTHEST = 1e30


def inside_polygon(points: NDArray[Any], polygon: NDArray[Any]) -> NDArray[np.bool_]:
    """Which points (N, 2) lie inside a closed polygon (M, 2), by the even-odd rule.

    The polygon may cross itself; its last vertex is joined to its first. The answer is that of
    comparing every point with every edge in float64. Points that are not finite lie outside, and
    so does everything where there are fewer than three vertices. Raises `EmbeddingError` for
    other shapes, and vertices that are not finite.
    """
    spots, line = _checked(points, polygon)
    found = np.zeros(len(spots), bool)
    if len(line) < 3 or not len(spots):
        return found
    edges = _Edges.of(line)
    if len(spots) * len(line) <= _FEW:
        rows = np.flatnonzero(np.isfinite(spots).all(axis=1))
        found[rows] = _compare(spots[rows], edges)
        return found
    raster = _Raster.of(line, edges, spots.dtype)
    for start in range(0, len(spots), _BLOCK):
        some = spots[start : start + _BLOCK]
        state = raster.look_up(some)
        found[start : start + _BLOCK] = state == _INSIDE
        rim = np.flatnonzero(state == _RIM)
        found[start + rim] = raster.compare(some[rim])
    return found


def inside_box(points: NDArray[Any], box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Which points (N, 2) lie in a box (x0, y0, x1, y1), its edges included, in any order."""
    (x0, x1), (y0, y1) = sorted((box[0], box[2])), sorted((box[1], box[3]))
    x, y = points[:, 0], points[:, 1]
    found: NDArray[np.bool_] = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    return found


def _checked(points: NDArray[Any], polygon: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    spots, line = np.asarray(points), np.asarray(polygon, np.float64)
    spots = spots if spots.dtype in (np.float32, np.float64) else spots.astype(np.float64)
    good = spots.ndim == line.ndim == 2 and spots.shape[1] == line.shape[1] == 2
    if good and (np.abs(line) < _FARTHEST).all():
        return spots, line
    raise EmbeddingError(
        "This selection cannot be made.",
        expected="points and vertices as finite x, y",
        found=f"points of shape {spots.shape}, vertices of shape {line.shape}",
        remedy="draw the outline again",
    )


@dataclass(frozen=True, eq=False)
class _Edges:
    """Edges (M,) that are not level: ends x0, y0 and x1, y1."""

    x0: NDArray[np.float64]
    y0: NDArray[np.float64]
    x1: NDArray[np.float64]
    y1: NDArray[np.float64]

    @classmethod
    def of(cls, line: NDArray[np.float64]) -> _Edges:
        ends = np.concatenate([line, np.roll(line, -1, axis=0)], axis=1)
        return cls(*ends[ends[:, 1] != ends[:, 3]].T.copy())

    def __len__(self) -> int:
        return len(self.x0)

    def right_of(self, x: Any, y: Any, which: Any) -> NDArray[np.bool_]:
        """Whether the edges `which` cross the level ray that goes right from (x, y)."""
        y0, y1, x0 = self.y0[which], self.y1[which], self.x0[which]
        at = (self.x1[which] - x0) * (y - y0) / (y1 - y0) + x0
        crossed: NDArray[np.bool_] = ((y0 > y) != (y1 > y)) & (x < at)
        return crossed


def _compare(spots: NDArray[Any], edges: _Edges) -> NDArray[np.bool_]:
    """Every point with every edge."""
    every = np.arange(len(edges))
    found = np.zeros(len(spots), bool)
    height = max(_PAIRS // max(len(edges), 1), 1)
    for start in range(0, len(spots), height):
        x, y = spots[start : start + height].astype(np.float64).T
        crossed = edges.right_of(x[:, None], y[:, None], every[None, :])
        found[start : start + height] = crossed.sum(axis=1) % 2 == 1
    return found


@dataclass(frozen=True, eq=False)
class _Raster:
    """The polygon and what is around it, in squares; those at the border hold all that is beyond.

    `state` (SIDE, SIDE) says of each whether it lies outside, inside, or on the rim; `starts` and
    `edges_of` list for each row of squares the edges that reach into it.
    """

    origin: NDArray[np.floating]
    scale: NDArray[np.floating]
    state: NDArray[np.uint8]
    edges: _Edges
    starts: NDArray[np.int64]
    edges_of: NDArray[np.int64]

    @classmethod
    def of(cls, line: NDArray[np.float64], edges: _Edges, kind: np.dtype[Any]) -> _Raster:
        low, high = line.min(axis=0), line.max(axis=0)
        # The origin is a number that the points' precision has: places are then exact to a small
        # part of a square, and the rim is wider than that.
        origin = np.nextafter(low.astype(kind), np.array(-np.inf, kind))
        span = np.maximum(high - origin, 1e6 * np.finfo(kind).tiny)
        scale = ((SIDE - 2 * _MARGIN) / span).astype(kind)
        placed = (line - origin) * scale + _MARGIN
        in_squares = _Edges.of(placed)
        state = _filled(in_squares)
        state[_rim(placed)] = _RIM
        return cls(origin, scale, state, edges, *_by_row(edges, origin[1], scale[1]))

    def look_up(self, spots: NDArray[Any]) -> NDArray[np.uint8]:
        """The state (N,) of the square that each point lies in."""
        across, down = (self._square(spots[:, i], i) for i in (0, 1))
        np.multiply(down, SIDE, out=down)
        np.add(down, across, out=down)
        return self.state.ravel().take(down)

    def compare(self, spots: NDArray[Any]) -> NDArray[np.bool_]:
        """Points (N, 2) with the edges that reach into their row of squares."""
        found = np.zeros(len(spots), bool)
        row = self._square(spots[:, 1], 1)
        many = self.starts[row + 1] - self.starts[row]
        for part in _parts(many):
            nth, owner = _runs(self.starts[row[part]], self.starts[row[part] + 1])
            x, y = spots[part].astype(np.float64)[owner].T
            crossed = owner[self.edges.right_of(x, y, self.edges_of[nth])]
            found[part] = np.bincount(crossed, minlength=part.stop - part.start) % 2 == 1
        return found

    def _square(self, values: NDArray[Any], axis: int) -> NDArray[np.int32]:
        """0..SIDE - 1; points that are not numbers come to the border, which is outside."""
        with np.errstate(over="ignore", invalid="ignore"):
            places = values - self.origin[axis]
            np.multiply(places, self.scale[axis], out=places)
            np.add(places, _MARGIN, out=places)
        # fmax gives 0 for what is not a number, where clip would keep it.
        np.fmax(places, 0, out=places)
        np.fmin(places, SIDE - 1, out=places)
        return places.astype(np.int32)


def _filled(edges: _Edges) -> NDArray[np.uint8]:
    """Squares whose middle lies inside, by counting crossings along each row of middles."""
    low, high = np.minimum(edges.y0, edges.y1), np.maximum(edges.y0, edges.y1)
    rows, which = _runs(_middle_from(low), _middle_from(high))
    slope = (edges.x1 - edges.x0)[which] / (edges.y1 - edges.y0)[which]
    at = edges.x0[which] + slope * (rows + 0.5 - edges.y0[which])
    crossings = np.zeros((SIDE, SIDE + 1), np.int32)
    np.add.at(crossings, (rows, _middle_from(at)), 1)
    # A middle has to its right the crossings at later middles.
    to_the_right = crossings[:, :0:-1].cumsum(axis=1)[:, ::-1]
    return (to_the_right % 2).astype(np.uint8)


def _middle_from(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The first square, 0..SIDE, whose middle is not before a value."""
    return np.clip(np.ceil(values - 0.5), 0, SIDE).astype(np.int64)


def _rim(line: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the squares that an edge passes, or nearly."""
    after = np.roll(line, -1, axis=0)
    steps = np.ceil(4 * np.abs(after - line).max(axis=1)).astype(np.int64) + 1
    number, which = _runs(np.zeros_like(steps), steps)
    share = (number / steps[which])[:, None]
    spots = line[which] * (1 - share) + after[which] * share
    # Every point of an edge is within 1/8 of a spot; corners at 1/5 leave room for rounding.
    corners = np.array([(x, y) for x in (-0.2, 0.2) for y in (-0.2, 0.2)])
    squares = np.floor(spots[:, None] + corners).astype(np.int64).reshape(-1, 2)
    return squares[:, 1], squares[:, 0]


def _by_row(
    edges: _Edges, origin: float, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges that reach into each row of squares, row after row, and where each row's start."""
    ends = (np.stack([edges.y0, edges.y1]) - origin) * scale + _MARGIN
    low, high = ends.min(axis=0), ends.max(axis=0)
    # A little more on either side, for the rounding of points.
    first = np.floor(low - 0.05).astype(np.int64)
    last = np.floor(high + 0.05).astype(np.int64) + 1
    rows, which = _runs(first, last)
    order = np.argsort(rows, kind="stable")
    return np.searchsorted(rows[order], np.arange(SIDE + 1)), which[order]


def _runs(
    first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every number of each half-open run, and the run it belongs to."""
    count = np.maximum(last - first, 0)
    which = np.repeat(np.arange(len(count)), count)
    begins = np.cumsum(count) - count
    return np.arange(len(which)) - begins[which] + first[which], which


def _parts(many: NDArray[np.int64]) -> list[slice]:
    """Runs of points that have about `_PAIRS` edges together."""
    group = np.cumsum(many) // _PAIRS
    ends = [*np.flatnonzero(np.diff(group)) + 1, len(many)]
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True) if b > a]
