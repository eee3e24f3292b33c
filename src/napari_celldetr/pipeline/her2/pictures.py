"""Pictures of a result: the slide with its tumour and coverage, and typical cells from near."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.outline import ANGLES
from napari_celldetr.pipeline.her2.palette import NOT_COUNTED, SCORE_COLORS, Rgb
from napari_celldetr.pipeline.her2.pixel_map import render_cells
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.zone_shapes import Zone
from napari_celldetr.pipeline.legend import Font, scale_bar
from napari_celldetr.slides.slide import Slide

if TYPE_CHECKING:
    from PIL import ImageDraw

OVERVIEW_PX = 1100
NEAR_UM, NEAR_PX = 80.0, 560
AROUND = 0.06
"""Share of the tissue's size that is shown around it."""
COVER = 0.72
INK: Rgb = (25, 25, 25)
_GREY = len(SCORES) + 1
_RAYS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
_PALETTE = np.array([(0, 0, 0), *(SCORE_COLORS[s] for s in SCORES), NOT_COUNTED], np.uint8)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture for the page: a data URL, and its size in px."""

    url: str
    width: int
    height: int


def overviews(result: Her2Result) -> list[Picture]:
    """The slide with the tumour's outline, and the same with measured cells in their colours."""
    region = _shown(result)
    shrink = max(region.width, region.height) / OVERVIEW_PX
    width, height = (max(1, round(n / max(shrink, 1.0))) for n in (region.width, region.height))
    pixels = result.slide.render(region, width, height)
    found = [_with_outlines(result, pixels, region)]
    if result.reading is not None and result.judged is not None:
        outlines = result.reading.measured.outlines
        cells = render_cells(outlines, _values(result), region, (height, width))
        found.append(_with_outlines(result, _covered(pixels, cells), region))
    return found


def _with_outlines(result: Her2Result, pixels: NDArray[np.uint8], region: Region) -> Picture:
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    scale = np.array([image.width / region.width, image.height / region.height])
    tumour = result.tumour
    _outline(draw, (*tumour.cut_out, *tumour.untrusted), region, scale, NOT_COUNTED, 2)
    _outline(draw, tumour.zones, region, scale, INK, 3)
    _bar(draw, image.size, result.slide, region.width / image.width)
    return _picture(image)


def near_views(result: Her2Result) -> list[tuple[str, Picture, Picture]]:
    """For each score that occurs: the score, typical cells as they are, and with outlines."""
    if result.judged is None or result.reading is None:
        return []
    views = []
    for index, score in enumerate(SCORES):
        row = _typical(result, index)
        if row is not None:
            region = _square(result.slide, result.judged.centres[row])
            views.append((score, *_pair(result, region)))
    return views


def _shown(result: Her2Result) -> Region:
    """What holds the tumour or all cells, and a little around it; else the scanned part."""
    slide = result.slide
    corners: list[NDArray[Any]] = [z.outline.corners for z in result.tumour.zones]
    if not corners and result.judged is not None and len(result.judged):
        corners = [result.judged.centres]
    if not corners:
        return slide.bounds
    points = np.concatenate(corners)
    low, high = points.min(axis=0), points.max(axis=0)
    spare = max(32.0, AROUND * float((high - low).max()))
    x0, y0 = np.floor(low - spare).astype(int).tolist()
    x1, y1 = np.ceil(high + spare).astype(int).tolist()
    return Region.from_edges(x0, y0, x1, y1).intersect(slide.region) or slide.bounds


def _values(result: Her2Result) -> NDArray[np.uint8]:
    assert result.judged is not None
    return np.where(result.counted, result.judged.scores + 1, _GREY).astype(np.uint8)


def _covered(pixels: NDArray[np.uint8], cells: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels with the cells' colours laid over them."""
    mixed = pixels.astype(np.float32)
    for value in range(1, len(_PALETTE)):
        share = COVER if value != _GREY else 0.35
        here = cells == value
        mixed[here] = (1 - share) * mixed[here] + share * _PALETTE[value]
    return np.asarray(np.rint(mixed), np.uint8)


def _outline(
    draw: ImageDraw.ImageDraw,
    zones: Sequence[Zone],
    region: Region,
    scale: NDArray[Any],
    color: Rgb,
    line: int,
) -> None:
    for zone in zones:
        for ring in zone.rings:
            corners = (np.concatenate([ring, ring[:1]]) - (region.x, region.y)) * scale
            draw.line([(float(x), float(y)) for x, y in corners], color, line, joint="curve")


def _bar(draw: ImageDraw.ImageDraw, size: tuple[int, int], slide: Slide, shrink: float) -> None:
    """A scale bar at the lower right, on white; `shrink` is level-0 px per px."""
    if slide.mpp is None:
        return
    length, label = scale_bar(size[0], slide.mpp[0] * shrink)
    letters = max(24, size[0] // 36)
    font = Font(letters, label)
    wide = max(length, round(font.width(label)))
    right, bottom = size[0] - letters, size[1] - letters
    draw.rectangle((right - wide - letters, bottom - 2.2 * letters, *size), "white")
    draw.rectangle((right - length, bottom, right - 1, bottom + max(2, letters // 5)), INK)
    left = right - wide / 2 - font.width(label) / 2
    font.write(draw, (left, bottom - letters), label, INK)


def _typical(result: Her2Result, score: int) -> int | None:
    """The cell that counts, of a score, with the most of its kind around it; the first of equals.

    Those at the slide's edge come last, for their surroundings cannot be seen.
    """
    from scipy.spatial import cKDTree

    assert result.judged is not None
    rows = np.flatnonzero(result.counted & (result.judged.scores == score))
    if not len(rows):
        return None
    places = result.judged.centres[rows] * result.judged.mpp
    tree = cKDTree(places)
    company = tree.query_ball_point(places, NEAR_UM / 2, return_length=True)
    size = np.array(result.slide.size) * result.judged.mpp
    edge = np.minimum(places, size - places).min(axis=1) < NEAR_UM / 2
    return int(rows[np.argmax(np.where(edge, 0, company))])


def _square(slide: Slide, centre: NDArray[Any]) -> Region:
    side = np.rint(NEAR_UM / np.array(slide.known_mpp())).astype(int)
    x, y = np.rint(centre - side / 2).astype(int).tolist()
    return Region(x, y, int(side[0]), int(side[1]))


def _pair(result: Her2Result, region: Region) -> tuple[Picture, Picture]:
    from PIL import Image, ImageDraw

    # Drawn at twice the size and shrunk: smooth lines.
    large = 2 * NEAR_PX
    plain = Image.fromarray(result.slide.render(region, large, large))
    drawn = plain.copy()
    draw = ImageDraw.Draw(drawn)
    lines = list(_lines(result, region, large))
    for places, _ in lines:
        draw.line(places, (255, 255, 255), 13)
    for places, color in lines:
        draw.line(places, color, 9)
    small = [image.resize((NEAR_PX, NEAR_PX), Image.Resampling.LANCZOS) for image in (plain, drawn)]
    _bar(ImageDraw.Draw(small[0]), small[0].size, result.slide, region.width / NEAR_PX)
    return _picture(small[0]), _picture(small[1])


def _lines(
    result: Her2Result, region: Region, side: int
) -> Iterator[tuple[list[tuple[float, float]], Rgb]]:
    """Closed lines around the cells in a square region, px of a picture, and their colours."""
    assert result.reading is not None
    outlines, values = result.reading.measured.outlines, _values(result)
    spare = 0.2 * np.array([region.width, region.height])
    low = np.array([region.x, region.y]) - spare
    inside = (outlines.centres > low) & (outlines.centres < low + 7 * spare)
    for row in np.flatnonzero(inside.all(axis=1)):
        corners = outlines.centres[row] + outlines.radii[row, :, None] * _RAYS
        ring = (np.concatenate([corners, corners[:1]]) - (region.x, region.y)) * (
            side / region.width
        )
        r, g, b = (int(v) for v in _PALETTE[values[row]])
        yield [(float(x), float(y)) for x, y in ring], (r, g, b)


def _picture(image: Any) -> Picture:
    data = io.BytesIO()
    image.save(data, format="jpeg", quality=88, subsampling=0)
    url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    return Picture(url, image.width, image.height)
