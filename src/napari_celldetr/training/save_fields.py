"""Any fields written as the package's own folders, so that a data set is converted once."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.fields import Field
from napari_celldetr.training.label_files import SPLIT_FILE, data_error


def save_points_folder(fields: Iterable[Field], root: str | Path) -> int:
    """Write a folder that `load_points_folder` reads back, and return how many fields it holds.

    Kept are images, centres, sizes, classes, groups, `complete` and `valid`; fields are written
    as they come, so an iterator of a large set fits. Not kept are instance maps. µm/px is not
    part of the layout, so all fields must have the same. Raises `DataError` for that, for a
    folder that holds something or cannot be written, for names that are used twice or are no
    file names, and for fields that know only their composition.
    """
    return _save(fields, Path(root), ("points",), _write_points)


def save_instances_folder(fields: Iterable[Field], root: str | Path) -> int:
    """Write a folder that `load_instances_folder` reads back, and return how many fields.

    As `save_points_folder`, with instance maps and, where there are any, classes. Raises
    `DataError` also for a field without a map, or with cells that the map does not show.
    """
    return _save(fields, Path(root), ("instances",), _write_instances)


def save_composition_folder(fields: Iterable[Field], root: str | Path) -> int:
    """Write images and ``composition.csv`` of fields that know their class shares.

    Raises `DataError` as `save_points_folder` does, and for fields without a composition.
    """
    lines: list[list[str]] = []
    names: set[tuple[str, ...]] = set()

    def keep(field: Field, root: Path) -> None:
        names.add(field.class_names)
        if field.composition is None or len(names) > 1:
            found = "none" if field.composition is None else "other classes than before"
            raise _refused(field, "class shares, of the same classes everywhere", found)
        lines.append([f"{field.name}.png", *(f"{v:.6f}" for v in field.composition)])

    def finish(root: Path) -> None:
        _table(root / "composition.csv", ["image", *(names.pop() if names else ())], lines)

    return _save(fields, Path(root), (), keep, finish)


def _save(
    fields: Iterable[Field],
    root: Path,
    folders: Sequence[str],
    write: Callable[[Field, Path], None],
    finish: Callable[[Path], None] = lambda root: None,
) -> int:
    try:
        count = _save_all(fields, root, folders, write)
        finish(root)
    except OSError as error:
        raise DataError(
            f"The folder {root.name!r} cannot be written.",
            expected="a folder that can be written to, with room enough",
            found=error.strerror or type(error).__name__,
            remedy="choose another one; what is in this one is not whole",
        ) from error
    return count


def _save_all(
    fields: Iterable[Field],
    root: Path,
    folders: Sequence[str],
    write: Callable[[Field, Path], None],
) -> int:
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise data_error(
            f"The folder {root.name!r} cannot be written.",
            "a new or empty folder",
            "something in it",
            "choose another one",
        )
    for name in ("images", *folders):
        (root / name).mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    scales: Counter[float | None] = Counter()
    names: set[str] = set()
    for field in fields:
        scales[field.mpp] += 1
        strange = not field.name or Path(field.name).name != field.name or field.name in names
        if strange or len(scales) > 1:
            raise _refused(
                field,
                "names that are file names and used once, and one µm/px",
                f"name {field.name!r}, µm/px " + ", ".join(str(s) for s in scales),
            )
        names.add(field.name)
        write(field, root)
        _picture(root / "images" / f"{field.name}.png", field.image)
        if field.valid is not None:
            (root / "valid").mkdir(exist_ok=True)
            _picture(root / "valid" / f"{field.name}.png", field.valid.astype(np.uint8) * 255)
        complete = "yes" if field.complete else "no"
        rows.append([f"{field.name}.png", field.group, "train", complete])
    _table(root / SPLIT_FILE, ["image", "patient", "split", "complete"], rows)
    return len(rows)


def _write_points(field: Field, root: Path) -> None:
    if field.composition is not None:
        raise _refused(field, "cells", "a composition (save_composition_folder writes those)")
    rows = [
        [
            *(f"{v - 0.5:.3f}" for v in point),
            _word(field, class_id),
            *("" if np.isnan(v) else f"{v:.3f}" for v in size),
        ]
        for point, size, class_id in zip(field.points, field.sizes, field.class_ids, strict=True)
    ]
    header = ["x", "y", "class", "width", "height"]
    _table(root / "points" / f"{field.name}.csv", header, rows)


def _write_instances(field: Field, root: Path) -> None:
    ids = field.instances
    shown = np.unique(ids[ids > 0]) if ids is not None else np.zeros(0)
    if ids is None or len(shown) != len(field) or len(field) > 65535:
        found = "no map" if ids is None else f"{len(shown)} of {len(field)}"
        raise _refused(field, "an instance map that shows every cell, at most 65,535", found)
    _picture(root / "instances" / f"{field.name}.png", ids.astype(np.uint16))
    if (field.class_ids >= 0).any():
        (root / "classes").mkdir(exist_ok=True)
        rows = [[i, _word(field, class_id)] for i, class_id in enumerate(field.class_ids, 1)]
        _table(root / "classes" / f"{field.name}.csv", ["id", "class"], rows)


def _word(field: Field, class_id: int) -> str:
    return field.class_names[class_id] if class_id >= 0 else ""


def _picture(path: Path, pixels: NDArray[Any]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def _refused(field: Field, expected: str, found: str) -> Exception:
    return data_error(
        f"Field {field.name!r} cannot be written.", expected, found, "leave it out, or correct it"
    )
