"""What a JPEG or JPEG 2000 stream claims to be, before any decoder allocates memory for it."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size and colour claims of one stream; `exif` is what follows the APP1 marker's name."""

    width: int
    height: int
    components: int
    precision: int
    has_jfif: bool = False
    has_adobe: bool = False
    exif: bytes | None = None


def parse_jpeg(data: bytes) -> JpegHeader | None:
    """The header of a JPEG stream up to its frame, None when there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    at, jfif, adobe, exif = 2, False, False, None
    end = len(data) - 4
    while at <= end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _FRAMES:
            if at + 10 > len(data):
                return None
            precision, height, width, components = struct.unpack_from(">BHHB", data, at + 4)
            return JpegHeader(width, height, components, precision, jfif, adobe, exif)
        payload = data[at + 4 : at + 14]
        jfif = jfif or (marker == 0xE0 and payload[:4] == b"JFIF")
        adobe = adobe or (marker == 0xEE and payload[:5] == b"Adobe")
        if marker == 0xE1 and payload[:6] == b"Exif\0\0":
            exif = data[at + 10 : at + 2 + length]
        if marker == 0xDA or length < 2:
            return None
        at += 2 + length
    return None


def parse_jpeg2000(data: bytes) -> JpegHeader | None:
    """Size of a JPEG 2000 codestream (bare, or in a JP2 box), None when there is none."""
    at = data.find(b"\xff\x4f\xff\x51", 0, 65536)
    if at < 0 or at + 42 > len(data):
        return None
    x1, y1, x0, y0 = struct.unpack_from(">IIII", data, at + 8)
    components, depth = struct.unpack_from(">HB", data, at + 40) if at + 43 <= len(data) else (0, 7)
    return JpegHeader(x1 - x0, y1 - y0, components, (depth & 0x7F) + 1)
