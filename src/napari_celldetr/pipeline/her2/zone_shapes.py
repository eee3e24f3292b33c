"""Zones of a slide: outlines with holes, the points they hold, and the masks they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.regions import Region

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Zone:
    """An outline in level-0 px, and what is cut out of it."""

    outline: Area
    holes: tuple[Area, ...] = ()

    @property
    def name(self) -> str:
        """What the person called it, '' for nothing."""
        return self.outline.name

    @property
    def area_px(self) -> float:
        """Level-0 px² inside the outline and outside the holes."""
        return max(0.0, self.outline.area_px - sum(h.area_px for h in self.holes))

    @property
    def rings(self) -> tuple[Floats, ...]:
        """The outline's corners (M, 2) and those of each hole."""
        return (self.outline.corners, *(h.corners for h in self.holes))

    def contains(self, xy: NDArray[Any]) -> NDArray[np.bool_]:
        """Which points (N, 2) lie inside."""
        inside = self.outline.contains(xy)
        for hole in self.holes:
            inside &= ~hole.contains(xy)
        return inside

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, for JSON."""
        rings = [ring.tolist() for ring in self.rings]
        return {"name": self.name, "outline": rings[0], "holes": rings[1:]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Zone:
        """What `to_dict` wrote."""
        rings = [tuple((float(x), float(y)) for x, y in r) for r in content["holes"]]
        outline = tuple((float(x), float(y)) for x, y in content["outline"])
        name = str(content["name"])
        return cls(Area(outline, "region", name), tuple(Area(r, "region") for r in rings))


def contained(zones: Iterable[Zone], xy: NDArray[Any]) -> NDArray[np.bool_]:
    """Which points (N, 2) lie in any of the zones."""
    inside = np.zeros(len(xy), bool)
    for zone in zones:
        inside |= zone.contains(xy)
    return inside


def zone_mask(zones: Sequence[Zone], region: Region, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels (height, width) of a region lie in any of the zones, to within a pixel."""
    from PIL import Image, ImageDraw

    height, width = shape
    scale = np.array([width / region.width, height / region.height])
    found = np.zeros(shape, bool)
    for zone in zones:
        picture = Image.new("1", (width, height))
        draw = ImageDraw.Draw(picture)
        for number, ring in enumerate(zone.rings):
            corners = (ring - (region.x, region.y)) * scale - 0.5
            draw.polygon([(float(x), float(y)) for x, y in corners], fill=int(number == 0))
        found |= np.asarray(picture)
    return found


def zones_of_mask(mask: NDArray[Any], cell: tuple[float, float], *, name: str = "") -> list[Zone]:
    """The areas of a mask (rows, columns) whose cells are `cell` (x, y) level-0 px, as zones.

    Cell (0, 0) begins at (0, 0). Corners that meet diagonally are parted.
    """
    from scipy import ndimage

    labels, count = ndimage.label(mask)
    found = []
    for number in range(1, count + 1):
        rings = [_simple(ring) * cell for ring in _rings(labels == number)]
        rings.sort(key=_ring_area, reverse=True)
        areas = [Area(tuple(map(tuple, r.tolist())), "region") for r in rings]
        outline = Area(areas[0].polygon, "region", name)
        found.append(Zone(outline, tuple(areas[1:])))
    return found


def _rings(mask: NDArray[np.bool_]) -> list[Floats]:
    """Closed lines (M, 2) along the edges of a mask's cells, the mask on their right."""
    framed = np.pad(mask, 1)
    inner = framed[1:-1, 1:-1]
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(which: NDArray[np.bool_], start: tuple[int, int], end: tuple[int, int]) -> None:
        for y, x in np.argwhere(which).tolist():
            after.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))

    add(inner & ~framed[:-2, 1:-1], (0, 0), (1, 0))
    add(inner & ~framed[1:-1, 2:], (1, 0), (1, 1))
    add(inner & ~framed[2:, 1:-1], (1, 1), (0, 1))
    add(inner & ~framed[1:-1, :-2], (0, 1), (0, 0))
    rings = []
    while after:
        rings.append(_followed(after))
    return rings


def _followed(after: dict[tuple[int, int], list[tuple[int, int]]]) -> Floats:
    """One closed line out of the edges, which are taken away; at a crossing it turns right."""
    first = next(iter(after))
    line, here, came = [first], first, (0, 0)
    while True:
        ways = after[here]
        turned = [w for w in ways if (w[0] - here[0], w[1] - here[1]) == (-came[1], came[0])]
        there = turned[0] if turned and len(ways) > 1 else ways[0]
        ways.remove(there)
        if not ways:
            del after[here]
        came, here = (there[0] - here[0], there[1] - here[1]), there
        if here == first:
            return np.array(line, np.float64)
        line.append(here)


def _simple(ring: Floats) -> Floats:
    """A ring without corners on straight lines."""
    into, out = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]
    return ring[turns != 0]


def _ring_area(ring: Floats) -> float:
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
