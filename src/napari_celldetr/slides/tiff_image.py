"""One TIFF directory as a picture: its segments found, decoded and put together.

A segment is a tile or a strip. Segments are decoded straight with imagecodecs, without a store
or a task graph in between: that is most of the reader's speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.jpeg_header import parse_jpeg, parse_jpeg2000
from napari_celldetr.slides.limits import MAX_TILE_BYTES, check_size, check_tile, refuse
from napari_celldetr.slides.pixels import WHITE, Rgb, filled, to_rgb
from napari_celldetr.slides.tiff_map import Directory
from napari_celldetr.slides.tile_cache import TileCache

RAW, JPEG = 1, 7
JPEG_2000 = (33003, 33004, 33005, 34712)
BYTE_CODECS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32946: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
WEBP = 50001
GREY_INVERTED, GREY, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
RAW_STRIP_BYTES = 4 * 2**20


class TiffImage:
    """A directory that holds a picture of `size` (w, h) stored pixels.

    Raises `SlideError` when the directory cannot be read by us.
    """

    def __init__(
        self, directory: Directory, *, background: Rgb = WHITE, cache: TileCache | None = None
    ) -> None:
        self.directory = directory
        self.background = background
        self.name = directory.file.path.name
        self.size = directory.size
        self._cache = cache
        check_size(self.name, *self.size)
        self._read_layout()
        self._read_samples()
        self._check_segments()
        self._decode = self._choose_decoder()

    # -- what the directory says ---------------------------------------------------------

    def _read_layout(self) -> None:
        d = self.directory
        width, height = self.size
        self.compression = d.number(259, RAW)
        if d.is_tiled:
            self.segment_size = (d.number(322, 0), d.number(323, 0))
            self.offsets, self.counts = d.array(324), d.array(325)
        else:
            self.segment_size = (width, min(d.number(278, height) or height, height))
            self.offsets, self.counts = d.array(273), d.array(279)
        if len(self.offsets) == 1 and not len(self.counts) and self.compression == RAW:
            self.counts = np.array([d.file.size - int(self.offsets[0])])

    def _read_samples(self) -> None:
        d = self.directory
        self.samples = d.number(277, 1)
        self.bits = d.number(258, 1)
        self.planar = d.number(284, 1) == 2 and self.samples > 1
        self.photometric = d.number(262, RGB if self.samples >= 3 else GREY)
        self.predictor = d.number(317, 1)
        self.sample_format = d.number(339, 1)
        extra = [int(v) for v in d.array(338)]
        colours = 3 if self.photometric in (RGB, YCBCR) else 1
        unnamed = not extra and self.samples == colours + 1
        self.has_alpha = bool(unnamed or (extra and extra[0] in (1, 2)))
        self.premultiplied = bool(extra and extra[0] == 1)
        self._check_samples(colours)

    def _check_samples(self, colours: int) -> None:
        d = self.directory
        known = {(8, 1), (16, 1), (32, 1), (1, 1), (2, 1), (4, 1), (16, 3), (32, 3), (64, 3)}
        bits = {int(v) for v in d.array(258)}
        if len(bits) > 1 or (self.bits, self.sample_format) not in known:
            found = f"{sorted(bits)} bits of sample format {self.sample_format}"
            raise refuse(self.name, "8 or 16 bit unsigned samples, or floats", found)
        if self.photometric not in (GREY_INVERTED, GREY, RGB, PALETTE, YCBCR):
            found = f"photometric interpretation {self.photometric}"
            raise refuse(self.name, "a grey or RGB picture", found)
        if not colours <= self.samples <= 8:
            raise refuse(self.name, f"{colours} to 8 samples a pixel", str(self.samples))
        subsampled = self.photometric == YCBCR and self.compression not in (JPEG, *JPEG_2000, WEBP)
        if subsampled:
            raise refuse(self.name, "RGB samples", "YCbCr samples outside JPEG")
        if self.predictor not in (1, 2, 3):
            raise refuse(self.name, "predictor 1, 2 or 3", str(self.predictor))

    def _check_segments(self) -> None:
        if self.compression == RAW and not self.directory.is_tiled:
            self._split_raw_strips()
        width, height = self.size
        seg_w, seg_h = self.segment_size
        depth = max(self.bits // 8, 1) * self.samples
        check_tile(self.name, seg_w, seg_h, depth)
        self.columns, self.rows = -(-width // seg_w), -(-height // seg_h)
        needed = self.columns * self.rows * (self.samples if self.planar else 1)
        if min(len(self.offsets), len(self.counts)) < needed:
            found = f"{len(self.offsets)} offsets and {len(self.counts)} byte counts"
            raise refuse(self.name, f"{needed} tiles or strips", found)

    def _split_raw_strips(self) -> None:
        """See one run of uncompressed rows as strips of a handy size."""
        width, height = self.size
        stride = (width * self.bits * (1 if self.planar else self.samples) + 7) // 8
        total = self.segment_size[1] * stride
        contiguous = len(self.offsets) == len(self.counts) == 1 or (
            len(self.offsets) > 1
            and not self.planar
            and len(self.offsets) == len(self.counts)
            and bool((np.diff(self.offsets.astype(np.int64)) == self.counts[:-1]).all())
        )
        if total <= RAW_STRIP_BYTES or self.planar or not contiguous:
            return
        if self.directory.file.size < int(self.offsets[0]) + stride * height:
            return  # truncated: the strips that are whole stay readable as they are
        rows = max(1, RAW_STRIP_BYTES // stride)
        starts = np.arange(0, height, rows, dtype=np.int64)
        self.offsets = int(self.offsets[0]) + starts * stride
        self.counts = np.minimum(rows, height - starts) * stride
        self.segment_size = (width, rows)

    # -- decoding ------------------------------------------------------------------------

    def _choose_decoder(self) -> Callable[[bytes, int, int], NDArray[Any]]:
        if self.compression == JPEG:
            if self.bits != 8 or self.samples not in (1, 3) or self.planar:
                raise refuse(self.name, "8-bit grey or RGB JPEG", f"{self.samples} samples")
            return partial(self._jpeg, tables=self.directory.raw(347))
        if self.compression in JPEG_2000:
            if self.compression == 33003 or self.photometric == YCBCR:
                raise refuse(self.name, "RGB JPEG 2000", "YCbCr JPEG 2000")
            return self._jpeg2000
        if self.compression == WEBP:
            return self._webp
        if self.compression == RAW:
            return partial(self._bytes, codec=None)
        if self.compression in BYTE_CODECS:
            return partial(self._bytes, codec=BYTE_CODECS[self.compression])
        raise refuse(self.name, "a known TIFF compression", f"compression {self.compression}")

    def _jpeg(self, data: bytes, width: int, height: int, *, tables: bytes | None) -> NDArray[Any]:
        head = parse_jpeg(data)
        if head is None or head.precision != 8 or head.components != self.samples:
            raise ValueError("not the JPEG stream its directory describes")
        self._check_claim(head.width, head.height, width, height)
        if self.samples == 1:
            grey: NDArray[Any] = imagecodecs.jpeg8_decode(data, tables=tables)
            return grey
        # Photometric RGB means unconverted RGB (Aperio), unless the stream itself says otherwise.
        said = head.has_jfif or head.has_adobe
        space = "YCBCR" if self.photometric == YCBCR else None if said else "RGB"
        decoded: NDArray[Any] = imagecodecs.jpeg8_decode(
            data, tables=tables, colorspace=space, outcolorspace="RGB"
        )
        return decoded

    def _check_claim(self, width: int, height: int, expected_w: int, expected_h: int) -> None:
        # Streams as large as the tile, or cut to the picture's edge; never more.
        seg_w, seg_h = self.segment_size
        if not (expected_w <= width <= seg_w and expected_h <= height <= seg_h):
            raise ValueError("a stream of another size than its tile")

    def _jpeg2000(self, data: bytes, width: int, height: int) -> NDArray[Any]:
        head = parse_jpeg2000(data)
        if head is None or head.components < 1 or head.components > 4:
            raise ValueError("not a JPEG 2000 stream")
        self._check_claim(head.width, head.height, width, height)
        decoded: NDArray[Any] = imagecodecs.jpeg2k_decode(data)
        return decoded

    def _webp(self, data: bytes, width: int, height: int) -> NDArray[Any]:
        seg_w, seg_h = self.segment_size
        out = np.empty((seg_h, seg_w, 4 if self.samples == 4 else 3), np.uint8)
        decoded: NDArray[Any] = imagecodecs.webp_decode(data, hasalpha=self.samples == 4, out=out)
        return decoded

    def _bytes(
        self, data: bytes | bytearray, width: int, height: int, *, codec: Callable[..., Any] | None
    ) -> NDArray[Any]:
        channels = 1 if self.planar else self.samples
        seg_w, seg_h = self.segment_size
        rows = seg_h if self.directory.is_tiled else height
        stride = (seg_w * channels * self.bits + 7) // 8
        if codec is not None:
            data = codec(data, out=rows * stride)
        if len(data) < rows * stride:
            raise ValueError("less data than the tile needs")
        if self.directory.number(266, 1) == 2:
            data = imagecodecs.bitorder_decode(data)
        return self._unpack(data, rows, seg_w, channels, stride)

    def _unpack(
        self, data: bytes | bytearray, rows: int, columns: int, channels: int, stride: int
    ) -> NDArray[Any]:
        if self.bits < 8:
            flat = np.frombuffer(data, np.uint8, rows * stride).reshape(rows, stride)
            bits = np.unpackbits(flat, axis=1).reshape(rows, -1, self.bits)
            values = bits @ (1 << np.arange(self.bits - 1, -1, -1))
            return values[:, : columns * channels].reshape(rows, columns, channels).astype(np.uint8)
        kind = "f" if self.sample_format == 3 else "u"
        dtype = np.dtype(f"{self.directory.order}{kind}{self.bits // 8}")
        shape = (rows, columns, channels)
        if self.predictor == 3:
            packed = np.frombuffer(data, dtype, rows * columns * channels).reshape(shape)
            out: NDArray[Any] = imagecodecs.floatpred_decode(packed, axis=-2)
            return out
        values = np.frombuffer(data, dtype, rows * columns * channels).reshape(shape)
        values = values.astype(dtype.newbyteorder("="), copy=False)
        if self.predictor == 2:
            values = imagecodecs.delta_decode(values, axis=-2)
        return values

    def _graded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Grey levels the usual way round; palettes looked up; few bits stretched to 8."""
        if self.photometric == PALETTE:
            table = self.directory.array(320).reshape(3, -1).astype(np.uint16)
            looked = table[:, np.minimum(values[..., 0], table.shape[1] - 1)]
            return np.moveaxis(looked, 0, -1)
        if self.bits < 8:
            values = (values.astype(np.uint16) * 255 // (2**self.bits - 1)).astype(np.uint8)
        if self.photometric == GREY_INVERTED:
            full = 1.0 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
            return np.asarray(full - values, dtype=values.dtype)
        return values

    def _to_rgb(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        return to_rgb(
            self._graded(values),
            self.background,
            has_alpha=self.has_alpha and self.photometric != PALETTE,
            premultiplied=self.premultiplied,
        )

    # -- reading -------------------------------------------------------------------------

    def segment(self, column: int, row: int) -> NDArray[np.uint8]:
        """The decoded segment (h, w, 3); at least the part inside the picture. `SlideError`."""
        index = row * self.columns + column
        seg_w, seg_h = self.segment_size
        width = min(seg_w, self.size[0] - column * seg_w)
        height = min(seg_h, self.size[1] - row * seg_h)
        if self._cache is None:
            return self._load(index, width, height)
        key = (id(self), index)
        return self._cache.get(key, lambda: self._load(index, width, height))

    def _load(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        with as_slide_error(self.name, f"tile {index}"):
            if not self.planar:
                data = self._data(index)
                if data is None:
                    return filled(height, width, self.background)
                return self._to_rgb(self._decode(data, width, height))
            return self._load_planes(index, width, height)

    def _load_planes(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        planes = []
        for sample in range(self.samples):
            data = self._data(sample * self.columns * self.rows + index)
            if data is None:
                return filled(height, width, self.background)
            planes.append(self._decode(data, width, height)[..., 0])
        return self._to_rgb(np.stack(planes, axis=-1))

    def _data(self, index: int) -> bytes | None:
        """The stored bytes of a segment, None for one that was never written."""
        offset, count = int(self.offsets[index]), int(self.counts[index])
        if count == 0:
            return None
        if count > MAX_TILE_BYTES:
            raise ValueError("a tile with too many bytes")
        data = self.directory.file.read(offset, count)
        if len(data) < count:
            raise ValueError("the file ends inside the tile")
        return data

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside the picture, stored frame. `SlideError`."""
        seg_w, seg_h = self.segment_size
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // seg_h, -(-(y + height) // seg_h)):
            top = row * seg_h
            y0, y1 = max(y, top), min(y + height, top + seg_h)
            for column in range(x // seg_w, -(-(x + width) // seg_w)):
                left = column * seg_w
                x0, x1 = max(x, left), min(x + width, left + seg_w)
                pixels = self.segment(column, row)
                out[y0 - y : y1 - y, x0 - x : x1 - x] = pixels[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out
