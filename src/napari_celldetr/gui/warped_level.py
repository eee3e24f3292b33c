"""A level of a warped picture as napari sees it: an array that is made where it is looked at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari_celldetr.gui.warped import Key, WarpedPyramid

CHUNK_PX = 512
THREADS = 2
"""Reading a slide's tiles and unfolding them goes on beside each other."""
MOST_SHOWN = 120
"""Chunks of a screen 5,120 by 2,880 px, with as many again for what lies at its rim."""

Place = tuple[int, int]
Bytes = NDArray[np.uint8]


class Later(Protocol):
    """Makes chunks that are not there yet, in a thread of its own."""

    def want(self, pyramid: WarpedPyramid, keys: list[Key], *, asker: str) -> None:
        """Make these; what the same asker wanted before is wanted no longer."""
        ...


class WarpedLevel:
    """What napari sees of a level: shape, dtype, and slices of (y, x, channel)."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(
        self, pyramid: WarpedPyramid, level: int, size: tuple[int, int], *, masked: bool = True
    ) -> None:
        self._pyramid, self._level, self._masked = pyramid, level, masked
        self.size_px = size
        self.shape = (size[1], size[0], 4)
        self.size = size[0] * size[1] * 4

    def __getitem__(self, key: Any) -> Bytes:
        return self._cut(key, exact=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._cut(slice(None), exact=True).astype(dtype or self.dtype)

    def _cut(self, key: Any, *, exact: bool) -> Bytes:
        keys = list(key) if isinstance(key, tuple) else [key]
        ys, xs, channels = keys + [slice(None)] * (3 - len(keys))
        (y0, y1, _), (x0, x1, _) = ys.indices(self.shape[0]), xs.indices(self.shape[1])
        out = np.zeros((max(y1 - y0, 0), max(x1 - x0, 0), 4), np.uint8)
        places = [
            (column, row)
            for row in range(y0 // CHUNK_PX, -(-y1 // CHUNK_PX))
            for column in range(x0 // CHUNK_PX, -(-x1 // CHUNK_PX))
        ]
        for (column, row), chunk in zip(places, self._chunks(places, exact=exact), strict=True):
            left, top = column * CHUNK_PX, row * CHUNK_PX
            ya, yb = max(y0, top), min(y1, top + chunk.shape[0])
            xa, xb = max(x0, left), min(x1, left + chunk.shape[1])
            out[ya - y0 : yb - y0, xa - x0 : xb - x0] = chunk[
                ya - top : yb - top, xa - left : xb - left
            ]
        step, origin = self._pyramid.step(self._level), self._pyramid.origin
        x = (np.arange(x0, x1) + 0.5) * step[0] + origin[0]
        y = (np.arange(y0, y1) + 0.5) * step[1] + origin[1]
        if self._masked:
            self._pyramid.mask.cut(out, x, y)
        return out[:, :, channels]

    def _chunks(self, places: list[Place], *, exact: bool) -> list[Bytes]:
        later = self._pyramid.later
        # Nobody looks at so much at once: it is to be written or computed with. And beside the
        # window's thread nobody waits.
        exact |= len(places) > MOST_SHOWN or current_thread() is not main_thread()
        return self._made(places) if later is None or exact else self._there(places, later)

    def _made(self, places: list[Place]) -> list[Bytes]:
        make = self._pyramid.chunk
        if len(places) < 2:
            return [make(self._level, *p) for p in places]
        with ThreadPoolExecutor(THREADS, "celldetr-warped") as pool:
            return list(pool.map(lambda p: make(self._level, *p), places))

    def _there(self, places: list[Place], later: Later) -> list[Bytes]:
        """What was made already; the rest is asked for, and stood in for."""
        pyramid, level = self._pyramid, self._level
        found = {place: pyramid.known(level, *place) for place in places}
        missing = [(level, *place) for place, chunk in found.items() if chunk is None]
        if missing or not pyramid.is_base(level):
            later.want(pyramid, missing, asker="picture" if self._masked else "loupe")
        return [pyramid.stand_in(level, *p) if c is None else c for p, c in found.items()]
