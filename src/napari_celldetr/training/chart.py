"""Line charts as SVG text: axes, grid, lines, dots; nothing to install, nothing to fetch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

MOST_POINTS = 300
"""More points than this on a line are averaged in equal parts."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 10, 34


@dataclass(frozen=True)
class Line:
    """One line: `x` and `y` of equal length, NaN in y where unknown; `faint` lies behind."""

    name: str
    x: ArrayLike
    y: ArrayLike
    colour: str
    faint: bool = False
    dots: bool = False


def line_chart(
    lines: Sequence[Line],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float] | None = None,
    x_label: str = "step",
    width: int = 860,
    height: int = 260,
    name: str = "",
) -> str:
    """An SVG element with the lines over a grid; `name` is what a screen reader says.

    Without `y_range` the axis begins at 0 and ends above what is shown.
    """
    xs = [np.asarray(line.x, np.float64) for line in lines]
    ys = [np.asarray(line.y, np.float64) for line in lines]
    low, high = y_range or (0.0, _top(ys))
    frame = _Frame(x_range, (low, high), width, height)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">',
        *frame.grid(x_label),
    ]
    for line, x, y in sorted(zip(lines, xs, ys, strict=True), key=lambda item: not item[0].faint):
        known = np.isfinite(x) & np.isfinite(y)
        parts += frame.line(line, *thin(x[known], y[known]))
    return "\n".join([*parts, "</svg>"])


def _top(ys: Sequence[NDArray[np.float64]]) -> float:
    values = np.concatenate([*ys, np.zeros(1)])
    values = values[np.isfinite(values)]
    # A few wild first steps must not flatten all that follows.
    high = float(np.quantile(values, 0.995)) if len(values) > 200 else float(values.max())
    return 1.05 * high if high > 0 else 1.0


def thin(
    x: NDArray[np.float64], y: NDArray[np.float64], most: int = MOST_POINTS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `most` points: means of equal parts, the last one ending at the last point."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).round().astype(int)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def smooth(y: ArrayLike, share: float = 0.03) -> NDArray[np.float64]:
    """Mean over a window around each value, `share` of all of them wide and at least ten.

    Windows are cut at both ends; unknown values do not count, and NaN stands where none is known.
    """
    values = np.asarray(y, np.float64)
    known = np.isfinite(values)
    half = max(5, round(share * len(values) / 2))
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    sums = np.concatenate(([0.0], np.cumsum(np.where(known, values, 0.0))))
    counts = np.concatenate(([0], np.cumsum(known)))
    count = counts[last] - counts[first]
    return np.where(count > 0, (sums[last] - sums[first]) / np.maximum(count, 1), np.nan)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` + 1 round numbers (1, 2, 2.5 or 5 times a power of ten) in `low` .. `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


class _Frame:
    """Where numbers lie on the picture."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], width: int, height: int
    ) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / max(self.x[1] - self.x[0], 1e-12)
        up = (y - self.y[0]) / max(self.y[1] - self.y[0], 1e-12)
        up = min(max(up, 0.0), 1.0)
        return (
            _LEFT + across * (self.width - _LEFT - _RIGHT),
            self.height - _BOTTOM - up * (self.height - _TOP - _BOTTOM),
        )

    def grid(self, x_label: str) -> list[str]:
        right, bottom = self.width - _RIGHT, self.height - _BOTTOM
        parts = []
        for value in ticks(*self.y, most=max(2, self.height // 45)):
            _, y = self.at(self.x[0], value)
            parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y + 4:.1f}">{value:.4g}</text>')
        for value in ticks(*self.x, most=max(2, self.width // 110)):
            x, _ = self.at(value, self.y[0])
            parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
            parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 15}">{value:g}</text>')
        middle = (_LEFT + right) / 2
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        label = f'<text class="x" x="{middle:.0f}" y="{self.height - 3}">{escape(x_label)}</text>'
        return [*parts, label]

    def line(self, line: Line, x: NDArray[np.float64], y: NDArray[np.float64]) -> list[str]:
        places = [self.at(a, b) for a, b in zip(x, y, strict=True)]
        if not places:
            return []
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        kind = "line faint" if line.faint else "line"
        parts = [f'<path class="{kind}" stroke="{line.colour}" d="{path}"/>']
        if line.dots or len(places) == 1:
            parts += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3.5" fill="{line.colour}"/>'
                for a, b in places
            ]
        return parts
