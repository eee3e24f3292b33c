"""QuPath GeoJSON, written and read one feature at a time.

A cell is a ``detection`` whose geometry is the ellipse in its box, as a polygon of 16 vertices
that touches the box on every side: it looks and measures like a nucleus in QuPath, and the box
comes back exactly. Coordinates are full-resolution pixels of the image as QuPath shows it, so a
slide's scanned bounds are subtracted.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import UNKNOWN, Detections, Source
from napari_celldetr.core.errors import CellDETRError, ExportError
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.text_rows import Piece, blank, decimals, hexadecimal, join, words

Color = tuple[int, int, int]

VERTICES = 16
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

_BLOCK = 16384
_CHUNK = 1 << 20
MAX_FEATURE_CHARS = 8 << 20
MAX_HEAD_CHARS = 4 << 20
MAX_VERTICES = 100_000
MAX_CELLS = 20_000_000


def write_geojson(
    cells: Detections,
    path: Path,
    *,
    offset: tuple[float, float] = (0, 0),
    colors: Mapping[str, Color] | None = None,
    compress: bool = False,
) -> None:
    """Write a FeatureCollection to `path` (not atomically: the caller gives a temporary path).

    `offset` (x, y) in level-0 px is subtracted; `colors` maps class names to r, g, b.
    """
    with gzip.open(path, "wb", compresslevel=4) if compress else path.open("wb") as file:
        file.write(_head(cells, offset))
        ids = cell_ids(cells)
        for start in range(0, len(cells), _BLOCK):
            some = slice(start, start + _BLOCK)
            text = _features(cells.select(some), ids[some], offset, colors or {})
            file.write(text if start + _BLOCK < len(cells) else text[:-2] + b"\n")
        file.write(b"]}\n")


def read_geojson(path: Path, *, compressed: bool = False) -> Detections:
    """Cells of a GeoJSON file: each polygon's box, class, score (1 if none) and measurements.

    What `write_geojson` wrote comes back in level-0 px; other files keep their own frame.
    Raises `ExportError` for anything that is not such a file, for numbers that are not finite,
    for ids that come twice, and for features larger than any cell.
    """
    with gzip.open(path, "rb") if compressed else path.open("rb") as file:
        stream = _Stream(cast(IO[bytes], file))
        about, features = stream.head(), stream.features()
        return _Collector(about).collect(features)


def _head(cells: Detections, offset: tuple[float, float]) -> bytes:
    about = {
        "note": RESEARCH_USE,
        "class_names": cells.class_names,
        "offset": offset,
        "source": json.loads(cells.source.to_json()),
    }
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    return f'{{"type":"FeatureCollection","{MEMBER}":{text},"features":[\n'.encode()


def _features(
    cells: Detections,
    ids: NDArray[np.uint64],
    offset: tuple[float, float],
    colors: Mapping[str, Color],
) -> bytes:
    count = len(cells)
    pieces: list[Piece | bytes] = [b'{"type":"Feature","id":"', *_uuid(ids), b'","geometry":']
    pieces += [b'{"type":"Polygon","coordinates":[[', *_ring(cells.boxes, offset), b"]]}"]
    pieces += [b',"properties":{"objectType":"detection","classification":']
    pieces += [_classification(cells, colors), b',"measurements":{"score":']
    pieces += [decimals(cells.scores, 4)]
    pieces += [p for name, values in cells.columns.items() for p in _measurement(name, values)]
    return join([*pieces, b"}}},\n"], count)


def _uuid(ids: NDArray[np.uint64]) -> Iterator[Piece | bytes]:
    digits = np.concatenate([hexadecimal(ids[:, 0]), hexadecimal(ids[:, 1])], axis=1)
    for start, stop in ((0, 8), (8, 12), (12, 16), (16, 20)):
        yield digits[:, start:stop]
        yield b"-"
    yield digits[:, 20:]


def _ring(boxes: NDArray[np.float32], offset: tuple[float, float]) -> Iterator[Piece | bytes]:
    """Closed ring through the middle of each side of the box, two decimals."""
    low = boxes[:, :2].astype(np.float64) - offset
    high = boxes[:, 2:].astype(np.float64) - offset
    angle = 2 * np.pi * np.arange(VERTICES) / VERTICES
    # Exact zeros and ones where the ellipse touches its box, so the box survives rounding.
    share = np.round((1 + np.stack([np.cos(angle), np.sin(angle)])) / 2, 12)
    points = []
    for k in range(VERTICES):
        x, y = (low + (high - low) * share[:, k]).T
        points.append((decimals(x, 2), decimals(y, 2)))
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


def _measurement(name: str, values: NDArray[Any]) -> Iterator[Piece | bytes]:
    """``,"name":value``, or nothing where the value is not a number: JSON has no NaN."""
    if values.dtype.kind not in "buif":
        return
    key = words([f",{json.dumps(name, ensure_ascii=False)}:"])
    missing = ~np.isfinite(values.astype(np.float64))
    yield blank(np.repeat(key, len(values), axis=0), missing)
    yield decimals(values, 4 if values.dtype.kind == "f" else 0)


class _Stream:
    """The features of a file, decoded one at a time from a bounded buffer."""

    _FEATURES = re.compile(r'"features"\s*:\s*\[')
    _BETWEEN = re.compile(r"[\s,]*")

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def head(self) -> dict[str, Any]:
        """Everything before the first feature."""
        self._fill(_CHUNK)
        if self._text.lstrip("\ufeff \t\r\n").startswith("["):
            self._at = self._text.index("[") + 1
            return {}
        while (found := self._FEATURES.search(self._text)) is None:
            if self._ended or len(self._text) > MAX_HEAD_CHARS:
                raise _refused("no list of features", "a GeoJSON FeatureCollection")
            self._fill(_CHUNK)
        head = self._parse(self._text[: found.end()].lstrip("\ufeff") + "]}", 0)[0]
        if not isinstance(head, dict) or head.get("type") != "FeatureCollection":
            raise _refused("another kind of JSON", "a GeoJSON FeatureCollection")
        self._at = found.end()
        return head

    def features(self) -> Iterator[dict[str, Any]]:
        """Each feature; refuses one that is too large, too deep or not an object."""
        while True:
            between = self._BETWEEN.match(self._text, self._at)
            self._at = self._at if between is None else between.end()
            if self._at == len(self._text):
                if self._ended:
                    raise _refused("the end of the file inside the list", "a complete file")
                self._fill(_CHUNK)
            elif self._text[self._at] == "]":
                return
            else:
                yield self._feature()

    def _feature(self) -> dict[str, Any]:
        size = _CHUNK
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                # Wrong JSON fails at once; cut-off JSON fails at its end and needs more text.
                if self._ended or len(self._text) - self._at > MAX_FEATURE_CHARS:
                    raise _refused(str(error)[:100], "features of GeoJSON") from error
                # All that is left belongs to this one feature: count before parsing again.
                if self._text.count("[", self._at) > MAX_VERTICES:
                    raise _refused(
                        "a feature with too many vertices", f"at most {MAX_VERTICES}"
                    ) from error
                self._fill(size)
                size *= 2
                continue
            if not isinstance(value, dict):
                raise _refused("something else in the list", "features of GeoJSON")
            self._at = end
            return value

    def _parse(self, text: str, at: int) -> tuple[Any, int]:
        try:
            return self._decoder.raw_decode(text, at)
        except RecursionError as error:
            raise _refused("nesting deeper than any feature has", "features of GeoJSON") from error

    def _fill(self, size: int) -> None:
        self._text, self._at = self._text[self._at :], 0
        more = self._file.read(size)
        # A multi-byte character may be cut; three more bytes at most complete it.
        while more and not self._ended:
            try:
                self._text += more.decode("utf-8")
                return
            except UnicodeDecodeError as error:
                extra = self._file.read(1) if error.end == len(more) else b""
                if not extra:
                    raise _refused("bytes that are not UTF-8", "a GeoJSON file") from error
                more += extra
        self._ended = True


class _Collector:
    """Features on their way to columns."""

    def __init__(self, head: dict[str, Any]) -> None:
        about = head.get(MEMBER)
        self._about = about if isinstance(about, dict) else {}
        self._boxes: list[tuple[float, float, float, float]] = []
        self._scores: list[float] = []
        self._classes: list[int] = []
        self._names: dict[str, int] = {}
        self._measured: dict[str, dict[int, float]] = {}
        self._ids: set[bytes] = set()

    def collect(self, features: Iterator[dict[str, Any]]) -> Detections:
        try:
            for name in self._about.get("class_names", ()):
                self._names.setdefault(str(name), len(self._names))
            for feature in features:
                self._add(feature)
            return self._table()
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused(f"{type(error).__name__}: {error}"[:150], "cells as polygons") from error

    def _add(self, feature: dict[str, Any]) -> None:
        row = len(self._boxes)
        if row >= MAX_CELLS:
            raise _refused(f"more than {MAX_CELLS} features", "fewer cells")
        self._check_id(feature.get("id"))
        self._boxes.append(_box(feature["geometry"]))
        properties = feature.get("properties") or {}
        name = (properties.get("classification") or {}).get("name", UNKNOWN_NAME)
        known = name in self._names
        if name == UNKNOWN_NAME and not known:
            self._classes.append(UNKNOWN)
        else:
            self._classes.append(self._names.setdefault(str(name), len(self._names)))
        measured = dict(_measurements(properties.get("measurements")))
        self._scores.append(measured.pop("score", 1.0))
        for key, value in measured.items():
            self._measured.setdefault(key, {})[row] = value

    def _check_id(self, found: Any) -> None:
        if found is None:
            return
        key = str(found)[:64].encode("utf-8", "replace")
        if key in self._ids:
            raise _refused("an id that comes twice", "unique ids")
        self._ids.add(key)

    def _table(self) -> Detections:
        count = len(self._boxes)
        boxes = np.array(self._boxes, np.float64).reshape(-1, 4)
        boxes += np.tile(np.array(self._about.get("offset", (0, 0)), np.float64), 2)
        columns = {}
        for name, values in self._measured.items():
            column = np.full(count, np.nan, np.float32)
            column[list(values)] = list(values.values())
            columns[name] = column
        source = self._about.get("source")
        return Detections(
            boxes.astype(np.float32),
            np.array(self._scores, np.float32),
            np.array(self._classes, np.int16),
            tuple(self._names),
            None,
            columns,
            Source.from_json(json.dumps(source)) if isinstance(source, dict) else Source(),
        )


def _box(geometry: dict[str, Any]) -> tuple[float, float, float, float]:
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


def _measurements(found: Any) -> Iterator[tuple[str, float]]:
    """Measurements as QuPath writes them now (an object) and wrote them once (a list)."""
    if isinstance(found, list):
        found = {item["name"]: item["value"] for item in found}
    for name, value in (found or {}).items():
        if isinstance(value, int | float):
            yield str(name), float(value)


def _refuse_constant(text: str) -> None:
    raise _refused(text, "finite numbers")


def _refused(found: str, expected: str) -> CellDETRError:
    return ExportError(
        "The GeoJSON file cannot be read.",
        expected=expected,
        found=found,
        remedy="export the cells again, e.g. as .parquet",
    )
