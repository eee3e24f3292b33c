"""PNG and JPEG pictures as slides of one level, decoded whole."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.jpeg_header import JpegHeader, parse_jpeg
from napari_celldetr.slides.limits import MAX_IMAGE_BYTES, refuse
from napari_celldetr.slides.pixels import oriented, to_rgb

PNG_MARK = b"\x89PNG\r\n\x1a\n"
JPEG_MARK = b"\xff\xd8\xff"


def is_picture(head: bytes) -> bool:
    """Whether a file that starts with `head` is a PNG or a JPEG."""
    return head.startswith((PNG_MARK, JPEG_MARK))


class PictureBackend:
    """A PNG or JPEG. See `Backend`. Held in memory, so that `read` only copies."""

    def __init__(self, path: Path) -> None:
        with as_slide_error(path.name, "decoding"):
            data = _bytes(path)
            if data.startswith(PNG_MARK):
                self._pixels = _png(data, path.name)
                claim = _png_pixel_size(data)
            else:
                self._pixels, claim = _jpeg(data, path.name), None
        height, width = self._pixels.shape[:2]
        source = "png chunk" if claim else "missing"
        self._facts = Facts(((width, height),), mpp=claim, mpp_source=source)

    @property
    def facts(self) -> Facts:
        """What the file says about itself."""
        return self._facts

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside the picture."""
        return self._pixels[y : y + height, x : x + width].copy()

    def close(self) -> None:
        """Nothing stays open; the pixels go with the object."""


def _bytes(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_IMAGE_BYTES:
        raise refuse(path.name, f"at most {MAX_IMAGE_BYTES >> 20} MiB", f"{size >> 20} MiB")
    return path.read_bytes()


def _check(name: str, width: int, height: int, bytes_per_px: int) -> None:
    size = width * height * bytes_per_px
    if not 0 < size <= MAX_IMAGE_BYTES:
        raise refuse(
            name,
            f"a picture of at most {MAX_IMAGE_BYTES >> 20} MiB decoded",
            f"{width} × {height} px",
            "convert it to a tiled pyramid (OME-TIFF)",
        )


def _png(data: bytes, name: str) -> NDArray[np.uint8]:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise refuse(name, "a PNG header", "something else")
    width, height, depth, kind = struct.unpack_from(">IIBB", data, 16)
    samples = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}.get(kind, 4)
    _check(name, width, height, samples * max(depth // 8, 1))
    return to_rgb(imagecodecs.png_decode(data))


def _png_pixel_size(data: bytes) -> tuple[float, float] | None:
    """µm per pixel from a pHYs chunk in metres, None without one."""
    at = data.find(b"pHYs", 0, 4096)
    if at < 0 or at + 13 > len(data):
        return None
    x, y, unit = struct.unpack_from(">IIB", data, at + 4)
    return (1e6 / x, 1e6 / y) if unit == 1 and x and y else None


def _jpeg(data: bytes, name: str) -> NDArray[np.uint8]:
    head = parse_jpeg(data)
    if head is None or head.precision != 8 or head.components not in (1, 3):
        raise refuse(name, "an 8-bit grey or colour JPEG", "another kind")
    _check(name, head.width, head.height, head.components)
    space = "GRAY" if head.components == 1 else "RGB"
    pixels = to_rgb(imagecodecs.jpeg8_decode(data, outcolorspace=space))
    return oriented(pixels, _exif_orientation(head))


def _exif_orientation(head: JpegHeader) -> int:
    """Tag 274 of a JPEG's EXIF block, 1 when there is none that makes sense."""
    exif = head.exif or b""
    if exif[:4] not in (b"II*\0", b"MM\0*") or len(exif) < 10:
        return 1
    order = "<" if exif[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", exif, 4)
    if start + 2 > len(exif):
        return 1
    (count,) = struct.unpack_from(order + "H", exif, start)
    for i in range(min(count, 200)):
        at = start + 2 + 12 * i
        if at + 12 > len(exif):
            return 1
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, at)
        if tag == 274 and kind == 3:
            return value if 1 <= value <= 8 else 1
    return 1
