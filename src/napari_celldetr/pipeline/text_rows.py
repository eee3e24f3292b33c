"""Many rows of text at once: numbers and words as byte matrices, a million cells in seconds.

Every piece of a row is a byte matrix (N, width), filled up with NUL. Pieces are laid side by side
and the NULs dropped, so rows have their natural length and no Python code runs per cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Piece = NDArray[np.uint8]

_LARGEST = 1e12


def join(pieces: Sequence[Piece | bytes], count: int) -> bytes:
    """The `count` rows whose pieces these are, one after the other; bytes repeat in each row."""
    parts = [_repeated(p, count) if isinstance(p, bytes) else p for p in pieces]
    flat = np.concatenate(parts, axis=1).reshape(-1)
    return flat[flat != 0].tobytes()


def decimals(values: NDArray[Any], places: int) -> Piece:
    """Numbers (N,) with `places` decimals, or none for integers; nothing where not finite."""
    if values.dtype.kind in "bui" and places == 0:
        return _digits(values.astype(np.int64), 0)
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    if np.abs(numbers, where=finite, out=np.zeros_like(numbers)).max(initial=0.0) > _LARGEST:
        return words([repr(float(v)) if f else "" for v, f in zip(numbers, finite, strict=True)])
    scaled = np.rint(np.where(finite, numbers, 0.0) * 10**places).astype(np.int64)
    piece = _digits(scaled, places)
    piece[~finite] = 0
    return piece


def words(values: Sequence[str]) -> Piece:
    """Texts, UTF-8. A NUL inside a text is left out."""
    encoded = np.array([v.encode("utf-8", "replace") for v in values] or [b""], dtype=np.bytes_)
    width = max(encoded.dtype.itemsize, 1)
    return encoded.astype(f"S{width}").view(np.uint8).reshape(len(encoded), width)[: len(values)]


def hexadecimal(values: NDArray[np.uint64]) -> Piece:
    """The 16 hexadecimal digits of each number (N, 16)."""
    shifts = np.arange(60, -4, -4, dtype=np.uint64)
    nibbles = (values[:, None] >> shifts) & np.uint64(15)
    return np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.intp)]


def blank(piece: Piece, where: NDArray[np.bool_]) -> Piece:
    """The piece with nothing in the rows `where` says."""
    out = piece.copy()
    out[where] = 0
    return out


def _digits(scaled: NDArray[np.int64], places: int) -> Piece:
    """Fixed-point integers as text: sign, digits without leading zeros, point, `places` digits."""
    rest = np.abs(scaled)
    width = max(len(str(int(rest.max(initial=0)))), places + 1)
    piece = np.zeros((len(scaled), 1 + width + bool(places)), np.uint8)
    piece[scaled < 0, 0] = ord("-")
    column = piece.shape[1] - 1
    for position in range(width):
        if places and position == places:
            piece[:, column] = ord(".")
            column -= 1
        shown = np.uint8(48) + (rest % 10).astype(np.uint8)
        if position > places:
            shown[rest == 0] = 0
        piece[:, column] = shown
        rest = rest // 10
        column -= 1
    return piece


def _repeated(text: bytes, count: int) -> Piece:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (count, len(text)))
