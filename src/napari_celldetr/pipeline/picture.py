"""A picture of a result: the slide, its cells in their classes' colours, legend and scale bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.atomic import replacing, why

if TYPE_CHECKING:
    from PIL import ImageDraw

    from napari_celldetr.slides.slide import Slide

MAX_SIDE = 2400
UNKNOWN_COLOR = (128, 128, 128)
OUTLINE_PX = 6.0
"""Cells at least this wide in the picture get an outline, smaller ones a dot."""
MOST_OUTLINES = 50_000
"""Drawing more one by one takes longer than anyone looks; dots are set all at once."""

Rgb = tuple[int, int, int]


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
    return np.concatenate([pixels, _legend(size[0], shown, colors, _um_per_px(slide, scale))])


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


def _legend(
    width: int, cells: Detections, colors: Mapping[str, Rgb], um_per_px: float | None
) -> NDArray[np.uint8]:
    """The strip below the image: scale bar, then classes with counts, then the sentence."""
    from PIL import Image, ImageDraw, ImageFont

    size = int(np.clip(width / 60, 12, 28))
    font = ImageFont.load_default(size)
    measure = partial(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength, font=font)
    rows = _wrapped(_entries(cells, colors), width - 2 * size, size, measure)
    sentence = _fitting(RESEARCH_USE, width - 2 * size, measure)
    line, bars = round(size * 1.7), int(um_per_px is not None)
    strip = Image.new("RGB", (width, line * (bars + len(rows) + len(sentence)) + size), "white")
    draw = ImageDraw.Draw(strip)
    middles = iter(range(size // 2 + line // 2, strip.height, line))
    if um_per_px is not None:
        length, label = _scale_bar(width, um_per_px)
        y = next(middles)
        draw.rectangle((size, y - 2, size + length, y + 2), fill="black")
        draw.text((length + 2 * size, y), label, fill="black", font=font, anchor="lm")
    for row, y in zip(rows, middles, strict=False):
        for x, text, color in row:
            ring = (size + x, y - size // 2, 2 * size + x, y + size // 2)
            draw.ellipse(ring, outline=color, width=3)
            draw.text((2.5 * size + x, y), text, fill="black", font=font, anchor="lm")
    for text, y in zip(sentence, middles, strict=False):
        draw.text((size, y), text, fill=(90, 90, 90), font=font, anchor="lm")
    return np.asarray(strip)


def _entries(cells: Detections, colors: Mapping[str, Rgb]) -> list[tuple[str, Rgb]]:
    return [(f"{name} {n}", colors.get(name, UNKNOWN_COLOR)) for name, n in cells.counts().items()]


def _wrapped(
    entries: Sequence[tuple[str, Rgb]], width: int, size: int, measure: Callable[[str], float]
) -> list[list[tuple[int, str, Rgb]]]:
    """Entries with their x, in as many rows as they need."""
    rows: list[list[tuple[int, str, Rgb]]] = [[]]
    x = 0
    for text, color in entries:
        needed = round(measure(text) + 3 * size)
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, text, color))
        x += needed
    return rows


def _fitting(text: str, width: int, measure: Callable[[str], float]) -> list[str]:
    """`text` in lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and measure(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _scale_bar(width: int, um_per_px: float) -> tuple[int, str]:
    """Length in px and label of the longest round length (1, 2, 5 × 10ⁿ µm) within a fifth."""
    limit = width / 5 * um_per_px
    decade = 10.0 ** math.floor(math.log10(limit))
    um = max(step * decade for step in (1, 2, 5) if step * decade <= limit)
    # In mm throughout: the font that Pillow brings has no µ.
    return max(1, round(um / um_per_px)), f"{um / 1000:g} mm"
