"""One edit as bytes: a small JSON header, then plain little-endian arrays. Nothing is executed.

``CDJ1``, flags (bit 0: the body is zlib), length of the header, length of the body as it is
unpacked, header, body. The body holds the keys, the columns before, those columns after that
differ from before, and the corners of areas.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area, AreaChange, CellStates, Edit
from napari_celldetr.core.errors import AnnotationError

MAX_CELLS = 5_000_000
MAX_BYTES = 400 * 2**20
"""Of one entry as it is stored, and of its body unpacked; beyond that nothing is believed."""
_MAX_HEADER = 8 * 2**20
_PACK_FROM = 1024
_START = struct.Struct("<4sBxxxII")
_MAGIC = b"CDJ1"
_COLUMNS = (("boxes", "<f4", 4), ("class_ids", "<i2", 1), ("scores", "<f4", 1), ("status", "u1", 1))


def encode(edit: Edit) -> bytes:
    """An edit without its words. Raises `AnnotationError` when it is too large for one entry."""
    if len(edit) > MAX_CELLS:
        raise _too_large(f"{len(edit):,} cells")
    parts = [edit.keys.astype("<u8", copy=False).tobytes()]
    before = [_column(edit.before, name, kind) for name, kind, _ in _COLUMNS]
    after = [_column(edit.after, name, kind) for name, kind, _ in _COLUMNS]
    parts += before
    parts += [new for old, new in zip(before, after, strict=True) if new != old]
    parts += [
        area.corners.astype("<f8", copy=False).tobytes()
        for change in edit.areas
        for area in (change.before, change.after)
        if area is not None
    ]
    header = json.dumps(
        {
            "n": len(edit),
            "classes": edit.class_names,
            "changed": [
                column[0]
                for column, old, new in zip(_COLUMNS, before, after, strict=True)
                if new != old
            ],
            "areas": [[c.id, _about(c.before), _about(c.after)] for c in edit.areas],
        },
        separators=(",", ":"),
    ).encode()
    body = b"".join(parts)
    if len(body) > MAX_BYTES or len(header) > _MAX_HEADER:
        raise _too_large(f"{(len(body) + len(header)) >> 20:,} MiB")
    packed = zlib.compress(body, 1) if len(body) >= _PACK_FROM else body
    smaller = len(packed) < 0.9 * len(body)
    start = _START.pack(_MAGIC, smaller, len(header), len(body))
    return start + header + (packed if smaller else body)


def decode(payload: bytes, what: str) -> Edit:
    """The edit that `encode` wrote, with its words. `AnnotationError` for anything else."""
    try:
        return _decode(payload, what)
    except AnnotationError as error:
        raise _unreadable(error.found or error.message) from error
    except (ValueError, KeyError, TypeError, RecursionError, struct.error, zlib.error) as error:
        raise _unreadable(f"{type(error).__name__}: {str(error)[:100]}") from error


def _decode(payload: bytes, what: str) -> Edit:
    magic, flags, header_bytes, body_bytes = _START.unpack_from(payload)
    if magic != _MAGIC or flags > 1:
        raise _unreadable("another format, perhaps of a newer version")
    if header_bytes > _MAX_HEADER or body_bytes > MAX_BYTES:
        raise _unreadable("more bytes than an entry can have")
    split = _START.size + header_bytes
    header = json.loads(payload[_START.size : split])
    body = _Body(_unpacked(payload[split:], body_bytes) if flags else payload[split:])
    n, names = header["n"], tuple(header["classes"])
    if not isinstance(n, int) or not 0 <= n <= MAX_CELLS:
        raise _unreadable("a count that cannot be")
    if not all(isinstance(name, str) for name in names):
        raise _unreadable("class names that are not text")
    keys = body.take("<u8", (n, 2))
    before = {name: body.take(kind, _shape(n, width)) for name, kind, width in _COLUMNS}
    after = {
        name: body.take(kind, _shape(n, width)) if name in header["changed"] else before[name]
        for name, kind, width in _COLUMNS
    }
    areas = tuple(
        AreaChange(_text(name), _area(body, old), _area(body, new))
        for name, old, new in header["areas"]
    )
    if body.left:
        raise _unreadable(f"{body.left} bytes too many")
    return Edit(what, keys, CellStates(**before), CellStates(**after), names, areas)


class _Body:
    """Arrays one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not taken."""
        return len(self._data) - self._at

    def take(self, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The next array."""
        dtype = np.dtype(kind)
        count = 1
        for side in shape:
            count *= side
        if count * dtype.itemsize > self.left:
            raise _unreadable("fewer bytes than the header says")
        array = np.frombuffer(self._data, dtype, count, self._at).reshape(shape)
        self._at += count * dtype.itemsize
        return array


def _column(states: CellStates, name: str, kind: str) -> bytes:
    array: NDArray[Any] = getattr(states, name)
    return array.astype(kind, copy=False).tobytes()


def _shape(n: int, width: int) -> tuple[int, ...]:
    return (n, width) if width > 1 else (n,)


def _unpacked(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    body = stream.decompress(data, size + 1)
    if len(body) != size or not stream.eof or stream.unused_data:
        raise _unreadable("a body of another length than the header says")
    return body


def _about(area: Area | None) -> tuple[str, str, int] | None:
    return None if area is None else (area.kind, area.name, len(area.polygon))


def _area(body: _Body, about: Any) -> Area | None:
    if about is None:
        return None
    kind, name, corners = about
    if kind not in ("complete", "region") or not isinstance(corners, int) or corners < 3:
        raise _unreadable("an area of an unknown kind")
    polygon = body.take("<f8", (corners, 2)).tolist()
    return Area(tuple((x, y) for x, y in polygon), kind, _text(name))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _unreadable("a name that is not text")
    return value


def _too_large(found: str) -> AnnotationError:
    return AnnotationError(
        "This edit is too large to be kept as one entry.",
        expected=f"at most {MAX_CELLS:,} cells and {MAX_BYTES >> 20} MiB",
        found=found,
        remedy="make it in several steps",
    )


def _unreadable(found: str) -> AnnotationError:
    return AnnotationError(
        "An entry of the journal cannot be read.",
        expected="an edit as this version writes it",
        found=found,
        remedy="update napari-celldetr, or go back to a copy of the project",
    )
