"""How much of a slide zones cover: what overlaps counts once, what lies outside not at all.

Areas are summed along lines across the zones, on each of which a zone is a few intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.pipeline.her2.zone_shapes import Zone

LINES = 4096
Floats = NDArray[np.float64]
Intervals = tuple[NDArray[np.int64], Floats, Floats]
"""Line, start and end of each interval, (N,)."""


def covered_px(zones: Sequence[Zone], size: tuple[int, int], cut_out: Sequence[Zone] = ()) -> float:
    """Level-0 px² of a slide of `size` (width, height) in any of `zones` and none of `cut_out`.

    Exact for zones that neither overlap nor reach outside.
    """
    whole = sum(zone.area_px for zone in zones)
    lines = _lines(zones)
    each = sum(_length(_intervals([zone], lines)) for zone in zones)
    if not each:
        return whole
    # The same lines above and below the stroke: what they miss of a small zone cancels.
    taken = _within(_intervals(cut_out, lines), lines, size)
    both = _within(_intervals((*zones, *cut_out), lines), lines, size)
    return whole * (_union(both) - _union(taken)) / each


def share_on_slide(zone: Zone, size: tuple[int, int]) -> float:
    """Share of a zone, 0 to 1, that lies on a slide of `size` (width, height)."""
    corners = zone.outline.corners
    if bool((corners >= 0).all() and (corners <= size).all()):
        return 1.0
    lines = _lines([zone])
    found = _intervals([zone], lines)
    whole = _length(found)
    return _length(_within(found, lines, size)) / whole if whole else 0.0


def _lines(zones: Sequence[Zone]) -> Floats:
    """The y of lines evenly across all the zones."""
    if not zones:
        return np.zeros(0)
    y = np.concatenate([zone.outline.corners[:, 1] for zone in zones])
    low, high = float(y.min()), float(y.max())
    return low + (np.arange(LINES) + 0.5) / LINES * (high - low)


def _intervals(zones: Sequence[Zone], lines: Floats) -> Intervals:
    """Where the lines run inside each of the zones, by the even-odd rule."""
    parts = [_of_one(zone, lines) for zone in zones]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    line, start, end = (np.concatenate(column) for column in zip(*parts, strict=True))
    return line, start, end


def _of_one(zone: Zone, lines: Floats) -> Intervals:
    a = np.concatenate(zone.rings)
    b = np.concatenate([np.roll(ring, -1, axis=0) for ring in zone.rings])
    low, high = np.minimum(a[:, 1], b[:, 1]), np.maximum(a[:, 1], b[:, 1])
    first, last = np.searchsorted(lines, low), np.searchsorted(lines, high)
    times = last - first
    edge = np.repeat(np.arange(len(a)), times)
    line = np.arange(len(edge)) + np.repeat(first - (np.cumsum(times) - times), times)
    slope = (b[edge, 0] - a[edge, 0]) / (b[edge, 1] - a[edge, 1])
    x = a[edge, 0] + (lines[line] - a[edge, 1]) * slope
    order = np.lexsort((x, line))
    return line[order][::2], x[order][::2], x[order][1::2]


def _within(found: Intervals, lines: Floats, size: tuple[int, int]) -> Intervals:
    line, start, end = found
    on = (lines[line] >= 0) & (lines[line] <= size[1])
    return line[on], np.clip(start[on], 0, size[0]), np.clip(end[on], 0, size[0])


def _length(found: Intervals) -> float:
    return float((found[2] - found[1]).sum())


def _union(found: Intervals) -> float:
    """Length of all intervals together, overlaps once."""
    line, start, end = found
    if not len(line):
        return 0.0
    # Lines one behind the other make one long line, on which nothing of two lines meets.
    away: Any = line * (end.max() - start.min() + 1.0)
    order = np.argsort(away + start)
    start, end = (away + start)[order], (away + end)[order]
    reached = np.maximum.accumulate(end)
    before = np.concatenate([start[:1], reached[:-1]])
    return float(np.maximum(end - np.maximum(start, before), 0).sum())
