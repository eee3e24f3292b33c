"""Where everything lies in a TIFF: a bounded walk over its directories, no pixel touched.

Written for untrusted files: directories and tags are counted, loops are seen, every offset is
checked against the file's size, and values are read only when asked for. Classic and BigTIFF,
both byte orders.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.limits import (
    MAX_IFDS,
    MAX_TAG_BYTES,
    MAX_TAGS,
    MAX_TEXT_BYTES,
    refuse,
)

TYPE_CODES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
RATIONAL = (5, 10)
SUB_IFDS = 330
NDPI_MARK = 65420


class PositionedFile:
    """A file read at given offsets by any number of threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        # A viewer drops slides without closing them; the descriptor must go with the object.
        self._finalizer = weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes at `offset`; fewer at the end of the file. `ValueError` once closed."""
        if not self._finalizer.alive:
            raise ValueError("read of a closed file")
        if offset >= self.size:
            return b""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, count, offset)
        with self._lock:  # no pread on Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, count)

    def close(self) -> None:
        """Give the descriptor back."""
        self._finalizer()


@dataclass(frozen=True, slots=True)
class Tag:
    """One directory entry; `offset` is where its values start."""

    kind: int
    count: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        width = int(TYPE_CODES[self.kind][1]) * (2 if self.kind in RATIONAL else 1)
        return self.count * width


@dataclass(frozen=True, eq=False)
class Directory:
    """One image file directory, with the directories hanging below it."""

    file: PositionedFile
    order: str
    tags: dict[int, Tag]
    children: tuple[Directory, ...] = ()
    _seen: dict[int, NDArray[np.generic]] = field(default_factory=dict)

    def array(self, tag: int) -> NDArray[np.generic]:
        """All values of a tag, empty when it is absent; rationals as float64."""
        if tag not in self._seen:
            self._seen[tag] = self._load(tag)
        return self._seen[tag]

    def _load(self, tag: int) -> NDArray[np.generic]:
        entry = self.tags.get(tag)
        if entry is None:
            return np.zeros(0, np.uint8)
        if entry.size > MAX_TAG_BYTES:
            raise refuse(
                self.file.path.name,
                f"tags of at most {MAX_TAG_BYTES} bytes",
                f"tag {tag} of {entry.size} bytes",
            )
        data = self.file.read(entry.offset, entry.size)
        if len(data) < entry.size:
            raise refuse(
                self.file.path.name, f"{entry.size} bytes in tag {tag}", "the end of the file"
            )
        values = np.frombuffer(data, self.order + TYPE_CODES[entry.kind])
        if entry.kind not in RATIONAL:
            return values
        pairs = values.reshape(-1, 2).astype(np.float64)
        zero = pairs[:, 1] == 0
        return np.where(zero, 0.0, pairs[:, 0] / np.where(zero, 1.0, pairs[:, 1]))

    def number(self, tag: int, default: int) -> int:
        """First value of a tag as an integer."""
        values = self.array(tag)
        return int(values[0]) if len(values) else default

    def real(self, tag: int) -> float | None:
        """First value of a tag as a float, None when absent."""
        values = self.array(tag)
        return float(values[0]) if len(values) else None

    def raw(self, tag: int) -> bytes | None:
        """The bytes of a tag, None when absent."""
        return self.array(tag).tobytes() if tag in self.tags else None

    def text(self, tag: int) -> str:
        """A tag's text, cut at a sane length."""
        entry = self.tags.get(tag)
        if entry is None or entry.size > MAX_TEXT_BYTES:
            return ""
        return self.array(tag).tobytes().rstrip(b"\0").decode("utf-8", "replace")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in stored pixels."""
        return self.number(256, 0), self.number(257, 0)

    @property
    def is_tiled(self) -> bool:
        """Whether the pixels are in tiles, not strips."""
        return 322 in self.tags

    @property
    def is_ndpi(self) -> bool:
        """Hamamatsu's variant, whose offsets only OpenSlide understands."""
        return NDPI_MARK in self.tags


def is_tiff(head: bytes) -> bool:
    """Whether a file that starts with `head` claims to be a TIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True, slots=True)
class _Layout:
    order: str
    count_code: str
    entry_bytes: int
    offset_code: str

    @property
    def inline_bytes(self) -> int:
        return struct.calcsize(self.offset_code)


_CLASSIC = ("H", 12, "I")
_BIG = ("Q", 20, "Q")


class _Walker:
    def __init__(self, file: PositionedFile) -> None:
        self.file = file
        self.name = file.path.name
        self.seen: set[int] = set()
        head = file.read(0, 16)
        if not is_tiff(head) or len(head) < 8:
            raise refuse(self.name, "a TIFF header", repr(head[:4]))
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        if big and (len(head) < 16 or struct.unpack(order + "HH", head[4:8]) != (8, 0)):
            raise refuse(self.name, "a BigTIFF header", repr(head[:8]))
        self.layout = _Layout(order, *(_BIG if big else _CLASSIC))
        self.first = int(
            struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
        )

    def chain(self, offset: int) -> Iterator[Directory]:
        while offset:
            directory, offset = self._directory(offset, depth=0)
            yield directory
            if directory.is_ndpi:
                return

    def _directory(self, offset: int, *, depth: int) -> tuple[Directory, int]:
        if offset in self.seen:
            raise refuse(self.name, "directories in a chain", "a loop of directories")
        self.seen.add(offset)
        if len(self.seen) > MAX_IFDS:
            raise refuse(self.name, f"at most {MAX_IFDS} directories", "more")
        tags, following = self._entries(offset)
        below: tuple[Directory, ...] = ()
        directory = Directory(self.file, self.layout.order, tags)
        if SUB_IFDS in tags and depth == 0:
            if tags[SUB_IFDS].count > MAX_IFDS:
                raise refuse(self.name, f"at most {MAX_IFDS} directories", "more")
            offsets = [int(v) for v in directory.array(SUB_IFDS)]
            below = tuple(self._directory(o, depth=1)[0] for o in offsets if o)
        return Directory(self.file, self.layout.order, tags, below), following

    def _entries(self, offset: int) -> tuple[dict[int, Tag], int]:
        order, layout = self.layout.order, self.layout
        counted = struct.calcsize(layout.count_code)
        head = self.file.read(offset, counted)
        if len(head) < counted:
            raise refuse(self.name, "a directory", f"the end of the file at {offset}")
        (count,) = struct.unpack(order + layout.count_code, head)
        if not 0 < count <= MAX_TAGS:
            raise refuse(self.name, f"1 to {MAX_TAGS} tags in a directory", str(count))
        start = offset + counted
        body = self.file.read(start, count * layout.entry_bytes + layout.inline_bytes)
        if len(body) < count * layout.entry_bytes:
            raise refuse(self.name, f"{count} tags", "the end of the file")
        tags: dict[int, Tag] = {}
        for i in range(count):
            at = i * layout.entry_bytes
            number, tag = self._tag(body[at : at + layout.entry_bytes], start + at)
            if tag is not None:
                tags.setdefault(number, tag)
        last = body[count * layout.entry_bytes :]
        if len(last) < layout.inline_bytes:
            return tags, 0
        return tags, int(struct.unpack(order + layout.offset_code, last)[0])

    def _tag(self, entry: bytes, at: int) -> tuple[int, Tag | None]:
        order, code = self.layout.order, self.layout.offset_code
        number, kind, count = struct.unpack_from(order + "HH" + code, entry)
        if kind not in TYPE_CODES:
            return number, None
        inline = Tag(kind, count, at + len(entry) - self.layout.inline_bytes)
        if inline.size <= self.layout.inline_bytes:
            return number, inline
        (offset,) = struct.unpack_from(order + code, entry, len(entry) - self.layout.inline_bytes)
        tag = Tag(kind, count, offset)
        if offset + tag.size > self.file.size:
            # Damaged tags that nothing needs must not cost the slide; needed ones are missed later.
            return number, None
        return number, tag


def walk(file: PositionedFile) -> list[Directory]:
    """All directories of the main chain, each with its children.

    Raises `SlideError` for anything that is not a TIFF, loops, ends early or never ends.
    """
    walker = _Walker(file)
    found = list(walker.chain(walker.first))
    if not found:
        raise refuse(file.path.name, "at least one directory", "none")
    return found
