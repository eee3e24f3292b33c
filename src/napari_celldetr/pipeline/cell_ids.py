"""Ids of cells: UUIDs that depend on the slide, the model and the box, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.pipeline.text_rows import Piece, hexadecimal

WIDTH = 36
_DASHES = [8, 13, 18, 23]
_DIGITS = [i for i in range(WIDTH) if i not in _DASHES]
_VALUES = np.full(256, 255, np.uint8)
_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_VALUES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


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


def letters(ids: NDArray[np.uint64]) -> Piece:
    """The ids (N, 2) as ``xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx``, a row of 36 bytes each."""
    out = np.full((len(ids), WIDTH), ord("-"), np.uint8)
    out[:, _DIGITS] = np.concatenate([hexadecimal(ids[:, 0]), hexadecimal(ids[:, 1])], axis=1)
    return out


def as_text(ids: NDArray[np.uint64]) -> list[str]:
    """The ids as texts, as `letters` writes them."""
    texts: list[str] = letters(ids).view(f"S{WIDTH}").reshape(-1).astype(np.str_).tolist()
    return texts


def from_text(texts: Sequence[str]) -> NDArray[np.uint64]:
    """The ids (N, 2) that `as_text` wrote; ``ValueError`` for anything that is not a UUID."""
    if not len(texts):
        return np.zeros((0, 2), np.uint64)
    wrong = next((t for t in texts if len(t) != WIDTH), None)
    if wrong is not None:
        raise ValueError(f"{wrong[:50]!r} is not a UUID")
    rows = np.array(texts, f"S{WIDTH}").view(np.uint8).reshape(-1, WIDTH)
    digits = _VALUES[rows[:, _DIGITS]]
    bad = (digits > 15).any(axis=1) | (rows[:, _DASHES] != ord("-")).any(axis=1)
    if bad.any():
        raise ValueError(f"{texts[int(np.argmax(bad))]!r} is not a UUID")
    halves = np.zeros((len(rows), 2), np.uint64)
    # Digit by digit: 16 numbers of 64 bits for each half of a million ids are a lot of memory.
    for digit in digits.reshape(-1, 2, 16).transpose(2, 0, 1):
        halves = (halves << np.uint64(4)) | digit
    return halves


def come_twice(ids: NDArray[np.uint64]) -> bool:
    """Whether any id (N, 2) is there more than once."""
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    ranked = ids[order]
    return bool((ranked[1:] == ranked[:-1]).all(axis=1).any())


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
