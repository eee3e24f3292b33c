"""How much of a file is believed: the caps that keep a hostile header from costing anything."""

from __future__ import annotations

from napari_celldetr.core.errors import SlideError

MAX_TILE_BYTES = 256 * 2**20
"""A decoded tile or strip may not be larger; OpenSlide aborts the process on giant tiles."""

MAX_IMAGE_BYTES = 512 * 2**20
"""A PNG or JPEG is decoded whole, so the whole picture may not be larger."""

MAX_SLIDE_PX = 2**37
"""Level-0 pixels; the largest scanners make about 2**35."""

MAX_SIDE_PX = 2**22
"""Level-0 side."""

MAX_IFDS = 10_000
MAX_TAGS = 4096
MAX_TAG_BYTES = 128 * 2**20
MAX_TEXT_BYTES = 16 * 2**20


def refuse(name: str, expected: str, found: str, remedy: str = "") -> SlideError:
    """A `SlideError` about file `name`, to be raised by the caller."""
    return SlideError(
        f"The slide {name!r} cannot be used.",
        expected=expected,
        found=found,
        remedy=remedy or "take the file again from its source, or convert it to OME-TIFF",
    )


def check_size(name: str, width: int, height: int) -> None:
    """Raise `SlideError` when a picture's size is zero or beyond belief."""
    if width < 1 or height < 1 or max(width, height) > MAX_SIDE_PX:
        raise refuse(name, f"sides of 1 to {MAX_SIDE_PX} px", f"{width} × {height}")
    if width * height > MAX_SLIDE_PX:
        raise refuse(name, f"at most {MAX_SLIDE_PX} px", f"{width} × {height}")


def check_tile(name: str, width: int, height: int, bytes_per_px: int) -> None:
    """Raise `SlideError` when one tile would not fit the limit."""
    size = width * height * bytes_per_px
    if width < 1 or height < 1 or size > MAX_TILE_BYTES:
        raise refuse(
            name,
            f"tiles of at most {MAX_TILE_BYTES >> 20} MiB",
            f"a tile of {width} × {height} px, {size >> 20} MiB",
            "convert the slide to a tiled pyramid",
        )
