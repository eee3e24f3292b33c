"""A label image of all cells as OME-Zarr: cell i of the table is drawn with the number i + 1.

``NAME.ome.zarr/labels/cells`` is the label image with its pyramid; the folder itself lists the
same levels, so that a viewer can open either. ``cells.parquet`` in it is the table, row i for
number i + 1. Only blocks that cells touch are drawn and written, one at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.annotations import SHOWN
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import as_text
from napari_celldetr.pipeline.cell_rows import CellRows, Steps
from napari_celldetr.pipeline.ellipse_raster import Grid, Place, Spans, draw_block
from napari_celldetr.pipeline.parquet import reading_parquet, writing_parquet
from napari_celldetr.pipeline.qupath import GREY, MEMBER, PALETTE, Color

LABELS = "labels/cells"
TABLE = "cells.parquet"
BLOCK = 1024
"""Side of a chunk, px: what is drawn and written at once."""
MOST_LISTED = 65_536
"""Above so many cells, colours and properties are left to the table: viewers read them whole."""
SMALLEST = 512


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How label images are written.

    `version` of OME-Zarr: 0.4 is what QuPath reads, 0.5 is on zarr 3. `mpp` is the
    µm per pixel of level 0; None for the slide's own.
    """

    version: Literal["0.4", "0.5"] = "0.4"
    mpp: float | None = None


def writing_labels(
    rows: CellRows,
    path: Path,
    *,
    size: tuple[int, int],
    options: LabelOptions | None = None,
    colors: Mapping[str, Color] | None = None,
) -> Steps[None]:
    """Draw `rows` of a slide of `size` (width, height) level-0 px into the folder `path`.

    Not atomically: the caller gives a temporary folder. Cells that were deleted are not drawn.
    Yields about how many cells are drawn at all levels. `ExportError` when `options.mpp` is asked
    for but the slide's is not known.
    """
    chosen = options or LabelOptions()
    image = LabelImage.plan(rows, size, chosen)
    image.describe(path, chosen.version, rows, colors or {})
    codec = _codec()
    for grid, chunks in zip(image.grids, _arrays(path, image.grids, chosen.version), strict=True):
        for share, place, pixels in image.blocks(grid):
            _write_chunk(chunks, place, codec.encode(_whole(pixels)))
            # A level has a quarter of the pixels of the one before.
            yield round(len(rows) * (1 - (1 - 0.75 * share) / grid.step**2))
    for _ in writing_parquet(rows, path / TABLE):
        yield len(rows)


def reading_labels(path: Path) -> Steps[CellRows]:
    """The table in a folder that `writing_labels` wrote."""
    return (yield from reading_parquet(path / TABLE))


def is_ours(path: Path) -> bool:
    """Whether `path` is a folder that `writing_labels` wrote, and nothing a user would miss."""
    for name in (".zattrs", "zarr.json"):
        try:
            found = json.loads((path / name).read_bytes())
        except (OSError, ValueError):
            continue
        return MEMBER in found or MEMBER in found.get("attributes", {})
    return False


@dataclass(frozen=True)
class LabelImage:
    """What is drawn: boxes (M, 4) in px of the label image, their numbers, and the levels.

    `step` (x, y) is how many level-0 px of the slide a pixel is wide.
    """

    boxes: NDArray[np.float64]
    numbers: NDArray[np.uint32]
    grids: list[Grid]
    step: tuple[float, float]
    mpp: tuple[float, float] | None

    @classmethod
    def plan(cls, rows: CellRows, size: tuple[int, int], options: LabelOptions) -> LabelImage:
        """The label image of a slide of `size` (width, height) level-0 px."""
        mpp = rows.cells.source.mpp
        if options.mpp is not None and mpp is None:
            raise ExportError(
                "The label image cannot be written at another µm per pixel.",
                expected="a slide whose µm per pixel is known",
                found="no pixel size",
                remedy="give the slide's µm per pixel when detecting, or leave this option out",
            )
        step = (1.0, 1.0) if options.mpp is None or mpp is None else _steps(options.mpp, mpp)
        scaled = tuple(max(1, math.ceil(side / s)) for side, s in zip(size, step, strict=True))
        shown = np.flatnonzero(SHOWN[rows.status]) if rows.status is not None else slice(None)
        numbers = np.arange(1, len(rows) + 1, dtype=np.uint32)[shown]
        boxes = rows.cells.boxes[shown].astype(np.float64) / np.array([*step, *step])
        grids = Grid.levels((scaled[0], scaled[1]), BLOCK, smallest=SMALLEST)
        return cls(boxes, numbers, grids, step, mpp)

    def blocks(self, grid: Grid) -> Iterator[tuple[float, Place, NDArray[np.uint32]]]:
        """Every block of a level that cells touch: share of the level, place and pixels."""
        spans = Spans.of(self.boxes, grid)
        touched = spans.by_block(grid)
        for nth, (number, members) in enumerate(touched, 1):
            rows, place = spans.rows[members], grid.place(number)
            window = spans.first[members], spans.last[members]
            pixels = draw_block(self.boxes[rows], self.numbers[rows], *window, place, grid.step)
            yield nth / len(touched), place, pixels

    def describe(
        self, path: Path, version: str, rows: CellRows, colors: Mapping[str, Color]
    ) -> None:
        """Make the groups and write their attributes."""
        import zarr

        def group(where: str, attributes: dict[str, Any], **more: Any) -> None:
            place = str(path / where)
            made = zarr.open_group(place, mode="a", zarr_format=2 if version == "0.4" else 3)
            if version == "0.5":
                attributes = {"ome": {"version": version, **attributes}}
            made.attrs.update({**attributes, **more})

        label = {**({"version": version} if version == "0.4" else {}), **_listed(rows, colors)}
        own = {"note": RESEARCH_USE, "table": TABLE, "cells": len(rows)}
        levels = [f"{LABELS}/{k}" for k in range(len(self.grids))]
        root = {"multiscales": self._multiscales(levels, version), "image-label": label}
        group("", root, **{MEMBER: own})
        group("labels", {"labels": ["cells"]})
        levels = [str(k) for k in range(len(self.grids))]
        source = {"source": {"image": "../../"}}
        inner = {"multiscales": self._multiscales(levels, version), "image-label": label | source}
        group(LABELS, inner)

    def _multiscales(self, paths: list[str], version: str) -> list[dict[str, Any]]:
        axes: list[dict[str, str]] = [{"name": name, "type": "space"} for name in "yx"]
        if self.mpp is not None:
            axes = [{**axis, "unit": "micrometer"} for axis in axes]
        width, height = np.multiply(self.step, self.mpp or (1.0, 1.0)).tolist()
        datasets = [
            {
                "path": path,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [height * grid.step, width * grid.step]}
                ],
            }
            for path, grid in zip(paths, self.grids, strict=True)
        ]
        about = {"name": "cells", "axes": axes, "datasets": datasets, "type": "nearest"}
        return [about | ({"version": version} if version == "0.4" else {})]


def _steps(mpp: float, own: tuple[float, float]) -> tuple[float, float]:
    return mpp / own[0], mpp / own[1]


def _codec() -> Any:
    """What all readers of OME-Zarr know; the default of zarr-python Java does not."""
    import numcodecs

    return numcodecs.Blosc("zstd", clevel=1, shuffle=numcodecs.Blosc.SHUFFLE)


def _arrays(path: Path, grids: list[Grid], version: str) -> list[Path]:
    """An empty array per level; returns the folders of their chunks."""
    import zarr
    from zarr.codecs import BloscCodec

    folders = []
    for k, grid in enumerate(grids):
        place = path / LABELS / str(k)
        options: dict[str, Any] = {
            "shape": (grid.size[1], grid.size[0]),
            "chunks": (BLOCK, BLOCK),
            "dtype": "<u4",
            "fill_value": 0,
        }
        if version == "0.4":
            key = {"name": "v2", "separator": "/"}
            options |= {"zarr_format": 2, "compressors": _codec(), "chunk_key_encoding": key}
        else:
            codec = BloscCodec(typesize=4, cname="zstd", clevel=1, shuffle="shuffle")
            options |= {"zarr_format": 3, "compressors": codec, "dimension_names": ("y", "x")}
        zarr.create_array(str(place), **options)
        folders.append(place if version == "0.4" else place / "c")
    return folders


def _write_chunk(folder: Path, place: Place, data: bytes) -> None:
    """The file of one chunk.

    Written here and not through an array: zarr-python hands each chunk to another thread and
    back, which takes longer than to draw and pack it.
    """
    row = folder / str(place[1] // BLOCK)
    row.mkdir(parents=True, exist_ok=True)
    (row / str(place[0] // BLOCK)).write_bytes(data)


def _whole(pixels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A full chunk: those at the image's edge are stored with what lies beyond."""
    if pixels.shape == (BLOCK, BLOCK):
        return pixels
    out = np.zeros((BLOCK, BLOCK), np.uint32)
    out[: pixels.shape[0], : pixels.shape[1]] = pixels
    return out


def _listed(rows: CellRows, colors: Mapping[str, Color]) -> dict[str, Any]:
    """Colours and properties of every number, up to `MOST_LISTED`."""
    if len(rows) > MOST_LISTED:
        return {}
    cells = rows.cells
    palette = [
        colors.get(name, PALETTE[i % len(PALETTE)]) for i, name in enumerate(cells.class_names)
    ]
    palette.append(colors.get("unknown", GREY))
    told = (as_text(rows.ids), cells.class_labels.tolist(), rows.status_words.tolist())
    return {
        "colors": [
            {"label-value": i, "rgba": [*palette[c], 255]}
            for i, c in enumerate(cells.class_ids.tolist(), 1)
        ],
        "properties": [
            {"label-value": i, "id": key, "class": name, "status": status}
            for i, (key, name, status) in enumerate(zip(*told, strict=True), 1)
        ],
    }
