"""Ids of cells: UUIDs that depend on the slide, the model and the box, and nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections


def cell_ids(cells: Detections) -> NDArray[np.uint64]:
    """Two 64-bit halves (N, 2) of a version-8 UUID per cell, unique within the table.

    The same cell of the same model has the same id in every export, whatever its class or
    threshold; cells with exactly the same box are told apart by their order.
    """
    seed = hashlib.sha256(f"{cells.source.slide_id} {cells.source.weights_sha256}".encode())
    start = np.frombuffer(seed.digest()[:16], np.uint64)
    corners = (np.round(cells.boxes.astype(np.float64), 2) * 100).astype(np.int64).view(np.uint64)
    halves = np.empty((len(cells), 2), np.uint64)
    for half in range(2):
        mixed = np.full(len(cells), start[half])
        for column in corners.T:
            mixed = _mix(mixed ^ column)
        halves[:, half] = mixed
    halves[:, 1] = _mix(halves[:, 1] + _repeats(halves[:, 0]))
    halves[:, 0] = (halves[:, 0] & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x8000)
    halves[:, 1] = (halves[:, 1] & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(1 << 63)
    return halves


def as_text(ids: NDArray[np.uint64]) -> list[str]:
    """The ids as ``xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx``."""
    return [
        f"{high >> 32:08x}-{high >> 16 & 0xFFFF:04x}-{high & 0xFFFF:04x}"
        f"-{low >> 48:04x}-{low & 0xFFFFFFFFFFFF:012x}"
        for high, low in ids.tolist()
    ]


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: every input bit reaches every output bit."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _repeats(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many equal keys (N,) come before each one."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = ranked[1:] != ranked[:-1]
    places = np.arange(len(keys))
    start = np.maximum.accumulate(np.where(fresh, places, 0))
    count = np.empty(len(keys), np.uint64)
    count[order] = places - start
    return count
