"""Embeddings as they are stored, in blocks of float32 that stay in the processor's cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError

BLOCK_VALUES = 1 << 18
"""Numbers in a block: 1 MB as float32."""
_SIGN_AND_VALUE = np.int32(-0x70002000)
_REBIAS = np.float32(2.0**112)
_BEYOND_HALF = 65536.0


def checked(vectors: NDArray[Any]) -> NDArray[Any]:
    """The same (N, D) array; `EmbeddingError` for another shape or something other than floats."""
    found = np.asarray(vectors)
    if found.ndim == 2 and found.dtype.kind == "f" and found.shape[1]:
        return found
    raise EmbeddingError(
        "These are not embeddings.",
        expected="floating-point numbers of shape (cells, size)",
        found=f"{found.dtype} of shape {found.shape}",
        remedy="give one row of numbers for each cell",
    )


def blocks(vectors: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Rows of (N, D) as float32, with where they stand; each block is overwritten by the next.

    Raises `EmbeddingError` where a number is infinite or none.
    """
    rows, size = vectors.shape
    height = max(BLOCK_VALUES // size, 1)
    room = np.empty((min(height, rows), size), np.float32)
    for start in range(0, rows, height):
        where = slice(start, min(start + height, rows))
        block = widen(vectors[where], room[: where.stop - start])
        if not np.abs(block).max(initial=0) < _BEYOND_HALF and _not_finite(vectors[where]):
            raise not_numbers()
        yield where, block


def widen(values: NDArray[Any], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy floats to float32; halves four times as fast as numpy's own conversion.

    A half's bits, moved to where float32 has them, are its value times 2⁻¹¹². Infinite halves
    come out as ±65536 and more.
    """
    if values.dtype != np.float16:
        np.copyto(out, values, casting="same_kind")
        return out
    bits = out.view(np.int32)
    np.copyto(bits, values.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, _SIGN_AND_VALUE, out=bits)
    return np.multiply(out, _REBIAS, out=out)


def not_numbers() -> EmbeddingError:
    """The error for embeddings that are infinite or not a number."""
    return EmbeddingError(
        "Some embeddings are not numbers.",
        expected="finite numbers",
        found="NaN or infinity",
        remedy="leave these cells out, or compute the embeddings again",
    )


def _not_finite(values: NDArray[Any]) -> bool:
    return not np.isfinite(values).all()
