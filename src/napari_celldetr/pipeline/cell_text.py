"""Pieces of text that GeoJSON and COCO share: a cell's outline and its measurements."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.detections import Detections
from napari_celldetr.pipeline.cell_rows import (
    AUTHOR,
    STATUS,
    STATUS_OF,
    WORDS,
    CellRows,
    status_numbers,
)
from napari_celldetr.pipeline.text_rows import Piece, blank, decimals, words

VERTICES = 16
MAX_MEASUREMENTS = 1000


def ellipse(
    boxes: NDArray[np.float32], offset: tuple[float, float] = (0, 0)
) -> list[tuple[Piece, Piece]]:
    """x and y of the vertices of each cell's ellipse, with two decimals.

    `VERTICES` points that touch the box in the middle of each side, `offset` subtracted.
    """
    low = boxes[:, :2].astype(np.float64) - offset
    high = boxes[:, 2:].astype(np.float64) - offset
    angle = 2 * np.pi * np.arange(VERTICES) / VERTICES
    # Exact zeros and ones where the ellipse touches its box, so the box survives rounding.
    share = np.round((1 + np.stack([np.cos(angle), np.sin(angle)])) / 2, 12)
    points = []
    for k in range(VERTICES):
        x, y = (low + (high - low) * share[:, k]).T
        points.append((decimals(x, 2), decimals(y, 2)))
    return points


def measurements(cells: Detections) -> Iterator[Piece | bytes]:
    """``,"name":value`` of every measurement that is a number; JSON has no NaN."""
    for name, values in cells.columns.items():
        if values.dtype.kind not in "buif":
            continue
        key = words([f",{json.dumps(name, ensure_ascii=False)}:"])
        missing = ~np.isfinite(values.astype(np.float64))
        yield blank(np.repeat(key, len(values), axis=0), missing)
        yield decimals(values, 4 if values.dtype.kind == "f" else 0)


def read_measurements(found: Any) -> Iterator[tuple[str, float]]:
    """Measurements as QuPath writes them now (an object) and wrote them once (a list)."""
    if isinstance(found, list):
        found = {item["name"]: item["value"] for item in found}
    for name, value in (found or {}).items():
        if isinstance(value, int | float):
            yield str(name), float(value)


class Measured:
    """Measurements on their way to columns; NaN where a cell has none."""

    def __init__(self) -> None:
        self._columns: dict[str, array[float]] = {}

    def add(self, row: int, values: Mapping[str, float]) -> None:
        """The values of one more cell; rows come in order."""
        for name, value in values.items():
            column = self._columns.setdefault(name, array("d"))
            if len(self._columns) > MAX_MEASUREMENTS:
                raise ValueError(f"more than {MAX_MEASUREMENTS} kinds of measurements")
            self._fill(column, row)
            column.append(value)

    def columns(self, count: int) -> dict[str, NDArray[np.float32]]:
        """Columns (count,)."""
        for column in self._columns.values():
            self._fill(column, count)
        return {name: np.array(c, np.float32) for name, c in self._columns.items()}

    @staticmethod
    def _fill(column: array[float], count: int) -> None:
        if len(column) < count:
            column.extend([math.nan] * (count - len(column)))


def said(rows: CellRows) -> Piece | None:
    """``"status":…,"author":…`` of every cell, the author where there is one; None if plain."""
    if rows.status is None or rows.authors is None:
        return None
    authors, which = np.unique(rows.authors, return_inverse=True)
    texts = [
        _members({STATUS: word, **({AUTHOR: author} if author else {})})
        for word in WORDS.tolist()
        for author in authors.tolist()
    ]
    return words(texts)[rows.status.astype(np.int64) * len(authors) + which]


def read_said(found: Any) -> tuple[str, str] | None:
    """Status and author as `said` wrote them; None where there is no status that we know."""
    if not isinstance(found, Mapping) or str(found.get(STATUS)) not in STATUS_OF:
        return None
    return str(found[STATUS]), str(found.get(AUTHOR, ""))


class Told:
    """What is said of cells, on its way to columns; a claim where nothing is."""

    def __init__(self) -> None:
        self._missing = 0
        self._known: dict[tuple[str, str], int] = {(WORDS[Status.CLAIMED], ""): 0}
        self._which = array("q")

    def add(self, found: Any) -> None:
        """What the members that `said` wrote say of one more cell."""
        told = read_said(found)
        self._missing += told is None
        self._which.append(0 if told is None else self._known.setdefault(told, len(self._known)))

    @property
    def anything(self) -> bool:
        """Whether any cell is more than a claim."""
        return len(self._known) > 1

    def columns(self, *, all_said: bool) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
        """Status and authors; ``ValueError`` where something must be said of all, and is not."""
        if all_said and self._missing:
            raise ValueError(f"{self._missing} cells without a status")
        which = np.array(self._which, np.int64)
        words_, authors = zip(*self._known, strict=True)
        return status_numbers(np.array(words_))[which], np.array(authors)[which]


def _members(values: Mapping[str, str]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))[1:-1]
