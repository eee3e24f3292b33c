"""Shares with their intervals, drawn as bars: SVG that stands in the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH, HEIGHT = 300, 30
Interval = Sequence[float | None]


def share_bar(
    percent: float,
    colour: str,
    *,
    inner: Interval | None = None,
    outer: Interval | None = None,
    line: float | None = None,
    most: float = 100.0,
) -> str:
    """A share as a bar, 0 to `most` per cent.

    Parameters
    ----------
    percent : float
    colour : str
        CSS.
    inner, outer : (low, high), optional
        Intervals: a thick and a thin whisker.
    line : float, optional
        A percentage to mark, as the rule's 10 %.
    most : float
        Right end of the scale.
    """
    middle = HEIGHT / 2
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{percent:.1f} per cent">',
        f'<rect x="0" y="{middle - 7:g}" width="{WIDTH}" height="14" rx="3" fill="#eceef2"/>',
        f'<rect x="0" y="{middle - 7:g}" width="{_x(percent, most)}" height="14" rx="3" '
        f'fill="{colour}" stroke="#0003" stroke-width="1"/>',
        _whisker(outer, most, middle, 1.2, 5),
        _whisker(inner, most, middle, 3, 0),
    ]
    if line is not None:
        x = _x(line, most)
        parts.append(
            f'<line x1="{x}" x2="{x}" y1="2" y2="{HEIGHT - 2}" stroke="#1d1f24" '
            'stroke-width="1.2" stroke-dasharray="3 2"/>'
        )
    return "".join([*parts, "</svg>"])


def _whisker(interval: Interval | None, most: float, y: float, thick: float, cap: float) -> str:
    if interval is None or any(e is None or not math.isfinite(e) for e in interval):
        return ""
    low, high = (_x(float(edge or 0), most) for edge in interval)
    lines = [(low, high, y, y), *((x, x, y - cap, y + cap) for x in (low, high) if cap)]
    # White below the ink, so that it shows on every colour.
    return "".join(
        f'<line x1="{a}" x2="{b}" y1="{c:g}" y2="{d:g}" stroke="{ink}" stroke-width="{wide:g}"/>'
        for ink, wide in (("#fff", thick + 1.6), ("#1d1f24", thick))
        for a, b, c, d in lines
    )


def _x(percent: float, most: float) -> str:
    return f"{WIDTH * min(max(percent / most, 0.0), 1.0):.1f}"
