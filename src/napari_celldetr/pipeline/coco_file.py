"""COCO (.coco.json): one image, the slide at level 0, and an annotation per cell.

Boxes are xywh and outlines the ellipses in them, in level-0 px of the uncropped slide with two
decimals. ``score`` stands in each annotation as detectors write it; ``attributes`` has the cell's
id, what a person said of it, and its measurements. Annotations come last, one on each line, so
that a million of them are written and read without being held at once.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import cell_ids, come_twice, from_text, letters
from napari_celldetr.pipeline.cell_rows import (
    ID,
    SAID_COLUMNS,
    CellRows,
    Steps,
    areas_from_json,
    areas_to_json,
)
from napari_celldetr.pipeline.cell_text import Measured, Told, ellipse, measurements, said
from napari_celldetr.pipeline.json_stream import JsonStream
from napari_celldetr.pipeline.text_rows import Piece, decimals, join

MEMBER = "celldetr"
BLOCK = 16384
READ_BLOCK = 2048
MAX_CELLS = 20_000_000
IMAGE_ID = 1


def writing_coco(rows: CellRows, path: Path, *, size: tuple[int, int]) -> Steps[None]:
    """Write `rows` of a slide of `size` (width, height); yields how many cells are written.

    Not atomically: the caller gives a temporary path. `ExportError` for measurements called as
    our own attributes are.
    """
    taken = {*SAID_COLUMNS} & set(rows.cells.columns)
    if taken:
        raise _refused("a measurement called " + ", ".join(sorted(taken)), "other names")
    with path.open("wb") as file:
        file.write(_head(rows, size))
        done = 0
        for block in rows.blocks(BLOCK):
            text = _annotations(block, done)
            done += len(block)
            file.write(text if done < len(rows) else text[:-2] + b"\n")
            yield done
        file.write(b"]}\n")


def reading_coco(path: Path) -> Steps[CellRows]:
    """Cells of a COCO file with one image; yields how many are read.

    A file of another program gives boxes, classes and scores (1 if none). Raises `ExportError`
    for anything that is not such a file.
    """
    with path.open("rb") as file:
        stream = JsonStream(file, "annotations", "a COCO file of one image")
        collector = AnnotationCollector(stream.head())
        number = 0
        for number, annotation in enumerate(stream.members(), 1):
            collector.add(annotation)
            if number % READ_BLOCK == 0:
                yield number
        yield number
        return collector.rows(stream.tail())


def _head(rows: CellRows, size: tuple[int, int]) -> bytes:
    cells = rows.cells
    about: dict[str, Any] = {
        "class_names": cells.class_names,
        "source": json.loads(cells.source.to_json()),
        "corrected": rows.is_corrected,
        "areas": areas_to_json(rows.areas),
    }
    names = [*cells.class_names, *(["unknown"] if (cells.class_ids < 0).any() else [])]
    image = {
        "id": IMAGE_ID,
        "file_name": cells.source.slide or "slide",
        "width": size[0],
        "height": size[1],
    }
    head = {
        "info": {"description": RESEARCH_USE, "version": cells.source.version},
        "licenses": [],
        MEMBER: about,
        "images": [image],
        "categories": [
            {"id": i, "name": name, "supercategory": "cell"} for i, name in enumerate(names, 1)
        ],
    }
    text = json.dumps(head, ensure_ascii=False, allow_nan=False)
    return f'{text[:-1]}, "annotations": [\n'.encode()


def _annotations(rows: CellRows, before: int) -> bytes:
    cells, told = rows.cells, said(rows)
    numbers = np.arange(before + 1, before + len(rows) + 1)
    category = np.where(cells.class_ids < 0, len(cells.class_names), cells.class_ids) + 1
    pieces: list[Piece | bytes] = [b'{"id":', decimals(numbers, 0)]
    pieces += [f',"image_id":{IMAGE_ID},"category_id":'.encode(), decimals(category, 0)]
    pieces += [b',"bbox":[', *_separated(_xywh(cells.boxes)), b'],"area":']
    pieces += [decimals(_area(cells.boxes), 2), b',"segmentation":[[']
    pieces += [*_separated(v for point in ellipse(cells.boxes) for v in point)]
    pieces += [b']],"iscrowd":0,"score":', decimals(cells.scores, 4)]
    pieces += [f',"attributes":{{"{ID}":"'.encode(), letters(rows.ids), b'"']
    pieces += [b",", told] if told is not None else []
    return join([*pieces, *measurements(cells), b"}},\n"], len(rows))


def _xywh(boxes: NDArray[np.float32]) -> Iterator[Piece]:
    """Sides as differences of rounded corners, so that both corners come back exactly."""
    corners = np.round(boxes.astype(np.float64), 2)
    for values in (corners[:, 0], corners[:, 1], *(corners[:, 2:] - corners[:, :2]).T):
        yield decimals(values, 2)


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the ellipse in each box, px²."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).T
    return np.pi / 4 * width * height


def _separated(pieces: Iterator[Piece]) -> Iterator[Piece | bytes]:
    for k, piece in enumerate(pieces):
        if k:
            yield b","
        yield piece


class AnnotationCollector:
    """Annotations on their way to columns."""

    def __init__(self, head: dict[str, Any]) -> None:
        self._head = head
        self._boxes, self._scores = array("d"), array("d")
        self._categories = array("q")
        self._images: set[Any] = set()
        self._ids: list[str] = []
        self._told = Told()
        self._measured = Measured()

    def add(self, annotation: dict[str, Any]) -> None:
        """Take one more; `ExportError` when it is not a box of a cell."""
        try:
            self._add(annotation)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:150]) from error

    def rows(self, tail: Mapping[str, Any] | None = None) -> CellRows:
        """All that was taken; `tail` is what stands after the annotations."""
        try:
            return self._rows({**self._head, **(tail or {})})
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:150]) from error

    def _add(self, annotation: dict[str, Any]) -> None:
        row = len(self._scores)
        if row >= MAX_CELLS:
            raise ValueError(f"more than {MAX_CELLS} annotations")
        x, y, width, height = annotation["bbox"]
        if not all(abs(v) < 1e9 for v in (x, y, width, height)):
            raise ValueError("boxes beyond any slide")
        self._boxes.extend((x, y, x + width, y + height))
        self._categories.append(int(annotation["category_id"]))
        self._images.add(annotation["image_id"])
        self._scores.append(float(annotation.get("score", 1.0)))
        about = annotation.get("attributes") or {}
        self._ids.append(str(about.get(ID, "")))
        self._told.add(about)
        numbers = {k: v for k, v in about.items() if isinstance(v, int | float)}
        self._measured.add(row, {k: float(v) for k, v in numbers.items()})

    def _rows(self, whole: dict[str, Any]) -> CellRows:
        if len(whole["images"]) != 1 or len(self._images) > 1:
            raise ValueError(f"{len(whole['images'])} images")
        if self._images - {image["id"] for image in whole["images"]}:
            raise ValueError("annotations of an image that is not listed")
        about = whole.get(MEMBER) or {}
        names, numbers = _classes(whole["categories"], about.get("class_names"))
        found, which = np.unique(np.array(self._categories, np.int64), return_inverse=True)
        classes = np.array([numbers[int(c)] for c in found], np.int16)
        cells = Detections(
            np.array(self._boxes, np.float64).reshape(-1, 4).astype(np.float32),
            np.array(self._scores, np.float32),
            classes[which],
            names,
            None,
            self._measured.columns(len(self._scores)),
            Source.from_json(json.dumps(about["source"])) if "source" in about else Source(),
        )
        rows = CellRows(cells, self._own_ids(cells), areas=areas_from_json(about.get("areas")))
        if not about.get("corrected"):
            return rows
        return CellRows(cells, rows.ids, *self._told.columns(all_said=True), rows.areas)

    def _own_ids(self, cells: Detections) -> NDArray[np.uint64]:
        try:
            ids = from_text(self._ids)
        except ValueError:
            return cell_ids(cells)
        if come_twice(ids):
            raise _refused("an id that comes twice", "unique ids")
        return ids


def _classes(categories: Any, class_names: Any) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and the class id of each category; ``unknown`` is -1 where it is no class."""
    words = {int(c["id"]): str(c["name"]) for c in categories}
    listed = words.values() if class_names is None else class_names
    names = tuple(dict.fromkeys(str(n) for n in listed if class_names or n != "unknown"))
    return names, {c: names.index(n) if n in names else UNKNOWN for c, n in words.items()}


def _refused(found: str, expected: str = "a COCO file of one image") -> ExportError:
    return ExportError(
        "These cells cannot be a COCO file.",
        expected=expected,
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
