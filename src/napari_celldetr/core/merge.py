"""Tiles' detections -> the slide's detections, whatever order the tiles finished in.

Ownership first: a tile keeps what has its centre in its core grown by a slack, because two tiles
never put one cell at exactly the same place. Then the doubles this lets through are suppressed,
*only between different tiles* and *only in the seam band*, so two real neighbours inside one tile
are never touched. The better scored of two doubles stays; since nothing else decides, merging and
then thresholding equals thresholding and then merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.boxes import paired_iou
from napari_celldetr.core.detections import Detections, canonical_order
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.regions import Tile

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def merge(
    tiles: Iterable[tuple[Tile, Detections]], *, slack_px: float, iou: float = 0.3
) -> Detections:
    """Join the detections of tiles whose cores partition the plane.

    Parameters
    ----------
    tiles : iterable of (Tile, Detections)
        Boxes in level-0 px. Cells outside the tile's core grown by `slack_px` are dropped.
    slack_px : float
        How far, in level-0 px, two tiles may disagree on the centre of one cell. The seam band
        is twice as wide.
    iou : float
        Two cells of different tiles in the band are one where their boxes overlap this much, or
        where their centres are nearer than half the slack.

    Returns
    -------
    Detections
        In canonical order, with the columns all tiles share. Raises `CellDETRError` when a tile
        comes twice or when classes differ.
    """
    items = sorted(tiles, key=lambda item: item[0].index)
    _refuse_repeats([tile for tile, _ in items])
    full = [(tile, table) for tile, table in items if len(table)]
    if not full:
        return items[0][1] if items else Detections.empty()
    tables = [table for _, table in full]
    boxes = np.concatenate([table.boxes for table in tables])
    scores = np.concatenate([table.scores for table in tables])
    class_ids = np.concatenate([table.class_ids for table in tables])
    starts = np.cumsum([0, *(len(table) for table in tables)])
    depth, owned = _depth(boxes, [tile for tile, _ in full], starts, slack_px)
    band = np.flatnonzero(owned & (depth < 2 * slack_px))
    tile_of = np.searchsorted(starts, band, side="right")
    owned[band[seam_doubles(boxes[band], scores[band], tile_of, slack_px=slack_px, iou=iou)]] = (
        False
    )
    rows = np.flatnonzero(owned)
    rows = rows[canonical_order(boxes[rows], scores[rows], class_ids[rows])]
    return _gather(tables, rows, starts, (boxes, scores, class_ids))


def seam_doubles(
    boxes: Floats, scores: Floats, tile_of: Ints, *, slack_px: float, iou: float = 0.3
) -> NDArray[np.bool_]:
    """Which (N,) of these seam-band cells repeat a better scored cell of another tile.

    `tile_of` (N,) numbers the tiles and must not decrease; equal scores go to the lower number.
    """
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float64)
    first, second = _candidates(boxes, centres, slack_px, iou)
    apart = tile_of[first] != tile_of[second]
    first, second = first[apart], second[apart]
    gap = np.hypot(*(centres[first] - centres[second]).T)
    same = (paired_iou(boxes[first], boxes[second]) >= iou) | (gap <= slack_px / 2)
    low, high = np.minimum(first[same], second[same]), np.maximum(first[same], second[same])
    swap = scores[high] > scores[low]
    return _settle(np.where(swap, high, low), np.where(swap, low, high), len(boxes))


def _refuse_repeats(tiles: Sequence[Tile]) -> None:
    for before, after in pairwise(tiles):
        if before.index == after.index:
            raise CellDETRError(
                "A tile came twice into the merge.",
                expected="every tile once",
                found=f"tile {after.key} twice",
                remedy="merge each tile's final result only",
            )


def _depth(
    boxes: Floats, tiles: Sequence[Tile], starts: Ints, slack_px: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """How deep (N,) each centre lies in its tile's core, and whether the tile owns it (N,)."""
    cores = np.array([(t.core.x, t.core.y, t.core.x1, t.core.y1) for t in tiles], np.float32)
    edges = np.repeat(cores.T, np.diff(starts), axis=1)
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    y = (boxes[:, 1] + boxes[:, 3]) / 2
    low = np.minimum(x - edges[0], y - edges[1])
    high = np.minimum(edges[2] - x, edges[3] - y)
    # Half-open as the cores are: without slack a centre on a seam has exactly one owner.
    return np.minimum(low, high), (low >= -slack_px) & (high > -slack_px)


def _candidates(
    boxes: Floats, centres: NDArray[np.float64], slack_px: float, iou: float
) -> tuple[Ints, Ints]:
    """Index pairs that hold every pair of boxes which could be one cell (some come twice).

    Boxes with IoU ≥ t have longer sides within a factor 1/t and centres within (1 - t) of the
    larger side. So sizes are taken octave by octave, and one giant box does not coarsen the grid
    for everyone.
    """
    side = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0), 1.0)
    octave = np.ceil(np.log2(side)).astype(np.int64)
    reach_octaves = int(np.ceil(np.log2(1 / max(iou, 1e-3))))
    everyone = np.arange(len(boxes))
    found = [_near(centres, everyone, everyone, slack_px / 2)]
    for small in np.unique(octave):
        mine = np.flatnonzero(octave == small)
        others = np.flatnonzero((octave >= small) & (octave <= small + reach_octaves))
        largest = 2.0 ** int(octave[others].max())
        found.append(_near(centres, mine, others, (1 - iou) * largest))
    return (
        np.concatenate([first for first, _ in found]),
        np.concatenate([second for _, second in found]),
    )


def _near(
    centres: NDArray[np.float64], mine: Ints, others: Ints, reach: float
) -> tuple[Ints, Ints]:
    """Pairs (i of `mine`, j of `others`) that hold all with |dx| and |dy| at most `reach`."""
    size = max(reach, 1e-6)
    cells = np.floor(centres / size).astype(np.int64)
    cells -= cells.min(axis=0, initial=0) - 1
    stride = int(cells[:, 0].max(initial=0)) + 2
    key = cells[:, 1] * stride + cells[:, 0]
    order = others[np.argsort(key[others], kind="stable")]
    sorted_key = key[order]
    # Sorted needles too: the search then walks through memory instead of jumping.
    mine = mine[np.argsort(key[mine], kind="stable")]
    firsts, seconds = [], []
    for row in (-stride, 0, stride):
        # The three cells of a grid row are neighbours in the sorted keys: one range, not three.
        start = np.searchsorted(sorted_key, key[mine] + (row - 1), side="left")
        stop = np.searchsorted(sorted_key, key[mine] + (row + 1), side="right")
        count = stop - start
        firsts.append(np.repeat(mine, count))
        within = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        seconds.append(order[np.repeat(start, count) + within])
    return np.concatenate(firsts), np.concatenate(seconds)


def _settle(better: Ints, worse: Ints, count: int) -> NDArray[np.bool_]:
    """Greedy suppression over pairs: a cell falls when a better one that stays claims it."""
    dropped = np.zeros(count, bool)
    while len(better):
        challenged = np.zeros(count, bool)
        challenged[worse] = True
        dropped[worse[~challenged[better]]] = True
        open_pairs = ~(dropped[better] | dropped[worse])
        better, worse = better[open_pairs], worse[open_pairs]
    return dropped


def _gather(
    tables: Sequence[Detections],
    rows: Ints,
    starts: Ints,
    joined: tuple[Floats, Floats, NDArray[np.int16]],
) -> Detections:
    names = {table.class_names for table in tables}
    if len(names) > 1:
        raise CellDETRError(
            "Tiles with different classes cannot be merged.",
            expected="the same classes in every tile",
            found=str(sorted(names)),
            remedy="merge the tiles of one model only",
        )
    shared = set(tables[0].columns).intersection(*(table.columns for table in tables[1:]))
    columns = {
        name: np.concatenate([table.columns[name] for table in tables])[rows]
        for name in tables[0].columns
        if name in shared
    }
    boxes, scores, class_ids = joined
    return Detections(
        boxes[rows],
        scores[rows],
        class_ids[rows],
        tables[0].class_names,
        _gather_embeddings(tables, rows, starts),
        columns,
        tables[0].source,
    )


def _gather_embeddings(
    tables: Sequence[Detections], rows: Ints, starts: Ints
) -> NDArray[np.float16] | None:
    vectors: list[NDArray[Any]] = [t.embeddings for t in tables if t.embeddings is not None]
    if len(vectors) < len(tables):
        return None
    # Table by table into the final array: joining them first would hold a million vectors twice.
    merged = np.empty((len(rows), vectors[0].shape[1]), np.float16)
    by_row = np.argsort(rows, kind="stable")
    cuts = np.searchsorted(rows[by_row], starts)
    for i, table in enumerate(vectors):
        places = by_row[cuts[i] : cuts[i + 1]]
        merged[places] = table[rows[places] - starts[i]]
    return merged
