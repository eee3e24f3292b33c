"""A slide's fingerprint: sizes and sampled blocks instead of gigabytes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from napari_celldetr.slides.boundary import as_slide_error

BLOCK_BYTES = 64 * 1024
BLOCKS = 64
FOLDER_FILES = 64


def fingerprint(path: Path, extra: str = "") -> str:
    """sha256 (hex) over size and first, last and 64 seeded blocks of a file.

    A folder (OME-Zarr) is hashed by the names and sizes of all its files and by the blocks of
    its metadata and of 64 seeded others. `extra` is the format's own hash, for slides that are
    more than one file. Raises `SlideError` when something cannot be read.
    """
    sha = hashlib.sha256(extra.encode())
    with as_slide_error(path.name, "fingerprinting"):
        if path.is_dir():
            for file in _sampled_files(path, sha.update):
                _add_file(file, sha.update)
        else:
            _add_file(path, sha.update)
    return sha.hexdigest()


def _add_file(path: Path, update: Callable[[bytes], object]) -> None:
    size = path.stat().st_size
    update(f"{size};".encode())
    with open(path, "rb") as file:
        for offset in _offsets(size):
            file.seek(offset)
            update(file.read(BLOCK_BYTES))


def _offsets(size: int) -> Iterator[int]:
    """Where blocks start: first, 64 seeded by the size, last; everything of a small file."""
    if size <= (BLOCKS + 2) * BLOCK_BYTES:
        yield from range(0, size, BLOCK_BYTES)
        return
    chance = random.Random(size)
    yield 0
    yield from sorted(chance.randrange(size - BLOCK_BYTES) for _ in range(BLOCKS))
    yield size - BLOCK_BYTES


def _sampled_files(folder: Path, update: Callable[[bytes], object]) -> list[Path]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for file in files:
        update(f"{file.relative_to(folder).as_posix()}:{file.stat().st_size};".encode())
    described = [f for f in files if f.name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")]
    data = [f for f in files if f not in set(described)]
    chance = random.Random(len(files))
    return described[:1000] + sorted(chance.sample(data, min(FOLDER_FILES, len(data))))
