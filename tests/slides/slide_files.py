"""Small slides of every format, written by other libraries than the reader's own code."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
import zarr
from PIL import Image

MPP = 0.5


def picture(width: int = 700, height: int = 500, seed: int = 0) -> np.ndarray:
    """A smooth colourful picture (h, w, 3): every place of it looks different."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def halves(pixels: np.ndarray, levels: int, *, keep_odd: bool = False) -> list[np.ndarray]:
    """`pixels` and smaller ones by 2 × 2 averaging, odd remainders dropped or kept."""
    found = [pixels]
    for _ in range(levels):
        last = found[-1]
        if not keep_odd:
            last = last[: last.shape[0] // 2 * 2, : last.shape[1] // 2 * 2]
        found.append(np.array(Image.fromarray(last).reduce(2)))
    return found


def write_tiff(path: Path, levels: list[np.ndarray], **options: Any) -> Path:
    """A plain pyramid, one directory a level; `options` go to tifffile."""
    chosen = {"photometric": "rgb", "tile": (64, 64)} | options
    opened = {k: chosen.pop(k) for k in ("bigtiff", "byteorder") if k in chosen}
    per_um = 10_000 / MPP
    with tifffile.TiffWriter(path, **opened) as writer:
        for index, level in enumerate(levels):
            writer.write(
                level,
                subfiletype=int(index > 0),
                resolution=(per_um / 2**index,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
                **chosen,
            )
    return path


def write_ome(path: Path, levels: list[np.ndarray], **options: Any) -> Path:
    """An OME-TIFF whose lower levels are in SubIFDs."""
    chosen = {"photometric": "rgb", "tile": (64, 64)} | options
    units = {"PhysicalSizeX": MPP, "PhysicalSizeXUnit": "µm"}
    units |= {"PhysicalSizeY": MPP, "PhysicalSizeYUnit": "µm", "axes": "YXS"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(levels[0], subifds=len(levels) - 1, metadata=units, **chosen)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **chosen)
    return path


def write_zarr(path: Path, levels: list[np.ndarray], *, version: str) -> Path:
    """An OME-Zarr picture, ``0.4`` (tczyx, zarr 2) or ``0.5`` (cyx, zarr 3)."""
    old = version == "0.4"
    root = zarr.open_group(str(path), mode="w", zarr_format=2 if old else 3)
    names = "tczyx" if old else "cyx"
    kinds = {"t": "time", "c": "channel"}
    axes = [{"name": n, "type": kinds.get(n, "space")} for n in names]
    for axis in axes[-2:]:
        axis["unit"] = "micrometer"
    datasets = []
    for index, level in enumerate(levels):
        planes = level.transpose(2, 0, 1)
        data = planes[None, :, None] if old else planes
        chunks = (1,) * (data.ndim - 2) + (64, 64)
        array = root.create_array(str(index), shape=data.shape, chunks=chunks, dtype="u1")
        array[...] = data
        scale = [1.0] * (data.ndim - 2) + [MPP * 2**index] * 2
        steps = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(index), "coordinateTransformations": steps})
    multiscales = [{"axes": axes, "datasets": datasets, "version": version}]
    if old:
        root.attrs["multiscales"] = multiscales
    else:
        root.attrs["ome"] = {"version": version, "multiscales": multiscales}
    return path


def write_png(path: Path, levels: list[np.ndarray]) -> Path:
    """A PNG that states its pixel size."""
    data = imagecodecs.png_encode(levels[0])
    per_metre = round(1e6 / MPP)
    body = b"pHYs" + struct.pack(">IIB", per_metre, per_metre, 1)
    chunk = struct.pack(">I", 9) + body + struct.pack(">I", _crc(body))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path


def _crc(data: bytes) -> int:
    import zlib

    return zlib.crc32(data)


LOSSLESS: dict[str, Callable[[Path, list[np.ndarray]], Path]] = {
    "ome_deflate.ome.tif": lambda p, v: write_ome(p, v, compression="deflate", predictor=True),
    "plain_lzw.tif": lambda p, v: write_tiff(p, v, compression="lzw", predictor=True),
    "plain_zstd.tif": lambda p, v: write_tiff(p, v, compression="zstd"),
    "plain_raw.tif": write_tiff,
    "plain_packbits.tif": lambda p, v: write_tiff(p, v, compression="packbits"),
    "plain_lzma.tif": lambda p, v: write_tiff(p, v, compression="lzma"),
    "jpeg2000.tif": lambda p, v: write_tiff(
        p, v, compression="jpeg2000", compressionargs={"reversible": True, "level": 0}
    ),
    "webp.tif": lambda p, v: write_tiff(
        p, v, compression="webp", compressionargs={"lossless": True}
    ),
    "big.tif": lambda p, v: write_tiff(p, v, compression="deflate", bigtiff=True),
    "big_endian.tif": lambda p, v: write_tiff(p, v, compression="lzw", byteorder=">"),
    "big_big_endian.tif": lambda p, v: write_tiff(
        p, v, compression="deflate", byteorder=">", bigtiff=True
    ),
    "striped.tif": lambda p, v: write_tiff(p, v, tile=None, rowsperstrip=17, compression="deflate"),
    "one_strip.tif": lambda p, v: write_tiff(p, v, tile=None, rowsperstrip=10**6),
    "planes.tif": lambda p, v: write_tiff(
        p, [np.moveaxis(a, 2, 0) for a in v], planarconfig="separate", compression="deflate"
    ),
    "old.zarr": lambda p, v: write_zarr(p, v, version="0.4"),
    "new.zarr": lambda p, v: write_zarr(p, v, version="0.5"),
    "picture.png": write_png,
}
"""Writers by file name, each giving back exactly the pixels it was given."""


def write(folder: Path, name: str, levels: list[np.ndarray]) -> Path:
    """The file of a `LOSSLESS` format."""
    return LOSSLESS[name](folder / name, levels)


def tiff_bytes(
    tags: list[tuple[int, int, int, bytes]], *, order: str = "<", following: int = 0
) -> bytes:
    """A one-directory classic TIFF from raw tags (number, kind, count, 4 bytes of value)."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(struct.pack(order + "HHI", n, k, c) + v for n, k, c, v in sorted(tags))
    return (
        mark
        + struct.pack(order + "I", 8)
        + struct.pack(order + "H", len(tags))
        + body
        + struct.pack(order + "I", following)
    )


def long(value: int) -> bytes:
    """Four bytes of a little-endian value."""
    return struct.pack("<I", value)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
