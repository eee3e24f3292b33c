"""Zones of a slide: outlines with holes, from files, from masks, and into both.

A GeoJSON file may hold more than tumour. Polygons classed as tumour, or not classed at all, are
tumour; carcinoma in situ, necrosis and what is to be ignored are cut out of it; other classes are
named and left aside.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import AnnotationError, DataError
from napari_celldetr.core.regions import Region

LARGEST_FILE = 256 * 2**20
TUMOUR = re.compile(r"tumou?r|carcinoma|invasive|cancer|malignan", re.IGNORECASE)
BESIDE = re.compile(
    r"stroma|lympho|immune|\btils?\b|peri.?tumou?r|adjacent|margin|border|scaffold", re.IGNORECASE
)
"""Classes that name tumour and mean what is around or within it."""
CUT_OUT = re.compile(
    r"in.?situ|\bdcis\b|\blcis\b|intraductal|necro|\bignore|exclu|art[ei]fact|\bfold|benign|"
    r"normal|(\b(non|no|not|pre)\b|\b(non|pre)).{0,2}(tumou?r|invasive|malignan)|"
    r"(tumou?r|cancer).?free",
    re.IGNORECASE,
)
NO_CLASS = re.compile(r"^(|none|unclassified|region\*?|annotation|complete)$", re.IGNORECASE)
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


# -- files ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnZones:
    """What a file says: tumour, what is cut out of it, and how many of which class are left out."""

    tumour: tuple[Zone, ...]
    cut_out: tuple[Zone, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """What was read, in words for people."""
        text = f"tumour areas: {len(self.tumour)}"
        text += f", cut out of them: {len(self.cut_out)}" if self.cut_out else ""
        others = ", ".join(f"{n} of class {name!r}" for name, n in self.left_out.items())
        return text + (f"; left out: {others}" if others else "")


def read_zones(path: str | Path) -> DrawnZones:
    """Polygons of a GeoJSON file, level-0 px. `DataError` when it is none, or holds no polygon."""
    source = Path(path)
    content = _read_json(source)
    found: dict[str, list[Zone]] = {"tumour": [], "cut_out": []}
    left_out: Counter[str] = Counter()
    try:
        offset = _offset(content)
        for feature in _features(content):
            geometry, word = _geometry(feature), _class(feature)
            kind = kind_of(word)
            if geometry.get("type") not in ("Polygon", "MultiPolygon"):
                left_out[f"{geometry.get('type')} (no polygon)"[:40]] += 1
            elif kind == "other":
                left_out[word[:40]] += 1
            else:
                found[kind] += _zones(geometry, _name(feature, word), offset)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(source, f"{type(error).__name__}: {str(error)[:120]}") from error
    except AnnotationError as error:
        raise _refused(source, str(error.found)) from error
    if not found["tumour"]:
        others = ", ".join(left_out) or "nothing"
        raise _refused(source, f"no area of invasive tumour, but {others}")
    return DrawnZones(tuple(found["tumour"]), tuple(found["cut_out"]), dict(left_out))


def kind_of(word: str) -> str:
    """``tumour``, ``cut_out`` or ``other``: what a class of this name means."""
    # "Tumour in situ" is cut out, so this is asked first.
    if CUT_OUT.search(word):
        return "cut_out"
    if BESIDE.search(word):
        return "other"
    return "tumour" if NO_CLASS.match(word) or TUMOUR.search(word) else "other"


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _refused(path, f"more than {LARGEST_FILE >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__) from error
    except (ValueError, RecursionError) as error:
        raise _refused(path, str(error)[:120]) from error


def _features(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return list(content.get("features", [content]))


def _geometry(feature: Any) -> Mapping[str, Any]:
    return feature.get("geometry") or ({} if feature["type"] == "Feature" else feature)


def _class(feature: Any) -> str:
    found = (feature.get("properties") or {}).get("classification") or {}
    if isinstance(found, str):
        return found
    names = found.get("names")
    return str(": ".join(names) if names else found.get("name") or "")


def _name(feature: Any, word: str) -> str:
    return str((feature.get("properties") or {}).get("name") or word)[:80]


def _offset(content: Any) -> Floats:
    """Where the file's (0, 0) lies: a file of our own export says so."""
    about = content.get("celldetr") if isinstance(content, dict) else None
    offset = np.array(about.get("offset", (0, 0)) if isinstance(about, dict) else (0, 0), float)
    if offset.shape != (2,) or not np.isfinite(offset).all():
        raise ValueError("an offset that is no pair of numbers")
    return offset


def _zones(geometry: Mapping[str, Any], name: str, offset: Floats) -> list[Zone]:
    single = geometry["type"] == "Polygon"
    parts = [geometry["coordinates"]] if single else geometry["coordinates"]
    found = []
    for rings in parts:
        outline, *holes = [_ring(r, offset) for r in rings]
        cut = tuple(Area(hole, "region") for hole in holes)
        found.append(Zone(Area(outline, "region", name), cut))
    return found


def _ring(positions: Any, offset: Floats) -> tuple[tuple[float, float], ...]:
    ring = np.array([p[:2] for p in positions], np.float64) + offset
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    return tuple((float(x), float(y)) for x, y in ring)


def _refused(path: Path, found: str) -> DataError:
    return DataError(
        f"{path.name!r} holds no tumour areas.",
        expected="GeoJSON polygons around invasive tumour, in level-0 px",
        found=found,
        remedy="draw the invasive tumour in the viewer or in QuPath and export it as GeoJSON",
    )
