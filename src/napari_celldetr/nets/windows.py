"""Networks tied to a window (the paper's) on tiles of any size: window by window, then joined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.merge import merge
from napari_celldetr.core.predictor import NUMERICAL, TilePrediction
from napari_celldetr.core.regions import Region, TileGrid

_AT_ONCE = 8
_SLACK_PX = 4


def predict_windows(
    predict: Callable[[NDArray[np.uint8]], list[TilePrediction]],
    image: NDArray[np.uint8],
    window: int,
) -> TilePrediction:
    """Cells of `image` (H, W, 3) by a network that wants (B, window, window, 3).

    Windows overlap by a quarter of their side, and are joined as tiles are.
    """
    halo = window // 8
    grid = TileGrid(window - 2 * halo, halo)
    height, width = image.shape[:2]
    places = grid.plan(Region(0, 0, width, height))
    beyond = grid.core + halo
    padded = np.pad(image, ((halo, beyond), (halo, beyond), (0, 0)), mode="edge")
    found: list[TilePrediction] = []
    for start in range(0, len(places), _AT_ONCE):
        # Reads start at -halo, which is 0 in the padded image.
        corners = [(p.core.y, p.core.x) for p in places[start : start + _AT_ONCE]]
        found += predict(np.stack([padded[y : y + window, x : x + window] for y, x in corners]))
    flags = frozenset().union(*(f.flags for f in found))
    if NUMERICAL in flags:
        return TilePrediction(found[0].detections.select(slice(0, 0)), frozenset({NUMERICAL}))
    cells = merge(
        (
            (place, one.detections.moved((1, 1), (place.read.x, place.read.y)))
            for place, one in zip(places, found, strict=True)
        ),
        slack_px=_SLACK_PX,
    )
    x, y = cells.centres.T
    return TilePrediction(cells.select((x >= 0) & (x < width) & (y >= 0) & (y < height)), flags)
