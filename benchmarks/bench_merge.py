"""Merging 1.1 million detections of a tiled slide: ours beside a shapely STRtree.

Both get the same tiles and both must end with every synthetic cell exactly once. The reference
does what polygon cleaners do: own by slack, query a tree of boxes, drop the worse of each pair
of different tiles. Run: ``python benchmarks/bench_merge.py [--cells 1000000] [--repeats 5]``.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from napari_celldetr.core.boxes import paired_iou
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.merge import merge
from napari_celldetr.core.regions import Region, Tile, TileGrid

CORE, HALO, SLACK, JITTER = 896, 64, 4.0, 1.0
PITCH = 30


def make_tiles(cells: int) -> tuple[list[tuple[Tile, Detections]], int]:
    """Jittered cells on a grid that never overlap, as every tile that sees them reports them."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(cells))) * PITCH
    line = np.arange(PITCH / 2, side, PITCH)
    centres = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    centres += rng.uniform(-4, 4, centres.shape)
    half = rng.uniform(6, 10, centres.shape)
    grid = TileGrid(CORE, HALO)
    tiles = []
    for tile in grid.plan(Region(0, 0, side, side)):
        own = tile.core.grow(int(2 * SLACK))
        seen = np.flatnonzero(
            (centres[:, 0] >= own.x)
            & (centres[:, 0] < own.x1)
            & (centres[:, 1] >= own.y)
            & (centres[:, 1] < own.y1)
        )
        at = centres[seen] + rng.uniform(-JITTER, JITTER, (len(seen), 2))
        boxes = np.concatenate([at - half[seen], at + half[seen]], axis=1)
        scores = rng.uniform(0.3, 1, len(seen))
        tiles.append((tile, Detections(boxes, scores, np.zeros(len(seen)), ("cell",))))
    return tiles, len(centres)


def with_strtree(tiles: list[tuple[Tile, Detections]]) -> int:
    """The reference: how many cells are left."""
    import shapely

    boxes = np.concatenate([d.boxes for _, d in tiles])
    scores = np.concatenate([d.scores for _, d in tiles])
    number = np.repeat(np.arange(len(tiles)), [len(d) for _, d in tiles])
    cores = np.array([(t.core.x, t.core.y, t.core.x1, t.core.y1) for t, _ in tiles])[number]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    owned = (centres >= cores[:, :2] - SLACK).all(1) & (centres < cores[:, 2:] + SLACK).all(1)
    boxes, scores, number = boxes[owned], scores[owned], number[owned]
    shapes = shapely.box(*boxes.T)
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    apart = (number[first] != number[second]) & (scores[first] >= scores[second])
    first, second = first[apart], second[apart]
    double = paired_iou(boxes[first], boxes[second]) >= 0.3
    return len(boxes) - len(np.unique(second[double]))


def timed(name: str, run: Callable[[], int], repeats: int, truth: int) -> float:
    """Print median and range, and whether the result is exact."""
    seconds, left = [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        left = run()
        seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    print(
        f"{name:28s} {middle:7.3f} s  ({min(seconds):.3f} to {max(seconds):.3f})  "
        f"{left} cells, {'exact' if left == truth else f'{left - truth:+d}'}"
    )
    return middle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=1_080_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    tiles, truth = make_tiles(options.cells)
    total = sum(len(d) for _, d in tiles)
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}, 1 thread, float32")
    print(f"{total} detections in {len(tiles)} tiles of {truth} cells")
    ours = timed("merge", lambda: len(merge(tiles, slack_px=SLACK)), options.repeats, truth)
    try:
        import shapely
    except ImportError:
        print("shapely is not installed: no reference (pip install shapely)")
        return 0
    reference = timed(
        f"shapely {shapely.__version__} STRtree",
        lambda: with_strtree(tiles),
        min(options.repeats, 3),
        truth,
    )
    print(f"{reference / ours:.1f} times as fast")
    return 0


if __name__ == "__main__":
    sys.exit(main())
