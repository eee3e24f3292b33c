"""Which format a file holds, by its content, and the backend that reads it.

Light to import: the trial opening in a child process needs this and no more.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import openslide

from napari_celldetr.core.errors import SlideError, no_file
from napari_celldetr.slides.aperio_slide import open_vendor
from napari_celldetr.slides.backend import Backend
from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.limits import check_size, check_tile, refuse
from napari_celldetr.slides.openslide_slide import OpenSlideBackend
from napari_celldetr.slides.picture_slide import PictureBackend, is_picture
from napari_celldetr.slides.tiff_map import PositionedFile, is_tiff, walk
from napari_celldetr.slides.tiff_slide import TiffBackend
from napari_celldetr.slides.zarr_slide import ZarrBackend, is_zarr

HEAD_BYTES = 1024
GROUP = "napari_celldetr.readers"
GENERIC = "generic-tiff"


@dataclass(frozen=True, slots=True)
class Reader:
    """A file format: `claims(path, first bytes)` says whether it is one, `open` gives a backend.

    The first bytes are empty for a folder. Plugins offer a `Reader` under the entry point group
    ``napari_celldetr.readers`` and are asked before the built-in ones.
    """

    name: str
    claims: Callable[[Path, bytes], bool]
    open: Callable[[Path], Backend]


def open_backend(path: Path, head: bytes) -> Backend:
    """The open file. `SlideError` when it is no slide or is damaged."""
    with as_slide_error(path.name, "opening"):
        return choose_reader(path, head).open(path)


def read_head(path: Path) -> bytes:
    """First bytes of a file, nothing of a folder. `SlideError` for anything else."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return b""
        if stat.S_ISREG(mode):
            with open(path, "rb") as file:
                return file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise no_file(SlideError, path) from error
    except (OSError, ValueError) as error:
        raise refuse(
            path.name, "a readable file", type(error).__name__, "check the path"
        ) from error
    # A pipe or a device would block for ever.
    raise refuse(path.name, "a file or an OME-Zarr folder", "something else", "check the path")


def refuse_bombs(path: Path, head: bytes) -> None:
    """Look at a TIFF's directories ourselves before any library believes them."""
    if not is_tiff(head):
        return
    file = PositionedFile(path)
    try:
        with as_slide_error(path.name, "its directories"):
            for directory in walk(file):
                for one in (directory, *directory.children):
                    if one.is_tiled:
                        depth = max(one.number(258, 8) // 8, 1) * one.number(277, 1)
                        check_size(path.name, *one.size)
                        check_tile(path.name, one.number(322, 0), one.number(323, 0), depth)
    finally:
        file.close()


def choose_reader(path: Path, head: bytes) -> Reader:
    """The first reader that claims the file, plugins first. `SlideError` when none does."""
    for reader in (*plugins(), *BUILT_IN):
        if reader.claims(path, head):
            return reader
    raise SlideError(
        f"{path.name!r} is not a slide this program reads.",
        expected="a vendor slide, OME-TIFF, TIFF, OME-Zarr, PNG or JPEG",
        found="none of these by its content",
        remedy="convert it to OME-TIFF, or check that the file is complete",
    )


@cache
def plugins() -> tuple[Reader, ...]:
    """Readers other packages bring, by name."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(point.load() for point in found)


def _vendor(path: Path) -> str:
    return str(openslide.OpenSlide.detect_format(path) or "")


def _is_vendor(path: Path, head: bytes) -> bool:
    return bool(head) and _vendor(path) not in ("", GENERIC)


def _open_tiff(path: Path) -> Backend:
    """Our own reader; OpenSlide for a plain tiled TIFF that ours refuses."""
    try:
        return TiffBackend(path)
    except SlideError as ours:
        if _vendor(path) != GENERIC:
            raise
        try:
            return OpenSlideBackend(path)
        except SlideError:
            raise ours from None  # ours says what is wrong with the file


BUILT_IN: tuple[Reader, ...] = (
    Reader("ome-zarr", is_zarr, ZarrBackend),
    Reader("openslide", _is_vendor, open_vendor),
    Reader("tiff", lambda _path, head: is_tiff(head), _open_tiff),
    Reader("picture", lambda _path, head: is_picture(head), PictureBackend),
)
