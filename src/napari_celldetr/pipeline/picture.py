"""A picture of a result: the slide, its cells in their classes' colours, legend and scale bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.atomic import replacing, why
from napari_celldetr.pipeline.legend import LegendEntry, Rgb, draw_legend

if TYPE_CHECKING:
    from PIL import ImageDraw

    from napari_celldetr.slides.slide import Slide

MAX_SIDE = 2400
UNKNOWN_COLOR = (128, 128, 128)
OUTLINE_PX = 6.0
"""Cells at least this wide in the picture get an outline, smaller ones a dot."""
MOST_OUTLINES = 50_000
"""Drawing more one by one takes longer than anyone looks; dots are set all at once."""


def draw_overlay(
    slide: Slide,
    cells: Detections,
    colors: Mapping[str, Rgb],
    *,
    region: Region | None = None,
    max_side: int = MAX_SIDE,
) -> NDArray[np.uint8]:
    """Draw `cells` over the slide or over `region` of it.

    Parameters
    ----------
    slide
        Open slide; `SlideError` when it cannot be read.
    cells
        In level-0 px; those outside the region are not shown, nor counted in the legend.
    colors
        Class name to (r, g, b), as in the model's card; grey for a class that is not named.
    region
        Default: the scanned part.
    max_side
        Longest side of the slide's image in the picture, px. Small regions are enlarged up to
        twice, so that outlines can be told apart.

    Returns
    -------
    (H, W, 3) uint8; the legend stands in a strip below the image.
    """
    from PIL import Image, ImageDraw

    area = (region or slide.bounds).intersect(slide.region) or slide.bounds
    scale = min(2.0, max_side / max(area.width, area.height))
    size = max(1, round(area.width * scale)), max(1, round(area.height * scale))
    pixels = slide.render(area, *size)
    shown = _inside(cells, area)
    boxes = (shown.boxes - np.array([area.x, area.y] * 2, np.float32)) * np.float32(scale)
    palette = np.array(_palette(shown, colors), np.uint8)[shown.class_ids]
    if _are_large(boxes):
        image = Image.fromarray(pixels)
        _outlines(ImageDraw.Draw(image), boxes, palette)
        pixels = np.asarray(image)
    else:
        pixels = _dots(pixels, boxes, palette)
    return view_picture(
        pixels,
        um_per_px=_um_per_px(slide, scale),
        legend=_entries(shown, colors),
        title=slide.name,
    )


def view_picture(
    pixels: NDArray[np.uint8],
    *,
    um_per_px: float | None,
    legend: Sequence[LegendEntry] = (),
    title: str = "",
) -> NDArray[np.uint8]:
    """A picture of what is seen; title, scale bar, legend and the sentence on its use below it.

    Parameters
    ----------
    pixels : (H, W, 3) or (H, W, 4) uint8
        E.g. a screenshot; alpha is left out.
    um_per_px : float or None
        µm per pixel of the picture; without it there is no scale bar.
    legend : sequence of LegendEntry
        Name, (r, g, b), and count or None.
    title : str
        What it shows, e.g. the slide's name.

    Returns
    -------
    (H + strip, W, 3) uint8. Raises `ExportError` for anything that is no picture.
    """
    array = np.asarray(pixels)
    fits = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if not fits or not all(array.shape):
        raise ExportError(
            "This is no picture.",
            expected="pixels (height, width, 3 or 4) of 8 bits",
            found=f"{array.shape} of {array.dtype}",
            remedy="take it from the viewer again",
        )
    known = um_per_px is not None and math.isfinite(um_per_px) and um_per_px > 0
    strip = draw_legend(array.shape[1], list(legend), um_per_px if known else None, title=title)
    return np.concatenate([array[:, :, :3], strip])


def write_picture(picture: NDArray[np.uint8], path: Path) -> None:
    """Write a PNG: the old file or the complete new one. `ExportError` when it cannot be."""
    from PIL import Image

    try:
        with replacing(path) as temporary:
            Image.fromarray(picture).save(temporary, format="png")
    except OSError as error:
        raise ExportError(
            f"The picture {path.name!r} cannot be written.",
            expected="a folder that can be written to, with space left",
            found=why(error),
            remedy="choose another folder",
        ) from error


def _palette(cells: Detections, colors: Mapping[str, Rgb]) -> list[Rgb]:
    """A colour per class, and grey last, where class_id -1 finds it."""
    return [*(colors.get(name, UNKNOWN_COLOR) for name in cells.class_names), UNKNOWN_COLOR]


def _um_per_px(slide: Slide, scale: float) -> float | None:
    return None if slide.mpp is None else slide.mpp[0] / scale


def _inside(cells: Detections, area: Region) -> Detections:
    x, y = cells.centres.T
    return cells.select((x >= area.x) & (x < area.x1) & (y >= area.y) & (y < area.y1))


def _are_large(boxes: NDArray[np.float32]) -> bool:
    if not 0 < len(boxes) <= MOST_OUTLINES:
        return False
    return float(np.median(boxes[:, 2] - boxes[:, 0])) >= OUTLINE_PX


def _outlines(
    draw: ImageDraw.ImageDraw, boxes: NDArray[np.float32], palette: NDArray[np.uint8]
) -> None:
    for box, color in zip(boxes.tolist(), palette.tolist(), strict=True):
        draw.ellipse(box, outline=tuple(color), width=2)


def _dots(
    pixels: NDArray[np.uint8], boxes: NDArray[np.float32], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A 3 × 3 px dot in the middle of every box."""
    out = pixels.copy()
    height, width = out.shape[:2]
    centre = ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.int64)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            x = np.clip(centre[:, 0] + dx, 0, width - 1)
            y = np.clip(centre[:, 1] + dy, 0, height - 1)
            out[y, x] = palette
    return out


def _entries(cells: Detections, colors: Mapping[str, Rgb]) -> list[LegendEntry]:
    counts = cells.counts().items()
    return [LegendEntry(name, colors.get(name, UNKNOWN_COLOR), n) for name, n in counts]
