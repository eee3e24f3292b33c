"""Features of a GeoJSON file as QuPath writes it, sorted into cells and areas.

Coordinates become level-0 px, classes those that are known. What is neither cell nor area is
counted.
"""

from __future__ import annotations

import math
import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.cell_ids import from_text
from napari_celldetr.pipeline.cell_rows import STATUS_OF
from napari_celldetr.pipeline.cell_text import read_said
from napari_celldetr.pipeline.qupath import MAX_CELLS, box_of, class_of, read_area

LARGEST_NUCLEUS = 20.0
"""In areas of a usual nucleus: a larger outline that a person drew is an area."""
MAX_CLASSES = 1000
_UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_CLASS = ("", "unknown", "unclassified")


@dataclass(frozen=True)
class FileCells:
    """Cells of the file: rows of boxes, class ids, and what the file says of each.

    `has_class` and `has_size` say where the file says nothing. Status is -1 where it is not
    said, key (0, 0) where there is none.
    """

    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    has_class: NDArray[np.bool_]
    has_size: NDArray[np.bool_]
    status: NDArray[np.int64]
    keys: NDArray[np.uint64]


class ClassWords:
    """Class names that grow, found whatever their case."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = list(dict.fromkeys(names))
        self.known = len(self.all)
        self._ids: dict[str, int] = {}
        for i, name in enumerate(self.all):
            self._ids.setdefault(name.casefold(), i)
        self._map: dict[str, str | None] = {}

    def mapped(self, class_map: Mapping[str, str | None]) -> ClassWords:
        """The same, with classes of the file that mean others; None leaves objects out."""
        self._map = {word.casefold(): name for word, name in class_map.items()}
        return self

    def id_of(self, word: str) -> int | None:
        """Class id of a word of the file; None to leave the object out."""
        name = self._map.get(word.casefold(), word)
        if name is None:
            return None
        known = self._ids.get(name.casefold())
        if known is not None:
            return known
        if name.casefold() in _NO_CLASS:
            return UNKNOWN
        if len(self.all) - self.known >= MAX_CLASSES:
            raise ValueError(f"more than {MAX_CLASSES} new classes")
        self._ids[name.casefold()] = len(self.all)
        self.all.append(name)
        return len(self.all) - 1


class FileObjects:
    """Features of a file, sorted into cells and areas; coordinates as level-0 px."""

    def __init__(self, nucleus_px: float, names: ClassWords) -> None:
        self._half = nucleus_px / 2
        self._largest = LARGEST_NUCLEUS * math.pi / 4 * nucleus_px**2
        self._names = names
        self._boxes: list[tuple[float, float, float, float]] = []
        self._classes: list[int] = []
        self._has_class: list[bool] = []
        self._has_size: list[bool] = []
        self._status: list[int] = []
        self._ids: list[str] = []
        self.areas: dict[str, Area] = {}
        self.left_out: Counter[str] = Counter()
        self.offset = (0.0, 0.0)

    def add(self, feature: dict[str, Any]) -> None:
        """Sort one feature."""
        properties, geometry = feature.get("properties") or {}, feature["geometry"]
        ours = read_area(feature, self.offset)
        if ours is not None:
            self.areas[ours[0]] = ours[1]
            return
        word = class_of(properties.get("classification"))
        kind = str(properties.get("objectType") or properties.get("object_type") or "annotation")
        if geometry["type"] in ("Point", "MultiPoint"):
            single = geometry["type"] == "Point"
            points = [geometry["coordinates"]] if single else geometry["coordinates"]
            for point in points:
                self._add_point(point, word, feature if len(points) == 1 else {})
            return
        if geometry["type"] not in ("Polygon", "MultiPolygon"):
            self.left_out[f"of the kind {str(geometry['type'])[:30]}"] += 1
            return
        x0, y0, x1, y1 = box_of(geometry)
        if kind == "annotation" and self._size(geometry) > self._largest:
            self._add_area(feature, str(properties.get("name") or word))
        elif kind == "cell" and feature.get("nucleusGeometry") is None:
            # The outline is the whole cell's; a box is its nucleus'.
            self._add_point(((x0 + x1) / 2, (y0 + y1) / 2), word, feature)
        else:
            self._add_cell(box_of(feature.get("nucleusGeometry") or geometry), word, feature, True)

    def cells(self) -> FileCells:
        """All cells as columns."""
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4) + np.tile(self.offset, 2)
        return FileCells(
            boxes.astype(np.float32),
            np.array(self._classes, np.int16),
            np.array(self._has_class, bool),
            np.array(self._has_size, bool),
            np.array(self._status, np.int64),
            _keys(self._ids),
        )

    def _add_point(self, point: Any, word: str, feature: Mapping[str, Any]) -> None:
        x, y = float(point[0]), float(point[1])
        if not (abs(x) < 1e9 and abs(y) < 1e9):
            raise ValueError("coordinates beyond any slide")
        half = self._half
        self._add_cell((x - half, y - half, x + half, y + half), word, feature, False)

    def _add_cell(
        self,
        box: tuple[float, float, float, float],
        word: str,
        feature: Mapping[str, Any],
        has_size: bool,
    ) -> None:
        if len(self._boxes) >= MAX_CELLS:
            raise ValueError(f"more than {MAX_CELLS} cells")
        class_id = self._names.id_of(word)
        if class_id is None:
            self.left_out[f"of the class {word}"] += 1
            return
        if not (box[0] < box[2] and box[1] < box[3]):
            self.left_out["without area"] += 1
            return
        told = read_said((feature.get("properties") or {}).get("metadata"))
        self._boxes.append(box)
        self._classes.append(class_id)
        self._has_class.append(word.casefold() not in _NO_CLASS)
        self._has_size.append(has_size)
        self._status.append(-1 if told is None else int(STATUS_OF[told[0]]))
        self._ids.append(str(feature.get("id") or "")[:64])

    def _add_area(self, feature: Mapping[str, Any], name: str) -> None:
        geometry = feature["geometry"]
        single = geometry["type"] == "Polygon"
        parts = [geometry["coordinates"]] if single else geometry["coordinates"]
        for number, rings in enumerate(parts):
            ring = np.array([p[:2] for p in rings[0]], np.float64) + self.offset
            if len(ring) > 1 and (ring[0] == ring[-1]).all():
                ring = ring[:-1]
            if len(rings) > 1:
                self.left_out["holes in areas"] += len(rings) - 1
            try:
                area = Area(tuple((float(x), float(y)) for x, y in ring), "region", name)
            except AnnotationError:
                self.left_out["without area"] += 1
                continue
            self.areas[_area_key(feature.get("id") if number == 0 else None)] = area

    @staticmethod
    def _size(geometry: Mapping[str, Any]) -> float:
        """px² inside the outer rings."""
        single = geometry["type"] == "Polygon"
        parts = [geometry["coordinates"]] if single else geometry["coordinates"]
        total = 0.0
        for rings in parts:
            x, y = np.array([p[:2] for p in rings[0]], np.float64).T
            total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
        return total


def _keys(ids: Sequence[str]) -> NDArray[np.uint64]:
    """Keys (N, 2); (0, 0) for what is no UUID or comes a second time."""
    keys = np.zeros((len(ids), 2), np.uint64)
    good = [row for row, text in enumerate(ids) if _UUID.fullmatch(text)]
    keys[good] = from_text([ids[row] for row in good])
    _, first = np.unique(keys, axis=0, return_index=True)
    again = np.ones(len(keys), bool)
    again[first] = False
    keys[again] = 0
    return keys


def _area_key(found: Any) -> str:
    try:
        return str(uuid.UUID(str(found)))
    except ValueError:
        return str(uuid.uuid4())
