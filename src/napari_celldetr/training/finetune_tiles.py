"""Corrected cells of a slide become tiles to learn from, some of them held aside.

In a ``complete`` area every cell that is shown counts, and empty places are true negatives.
Elsewhere only what a person said counts: their cells, the places of cells they deleted, and
nothing in between.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import SAID, Annotations, Area, CorrectedCells, Status
from napari_celldetr.core.boxes import centres, paired_iou
from napari_celldetr.core.regions import Region, reading_scale
from napari_celldetr.nets.overview import COARSEST
from napari_celldetr.slides.slide import Slide
from napari_celldetr.training.crops import KNOWN_UM, near_points
from napari_celldetr.training.fields import Field
from napari_celldetr.training.polygons import rings_mask

TILE_UM = 125.0
"""Side of a tile: half of a square."""
SQUARE_UM = 250.0
"""Side of the squares that are held aside as a whole."""
HALO_UM = 16.0
GUARD_SHARE = 0.2
FEWEST_SQUARES = 5
"""With fewer corrected squares, single tiles are held aside instead."""
FEWEST_TILES = 3
"""With fewer, nothing is held aside."""
SAME_IOU = 0.5
"""Boxes that overlap more are of the same cell."""
POINT = "only_a_point"
"""Name of the column of corrected cells that is 1 where a box stands for a point."""
SURE_UM = 1.5
"""So near to a corrected cell, another claim does not make its place doubtful."""


@dataclass(frozen=True, eq=False)
class Taught:
    """What people said of a slide's cells, level-0 px.

    Attributes
    ----------
    boxes : (N, 4) float32 xyxy
        All cells that are shown, corrected or not.
    class_ids : (N,) int16
        Into `class_names`, -1 for unknown.
    said : (N,) bool
        Whether a person vouches for the cell.
    sized : (N,) bool
        Whether the box is that of the nucleus, not of any nucleus at a point.
    class_names : tuple of str
    gone : (M, 4) float32
        Claims that a person deleted.
    areas : tuple of Area
        Only complete ones.
    authors : tuple of str
    """

    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    said: NDArray[np.bool_]
    sized: NDArray[np.bool_]
    class_names: tuple[str, ...]
    gone: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    areas: tuple[Area, ...] = ()
    authors: tuple[str, ...] = ()

    @classmethod
    def of(cls, now: CorrectedCells, annotations: Annotations | None = None) -> Taught:
        """Cells as they stand, and the deleted ones that `annotations` know of.

        A claim that overlaps a person's cell is that cell: it is left out. A column `POINT` of the
        cells marks those of which only a place is known.
        """
        said_of = [] if annotations is None else list(annotations.cells.values())
        boxes = [said.box for said in said_of if said.status == Status.DELETED]
        boxes += now.cells.boxes[now.status == Status.DELETED].tolist()
        said = SAID[now.status]
        there = (now.status != Status.DELETED) & ~_doubles(now.cells.boxes, said)
        points = now.cells.columns.get(POINT, np.zeros(len(said)))
        return cls(
            now.cells.boxes[there],
            now.cells.class_ids[there],
            said[there],
            (np.asarray(points) == 0)[there],
            now.cells.class_names,
            np.array(boxes, np.float32).reshape(-1, 4),
            tuple(area for area in now.areas.values() if area.kind == "complete"),
            tuple(sorted({str(a) for a in now.authors if a})),
        )

    @property
    def centres(self) -> NDArray[np.floating]:
        """(N, 2)."""
        return centres(self.boxes)

    @property
    def gone_centres(self) -> NDArray[np.floating]:
        """(M, 2)."""
        return centres(self.gone)

    @cached_property
    def vouched(self) -> NDArray[np.bool_]:
        """(N,) which cells a person vouches for, by themselves or by a complete area."""
        inside = self.said.copy()
        for area in self.areas:
            inside |= area.contains(self.centres)
        return inside

    @property
    def corrections(self) -> int:
        """Cells vouched for, and deleted ones."""
        return int(self.vouched.sum()) + len(self.gone)


def overlapping(boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """Pairs (P, 2) of rows whose boxes overlap by more than `SAME_IOU`."""
    if len(boxes) < 2:
        return np.zeros((0, 2), np.int64)
    from scipy.spatial import cKDTree

    box = boxes.astype(np.float64)
    # Boxes that overlap that much have centres nearer than half the larger side.
    reach = float((box[:, 2:] - box[:, :2]).max()) / 2 * math.sqrt(2)
    tree = cKDTree(centres(box))
    pairs = tree.query_pairs(reach, output_type="ndarray")
    alike = paired_iou(box[pairs[:, 0]], box[pairs[:, 1]]) > SAME_IOU
    return np.asarray(pairs[alike], np.int64)


def _doubles(boxes: NDArray[np.float32], said: NDArray[np.bool_]) -> NDArray[np.bool_]:
    double = np.zeros(len(boxes), bool)
    pairs = overlapping(boxes)
    for one, other in ((0, 1), (1, 0)):
        double[pairs[said[pairs[:, one]], other]] = True
    return double & ~said


@dataclass(frozen=True, eq=False)
class TaughtTile:
    """One tile: `field` at the model's µm/px with a halo in which no label counts.

    `place` (column, row) on the grid of tiles, `complete` whether any of it is vouched for as a
    whole, `corrections` how many cells and deleted ones it holds.
    """

    field: Field
    place: tuple[int, int]
    complete: bool
    corrections: int

    @property
    def square(self) -> tuple[int, int]:
        """(column, row) of its square."""
        per = round(SQUARE_UM / TILE_UM)
        return self.place[0] // per, self.place[1] // per


def tile_px(mpp: float) -> int:
    """Side of the crops that are learned from, px at the model's `mpp`: a multiple of 64."""
    return 64 * math.ceil(TILE_UM / mpp / 64)


def taught_tiles(slide: Slide, taught: Taught, *, mpp: float) -> Iterator[TaughtTile]:
    """All tiles of a slide on which something was said, read at `mpp` µm/px.

    Raises `SlideError` where the slide cannot be read or has no pixel size.
    """
    for place in tile_places(slide, taught):
        tile = read_tile(slide, taught, place, mpp=mpp)
        if tile is not None:
            yield tile


def tile_places(slide: Slide, taught: Taught) -> list[tuple[int, int]]:
    """Places (column, row) of the tiles on which something was said."""
    step = TILE_UM / np.array(slide.known_mpp(), np.float64)
    points = np.concatenate((taught.centres[taught.vouched], taught.gone_centres))
    places = {(int(x), int(y)) for x, y in np.floor(points / step)}
    for area in taught.areas:
        low = np.floor(area.corners.min(axis=0) / step).astype(int)
        high = np.floor(area.corners.max(axis=0) / step).astype(int)
        places |= {(x, y) for x in range(low[0], high[0] + 1) for y in range(low[1], high[1] + 1)}
    return sorted(places)


def read_tile(
    slide: Slide, taught: Taught, place: tuple[int, int], *, mpp: float
) -> TaughtTile | None:
    """One tile; None where it lies outside the slide, or nothing on it counts."""
    side = np.array(slide.known_mpp(), np.float64)
    core = np.array([place, (place[0] + 1, place[1] + 1)]) * TILE_UM / side
    read, read_mpp = reading(slide, place, mpp)
    low = np.array([read.x, read.y])
    if read.intersect(slide.region) is None:
        return None
    image = slide.read(read, read_mpp)
    scale = np.array([image.shape[1] / read.width, image.shape[0] / read.height])

    def here(xy: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray((np.asarray(xy, np.float64) - low) * scale)

    shape = image.shape[:2]
    counted = _window(here(core), shape) & _window(here(_edges(slide)), shape)
    whole = np.zeros(shape, bool)
    for area in taught.areas:
        whole |= rings_mask([here(area.corners)], (0, 0), (shape[0], shape[1]))
    whole &= counted
    points, gone = here(taught.centres), here(taught.gone_centres)
    spoken = _spoken(points, gone, taught.said, (shape[0], shape[1]), mpp) & counted
    valid = whole | spoken
    in_whole, in_spoken = _at(whole, points), _at(spoken, points)
    rows = np.flatnonzero(taught.vouched & (in_whole | (in_spoken & taught.said)))
    corrections = len(rows) + int(_at(counted, gone).sum())
    if not corrections and not whole.any():
        return None
    boxes = taught.boxes[rows]
    made = Field(
        f"{place[0]}_{place[1]}",
        f"{place[0]}_{place[1]}",
        np.array(image),
        mpp,
        points[rows].astype(np.float32),
        np.where(taught.sized[rows, None], (boxes[:, 2:] - boxes[:, :2]) * scale, np.nan).astype(
            np.float32
        ),
        taught.class_ids[rows],
        taught.class_names,
        valid=valid,
    )
    return TaughtTile(made, place, bool(whole.any()), corrections)


def reading(slide: Slide, place: tuple[int, int], mpp: float) -> tuple[Region, float]:
    """The region of a tile with its halo, and at which µm/px it comes out as a model sees it.

    As slides are read for detection: level-0 px are taken as they are, or whole numbers of them
    averaged, where that is within 3 % of the model's `mpp`; and from where the network's coarsest
    cells lie as they do there, since faint cells come and go with that.
    """
    side = np.array(slide.known_mpp(), np.float64)
    scale = reading_scale(mpp / float(np.sqrt(side.prod())))
    step = round(scale) if scale == round(scale) else 1
    first = COARSEST * step
    low = np.floor((np.array(place) * TILE_UM - HALO_UM) / side / first).astype(int) * first
    high = np.ceil(((np.array(place) + 1) * TILE_UM + HALO_UM) / side / step).astype(int) * step
    region = Region.from_edges(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    return region, scale * float(np.sqrt(side.prod()))


def _edges(slide: Slide) -> NDArray[np.float64]:
    return np.array([[0, 0], slide.size], np.float64)


def _window(corners: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    # Pixels whose centre lies between two corners (2, 2).
    x, y = np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5
    across = (x >= corners[0, 0]) & (x < corners[1, 0])
    down = (y >= corners[0, 1]) & (y < corners[1, 1])
    return np.asarray(down[:, None] & across[None])


def _spoken(
    points: NDArray[np.float64],
    gone: NDArray[np.float64],
    said: NDArray[np.bool_],
    shape: tuple[int, int],
    mpp: float,
) -> NDArray[np.bool_]:
    """Where a person's word on single cells counts.

    Near a claim that nobody looked at it does not: taken for background, it would be unlearned.
    """
    spoken = np.concatenate((points[said], gone))
    reach = KNOWN_UM / mpp
    known = near_points(spoken, reach, shape) & ~near_points(points[~said], reach / 2, shape)
    return known | near_points(spoken, SURE_UM / mpp, shape)


def _at(mask: NDArray[np.bool_], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    at = np.floor(points).astype(np.int64)
    inside = ((at >= 0) & (at < [mask.shape[1], mask.shape[0]])).all(axis=1)
    held = np.zeros(len(points), bool)
    held[inside] = mask[at[inside, 1], at[inside, 0]]
    return held


# --- what is held aside ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Parted:
    """Tiles to learn from, tiles held aside, and the names of the units held aside."""

    taught: tuple[TaughtTile, ...]
    guard: tuple[TaughtTile, ...]
    units: tuple[str, ...]


def part(tiles: Iterable[TaughtTile], *, slide_id: str, before: Iterable[str] = ()) -> Parted:
    """About one unit in five is held aside, by a hash: the same ones whenever it is done.

    Units are the 250 µm squares, or single tiles where there are few squares. What was held
    aside `before` stays so.
    """
    every = list(tiles)
    known = set(before)
    squares = {t.square for t in every}
    by_square = len(squares) >= FEWEST_SQUARES

    def names(tile: TaughtTile) -> tuple[str, str]:
        return _name(slide_id, "square", tile.square), _name(slide_id, "tile", tile.place)

    def unit(tile: TaughtTile) -> str:
        return names(tile)[0 if by_square else 1]

    units = sorted({unit(t) for t in every}, key=_lot)
    drawn = {u for u in units if _lot(u) < GUARD_SHARE}
    if len(units) < FEWEST_TILES:
        drawn = set()
    elif not drawn or len(drawn) == len(units):
        drawn = {units[0]}
    aside = [unit(t) in drawn or not known.isdisjoint(names(t)) for t in every]
    if all(aside):
        aside = [unit(t) in drawn for t in every]
    guard = tuple(t for t, out in zip(every, aside, strict=True) if out)
    rest = tuple(t for t, out in zip(every, aside, strict=True) if not out)
    return Parted(rest, guard, tuple(sorted({unit(t) for t in guard})))


def _name(slide_id: str, kind: str, place: tuple[int, int]) -> str:
    return f"{slide_id[:16]}:{kind}:{place[0]}:{place[1]}"


def _lot(unit: str) -> float:
    return int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8]) / 2**64
