"""OME-TIFF and plain TIFF as a slide: directories sorted into levels, tiles decoded directly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.limits import refuse
from napari_celldetr.slides.ome_xml import OmePicture, is_ome, parse_ome
from napari_celldetr.slides.pixels import oriented, stored_box, swaps_axes
from napari_celldetr.slides.tiff_image import TiffImage
from napari_celldetr.slides.tiff_map import Directory, PositionedFile, walk
from napari_celldetr.slides.tile_cache import TileCache

SEGMENT_CACHE_BYTES = 64 * 2**20
"""Enough for the tiles that neighbouring regions share, halos included."""
UM_PER_UNIT = {2: 25400.0, 3: 10000.0}
ASPECT_TOLERANCE_PX = 1.5


class TiffBackend:
    """A TIFF read by us. See `Backend`.

    Raises `SlideError` when the file is not a TIFF whose first picture we can decode.
    """

    def __init__(self, path: Path) -> None:
        self._file = PositionedFile(path)
        try:
            self._open(walk(self._file))
        except BaseException:
            self._file.close()
            raise

    def _open(self, directories: list[Directory]) -> None:
        name = self._file.path.name
        text = directories[0].text(270)
        ome = parse_ome(text, name) if is_ome(text) else None
        bases = _base_directories(directories, ome, name)
        cache = TileCache(SEGMENT_CACHE_BYTES)
        stacks = [
            [
                TiffImage(base, cache=cache),
                *_smaller(base, _candidates(base, directories, ome), cache),
            ]
            for base in bases
        ]
        depth = min(len(stack) for stack in stacks)
        # One image a level for RGB; three for channels kept in directories of their own.
        self._levels = [tuple(stack[level] for stack in stacks) for level in range(depth)]
        orientation = bases[0].number(274, 1)
        self.orientation = orientation if 1 <= orientation <= 8 else 1
        mpp, source = _pixel_size(bases[0], ome, text)
        self._facts = Facts(
            level_sizes=tuple(self._seen_size(images[0].size) for images in self._levels),
            mpp=mpp if mpp is None or not swaps_axes(self.orientation) else mpp[::-1],
            mpp_source=source,
            objective=ome.objective if ome else _described(text, "AppMag"),
        )

    def _seen_size(self, stored: tuple[int, int]) -> tuple[int, int]:
        return (stored[1], stored[0]) if swaps_axes(self.orientation) else stored

    @property
    def facts(self) -> Facts:
        """What the file says about itself."""
        return self._facts

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        images = self._levels[level]
        if self.orientation == 1:
            return _joined(images, (x, y, width, height))
        box = stored_box((x, y, width, height), self._facts.level_sizes[level], self.orientation)
        return oriented(_joined(images, box), self.orientation)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _joined(images: tuple[TiffImage, ...], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    if len(images) == 1:
        return images[0].read(*box)
    return np.stack([image.read(*box)[..., 0] for image in images], axis=-1)


def _base_directories(
    directories: list[Directory], ome: OmePicture | None, name: str
) -> list[Directory]:
    if ome is None:
        return [directories[0]]
    if max(ome.planes) >= len(directories):
        raise refuse(name, f"directory {max(ome.planes)}", f"{len(directories)} directories")
    bases = [directories[plane] for plane in ome.planes]
    if len(bases) == 3 and bases[0].number(277, 1) == 3:
        # Some writers count the samples of one RGB plane as channels of their own.
        return bases[:1]
    return bases


def _candidates(
    base: Directory, directories: list[Directory], ome: OmePicture | None
) -> list[Directory]:
    if base.children:
        return list(base.children)
    if ome is not None:
        return []
    return [d for d in directories if d is not base]


def _smaller(base: Directory, candidates: list[Directory], cache: TileCache) -> list[TiffImage]:
    """The candidates that are the same picture at lower resolution, largest first."""
    levels: list[TiffImage] = []
    last = base.size
    for directory in sorted(candidates, key=lambda d: -d.size[0] * d.size[1]):
        if (
            _is_level(base, directory)
            and directory.size[0] < last[0]
            and directory.size[1] < last[1]
        ):
            levels.append(TiffImage(directory, cache=cache))
            last = directory.size
    return levels


def _is_level(base: Directory, other: Directory) -> bool:
    """Same shape, same kind of storage, and not marked as a macro picture."""
    (w0, h0), (w, h) = base.size, other.size
    if w < 1 or h < 1 or other.is_tiled != base.is_tiled or other.number(254, 0) not in (0, 1):
        return False
    if other.number(277, 1) != base.number(277, 1) or other.number(258, 1) != base.number(258, 1):
        return False
    return (
        abs(w0 * h / h0 - w) <= ASPECT_TOLERANCE_PX or abs(h0 * w / w0 - h) <= ASPECT_TOLERANCE_PX
    )


def _pixel_size(
    directory: Directory, ome: OmePicture | None, text: str
) -> tuple[tuple[float, float] | None, str]:
    if ome is not None:
        return (ome.mpp, "ome-xml") if ome.mpp else (None, "missing")
    described = _described(text, "MPP")
    if described:
        return (described, described), "aperio description"
    x, y = directory.real(282), directory.real(283)
    factor = UM_PER_UNIT.get(directory.number(296, 2))
    if text.startswith("ImageJ=") and re.search(r"^unit=(\\u00B5m|µm|um|micron)", text, re.M):
        factor = 1.0
    if not x or not y or factor is None:
        return None, "missing"
    return (factor / x, factor / y), "tiff tag"


def _described(text: str, key: str) -> float | None:
    """A number from Aperio's ``key = value|…`` description."""
    if not text.startswith("Aperio"):
        return None
    match = re.search(rf"\b{key}\s*=\s*([0-9.]+)", text[:100_000])
    try:
        return float(match.group(1)) if match else None
    except ValueError:
        return None
