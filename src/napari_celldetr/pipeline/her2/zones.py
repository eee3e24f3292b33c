"""Zones out of files: which areas are tumour, which are cut out of it, and which are neither.

A GeoJSON file may hold more than tumour. Polygons classed as tumour, or not classed at all, are
tumour; carcinoma in situ, necrosis and what is to be ignored are cut out of it; other classes are
named and left aside.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import AnnotationError, DataError, no_file
from napari_celldetr.pipeline.her2.zone_shapes import (
    Floats,
    Zone,
    contained,
    zone_mask,
    zones_of_mask,
)

__all__ = ["DrawnZones", "Zone", "contained", "read_zones", "zone_mask", "zones_of_mask"]

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


@dataclass(frozen=True)
class DrawnZones:
    """What a file says: tumour, what is cut out of it, and how many of which class are left out.

    `as_tumour` and `as_cut_out` are the classes that were taken so, with how many areas each has;
    '' is no class.
    """

    tumour: tuple[Zone, ...]
    cut_out: tuple[Zone, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    as_tumour: Mapping[str, int] = field(default_factory=dict)
    as_cut_out: Mapping[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """What was read, and by which classes, in words for people."""
        text = f"tumour areas: {len(self.tumour)}{_listed(self.as_tumour)}"
        if self.cut_out:
            text += f"; cut out of them: {len(self.cut_out)}{_listed(self.as_cut_out)}"
        if self.left_out:
            text += f"; left aside: {sum(self.left_out.values())}{_listed(self.left_out)}"
        return text


def _listed(classes: Mapping[str, int]) -> str:
    parts = (f"{n} {repr(name) if name else 'without a class'}" for name, n in classes.items())
    return f" ({', '.join(parts)})" if classes else ""


def read_zones(path: str | Path) -> DrawnZones:
    """Polygons of a GeoJSON file, level-0 px. `DataError` when it is none, or holds no polygon."""
    source = Path(path)
    content = _read_json(source)
    found: dict[str, list[Zone]] = {"tumour": [], "cut_out": []}
    classes: dict[str, Counter[str]] = {k: Counter() for k in ("tumour", "cut_out", "other")}
    left_out = classes["other"]
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
                zones = _zones(geometry, _name(feature, word), offset)
                found[kind] += zones
                classes[kind][word[:40]] += len(zones)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _refused(source, f"{type(error).__name__}: {str(error)[:120]}") from error
    except AnnotationError as error:
        raise _refused(source, str(error.found)) from error
    if not found["tumour"]:
        others = ", ".join((*left_out, *classes["cut_out"]))
        found_words = f"no area of invasive tumour, but {others}" if others else "no areas at all"
        raise _refused(source, found_words)
    return DrawnZones(
        tuple(found["tumour"]),
        tuple(found["cut_out"]),
        dict(left_out),
        dict(classes["tumour"]),
        dict(classes["cut_out"]),
    )


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
    except FileNotFoundError as error:
        raise no_file(DataError, path) from error
    except OSError as error:
        raise _refused(path, error.strerror or type(error).__name__) from error
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"a file that is no GeoJSON, or is damaged ({error!s:.80})") from error


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
