"""A small picture around a place of a slide, at any zoom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from napari_celldetr.gui.warped import LEVEL_SLACK
from napari_celldetr.slides.pixels import to_rgb

Bytes = NDArray[np.uint8]


def around(
    levels: Sequence[Any],
    centre: tuple[float, float],
    step: float,
    size: tuple[int, int],
    *,
    width: float | None = None,
) -> Bytes:
    """A picture (h, w, 3) of `size` (w, h) around a place, glass-coloured beyond the slide.

    `centre` (x, y) and `step`, what a pixel of the picture is wide, are in level-0 px, of which
    the levels (finest first) span `width`; None means as many as the first one has.
    """
    full = width or levels[0].shape[1]
    scales = [full / level.shape[1] for level in levels]
    fit = [i for i, scale in enumerate(scales) if scale <= step * LEVEL_SLACK] or [0]
    level, scale = levels[fit[-1]], scales[fit[-1]]
    half = np.array(size) * step / scale / 2
    middle = np.array(centre) / scale
    low, high = np.floor(middle - half).astype(int), np.ceil(middle + half).astype(int)
    high = np.maximum(high, low + 1)
    out = np.full((high[1] - low[1], high[0] - low[0], 3), 244, np.uint8)
    ends = np.array([level.shape[1], level.shape[0]])
    start, stop = np.clip(low, 0, ends), np.clip(high, 0, ends)
    if (stop > start).all():
        part = to_rgb(np.asarray(level[start[1] : stop[1], start[0] : stop[0]]))
        (x, y), (h, w) = start - low, part.shape[:2]
        out[y : y + h, x : x + w] = part
    box = (*(middle - half - low).tolist(), *(middle + half - low).tolist())
    found = Image.fromarray(out).resize(size, Image.Resampling.BILINEAR, box=box)
    return np.array(found)
