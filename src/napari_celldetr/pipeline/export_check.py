"""What was written is read back and compared before it takes the old file's place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_rows import CellRows, Steps
from napari_celldetr.pipeline.coco_file import AnnotationCollector
from napari_celldetr.pipeline.ellipse_raster import Place, Spans, count_pixels
from napari_celldetr.pipeline.label_raster import LABELS, LabelImage, LabelOptions
from napari_celldetr.pipeline.qupath import READ_BLOCK, FeatureCollector, open_text

CHECK_ALL = 200_000
"""Up to so many cells every one is compared unless asked otherwise, above a sample."""
SAMPLE = 20_000
MOST_BLOCKS = 400
_BLOCK = 1 << 17
LARGEST_OFFSET_PX = 0.01
LARGEST_LABEL_OFFSET = 0.5
"""Pixels of the label image."""


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """What reading a written file back showed.

    Attributes
    ----------
    cells : int
        In the file, all of them counted.
    compared : int
        Of these, compared one by one: place, class, and id, status and author where the format
        has them.
    largest_offset_px : float or None
        Of any side of a compared box, of any centre in a label image; level-0 px. None where
        nothing was compared.
    areas : int
    """

    cells: int
    compared: int
    largest_offset_px: float | None
    areas: int = 0

    def sentence(self) -> str:
        """The check in words for people."""
        areas = f" and {self.areas:,} area{'s' * (self.areas != 1)}" if self.areas else ""
        written = f"{self.cells:,} cell{'s' * (self.cells != 1)}{areas} written"
        if self.largest_offset_px is None:
            return written
        places = f"places exact to {self.largest_offset_px:.3f} px"
        if self.compared < self.cells:
            return f"{written} and counted, {self.compared:,} read back: {places}"
        return f"{written} and read back: {places}"


def compare(rows: CellRows, back: CellRows, *, has_ids: bool) -> ExportCheck:
    """Compare what was written with what was read; `ExportError` where they differ.

    `has_ids` says whether the format keeps ids of cells that nobody corrected.
    """
    if len(back) != len(rows):
        raise _differs(f"{len(rows):,} cells", f"{len(back):,}")
    if has_ids or rows.is_corrected:
        _same("ids", rows.ids, back.ids)
    if rows.is_corrected and not back.is_corrected:
        raise _differs("status and authors of all cells", "none")
    # Texts of a million cells at once would take more memory than all the rest.
    for one, other in zip(rows.blocks(_BLOCK), back.blocks(_BLOCK), strict=True):
        _same("classes", one.cells.class_labels, other.cells.class_labels)
        if one.authors is not None and other.authors is not None:
            _same("status", one.status_words, other.status_words)
            _same("authors", one.authors, other.authors)
    _same_areas(rows.areas, back.areas)
    if not len(rows):
        return ExportCheck(0, 0, None, len(rows.areas))
    offset = _offset(rows.cells.boxes, back.cells.boxes)
    if offset > LARGEST_OFFSET_PX:
        raise _differs(f"boxes within {LARGEST_OFFSET_PX} px", f"an offset of {offset:.3f} px")
    return ExportCheck(len(rows), len(rows), offset, len(rows.areas))


def checking_lines(
    rows: CellRows,
    path: Path,
    collect: type[FeatureCollector] | type[AnnotationCollector],
    *,
    compressed: bool = False,
) -> Steps[ExportCheck]:
    """Count the cells of a GeoJSON or COCO file and compare about `SAMPLE` of them.

    For the files that we write, where every cell stands on a line of its own, after the areas if
    these have lines. Yields how many are read. `ExportError` where the file differs from `rows`.
    """
    stride = max(1, -(-len(rows) // SAMPLE))
    number = -len(rows.areas) if collect is FeatureCollector else 0
    with open_text(path, compressed) as file:
        collector = collect(json.loads(file.readline().rstrip(b"\n") + b"]}"))
        for line in file:
            if line == b"]}\n":
                break
            if number < 0 or number % stride == 0:
                collector.add(json.loads(line.rstrip(b",\n")))
            number += 1
            if number % READ_BLOCK == 0:
                yield max(number, 0)
        else:
            raise _differs("a file with an end", "a file without one")
    yield max(number, 0)
    if number != len(rows):
        raise _differs(f"{len(rows):,} cells", f"{number:,}")
    some = rows.select(slice(None, None, stride))
    return replace(compare(some, collector.rows(), has_ids=True), cells=len(rows))


def checking_labels(
    rows: CellRows,
    path: Path,
    *,
    size: tuple[int, int],
    options: LabelOptions,
    everything: bool = False,
) -> Steps[ExportCheck]:
    """Compare a label image with the cells: what is under each centre, and where its middle is.

    Without `everything`, in at most `MOST_BLOCKS` blocks spread over the image. The middle is
    compared of cells that no other lies over. Yields how many cells are compared. `ExportError`
    where the image differs from `rows`, or a middle is more than half a pixel off.
    """
    import zarr

    image = LabelImage.plan(rows, size, options)
    array = zarr.open_array(str(path / LABELS / "0"), mode="r")
    centres = np.floor((image.boxes[:, :2] + image.boxes[:, 2:]) / 2).astype(np.int64)
    there = np.flatnonzero(((centres >= 0) & (centres < image.grids[0].size)).all(axis=1))
    # Blocks by the cells whose centre they hold.
    spans = Spans(there, centres[there], centres[there])
    blocks = spans.by_block(image.grids[0])
    stride = 1 if everything else -(-len(blocks) // MOST_BLOCKS) or 1
    compared, offset = 0, None
    for number, members in blocks[::stride]:
        place, mine = image.grids[0].place(number), there[members]
        pixels = np.asarray(array[place[1] : place[3], place[0] : place[2]])
        under = pixels[centres[mine, 1] - place[1], centres[mine, 0] - place[0]]
        if (under < image.numbers[mine]).any():
            raise _differs("each cell's number under its centre, or a later one's", "another")
        offset = _larger(offset, _middles_off(image, mine, pixels, place))
        compared += len(mine)
        yield compared
    if offset is not None and offset > LARGEST_LABEL_OFFSET:
        raise _differs("labels in the middle of their cells", f"one {offset:.2f} pixels off")
    offset_px = None if offset is None else offset * max(image.step)
    return ExportCheck(len(rows), compared, offset_px, len(rows.areas))


def _middles_off(
    image: LabelImage, rows: NDArray[np.int64], pixels: NDArray[np.uint32], place: Place
) -> float | None:
    """How far, in pixels, middles of labels are from their cells; None if no cell is whole.

    Whole cells lie in the block, and no other lies over them: none of their pixels is missing.
    """
    corner = np.array(place[:2])
    boxes = image.boxes[rows]
    inside = (boxes[:, :2] >= corner).all(axis=1) & (boxes[:, 2:] <= place[2:]).all(axis=1)
    rows, boxes = rows[inside], boxes[inside]
    drawn = np.flatnonzero(pixels.reshape(-1) != 0)
    y, x = np.divmod(drawn, pixels.shape[1])
    numbers, which = np.unique(pixels.reshape(-1)[drawn], return_inverse=True)
    if not len(numbers) or not len(rows):
        return None
    count = np.bincount(which)
    middle = np.stack([np.bincount(which, v + 0.5) / count for v in (x, y)], axis=1) + corner
    at = np.minimum(np.searchsorted(numbers, image.numbers[rows]), len(numbers) - 1)
    whole = (numbers[at] == image.numbers[rows]) & (
        count[at] == count_pixels(boxes, image.grids[0].size)
    )
    if not whole.any():
        return None
    true = (boxes[:, :2] + boxes[:, 2:]) / 2
    return float(np.abs(middle[at] - true)[whole].max())


def _larger(one: float | None, other: float | None) -> float | None:
    return max((v for v in (one, other) if v is not None), default=None)


def _same(what: str, written: NDArray[Any], back: NDArray[Any]) -> None:
    differ = np.asarray(written != back)
    if differ.any():
        count = int(differ.reshape(len(written), -1).any(axis=1).sum())
        raise _differs(f"{what} as they were", f"{count:,} others")


def _same_areas(written: Mapping[str, Area], back: Mapping[str, Area]) -> None:
    same = written.keys() == back.keys() and all(
        (area.kind, area.name, len(area.polygon))
        == (back[key].kind, back[key].name, len(back[key].polygon))
        and np.allclose(area.corners, back[key].corners, rtol=0, atol=1e-6)
        for key, area in written.items()
    )
    if not same:
        raise _differs(f"{len(written)} areas as they were drawn", "others")


def _offset(written: NDArray[np.float32], back: NDArray[np.float32]) -> float:
    return float(np.abs(written.astype(np.float64) - back).max())


def _differs(expected: str, found: str) -> ExportError:
    return ExportError(
        "What was written reads back differently, so it was not kept.",
        expected=expected,
        found=found,
        remedy="try another format, and report this with the file you came from",
    )
