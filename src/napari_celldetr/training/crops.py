"""Random pieces of annotated fields: place, mirror, turn, scale, and what may be learned there.

Everything is drawn from the generator that is passed in, so a seed repeats a crop exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.augment_settings import Augmentation
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.warp import Placement, draw_bend

KNOWN_UM = 4.0
"""Around a point of an incomplete field, what is seen within this distance is known."""
KNOWN_PX = 8.0
"""The same where µm/px is unknown."""
COMPOSITION_SHARE = 0.5
"""A crop has its field's class shares when it shows at least this part of the field."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a field, or of several, as training sees it.

    Attributes
    ----------
    image : (H, W, 3) uint8
    points : (N, 2) float32
        Centres x, y in crop px, all inside the crop; pixel 0 spans 0..1.
    sizes : (N, 2) float32
        Width and height of the whole nucleus, also where the crop cuts it; NaN where unknown.
    class_ids : (N,) int16
    valid : (H, W) bool
        False where nothing may be learned: in mirrored padding, and in a field that is not
        `complete` everywhere but within `KNOWN_UM` of a point (8 px where mpp is unknown), and
        in a mosaic at its seams and around nuclei that they cut.
    complete : bool
        The field's own word on whether places without a point are background.
    rows : (N,) intp
        Row of the field that each point is; -1 for a cell pasted from elsewhere, and for all
        cells of a mosaic.
    composition : (K,) float32 or None
        The field's class shares, where only those are known and the crop shows at least half
        of the field.
    scale : float
        Crop px per field px.
    exhaustive : bool
        Every nucleus was outlined, so that none can have been passed over.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    valid: NDArray[np.bool_]
    complete: bool
    rows: NDArray[np.intp]
    composition: NDArray[np.float32] | None = None
    scale: float = 1.0
    exhaustive: bool = False


@dataclass(frozen=True, eq=False)
class Piece:
    """A rectangular cut of one field, with all of the field's nuclei, also those outside it.

    `points` and `sizes` (N, 2) are in the piece's px, a row per row of the field; `inside`
    (h, w) is where the piece shows the field, `valid` (h, w) where the field's labels tell
    something, too; `scale` is piece px per field px.
    """

    field: Field
    image: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    points: NDArray[np.float64]
    sizes: NDArray[np.float64]
    scale: float

    @property
    def reach(self) -> float:
        """How far around a point what is seen is known, px."""
        return reach_px(self.field, self.scale)

    @property
    def in_frame(self) -> NDArray[np.bool_]:
        """Points (N,) inside the piece."""
        height, width = self.image.shape[:2]
        inside = (self.points >= 0) & (self.points < (width, height))
        return np.asarray(inside.all(axis=1))

    def crop(self) -> Crop:
        """The piece as training sees it."""
        rows = np.flatnonzero(self.in_frame)
        seen = float(self.inside.sum()) / self.scale**2
        height, width = self.field.image.shape[:2]
        return Crop(
            self.image,
            self.points[rows].astype(np.float32),
            self.sizes[rows].astype(np.float32),
            self.field.class_ids[rows],
            self.valid,
            self.field.complete,
            rows,
            self.field.composition if seen >= COMPOSITION_SHARE * height * width else None,
            self.scale,
            self.field.complete and self.field.instances is not None,
        )


def random_crop(
    field: Field, size: int, rng: np.random.Generator, augmentation: Augmentation
) -> Crop:
    """One random square of `size` px out of a field: place, mirror, turn, scale, bend.

    The crop lies inside the field as far as its size allows; corners that a rotation turns out
    of it, and what a small field lacks, are mirrored and not `valid`.
    """
    return random_piece(field, (size, size), rng, augmentation).crop()


def random_piece(
    field: Field, shape: tuple[int, int], rng: np.random.Generator, augmentation: Augmentation
) -> Piece:
    """One random piece of `shape` (width, height) px; see `random_crop`."""
    if min(shape) < 1 or not field.image.size:
        raise DataError(
            f"No crop of {' × '.join(map(str, shape))} px can be taken from field {field.name!r}.",
            expected="at least 1 px and an image that is not empty",
            found=f"image {field.image.shape}",
            remedy="choose another size or remove the field",
        )
    plan = augmentation
    turn = _quarter_turn(rng) if plan.flip else np.eye(2)
    scale, matrix = 1.0, turn
    exact = not (plan.warp_p > 0 and rng.random() < plan.warp_p)
    if not exact:
        low, high = plan.scale
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        angle = rng.uniform(-math.pi / 4, math.pi / 4)  # quarter turns do the rest
        if not plan.flip:
            angle *= 4
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        matrix = np.array([[cos, -sin], [sin, cos]]) @ turn
    bounds = np.abs(matrix) @ shape
    spread = float(np.abs(matrix[0]).sum()) * scale  # 1 unturned, √2 on the diagonal
    height, width = field.image.shape[:2]
    centre = np.array(
        [_place(n, b / spread, spread, rng) for n, b in zip((width, height), bounds, strict=True)]
    )
    bend = None
    if plan.elastic_p > 0 and rng.random() < plan.elastic_p:
        exact, bend = False, draw_bend(shape, plan.elastic_px, rng)
    if exact:
        centre = np.rint(centre - bounds / 2) + bounds / 2
    offset = centre - matrix @ (np.array(shape) / 2)
    place = Placement(shape, matrix, offset, exact, bend)
    image, inside = place.cut(field.image)
    points, sizes = _moved(field, place)
    valid = inside if field.valid is None else inside & place.cut_mask(field.valid)
    if not field.complete:
        valid = valid & near_points(points, reach_px(field, scale), valid.shape)
    return Piece(field, image, inside, valid, points, sizes, scale)


def reach_px(field: Field, scale: float) -> float:
    """How far around a point what a piece of that scale shows is known, px."""
    return scale * (KNOWN_UM / field.mpp if field.mpp else KNOWN_PX)


def _quarter_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """One of the eight symmetries of the square, crop to field."""
    a, b = 1 - 2 * rng.integers(0, 2, 2)
    return np.array([[a, 0], [0, b]] if rng.random() < 0.5 else [[0, a], [b, 0]], np.float64)


def _place(length: int, covered: float, spread: float, rng: np.random.Generator) -> float:
    """Centre of a crop of `covered` px on a line of `length`: inside it, or over it if longer.

    A turned crop reaches less far along the axes than its side; a field smaller than it is
    kept off its corners by `spread`, or it could be turned out of sight.
    """
    if covered > length:
        covered = max(length, covered / spread)
    low, high = sorted((covered / 2, length - covered / 2))
    return float(rng.uniform(low, high))


def near_points(
    points: NDArray[np.floating], reach: float, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Px of `shape` (height, width) whose centre is at most `reach` from a point."""
    near = np.zeros(shape, bool)
    height, width = shape
    for x, y in points:
        x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 1, width)
        y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 1, height)
        if x0 < x1 and y0 < y1:
            across = np.arange(x0, x1) + 0.5 - x
            down = np.arange(y0, y1) + 0.5 - y
            near[y0:y1, x0:x1] |= down[:, None] ** 2 + across**2 <= reach**2
    return near


def _moved(field: Field, place: Placement) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and sizes of a whole field in the piece's px.

    Under quarter turns sizes swap and stay exact. Under a free map they are the box of the
    moved nucleus where the field has an instance map, and the centre is that box's; without a
    map, a nucleus is taken for an ellipse with the axes of its box. NaN stays NaN.
    """
    points = place.to_piece(field.points.astype(np.float64))
    squares = np.einsum("nij,nj->ni", place.stretch(points) ** 2, field.sizes.astype(float) ** 2)
    sizes = np.sqrt(squares)
    if place.exact or field.instances is None or not len(points):
        return points, sizes
    rows, starts, corners = _outlines(field)
    # Far outside, and where no extent is known, nothing hangs on the outline.
    seen = ((points > -sizes) & (points < place.shape + sizes)).all(axis=1)[rows]
    lengths = np.diff(starts, append=len(corners))
    rows, corners = rows[seen], corners[np.repeat(seen, lengths)]
    if len(rows):
        starts = np.cumsum(lengths[seen]) - lengths[seen]
        turned = place.to_piece(corners)
        low, high = np.minimum.reduceat(turned, starts), np.maximum.reduceat(turned, starts)
        points[rows], sizes[rows] = (low + high) / 2, high - low
    return points, sizes


_outline_cache: WeakKeyDictionary[Field, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = (
    WeakKeyDictionary()
)


def _outlines(field: Field) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows with pixels, the start of each in the list of corners, and the corners (K, 2).

    The left and right ends of every line of pixels have the same hull as the whole nucleus.
    """
    if field not in _outline_cache:
        _outline_cache[field] = _trace(field)
    return _outline_cache[field]


def _trace(field: Field) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    ids = field.instances
    assert ids is not None
    y, x = np.nonzero(ids)
    if not len(y):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
    line = (ids[y, x].astype(np.int64) - 1) * ids.shape[0] + y
    order = np.lexsort((x, line))
    line, x = line[order], x[order]
    first = np.flatnonzero(np.diff(line, prepend=-1))
    last = np.append(first[1:], len(line)) - 1
    rows, top = np.divmod(line[first], ids.shape[0])
    left, right = x[first], x[last] + 1
    corners = np.stack(
        [
            np.stack(pair, axis=1)
            for pair in ((left, top), (right, top), (left, top + 1), (right, top + 1))
        ],
        axis=1,
    ).reshape(-1, 2)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return rows[starts], starts * 4, corners.astype(np.float64)
