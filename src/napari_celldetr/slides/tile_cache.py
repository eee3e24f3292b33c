"""A byte-bounded, thread-safe cache of decoded pixels, least recently used out first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
from numpy.typing import NDArray


class TileCache:
    """Arrays by key, together at most `limit_bytes`, or the newest alone where it is larger.

    Ours instead of dask's global cache, which takes a quarter of the machine's memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._items: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The array of `key`, made outside the lock when it is not here. Read-only."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        made = make()
        made.flags.writeable = False
        with self._lock:
            if key not in self._items:
                self._items[key] = made
                self._bytes += made.nbytes
            while self._bytes > self.limit_bytes and len(self._items) > 1:
                _, old = self._items.popitem(last=False)
                self._bytes -= old.nbytes
        return made

    def held(self, key: Hashable) -> NDArray[np.uint8] | None:
        """The array of `key` where it is here. Read-only."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._items.clear()
            self._bytes = 0
