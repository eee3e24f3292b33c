"""The strip below a picture: title, scale bar, classes with colours and counts, one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr import RESEARCH_USE

if TYPE_CHECKING:
    from PIL import ImageDraw

Rgb = tuple[int, int, int]

INK, FAINT = (20, 20, 20), (95, 95, 95)
MICRO = "µ"
SYSTEM_FONTS = ("DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "Helvetica.ttc", "LiberationSans.ttf")
"""Looked for where a class name has letters that Pillow's own font lacks."""


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A class in the legend; `count` is None where nothing was counted."""

    name: str
    color: Rgb
    count: int | None = None

    @property
    def text(self) -> str:
        """Name and count as they are written."""
        return self.name if self.count is None else f"{self.name}  {self.count:,}"


def draw_legend(
    width: int, entries: Sequence[LegendEntry], um_per_px: float | None, *, title: str = ""
) -> NDArray[np.uint8]:
    """The strip (H, width, 3): title, scale bar where the pixel size is known, then the classes.

    Letters grow with the width, 12 to 28 px high; entries take as many rows as they need.
    """
    from PIL import Image, ImageDraw

    size = int(np.clip(width / 60, 12, 28))
    font = Font(size, title + "".join(e.name for e in entries))
    rows = _wrapped(entries, width - 2 * size, font)
    sentence = _fitting(RESEARCH_USE, width - 2 * size, font)
    heading = _fitting(title, width - 2 * size, font) if title else []
    line, bars = round(size * 1.7), int(um_per_px is not None)
    lines = len(heading) + bars + len(rows) + len(sentence)
    strip = Image.new("RGB", (width, line * lines + size), "white")
    draw = ImageDraw.Draw(strip)
    middles = iter(range(size // 2 + line // 2, strip.height, line))
    for text, y in zip(heading, middles, strict=False):
        font.write(draw, (size, y), text, INK)
    if um_per_px is not None:
        _draw_bar(draw, next(middles), width, um_per_px, font)
    for row, y in zip(rows, middles, strict=False):
        for x, entry in row:
            place = (size + x, y - size // 2, 2 * size + x, y + size // 2)
            draw.ellipse(place, fill=entry.color, outline=INK, width=max(1, size // 14))
            font.write(draw, (2.6 * size + x, y), entry.text, INK)
    for text, y in zip(sentence, middles, strict=False):
        font.write(draw, (size, y), text, FAINT)
    return np.asarray(strip)


def scale_bar(width: int, um_per_px: float) -> tuple[int, str]:
    """Length in px and label of the longest round length (1, 2, 5 × 10ⁿ µm) within a fifth."""
    limit = width / 5 * um_per_px
    decade = 10.0 ** math.floor(math.log10(limit))
    um = max(step * decade for step in (1, 2, 5) if step * decade <= limit * (1 + 1e-9))
    label = f"{um / 1000:g} mm" if um >= 1000 else f"{um:g} {MICRO}m"
    return max(1, round(um / um_per_px)), label


def _draw_bar(draw: ImageDraw.ImageDraw, y: int, width: int, um_per_px: float, font: Font) -> None:
    """A bar of exactly its length: its ends are pixel edges."""
    length, label = scale_bar(width, um_per_px)
    thick = max(2, font.size // 4)
    top = y - thick // 2
    draw.rectangle((font.size, top, font.size + length - 1, top + thick - 1), fill=INK)
    font.write(draw, (length + 1.6 * font.size, y), label, INK)


class Font:
    """Pillow's own font, or the system's where `texts` has letters that it lacks."""

    def __init__(self, size: int, texts: str) -> None:
        self.size = size
        self._font = _font_for(size, texts.replace(MICRO, ""))
        self._has_micro = _has(self._font, MICRO)

    def width(self, text: str) -> float:
        """How many px a line of text takes."""
        shown = text if self._has_micro else text.replace(MICRO, "u")
        return float(self._font.getlength(shown))

    def write(
        self, draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, color: Rgb
    ) -> None:
        """A line of text, `at` its left end and the middle of its height."""
        x, y = at
        if self._has_micro or MICRO not in text:
            draw.text((x, y), text, fill=color, font=self._font, anchor="lm")
            return
        # The letter is a u with a longer left stem.
        for number, part in enumerate(text.split(MICRO)):
            if number:
                self._stem(draw, (x, y), color)
                draw.text((x, y), "u", fill=color, font=self._font, anchor="lm")
                x += self._font.getlength("u")
            draw.text((x, y), part, fill=color, font=self._font, anchor="lm")
            x += self._font.getlength(part)

    def _stem(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], color: Rgb) -> None:
        from PIL import Image, ImageDraw

        side = 3 * self.size
        probe = Image.new("L", (side, side))
        ImageDraw.Draw(probe).text((side // 3, side // 2), "u", 255, self._font, anchor="lm")
        ink = np.asarray(probe) > 100
        bottom = int(np.flatnonzero(ink.any(axis=1))[-1])
        middle = ink[bottom - self.size // 4]
        left = int(np.flatnonzero(middle)[0])
        thick = int(np.argmin(middle[left:])) or 1
        x, y = round(at[0]) + left - side // 3, round(at[1]) + bottom - side // 2
        tail = max(2, round(self.size * 0.22))
        draw.rectangle((x, y - tail, x + thick - 1, y + tail), fill=color)


def _font_for(size: int, texts: str) -> Any:
    from PIL import ImageFont

    own = ImageFont.load_default(size)
    if all(_has(own, letter) for letter in set(texts)):
        return own
    for name in SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return own


def _has(font: Any, letter: str) -> bool:
    """Whether a font has a letter, and not only the box that stands for what is missing."""
    if letter.isspace():
        return True
    return _shape(font, letter) != _shape(font, "\ufffe")


@cache
def _shape(font: Any, letter: str) -> bytes:
    return bytes(font.getmask(letter))


def _wrapped(
    entries: Sequence[LegendEntry], width: int, font: Font
) -> list[list[tuple[int, LegendEntry]]]:
    """Entries with their x, in as many rows as they need."""
    rows: list[list[tuple[int, LegendEntry]]] = [[]]
    x = 0
    for entry in entries:
        needed = round(font.width(entry.text) + 3.4 * font.size)
        if rows[-1] and x + needed > width:
            rows.append([])
            x = 0
        rows[-1].append((x, entry))
        x += needed
    return rows if entries else []


def _fitting(text: str, width: int, font: Font) -> list[str]:
    """`text` in lines that fit."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.width(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
