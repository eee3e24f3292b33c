"""QuPath GeoJSON, written and read one feature at a time.

A cell is a ``detection`` whose geometry is the ellipse in its box, as a polygon of 16 vertices
that touches the box on every side: it looks and measures like a nucleus in QuPath, and the box
comes back exactly. An area that a person drew is an ``annotation``. What a person said stands in
``metadata``, which QuPath keeps. Coordinates are full-resolution pixels of the image as QuPath
shows it, so a slide's scanned bounds are subtracted.
"""

from __future__ import annotations

import gzip
import json
import uuid
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.annotations import Area, CorrectedCells
from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import CellDETRError, ExportError
from napari_celldetr.pipeline.cell_ids import cell_ids, from_text, letters
from napari_celldetr.pipeline.cell_rows import CellRows, Steps, finish, known_kind
from napari_celldetr.pipeline.cell_text import (
    Measured,
    Told,
    ellipse,
    measurements,
    read_measurements,
    said,
)
from napari_celldetr.pipeline.json_stream import MAX_VERTICES, JsonStream
from napari_celldetr.pipeline.text_rows import Piece, decimals, join, words

Color = tuple[int, int, int]

MEMBER = "celldetr"
UNKNOWN_NAME = "unknown"
PALETTE: tuple[Color, ...] = (
    (40, 120, 200),
    (220, 80, 60),
    (60, 170, 90),
    (230, 170, 40),
    (150, 90, 190),
    (70, 190, 190),
    (200, 110, 160),
    (130, 130, 60),
)
GREY: Color = (128, 128, 128)
AREA_CLASSES: dict[str, tuple[str, Color]] = {
    "complete": ("Region*", (40, 160, 120)),
    "region": ("Area of interest", (160, 130, 40)),
}
"""By kind of area: class and colour. QuPath's ``Region*`` is where all cells are annotated."""
AREA_KEY, AREA_KIND = "area", "kind"

BLOCK = 16384
READ_BLOCK = 2048
MAX_CELLS = 20_000_000


def write_geojson(
    cells: Detections | CorrectedCells,
    path: Path,
    *,
    offset: tuple[float, float] = (0, 0),
    colors: Mapping[str, Color] | None = None,
    compress: bool = False,
) -> None:
    """Write a FeatureCollection to `path` (not atomically: the caller gives a temporary path).

    `offset` (x, y) in level-0 px is subtracted; `colors` maps class names to r, g, b.
    """
    rows = CellRows.of(cells) if isinstance(cells, CorrectedCells) else _plain(cells)
    finish(writing_geojson(rows, path, offset=offset, colors=colors, compress=compress))


def writing_geojson(
    rows: CellRows,
    path: Path,
    *,
    offset: tuple[float, float] = (0, 0),
    colors: Mapping[str, Color] | None = None,
    compress: bool = False,
) -> Steps[None]:
    """`write_geojson` block by block; yields how many cells are written."""
    with gzip.open(path, "wb", compresslevel=4) if compress else path.open("wb") as file:
        file.write(_head(rows, offset))
        last, done = b"".join(_area(k, a, offset) for k, a in rows.areas.items()), 0
        for block in rows.blocks(BLOCK):
            file.write(last)
            last = _features(block, offset, colors or {})
            done += len(block)
            yield done
        # Every feature ends in a comma and a line's end, but the last has no comma.
        file.write(last[:-2] + b"\n" if last else b"")
        file.write(b"]}\n")


def read_geojson(path: Path, *, compressed: bool = False) -> Detections:
    """Cells of a GeoJSON file: each polygon's box, class, score (1 if none) and measurements.

    What `write_geojson` wrote comes back in level-0 px; other files keep their own frame.
    Raises `ExportError` for anything that is not such a file, for numbers that are not finite,
    for ids that come twice, and for features larger than any cell.
    """
    return finish(reading_geojson(path, compressed=compressed)).cells


def reading_geojson(path: Path, *, compressed: bool = False) -> Steps[CellRows]:
    """`read_geojson` with ids, status, authors and areas; yields how many cells are read."""
    with open_text(path, compressed) as file:
        stream = JsonStream(file, "features", "a GeoJSON FeatureCollection")
        collector = FeatureCollector(collection_head(stream))
        number = 0
        for number, feature in enumerate(stream.members(), 1):
            collector.add(feature)
            if number % READ_BLOCK == 0:
                yield number
        yield number
        return collector.rows()


def open_text(path: Path, compressed: bool) -> IO[bytes]:
    """The bytes of the JSON in a file."""
    return cast(IO[bytes], gzip.open(path, "rb") if compressed else path.open("rb"))


def collection_head(stream: JsonStream) -> dict[str, Any]:
    """What stands before the features; `ExportError` where it says that this is no GeoJSON."""
    head = stream.head()
    if head and head.get("type") != "FeatureCollection":
        raise stream.refused("another kind of JSON")
    return head


def _plain(cells: Detections) -> CellRows:
    return CellRows(cells, cell_ids(cells))


def _head(rows: CellRows, offset: tuple[float, float]) -> bytes:
    about: dict[str, Any] = {
        "note": RESEARCH_USE,
        "class_names": rows.cells.class_names,
        "offset": offset,
        "source": json.loads(rows.cells.source.to_json()),
    }
    if rows.is_corrected:
        about["corrected"] = True
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    return f'{{"type":"FeatureCollection","{MEMBER}":{text},"features":[\n'.encode()


def _features(rows: CellRows, offset: tuple[float, float], colors: Mapping[str, Color]) -> bytes:
    cells, told = rows.cells, said(rows)
    pieces: list[Piece | bytes] = [b'{"type":"Feature","id":"', letters(rows.ids)]
    pieces += [b'","geometry":{"type":"Polygon","coordinates":[[', *_ring(cells.boxes, offset)]
    pieces += [b']]},"properties":{"objectType":"detection","classification":']
    pieces += [_classification(cells, colors), b',"measurements":{"score":']
    pieces += [decimals(cells.scores, 4), *measurements(cells), b"}"]
    if told is not None:
        pieces += [b',"metadata":{', told, b"}"]
    return join([*pieces, b"}},\n"], len(rows))


def _ring(boxes: NDArray[np.float32], offset: tuple[float, float]) -> Iterator[Piece | bytes]:
    """Closed ring through the middle of each side of the box."""
    points = ellipse(boxes, offset)
    for k, (x_text, y_text) in enumerate([*points, points[0]]):
        yield b",[" if k else b"["
        yield x_text
        yield b","
        yield y_text
        yield b"]"


def _classification(cells: Detections, colors: Mapping[str, Color]) -> Piece:
    """The classification of every cell; QuPath refuses one without a colour."""
    texts = [
        json.dumps(
            {"name": name, "color": list(colors.get(name, PALETTE[i % len(PALETTE)]))},
            ensure_ascii=False,
        )
        for i, name in enumerate(cells.class_names)
    ]
    texts.append(json.dumps({"name": UNKNOWN_NAME, "color": list(colors.get(UNKNOWN_NAME, GREY))}))
    return words(texts)[cells.class_ids]


def _area(key: str, area: Area, offset: tuple[float, float]) -> bytes:
    """An annotation whose coordinates come back as they are."""
    ring = (area.corners - offset).tolist()
    name, color = AREA_CLASSES[area.kind]
    feature = {
        "type": "Feature",
        "id": str(_area_id(key)),
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {
            "objectType": "annotation",
            "name": area.name,
            "classification": {"name": name, "color": list(color)},
            "metadata": {AREA_KIND: area.kind, AREA_KEY: key},
        },
    }
    return json.dumps(feature, ensure_ascii=False, separators=(",", ":")).encode() + b",\n"


def _area_id(key: str) -> uuid.UUID:
    """QuPath wants a UUID: the area's own id where it is one, else one made from it."""
    try:
        return uuid.UUID(key)
    except ValueError:
        return uuid.uuid5(uuid.NAMESPACE_OID, key)


class FeatureCollector:
    """Features on their way to columns."""

    def __init__(self, head: dict[str, Any]) -> None:
        about = head.get(MEMBER)
        self._about = about if isinstance(about, dict) else {}
        self._boxes, self._scores = array("d"), array("d")
        self._classes = array("q")
        self._names: dict[str, int] = {}
        self._measured = Measured()
        self._ids: list[str] = []
        self._seen: set[str] = set()
        self._told = Told()
        self._areas: dict[str, Area] = {}
        try:
            for name in self._about.get("class_names", ()):
                self._names.setdefault(str(name), len(self._names))
            x, y = self._about.get("offset", (0, 0))
            self._offset = (float(x), float(y))
        except (TypeError, ValueError) as error:
            raise _refused(str(error)[:150], "class names and an offset") from error

    def add(self, feature: dict[str, Any]) -> None:
        """Take one more feature; `ExportError` when it is not a cell or one of our areas."""
        try:
            self._add(feature)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:150], "cells as polygons") from error

    def rows(self) -> CellRows:
        """All that was taken."""
        try:
            return self._rows()
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:150], "cells as polygons") from error

    def _add(self, feature: dict[str, Any]) -> None:
        row = len(self._ids)
        if row >= MAX_CELLS:
            raise _refused(f"more than {MAX_CELLS} features", "fewer cells")
        name = self._checked_id(feature.get("id"))
        properties = feature.get("properties") or {}
        if (area := read_area(feature, self._offset)) is not None:
            self._areas[area[0]] = area[1]
            return
        self._boxes.extend(box_of(feature["geometry"]))
        self._ids.append(name)
        self._classes.append(self._class(properties.get("classification")))
        measured = dict(read_measurements(properties.get("measurements")))
        self._scores.append(measured.pop("score", 1.0))
        self._measured.add(row, measured)
        self._told.add(properties.get("metadata"))

    def _class(self, classification: Any) -> int:
        name = class_of(classification) or UNKNOWN_NAME
        if name == UNKNOWN_NAME and name not in self._names:
            return UNKNOWN
        return self._names.setdefault(name, len(self._names))

    def _checked_id(self, found: Any) -> str:
        if found is None:
            return ""
        key = str(found)[:64]
        if key in self._seen:
            raise _refused("an id that comes twice", "unique ids")
        self._seen.add(key)
        return key

    def _rows(self) -> CellRows:
        count = len(self._ids)
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4) + np.tile(self._offset, 2)
        source = self._about.get("source")
        cells = Detections(
            boxes.astype(np.float32),
            np.array(self._scores, np.float32),
            np.array(self._classes, np.int16),
            tuple(self._names),
            None,
            self._measured.columns(count),
            Source.from_json(json.dumps(source)) if isinstance(source, dict) else Source(),
        )
        ids = self._own_ids(cells)
        ours = bool(self._about.get("corrected"))
        if not self._told.anything and not self._areas and not ours:
            return CellRows(cells, ids)
        return CellRows(cells, ids, *self._told.columns(all_said=ours), self._areas)

    def _own_ids(self, cells: Detections) -> NDArray[np.uint64]:
        """The file's ids where all cells have a UUID, else ids as a plain result has them."""
        try:
            return from_text(self._ids)
        except ValueError:
            return cell_ids(cells)


def read_area(feature: Mapping[str, Any], offset: tuple[float, float]) -> tuple[str, Area] | None:
    """Id and outline of an annotation that `write_geojson` wrote; None for any other feature."""
    properties = feature.get("properties") or {}
    about = properties.get("metadata") or {}
    if properties.get("objectType") != "annotation" or AREA_KEY not in about:
        return None
    geometry = feature["geometry"]
    box_of(geometry)
    if geometry["type"] != "Polygon" or len(geometry["coordinates"]) != 1:
        raise ValueError("an area with holes or parts")
    ring = np.array([p[:2] for p in geometry["coordinates"][0][:-1]], np.float64) + offset
    outline = tuple((float(x), float(y)) for x, y in ring)
    name = str(properties.get("name") or "")
    return str(about[AREA_KEY]), Area(outline, known_kind(about.get(AREA_KIND)), name)


def class_of(classification: Any) -> str:
    """Name of a class as QuPath writes it now (``names``) and wrote it once; empty for none."""
    found = classification or {}
    names = found.get("names")
    return ": ".join(str(n) for n in names) if names else str(found.get("name") or "")


def box_of(geometry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """xyxy around a Polygon or MultiPolygon; `ExportError` for anything else."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    if kind == "Polygon":
        rings: Sequence[Any] = coordinates[:1]
    elif kind == "MultiPolygon":
        rings = [polygon[0] for polygon in coordinates]
    else:
        raise _refused(f"a {str(kind)[:30]}", "cells as polygons")
    if sum(len(ring) for ring in rings) > MAX_VERTICES:
        raise _refused("a polygon with too many vertices", f"at most {MAX_VERTICES}")
    xs = [point[0] for ring in rings for point in ring]
    ys = [point[1] for ring in rings for point in ring]
    box = (min(xs), min(ys), max(xs), max(ys))
    if not all(abs(v) < 1e9 for v in box):
        raise _refused("coordinates beyond any slide", "finite pixels")
    return box


def _refused(found: str, expected: str) -> CellDETRError:
    return ExportError(
        "The GeoJSON file cannot be read.",
        expected=expected,
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
