"""Figures of fields with what was found over what is true."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from napari_celldetr.core.metrics import PointField, match_points, point_scores

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115))
"""Blue, vermilion and green: told apart with every kind of colour vision."""
SCALE = 2
RING = 11
LINE = 26
LEGEND = (
    "thin ring: found, class right · thick ring: found, class wrong (inner dot: the true class) · "
    "cross: missed · square: found, nothing annotated there"
)


def field_score(cells: PointField, radius: float, class_names: Sequence[str]) -> float:
    """Mean of a field's detection F1 and its class mean: what best and worst are told by."""
    scores = point_scores([cells], radius, class_names=class_names)
    known = [v for v in (scores.f1, scores.class_mean) if not np.isnan(v)]
    return float(np.mean(known)) if known else 0.0


def panel(image: NDArray[np.uint8], cells: PointField, radius: float) -> Image.Image:
    """One field, enlarged, with every true and found cell."""
    picture = Image.fromarray(image).resize(
        (image.shape[1] * SCALE, image.shape[0] * SCALE), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(picture)
    true_ids, found_ids = cells.ids()
    true, found, _ = match_points(cells.truth_xy, cells.found_xy, radius)
    for t, f in zip(true, found, strict=True):
        right = true_ids[t] in (found_ids[f], -1)
        _ring(draw, cells.found_xy[f], COLOURS[found_ids[f]], 2 if right else 5)
        if not right:
            _dot(draw, cells.found_xy[f], COLOURS[true_ids[t]])
    for t in set(range(len(cells.truth_xy))) - set(true.tolist()):
        _cross(draw, cells.truth_xy[t], COLOURS[max(true_ids[t], 0)])
    for f in set(range(len(cells.found_xy))) - set(found.tolist()):
        _square(draw, cells.found_xy[f], COLOURS[found_ids[f]])
    return picture


def around(picture: Image.Image, xy: NDArray[Any], side: int = 72) -> Image.Image:
    """A square of `side` field px around a place of a panel, white where the field ends."""
    x, y = (round(float(v) * SCALE) for v in xy)
    half = side * SCALE // 2
    page = Image.new("RGB", (2 * half, 2 * half), "white")
    page.paste(picture, (half - x, half - y))
    return page.resize((3 * side, 3 * side), Image.Resampling.BICUBIC)


def sheet(
    panels: Sequence[tuple[str, Image.Image]], columns: int, class_names: Sequence[str], path: Path
) -> None:
    """Titled panels on one page with a legend, written as JPEG."""
    width = max(p.width for _, p in panels)
    height = max(p.height for _, p in panels) + LINE
    rows = -(-len(panels) // columns)
    page = Image.new("RGB", (columns * (width + 8), rows * (height + 8) + 3 * LINE), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=20)
    for i, (title, picture) in enumerate(panels):
        x, y = (i % columns) * (width + 8), (i // columns) * (height + 8)
        draw.text((x + 4, y + 2), title, "black", font)
        page.paste(picture, (x, y + LINE))
    x, y = 8, rows * (height + 8) + 4
    for name, colour in zip(class_names, COLOURS, strict=False):
        draw.ellipse((x, y + 4, x + 16, y + 20), fill=colour)
        draw.text((x + 24, y), name, "black", font)
        x += 40 + int(draw.textlength(name, font))
    draw.text((8, y + LINE), LEGEND, "black", font)
    small = page.resize((page.width * 3 // 5, page.height * 3 // 5), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, quality=82, optimize=True)


def best_median_worst(values: Sequence[float], each: int) -> list[tuple[str, int]]:
    """Indices of the `each` best, middle and worst values, with the word for each."""
    order = np.argsort(-np.asarray(values), kind="stable").tolist()
    middle = (len(order) - each) // 2
    parts = {"best": order[:each], "median": order[middle : middle + each], "worst": order[-each:]}
    return [(word, i) for word, members in parts.items() for i in members]


def _at(xy: NDArray[Any]) -> tuple[float, float]:
    return float(xy[0]) * SCALE, float(xy[1]) * SCALE


def _ring(draw: ImageDraw.ImageDraw, xy: NDArray[Any], colour: Any, width: int) -> None:
    x, y = _at(xy)
    draw.ellipse((x - RING, y - RING, x + RING, y + RING), outline=colour, width=width)


def _dot(draw: ImageDraw.ImageDraw, xy: NDArray[Any], colour: Any) -> None:
    x, y = _at(xy)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour, outline="white")


def _cross(draw: ImageDraw.ImageDraw, xy: NDArray[Any], colour: Any) -> None:
    x, y = _at(xy)
    for colour_, width in (("white", 6), (colour, 3)):
        draw.line((x - 7, y - 7, x + 7, y + 7), fill=colour_, width=width)
        draw.line((x - 7, y + 7, x + 7, y - 7), fill=colour_, width=width)


def _square(draw: ImageDraw.ImageDraw, xy: NDArray[Any], colour: Any) -> None:
    x, y = _at(xy)
    draw.rectangle((x - 9, y - 9, x + 9, y + 9), outline="white", width=4)
    draw.rectangle((x - 8, y - 8, x + 8, y + 8), outline=colour, width=2)
