"""QuPath's GeoJSON and the slides it lies on: cells, and the regions a person annotated.

``<slide's stem>.geojson`` (or ``.geojson.gz``) stands beside its slide. Coordinates are pixels
of the image as QuPath shows it: level 0 less the slide's scanned bounds. Annotations classed
``Region*`` or ``Training`` are the areas to learn from, those classed ``Ignore*`` are left out.
"""

from __future__ import annotations

import gzip
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.fields import Field
from napari_celldetr.training.label_files import (
    Parts,
    data_error,
    group_of,
    image_stem,
    or_patient,
)
from napari_celldetr.training.polygons import Ring, rings_area, rings_box, rings_hold
from napari_celldetr.training.slide_fields import TILE_PX, SlideCells, cut_fields, slide_mpp

SLIDE = or_patient(r".*$")
REGION = r"(?i)^(region|training)"
IGNORE = r"(?i)^ignore"
LARGEST_NUCLEUS_UM2 = 1000.0
"""A larger outline that a person drew is an area, not a nucleus."""
MARGIN_UM = 10.0
"""Around the cells, where no region is annotated."""


@dataclass
class _Found:
    """Features of one file, sorted by what they are; coordinates in level-0 px."""

    points: list[tuple[float, float]] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    outlines: list[list[Ring]] = field(default_factory=list)
    areas: list[list[Ring]] = field(default_factory=list)
    ignored: list[list[Ring]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def read_geojson_folder(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = None,
    slides: str = "",
    region: str = REGION,
    complete: bool | None = None,
    empty_is_background: bool = False,
    tile: int = TILE_PX,
    group_pattern: str = SLIDE,
) -> Iterator[Field]:
    """Fields of all annotated regions of all slides, cut to at most `tile` px a side.

    Parameters
    ----------
    root : folder with the GeoJSON files
    mpp : float or None
        µm per level-0 px, replacing what the slides say.
    slides : str
        Folder of the slides, where it is another one; below `root` or absolute.
    region : str
        Regular expression for the class names of training regions.
    complete : bool or None
        Whether a place without a cell is background. None trusts regions that a person
        annotated; without any, the cells' bounding area is taken and places without a cell say
        nothing.
    empty_is_background : bool
        A region without any nucleus is usually one whose cells were not exported, so by default
        it is left out, with a warning; a file whose regions are all empty is refused. True
        trusts them.
    group_pattern : str
        Regular expression; its match in the slide's stem is the group. By default that is the
        patient of a TCGA barcode, else the stem.

    Detections and cells give boxes, cells those of their nucleus; points give centres alone; an
    annotation up to `LARGEST_NUCLEUS_UM2` is a nucleus that a person outlined. Warns of larger
    ones that are no regions. Raises `DataError` and `SlideError`.
    """
    from napari_celldetr.slides.readers import open_slide

    files = _files(root)
    classes.check_names(_class_names(files), root.resolve().name)
    for file in files:
        stem = re.sub(r"\.geojson(\.gz)?$", "", file.name, flags=re.IGNORECASE)
        path = _slide_of(stem, root / slides if slides else root, file)
        stem = image_stem(path.name)
        if not parts.wants(stem):
            continue
        with open_slide(path, mpp=mpp) as slide:
            offset = np.array([slide.bounds.x, slide.bounds.y], np.float64)
            found = _sort(_features(file), offset, slide_mpp(slide), region, file)
            _check_inside(found, slide.size, file)
            said = bool(found.areas)
            _refuse_regions_outside(found.areas, slide.size, file)
            cells = SlideCells(
                np.array(found.points, np.float64).reshape(-1, 2),
                np.array(found.sizes, np.float64).reshape(-1, 2),
                classes.ids(found.words, file.name),
                found.outlines,
            )
            if not said and not len(cells):
                raise data_error(
                    f"File {file.name!r} holds neither cells nor training regions.",
                    "detections, cells, points, or annotations classed Region* or Training",
                    _listed(found.left_out) or "no features",
                    "annotate a region, or remove the file",
                )
            areas = found.areas or [_around(cells, MARGIN_UM / slide_mpp(slide))]
            if not empty_is_background:
                areas = _with_nuclei(areas, cells, file)
            yield from cut_fields(
                slide,
                cells,
                areas,
                stem=stem,
                group=parts.group(stem, group_of(stem, group_pattern)),
                class_names=classes.names,
                complete=(said if complete is None else complete) and parts.complete(stem),
                ignored=found.ignored,
                tile=tile,
            )


def _files(root: Path) -> list[Path]:
    found = sorted([*root.glob("*.geojson"), *root.glob("*.geojson.gz")])
    if not found:
        raise data_error(
            f"The folder {root.name!r} holds no GeoJSON.",
            "files <slide's stem>.geojson or .geojson.gz",
            "none" if root.is_dir() else "that the folder itself does not exist",
            "export the annotations from QuPath as GeoJSON",
        )
    return found


def _slide_of(stem: str, folder: Path, file: Path) -> Path:
    others = sorted(folder.iterdir()) if folder.is_dir() else []
    names = {stem, f"{stem}.ome"}
    found = [
        p
        for p in others
        if ".geojson" not in p.name.lower()
        and (p.name == stem or image_stem(p.name) in names)
        and (p.is_file() or p.suffix.lower() == ".zarr")
        and p.suffix.lower() not in (".csv", ".json", ".xml", ".txt")
    ]
    if len(found) != 1:
        raise data_error(
            f"The slide of {file.name!r} is not clear.",
            f"one slide named {stem} in {folder.name!r}",
            ", ".join(p.name for p in found) or "none",
            "name the file as its slide, or give the slides' folder as ?slides=",
        )
    return found[0]


def _features(path: Path) -> list[dict[str, Any]]:
    def refuse(text: str) -> None:
        raise ValueError(text)

    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
        content = json.loads(data.decode("utf-8-sig"), parse_constant=refuse)
        features = content if isinstance(content, list) else content["features"]
        return [dict(item) for item in features]
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"File {path.name!r} cannot be read.",
            expected="a GeoJSON FeatureCollection",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="export it again from QuPath",
        ) from error


def _class_names(files: list[Path]) -> Iterator[str]:
    """Class names of all features; what cannot be read is refused when its slide is."""
    for file in files:
        for item in _features(file):
            properties = item.get("properties")
            told = properties.get("classification") if isinstance(properties, dict) else None
            names = told.get("names") if isinstance(told, dict) else None
            if isinstance(told, dict) and (not names or all(isinstance(n, str) for n in names)):
                yield _class_of(told)


def _sort(
    features: list[dict[str, Any]], offset: NDArray[np.float64], mpp: float, region: str, path: Path
) -> _Found:
    found = _Found()
    for number, item in enumerate(features, 1):
        try:
            _add(found, item, offset, mpp, region)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"Feature {number} of {path.name!r} cannot be read.",
                expected="a point or polygon with finite coordinates, as QuPath writes it",
                found=f"{type(error).__name__}: {str(error)[:200]}",
                remedy="correct or remove it",
            ) from error
    if found.left_out:
        warnings.warn(
            f"{path.name}: annotations that are neither training regions nor as small as nuclei "
            f"are left out: {_listed(found.left_out)}. Class them 'Region*' to learn from them, or "
            "leave them.",
            stacklevel=2,
        )
    return found


def _add(
    found: _Found, item: dict[str, Any], offset: NDArray[np.float64], mpp: float, region: str
) -> None:
    properties = item.get("properties") or {}
    kind = str(properties.get("objectType") or properties.get("object_type") or "annotation")
    word = _class_of(properties.get("classification"))
    geometry = item["geometry"]
    if geometry["type"] in ("Point", "MultiPoint"):
        single = geometry["type"] == "Point"
        places = [geometry["coordinates"]] if single else geometry["coordinates"]
        for place in places:
            x, y = _ring([place], offset)[0]
            _add_cell(found, word, (float(x), float(y)), (np.nan, np.nan), [])
        return
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        _leave_out(found, geometry["type"])
        return
    polygons = _polygons(geometry, offset)
    if kind in ("annotation", "detection") and re.search(IGNORE, word):
        found.ignored += polygons
    elif kind == "annotation" and re.search(region, word):
        found.areas += polygons
    elif kind in ("detection", "cell") or _is_small(polygons, mpp):
        nucleus = item.get("nucleusGeometry")
        known = kind != "cell" or bool(nucleus)
        _add_outlined(found, word, _polygons(nucleus, offset) if nucleus else polygons, known)
    else:
        _leave_out(found, word or "unclassified")


def _is_small(polygons: list[list[Ring]], mpp: float) -> bool:
    return sum(rings_area(rings) for rings in polygons) * mpp**2 <= LARGEST_NUCLEUS_UM2


def _leave_out(found: _Found, what: str) -> None:
    found.left_out[what] = found.left_out.get(what, 0) + 1


def _add_outlined(found: _Found, word: str, polygons: list[list[Ring]], known: bool) -> None:
    """A cell with an outline; its extent is unknown where that is not the nucleus'."""
    rings = [ring for polygon in polygons for ring in polygon]
    x0, y0, x1, y1 = rings_box(rings).tolist()
    size = (x1 - x0, y1 - y0) if known else (np.nan, np.nan)
    _add_cell(found, word, ((x0 + x1) / 2, (y0 + y1) / 2), size, rings if known else [])


def _add_cell(
    found: _Found,
    word: str,
    point: tuple[float, float],
    size: tuple[float, float],
    outline: list[Ring],
) -> None:
    found.points.append(point)
    found.sizes.append(size)
    found.words.append(word)
    found.outlines.append(outline)


def _class_of(classification: Any) -> str:
    """Name of a class as QuPath writes it now (names) and wrote it once (name); '' for none."""
    if not classification:
        return ""
    names = classification.get("names")
    return ": ".join(names) if names else str(classification.get("name") or "")


def _polygons(geometry: dict[str, Any], offset: NDArray[np.float64]) -> list[list[Ring]]:
    coordinates = geometry["coordinates"]
    polygons = [coordinates] if geometry["type"] == "Polygon" else coordinates
    made = [[_ring(ring, offset) for ring in polygon] for polygon in polygons]
    if not made or any(len(ring) < 3 for polygon in made for ring in polygon):
        raise ValueError("a polygon of fewer than three corners")
    return made


def _ring(places: Any, offset: NDArray[np.float64]) -> Ring:
    ring = np.array([place[:2] for place in places], np.float64).reshape(-1, 2) + offset
    if not np.isfinite(ring).all() or (np.abs(ring) > 1e9).any():
        raise ValueError("coordinates beyond any slide")
    return ring


def _check_inside(found: _Found, size: tuple[int, int], path: Path) -> None:
    points = np.array(found.points, np.float64).reshape(-1, 2)
    outside = ~((points >= 0) & (points <= size)).all(axis=1)
    if outside.any():
        x, y = points[outside][0]
        raise data_error(
            f"File {path.name!r}: {int(outside.sum())} cells lie outside the slide.",
            f"0 ≤ x ≤ {size[0]} and 0 ≤ y ≤ {size[1]} in full-resolution px",
            f"x {x:g}, y {y:g}",
            "check that the slide is the one annotated",
        )


def _refuse_regions_outside(areas: list[list[Ring]], size: tuple[int, int], path: Path) -> None:
    boxes = np.array([rings_box(area) for area in areas]).reshape(-1, 4)
    outside = (boxes[:, :2] >= size).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
    if outside.any():
        x0, y0, x1, y1 = boxes[outside][0]
        raise data_error(
            f"File {path.name!r}: {int(outside.sum())} training regions lie outside the slide.",
            f"regions within 0 ≤ x ≤ {size[0]} and 0 ≤ y ≤ {size[1]} in full-resolution px",
            f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}",
            "check that the slide is the one annotated",
        )


def _with_nuclei(areas: list[list[Ring]], cells: SlideCells, path: Path) -> list[list[Ring]]:
    """The regions that hold the centre of a nucleus; warns of others, refuses none at all."""
    kept = [area for area in areas if rings_hold(area, cells.points).any()]
    if not kept:
        raise data_error(
            f"The regions of {path.name!r} hold no nuclei.",
            "cells, detections or points inside the training regions",
            f"{len(areas)} regions, and {len(cells)} nuclei elsewhere",
            "export all objects from QuPath, the cells too; if the regions are truly empty, say "
            "?empty=background",
        )
    if len(kept) < len(areas):
        warnings.warn(
            f"{path.name}: {len(areas) - len(kept)} of {len(areas)} training regions hold no "
            "nuclei and are left out. ?empty=background takes them for background.",
            stacklevel=2,
        )
    return kept


def _around(cells: SlideCells, margin: float) -> list[Ring]:
    x0, y0 = cells.points.min(axis=0) - margin
    x1, y1 = cells.points.max(axis=0) + margin
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name!r}" for name, count in counts.items())
