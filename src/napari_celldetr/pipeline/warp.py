"""What lies on one slide, laid onto the other: points, outlines, and the picture itself.

Everything is in level-0 px. What falls where the transform is not to be trusted, or beyond the
other slide, is marked as excluded, and in a picture it is grey.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.errors import ExportError, no_file
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.synthetic import BLOCK_PX, write_pyramid

BOX = ("x0", "y0", "x1", "y1")
MICROMETRES = ("x_um", "y_um")
ADDED = ("registration_error_um", "registration_excluded")
EDGE_PX = 128.0
"""A straight edge longer than this gets corners in between, so that it can bend."""
LARGEST_GEOJSON = 512 * 2**20
SPARE_PX = 2
NODE_PX = 16
DEPTHS = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "MultiLineString": 2,
    "Polygon": 2,
    "MultiPolygon": 3,
}
"""How deep the lists of positions of each kind of geometry are nested."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WarpReport:
    """How many things were laid onto the other slide, and how many of them are excluded."""

    count: int
    excluded: int

    def sentence(self) -> str:
        """The report in words for people."""
        share = f" ({self.excluded / self.count:.1%})" if self.count else ""
        return f"{self.count:,} moved, {self.excluded:,}{share} excluded"


@dataclass(frozen=True, eq=False)
class Mover:
    """One direction of a transform: H&E to IHC, or back with `inverse`."""

    transform: SlideTransform
    inverse: bool = False

    def move(self, points: Floats) -> Floats:
        """Points (N, 2) in level-0 px of the other slide."""
        t = self.transform
        return t.inverse(points) if self.inverse else t.forward(points)

    def errors(self, before: Floats, after: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Expected error (N,) in µm, NaN where unknown, and what is excluded (N,)."""
        t = self.transform
        on_he = after if self.inverse else before
        errors = np.zeros(len(on_he)) if t.error_map is None else t.error_map.at(on_he * t.he.mpp)
        target = t.he if self.inverse else t.ihc
        outside = ((after < 0) | (after > target.size)).any(axis=1)
        return errors, ~(errors <= t.limit_um) | outside

    @property
    def mirrors(self) -> bool:
        """Whether left and right change places."""
        return bool(np.linalg.det(self.transform.affine[:, :2]) < 0)


def warp_points(
    source: str | Path, target: str | Path, transform: SlideTransform, *, inverse: bool = False
) -> WarpReport:
    """Move the points of a CSV file with columns x and y (level-0 px); other columns stay.

    Boxes (x0, y0, x1, y1) become the box around the moved one, x_um and y_um follow. Two columns
    are added: the expected error in µm, and whether the point is excluded. `ExportError` when
    the file is no such table, or cannot be written.
    """
    source, target = Path(source), Path(target)
    names, rows = _read_table(source)
    mover = Mover(transform, inverse)
    before = _numbers(source, rows, names, ("x", "y"))
    after = mover.move(before)
    errors, excluded = mover.errors(before, after)
    columns = {"x": after[:, 0], "y": after[:, 1]}
    if set(BOX) <= set(names):
        columns |= _moved_boxes(mover, _numbers(source, rows, names, BOX))
    if set(MICROMETRES) <= set(names):
        mpp = (transform.he if inverse else transform.ihc).mpp
        columns |= dict(zip(MICROMETRES, (after * mpp).T, strict=True))
    for name, values in columns.items():
        at = names.index(name)
        for row, value in zip(rows, values.tolist(), strict=True):
            row[at] = f"{value:.3f}"
    added = [
        ["" if math.isnan(e) else f"{e:.2f}", "yes" if x else "no"]
        for e, x in zip(errors.tolist(), excluded.tolist(), strict=True)
    ]
    _write_table(target, names, rows, added)
    return WarpReport(len(rows), int(excluded.sum()))


def _read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError as error:
        raise no_file(ExportError, path) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _refused(path, "a CSV file with columns x and y", str(error)[:150]) from error
    names = lines[0] if lines else []
    if not {"x", "y"} <= set(names):
        raise _refused(path, "columns x and y in level-0 px", ", ".join(names) or "nothing")
    rows = [line for line in lines[1:] if line]
    short = next((i for i, row in enumerate(rows) if len(row) != len(names)), None)
    if short is not None:
        found = f"{len(rows[short])} in row {short + 2}"
        raise _refused(path, f"{len(names)} values in each row", found)
    return names, rows


def _numbers(
    path: Path, rows: list[list[str]], names: list[str], wanted: tuple[str, ...]
) -> Floats:
    at = [names.index(name) for name in wanted]
    try:
        numbers = np.array([[float(row[i]) for i in at] for row in rows], np.float64)
    except ValueError as error:
        raise _refused(path, f"numbers in {', '.join(wanted)}", str(error)[:150]) from error
    numbers = numbers.reshape(-1, len(at))
    if not np.isfinite(numbers).all():
        raise _refused(path, f"finite numbers in {', '.join(wanted)}", "nan or inf")
    return numbers


def _moved_boxes(mover: Mover, boxes: Floats) -> dict[str, Floats]:
    """The boxes around moved boxes (N, 4), by the middles of their sides.

    A cell is round: the corners of a turned box would make it too large.
    """
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    sides = [(boxes[:, 0], y), (boxes[:, 2], y), (x, boxes[:, 1]), (x, boxes[:, 3])]
    moved = [mover.move(np.stack(side, axis=1)) for side in sides]
    across, down = moved[1] - moved[0], moved[3] - moved[2]
    middle = sum(moved) / 4
    half = np.sqrt(across**2 + down**2) / 2
    low, high = middle - half, middle + half
    return {"x0": low[:, 0], "y0": low[:, 1], "x1": high[:, 0], "y1": high[:, 1]}


def _write_table(
    path: Path, names: list[str], rows: list[list[str]], added: list[list[str]]
) -> None:
    kept = [i for i, name in enumerate(names) if name not in ADDED]
    try:
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as f:
            writer = csv.writer(f, lineterminator="\n")
            writer.writerow([*(names[i] for i in kept), *ADDED])
            for row, more in zip(rows, added, strict=True):
                writer.writerow([*(row[i] for i in kept), *more])
    except OSError as error:
        raise not_written("The result", error) from error


# -- outlines --------------------------------------------------------------------------------


def warp_regions(
    source: str | Path, target: str | Path, transform: SlideTransform, *, inverse: bool = False
) -> WarpReport:
    """Move the geometries of a GeoJSON file (level-0 px), of any kind; all else stays.

    Long edges get corners in between. Each feature's properties get the expected error in µm
    (the worst of its corners) and whether it is excluded, which it is when more than half of its
    corners are. `ExportError` when the file is no GeoJSON, or cannot be written.
    """
    source, target = Path(source), Path(target)
    content = _read_geojson(source)
    offset = _offset(content)
    mover = _GeometryMover(Mover(transform, inverse), offset)
    features = _features(content)
    if not features:
        raise _refused(source, "outlines or points in it", "GeoJSON without any")
    try:
        for feature in features:
            mover.feature(feature)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {str(error)[:150]}"
        raise _refused(source, "GeoJSON geometries in level-0 px", found) from error
    if isinstance(content, dict):
        content.pop("celldetr", None)
    try:
        with replacing(target) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        raise not_written("The result", error) from error
    return WarpReport(len(features), mover.excluded)


@dataclass(frozen=True, eq=False)
class Outline:
    """An outline on the other slide.

    Attributes
    ----------
    corners : (M, 2)
        Level-0 px, x and y.
    error_um : float
        The worst expected error of a corner; NaN where one is not known.
    excluded : bool
        More than half of the corners lie where the transform is not to be trusted.
    """

    corners: Floats
    error_um: float
    excluded: bool


def carry_outline(
    corners: NDArray[Any], transform: SlideTransform, *, inverse: bool = False
) -> Outline:
    """A line (N, 2) of level-0 px laid onto the other slide; long edges get corners in between.

    `inverse` goes from the IHC slide to the H&E slide. A ring must end where it begins.
    """
    mover = Mover(transform, inverse)
    line = denser(np.asarray(corners, np.float64).reshape(-1, 2))
    after = mover.move(line)
    errors, excluded = mover.errors(line, after)
    return Outline(after, float(errors.max(initial=0.0)), bool(excluded.mean() > 0.5))


class _GeometryMover:
    """Moves features in place and counts what is excluded."""

    def __init__(self, mover: Mover, offset: Floats) -> None:
        self.mover, self.offset = mover, offset
        self.excluded = 0

    def feature(self, feature: dict[str, Any]) -> None:
        """Move one feature, and say how well it is known."""
        errors: list[Floats] = []
        out: list[NDArray[np.bool_]] = []
        bare = "geometry" not in feature and "type" in feature and feature["type"] != "Feature"
        for name in ("geometry", "nucleusGeometry"):
            if feature.get(name) is not None:
                feature[name] = self._geometry(feature[name], errors, out)
        if bare:
            feature.update(self._geometry(dict(feature), errors, out))
        if not errors:
            return
        excluded = bool(np.concatenate(out).mean() > 0.5)
        self.excluded += excluded
        if not bare:
            worst = float(np.max(np.concatenate(errors)))
            properties = feature.get("properties") or {}
            properties[ADDED[0]] = None if math.isnan(worst) else round(worst, 2)
            properties[ADDED[1]] = excluded
            feature["properties"] = properties

    def _geometry(
        self, geometry: Mapping[str, Any], errors: list[Floats], out: list[NDArray[np.bool_]]
    ) -> dict[str, Any]:
        kind = geometry["type"]
        if kind == "GeometryCollection":
            members = [self._geometry(g, errors, out) for g in geometry["geometries"]]
            return {**geometry, "geometries": members}
        closed = "Polygon" in kind

        def moved(values: Any, depth: int) -> Any:
            if depth > 1:
                return [moved(v, depth - 1) for v in values]
            line = np.array([v[:2] for v in (values if depth else [values])], np.float64)
            if not np.isfinite(line).all():
                raise ValueError("a coordinate that is not finite")
            line = line.reshape(-1, 2) + self.offset
            if depth == 1 and kind != "MultiPoint":
                line = denser(line)
            after = self.mover.move(line)
            error, excluded = self.mover.errors(line, after)
            errors.append(error)
            out.append(excluded)
            # A mirrored ring would run the other way round.
            after = after[::-1] if closed and self.mover.mirrors else after
            corners = np.round(after, 3).tolist()
            return corners if depth else corners[0]

        kept = {k: v for k, v in geometry.items() if k != "bbox"}
        return {**kept, "coordinates": moved(geometry["coordinates"], DEPTHS[kind])}


def denser(line: Floats) -> Floats:
    """A line (N, 2) with corners added on edges longer than EDGE_PX."""
    parts = []
    for start, stop in pairwise(line):
        count = max(1, math.ceil(float(np.hypot(*(stop - start))) / EDGE_PX))
        parts.append(start + (stop - start) * (np.arange(count) / count)[:, None])
    return np.concatenate([*parts, line[-1:]])


def _read_geojson(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_GEOJSON:
            raise _refused(path, f"at most {LARGEST_GEOJSON >> 20} MiB", "a larger file")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise no_file(ExportError, path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, "GeoJSON", str(error)[:150] or type(error).__name__) from error


def _features(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        return content.get("features", [content])
    return []


def _offset(content: Any) -> Floats:
    """Where the file's (0, 0) lies: a file of our own export says so."""
    about = content.get("celldetr") if isinstance(content, dict) else None
    offset = about.get("offset", (0, 0)) if isinstance(about, dict) else (0, 0)
    return np.array(offset, np.float64)


# -- the picture -----------------------------------------------------------------------------


def warp_image(
    slide: Slide,
    target: str | Path,
    transform: SlideTransform,
    *,
    mpp: float | None = None,
    inverse: bool = False,
    compression: str = "jpeg",
) -> Job[Path]:
    """Write the H&E slide as it lies on the IHC slide (`inverse`: the other way) as OME-TIFF.

    The picture covers the other slide's frame at `mpp` µm/px (default: that slide's own). What is
    excluded is grey. Bands are made one after the other, so that memory does not grow with the
    slide. Yields `Progress`; raises `SlideError`, `TransformError` when `slide` is not that of
    the transform, and `ExportError`.
    """
    own = slide.identity()
    transform.check_slides(**({"ihc": own} if inverse else {"he": own}))
    painter = _Painter(slide, Mover(transform, inverse), mpp)
    return _painting(painter, Path(target), compression)


def _painting(painter: _Painter, target: Path, compression: str) -> Job[Path]:
    from concurrent.futures import ThreadPoolExecutor, wait

    size, mpp = painter.size, painter.mpp
    total = -(-size[1] // BLOCK_PX)

    def write(path: Path) -> None:
        write_pyramid(path, painter.bands, size=size, mpp=mpp, compression=compression)

    try:
        with replacing(target) as temporary, ThreadPoolExecutor(1, "celldetr-warp") as pool:
            future = pool.submit(write, temporary)
            try:
                while not wait([future], timeout=0.2).done:
                    yield Progress(painter.done, total, "bands of the picture")
            except GeneratorExit:
                painter.stopped = True
                raise
            future.result()
    except OSError as error:
        raise not_written("The result", error) from error
    yield Progress(total, total, "bands of the picture")
    return target


class _Painter:
    """Bands of the other slide's frame, each pixel fetched from where it is from."""

    def __init__(self, slide: Slide, mover: Mover, mpp: float | None) -> None:
        t = mover.transform
        frame = t.he if mover.inverse else t.ihc
        self.slide, self.mover = slide, mover
        self.mpp = mpp or sum(frame.mpp) / 2
        width, height = (max(1, round(s / self.mpp)) for s in frame.extent_um)
        self.size = width, height
        # Level-0 px of the frame per pixel of the picture, so that the picture covers it exactly.
        self.step = np.array(frame.size) / self.size
        self.source = t.ihc if mover.inverse else t.he
        self.backward = Mover(t, not mover.inverse)
        self.done, self.stopped = 0, False

    def bands(self) -> Iterator[NDArray[np.uint8]]:
        """The picture from top to bottom, BLOCK_PX rows at a time."""
        width, height = self.size
        for y in range(0, height, BLOCK_PX):
            rows = min(BLOCK_PX, height - y)
            blocks = []
            for x in range(0, width, BLOCK_PX):
                if self.stopped:
                    raise InterruptedError("stopped")
                blocks.append(self._block(x, y, min(BLOCK_PX, width - x), rows))
            self.done += 1
            yield np.concatenate(blocks, axis=1)

    def _block(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        place, grey = self._places(x, y, width, height)
        low, high = place.min(axis=(1, 2)), place.max(axis=(1, 2))
        shrink = max(1.0, self.mpp / max(self.source.mpp))
        spare = SPARE_PX * shrink
        x0, y0 = (int(v) for v in np.floor(np.maximum(low - spare, 0)))
        x1, y1 = (int(v) for v in np.ceil(np.minimum(high + spare, self.source.size)))
        if x1 - x0 < 1 or y1 - y0 < 1:
            return np.full((height, width, 3), self.slide.background, np.uint8)
        region = Region.from_edges(x0, y0, x1, y1)
        out = max(1, round(region.width / shrink)), max(1, round(region.height / shrink))
        rgb = self.slide.render(region, *out)
        column = (place[0] - x0) * (out[0] / region.width) - 0.5
        row = (place[1] - y0) * (out[1] / region.height) - 0.5
        return self._sampled(rgb, row, column, grey)

    def _sampled(
        self, rgb: NDArray[np.uint8], row: Floats, column: Floats, grey: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        picture = np.empty((*row.shape, 3), np.uint8)
        for channel, empty in enumerate(self.slide.background):
            values = ndimage.map_coordinates(
                rgb[..., channel].astype(np.float32), (row, column), order=1, mode="nearest"
            )
            picture[..., channel] = np.rint(values)
            outside = (row < -0.5) | (column < -0.5)
            outside |= (row > rgb.shape[0] - 0.5) | (column > rgb.shape[1] - 0.5)
            picture[..., channel][outside] = empty
        faded = picture.mean(axis=2, keepdims=True) * 0.4 + 96
        return np.asarray(np.where(grey[..., None], faded, picture), np.uint8)

    def _places(self, x: int, y: int, width: int, height: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Source level-0 px (2, h, w) of every pixel, and which are excluded (h, w)."""
        columns = np.arange(0, width + NODE_PX, NODE_PX)
        rows = np.arange(0, height + NODE_PX, NODE_PX)
        grid = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
        nodes = self.backward.move((grid + np.array([x, y])) * self.step)
        nodes = nodes.reshape(len(rows), len(columns), 2)
        at = np.meshgrid(
            (np.arange(height) + 0.5) / NODE_PX, (np.arange(width) + 0.5) / NODE_PX, indexing="ij"
        )
        place = np.stack([ndimage.map_coordinates(nodes[..., i], at, order=1) for i in (0, 1)])
        t = self.mover.transform
        if t.error_map is None:
            return place, np.zeros((height, width), bool)
        if self.mover.inverse:
            cells = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
            on_he = ((cells + np.array([x, y])) * self.step).reshape(-1, 2)
        else:
            on_he = place.reshape(2, -1).T
        error = t.error_map.at(on_he * t.he.mpp)
        share = _tissue_at(t, on_he)
        return place, (share & ~(error <= t.limit_um)).reshape(height, width)


def _tissue_at(transform: SlideTransform, points: Floats) -> NDArray[np.bool_]:
    """Whether H&E level-0 px (N, 2) lie in a cell of the error map with tissue: glass stays."""
    errors = transform.error_map
    if errors is None:
        return np.zeros(len(points), bool)
    return errors.tissue_at(points * transform.he.mpp) > 0


def _refused(path: Path, expected: str, found: str) -> ExportError:
    return ExportError(
        f"{path.name} cannot be moved to the other slide.",
        expected=expected,
        found=found,
        remedy="give points as CSV, outlines as GeoJSON, or the slide itself",
    )
