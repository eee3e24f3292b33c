"""OME-Zarr 0.4 and 0.5 pictures as slides, read through zarr-python.

Metadata is ours to check first: sizes, chunk sizes and the number of dimensions are bounded
before zarr allocates anything for them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.boundary import as_slide_error
from napari_celldetr.slides.limits import check_size, check_tile, refuse
from napari_celldetr.slides.ome_xml import UM_PER
from napari_celldetr.slides.pixels import to_rgb

MAX_METADATA_BYTES = 16 * 2**20
MAX_LEVELS = 40
UNITS = UM_PER | {
    "micrometer": 1.0,
    "nanometer": 1e-3,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "angstrom": 1e-4,
}
GROUP_FILES = ("zarr.json", ".zattrs", ".zgroup")


def is_zarr(path: Path, head: bytes) -> bool:
    """Whether `path` is a folder that looks like a zarr group."""
    return not head and path.is_dir() and any((path / name).is_file() for name in GROUP_FILES)


@dataclass(frozen=True, slots=True)
class _Multiscale:
    paths: tuple[str, ...]
    axes: tuple[str, ...]
    mpp: tuple[float, float] | None


class ZarrBackend:
    """The first multiscale picture of an OME-Zarr group. See `Backend`."""

    def __init__(self, path: Path) -> None:
        import zarr  # takes half a second that other formats need not pay

        self._name = path.name
        root = _picture_folder(path)
        with as_slide_error(self._name, "its OME-Zarr metadata"):
            described = _multiscale(_attributes(root, self._name), self._name)
            self._axes = described.axes
            self._arrays = [
                zarr.open_array(_inside(root, part, self._name), mode="r")
                for part in described.paths
            ]
            sizes = [self._checked(array) for array in self._arrays]
            self._keep_shrinking(sizes)
        self._facts = Facts(
            tuple(self._sizes),
            mpp=described.mpp,
            mpp_source="ome-zarr" if described.mpp else "missing",
        )

    def _keep_shrinking(self, sizes: list[tuple[int, int]]) -> None:
        """Only levels that are smaller than the one before."""
        kept = [0]
        for index in range(1, len(sizes)):
            last = sizes[kept[-1]]
            if sizes[index][0] < last[0] and sizes[index][1] < last[1]:
                kept.append(index)
        self._arrays = [self._arrays[i] for i in kept]
        self._sizes = [sizes[i] for i in kept]

    def _checked(self, array: Any) -> tuple[int, int]:
        """(w, h) of an array that we can and may read. `SlideError` otherwise."""
        if array.ndim != len(self._axes):
            raise refuse(self._name, f"{len(self._axes)} dimensions", str(array.ndim))
        if array.dtype.kind not in "ufb":
            raise refuse(self._name, "unsigned or float samples", str(array.dtype))
        width, height = (int(array.shape[self._axes.index(a)]) for a in "xy")
        check_size(self._name, width, height)
        for chunk in {array.chunks, array.shards or array.chunks}:
            size = int(np.prod([int(c) for c in chunk], dtype=object))
            check_tile(self._name, size, 1, array.dtype.itemsize)
        channels = int(array.shape[self._axes.index("c")]) if "c" in self._axes else 1
        if channels not in (1, 2, 3, 4):
            raise refuse(self._name, "a grey or RGB picture", f"{channels} channels")
        return width, height

    @property
    def facts(self) -> Facts:
        """What the file says about itself."""
        return self._facts

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, 3) of a box inside a level. `SlideError` if unreadable."""
        wanted: dict[str, Any] = {
            "x": slice(x, x + width),
            "y": slice(y, y + height),
            "c": slice(None),
        }
        with as_slide_error(self._name, f"level {level} at {(x, y)}"):
            samples = self._arrays[level][tuple(wanted.get(axis, 0) for axis in self._axes)]
            kept = [axis for axis in self._axes if axis in wanted]
            order = [kept.index(axis) for axis in "yxc" if axis in kept]
            return to_rgb(np.asarray(samples).transpose(order))

    def close(self) -> None:
        """Let the arrays go; zarr keeps no descriptor open."""
        self._arrays = []


def _picture_folder(path: Path) -> Path:
    """`path`, or its first picture where it is a collection (``0`` of bioformats2raw)."""
    first = path / "0"
    nested = any((first / name).is_file() for name in (".zattrs", "zarr.json"))
    if nested and not (first / ".zarray").is_file():
        with as_slide_error(path.name, "its OME-Zarr metadata"):
            if "multiscales" not in _attributes(path, path.name):
                return first
    return path


def _json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_METADATA_BYTES:
        raise refuse(name, f"metadata of at most {MAX_METADATA_BYTES} bytes", "more")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise refuse(name, "a JSON object", type(found).__name__)
    return found


def _attributes(root: Path, name: str) -> dict[str, Any]:
    """The OME attributes of a group: 0.5 has them under ``ome``, 0.4 bare."""
    attributes = _json(root / "zarr.json", name).get("attributes", {})
    found = attributes.get("ome", attributes) or _json(root / ".zattrs", name)
    if not isinstance(found, dict):
        raise refuse(name, "a JSON object of attributes", type(found).__name__)
    return found


def _multiscale(attributes: dict[str, Any], name: str) -> _Multiscale:
    if "multiscales" not in attributes:
        raise refuse(name, "an OME-Zarr picture (multiscales)", "a zarr group without one")
    described = attributes["multiscales"][0]
    axes = tuple(a if isinstance(a, str) else a["name"] for a in described.get("axes", "tczyx"))
    if not {"x", "y"} <= set(axes) <= set("tczyx") or len(set(axes)) != len(axes):
        raise refuse(name, "axes x and y, with c, z, t at most", ", ".join(map(str, axes))[:80])
    datasets = described["datasets"][:MAX_LEVELS]
    common = _scale_of(described, len(axes))
    first = _scale_of(datasets[0], len(axes))
    mpp = _mpp(described.get("axes", []), axes, [a * b for a, b in zip(first, common, strict=True)])
    return _Multiscale(tuple(str(d["path"]) for d in datasets), axes, mpp)


def _scale_of(described: dict[str, Any], count: int) -> list[float]:
    for step in described.get("coordinateTransformations") or []:
        if step.get("type") == "scale" and len(step["scale"]) == count:
            return [float(v) for v in step["scale"]]
    return [1.0] * count


def _mpp(described: Any, axes: tuple[str, ...], scale: list[float]) -> tuple[float, float] | None:
    units = {a["name"]: a.get("unit") for a in described if isinstance(a, dict)}
    factors = [UNITS.get(units.get(axis) or "") for axis in "xy"]
    if factors[0] is None or factors[1] is None:
        return None
    return scale[axes.index("x")] * factors[0], scale[axes.index("y")] * factors[1]


def _inside(root: Path, part: str, name: str) -> str:
    """The folder of a level; one that points out of the slide's own folder is refused."""
    place = (root / part).resolve()
    if not place.is_relative_to(root.resolve()) or not place.is_dir():
        raise refuse(name, "levels inside the slide's folder", "a level that is not there")
    return str(place)
