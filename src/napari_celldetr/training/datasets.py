"""Annotated fields from folders in the package's own three layouts.

A folder of points holds ``images/<stem>.png`` and ``points/<stem>.csv`` (columns x, y and, where
classes are wanted, class; in px; optionally width, height), a folder of instances ``images`` and
``instances/<stem>.png`` (integer ids, 0 is background; optionally ``classes/<stem>.csv`` with
columns id, class), a folder of compositions ``images`` and ``composition.csv``. Each may hold
``split.csv`` (columns image, patient, split and optionally complete) and ``valid/<stem>.png``
(0 where the labels say nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.fields import (
    Field,
    box_rows,
    compact_ids,
    guess_mpp,
    instance_boxes,
    resample,
)
from napari_celldetr.training.folds import group_folds, site_of, split
from napari_celldetr.training.label_files import (
    IMAGE_SUFFIXES,
    Parts,
    data_error,
    folder_in,
    group_of,
    image_pairs,
    image_stem,
    list_some,
    or_patient,
    read_image,
    read_pixels,
    read_split,
    read_table,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "Field",
    "group_folds",
    "guess_mpp",
    "instance_boxes",
    "load_instances_folder",
    "load_points_folder",
    "read_composition_folder",
    "read_image",
    "read_instances_folder",
    "read_points_folder",
    "read_split",
    "resample",
    "site_of",
    "split",
]

PREFIX = or_patient(r"[^_]+")
NUMBER = or_patient(r"\d+(?=_)")


def load_points_folder(
    root: str | Path,
    *,
    mpp: float | None,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    group_pattern: str = PREFIX,
    complete: bool = True,
    empty_is_background: bool = False,
) -> list[Field]:
    """Fields with points, sorted by name; sizes are NaN unless the tables give them.

    A whole number p in x or y names a pixel, so its centre p + 0.5 is taken.

    Parameters
    ----------
    root : folder with ``images``, ``points`` and optionally ``split.csv``
    mpp : float or None
        µm/px of the images.
    class_names : sequence of str or None
        Classes in the order of the model; None ignores the classes (every id is -1).
    split : str or None
        Only the images that ``split.csv`` gives this split.
    group_pattern : str
        Regular expression; its match in the stem is the group where ``split.csv`` names no
        patient, and the whole stem where nothing matches. By default the patient of a TCGA
        barcode, else what stands before the first ``_``.
    complete : bool
        Whether places without a point are background.
    empty_is_background : bool
        An image without any point is usually one that nobody annotated, so by default such a
        field is not `complete`; True trusts it.

    Raises
    ------
    DataError
        Missing folder, file, column or split; unknown class; point outside; unreadable image.
    """
    return list(
        read_points_folder(
            Path(root),
            ClassMap(tuple(class_names or ())),
            Parts.of(root, split),
            mpp=mpp,
            group_pattern=group_pattern,
            complete=complete,
            empty_is_background=empty_is_background,
        )
    )


def read_points_folder(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None,
    group_pattern: str = PREFIX,
    complete: bool = True,
    empty_is_background: bool = False,
) -> Iterator[Field]:
    """The fields of `load_points_folder` one by one, with a class map."""
    pairs = image_pairs(root, folder_in(root, "points"), ".csv")
    classes.check_names(_class_words(table for _, table in pairs), root.resolve().name)
    for picture, table in pairs:
        stem = picture.stem
        if not parts.wants(stem):
            continue
        image = read_image(picture)
        points, sizes, class_ids = _read_points(table, image.shape, classes)
        yield Field(
            name=stem,
            group=parts.group(stem, group_of(stem, group_pattern)),
            image=image,
            mpp=mpp,
            points=points,
            sizes=sizes,
            class_ids=class_ids,
            class_names=classes.names,
            complete=complete and parts.complete(stem) and (len(points) > 0 or empty_is_background),
            valid=_read_valid(root, stem, image.shape),
        )


def _read_points(
    path: Path, shape: tuple[int, ...], classes: ClassMap
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
    rows = read_table(path, ("x", "y", "class") if classes.names else ("x", "y"))
    points = np.zeros((len(rows), 2), np.float32)
    sizes = np.full((len(rows), 2), np.nan, np.float32)
    class_ids = np.full(len(rows), UNKNOWN, np.int16)
    for i, row in enumerate(rows):
        try:
            points[i] = float(row["x"]) + 0.5, float(row["y"]) + 0.5
            if row.get("width") and row.get("height"):
                sizes[i] = float(row["width"]), float(row["height"])
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Table {path.name!r}, line {i + 2}: not a point.",
                expected="numbers for x and y, and for width and height where they are given",
                found=", ".join(repr(row.get(c)) for c in ("x", "y", "width", "height")),
                remedy="correct the line",
            ) from error
        class_ids[i] = _class_id(row["class"], classes, path, i + 2) if classes.names else UNKNOWN
    _refuse_outside(points, shape, path)
    if not (np.isnan(sizes) | (sizes > 0)).all() or np.isinf(sizes).any():
        raise data_error(
            f"Table {path.name!r} has nuclei without extent.",
            "width and height above 0, or nothing",
            f"{np.nanmin(sizes):g}",
            "correct the lines, or leave the sizes empty",
        )
    return points, sizes, class_ids


def _class_id(name: str | None, classes: ClassMap, path: Path, line: int) -> int:
    """Index of a class name; an empty cell or ``unknown`` is a nucleus of unknown type."""
    word = (name or "").strip()
    index = classes.id_of(word)
    if index is None:
        raise DataError(
            f"Table {path.name!r}, line {line}: unknown class {word!r}.",
            expected="one of " + ", ".join(classes.names),
            found=word,
            remedy="correct the line, give all class names of the data set, or map them (?map=)",
        )
    return index


def _class_words(tables: Iterable[Path]) -> Iterator[str]:
    """What stands in the column class of tables."""
    for table in tables:
        for row in read_table(table, ("class",)):
            yield row["class"] or ""


def _refuse_outside(points: NDArray[np.float32], shape: tuple[int, ...], path: Path) -> None:
    height, width = shape[:2]
    inside = ((points >= 0) & (points <= [width, height])).all(axis=1)  # False for NaN too
    if not inside.all():
        first = int(np.flatnonzero(~inside)[0])
        x, y = points[first] - 0.5
        raise DataError(
            f"Table {path.name!r}: {int((~inside).sum())} points lie outside the image.",
            expected=f"0 ≤ x < {width} and 0 ≤ y < {height}",
            found=f"x {x:g}, y {y:g} in line {first + 2}",
            remedy="check that the points are in px of this very image",
        )


def _read_valid(root: Path, stem: str, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    path = root / "valid" / f"{stem}.png"
    if not path.is_file():
        return None
    pixels = read_pixels(path)
    if pixels.shape != shape[:2]:
        raise data_error(
            f"The valid area of {stem!r} does not fit its image.",
            f"one channel, height, width {shape[:2]}",
            str(pixels.shape),
            "make both the same size",
        )
    return np.asarray(pixels != 0)


# --- instances -------------------------------------------------------------------------------


def load_instances_folder(
    root: str | Path,
    *,
    mpp: float | None,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    group_pattern: str = NUMBER,
    complete: bool = True,
    border_sizes: bool = False,
) -> list[Field]:
    """Fields with instance masks, sorted by name: exact boxes; classes where a table gives them.

    Parameters
    ----------
    root : folder with ``images`` and ``instances``, optionally ``classes`` and ``split.csv``
    mpp : float or None
        µm/px; None where it is unknown or differs between images (see `guess_mpp`).
    class_names : sequence of str or None
        Classes in the order of the model; None ignores the classes (every id is -1).
    split : str or None
        Only the images that ``split.csv`` gives this split.
    group_pattern : str
        Regular expression; its match in the stem is the group, else the whole stem is. By
        default the patient of a TCGA barcode, else the digits before the first ``_``.
    border_sizes : bool
        Keep the box of what is visible of a nucleus that the image border cuts. By default its
        size is NaN, because its true extent is unknown; its centre is that of the visible box.

    Raises
    ------
    DataError
        Missing folder or file, unreadable image, a map of another size than its image.
    """
    return list(
        read_instances_folder(
            Path(root),
            ClassMap(tuple(class_names or ())),
            Parts.of(root, split),
            mpp=mpp,
            group_pattern=group_pattern,
            complete=complete,
            border_sizes=border_sizes,
        )
    )


def read_instances_folder(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None,
    group_pattern: str = NUMBER,
    complete: bool = True,
    border_sizes: bool = False,
) -> Iterator[Field]:
    """The fields of `load_instances_folder` one by one, with a class map."""
    pairs = image_pairs(root, folder_in(root, "instances"), ".png")
    tables = (root / "classes" / f"{picture.stem}.csv" for picture, _ in pairs)
    classes.check_names(_class_words(t for t in tables if t.is_file()), root.resolve().name)
    for picture, label in pairs:
        stem = picture.stem
        if not parts.wants(stem):
            continue
        image = read_image(picture)
        instances, ids = _read_instances(label)
        if instances.shape != image.shape[:2]:
            raise DataError(
                f"Instance map {label.name!r} does not fit its image.",
                expected=f"height, width {image.shape[:2]}",
                found=str(instances.shape),
                remedy="make both the same size",
            )
        boxes = instance_boxes(instances)
        points, sizes = box_rows(boxes, image.shape, border_sizes=border_sizes)
        yield Field(
            name=stem,
            group=parts.group(stem, group_of(stem, group_pattern)),
            image=image,
            mpp=mpp,
            points=points,
            sizes=sizes,
            class_ids=_instance_classes(root / "classes" / f"{stem}.csv", ids, classes),
            class_names=classes.names,
            complete=complete and parts.complete(stem),
            instances=instances,
            valid=_read_valid(root, stem, image.shape),
        )


def _read_instances(path: Path) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Instance map with ids 1..n without gaps, and the ids it had."""
    pixels = read_pixels(path)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or (pixels.size and pixels.min() < 0):
        raise DataError(
            f"Instance map {path.name!r} is not a map of ids.",
            expected="one channel of whole numbers, 0 for background",
            found=f"{pixels.dtype} {pixels.shape}",
            remedy="save it as a 16-bit grey PNG",
        )
    return compact_ids(pixels)


def _instance_classes(path: Path, ids: NDArray[np.int64], classes: ClassMap) -> NDArray[np.int16]:
    found = np.full(len(ids), UNKNOWN, np.int16)
    if not classes.names or not path.is_file():
        return found
    rows = {i: n for n, i in enumerate(ids.tolist())}
    for line, row in enumerate(read_table(path, ("id", "class")), 2):
        word = (row["id"] or "").strip()
        if not word.isdigit() or int(word) not in rows:
            raise data_error(
                f"Table {path.name!r}, line {line}: no such nucleus.",
                "an id of the instance map",
                word,
                "correct the line",
            )
        found[rows[int(word)]] = _class_id(row["class"], classes, path, line)
    return found


# --- composition -----------------------------------------------------------------------------


def read_composition_folder(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None,
    group_pattern: str = PREFIX,
) -> Iterator[Field]:
    """Fields that know only which share of their cells is of which class.

    ``composition.csv`` has a column image and one per class: counts (whole numbers), shares that
    add up to 1, or percentages that add up to 100. What a map gives ``-`` is left out, and the
    rest is taken for the whole. Raises `DataError` for images without a line or lines without an
    image, and for numbers that are neither.
    """
    images = folder_in(root, "images")
    path = root / "composition.csv"
    table = read_table(path, ("image",))
    words = [name for name in (table[0] if table else {}) if name not in ("image", None)]
    classes.check_names(words, root.name)
    ids = classes.ids(words, root.name)
    rows = {image_stem(row["image"]): row for row in table}
    pictures = {p.stem: p for p in sorted(images.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}
    lacking, alone = sorted(set(pictures) - set(rows)), sorted(set(rows) - set(pictures))
    if lacking or alone or not words or len(rows) != len(table):
        raise data_error(
            f"Images and {path.name} of {root.name!r} do not belong together.",
            "one line for every image, a column for every class",
            list_some("no line for", lacking)
            or list_some("no image for", alone)
            or "an image twice, or no classes",
            "complete or remove them",
        )
    for stem, picture in pictures.items():
        if not parts.wants(stem):
            continue
        amounts = _amounts(rows[stem], words, path)
        yield Field(
            name=stem,
            group=parts.group(stem, group_of(stem, group_pattern)),
            image=read_image(picture),
            mpp=mpp,
            points=np.zeros((0, 2), np.float32),
            sizes=np.zeros((0, 2), np.float32),
            class_ids=np.zeros(0, np.int16),
            class_names=classes.names,
            complete=False,
            composition=shares(amounts, ids, classes.names),
            valid=None,
        )


def _amounts(row: dict[str, str], words: Sequence[str], path: Path) -> NDArray[np.float64]:
    try:
        amounts = np.array([float(row[word]) for word in words])
    except (TypeError, ValueError):
        amounts = np.array([np.nan])
    total = amounts.sum()
    counts = (amounts == np.rint(amounts)).all()
    whole = counts or abs(total - 1) <= 0.02 or abs(total - 100) <= 2
    if not np.isfinite(amounts).all() or (amounts < 0).any() or total <= 0 or not whole:
        raise data_error(
            f"Table {path.name!r}: the line of {row['image']!r} is no composition.",
            "counts, shares that add up to 1, or percentages that add up to 100",
            ", ".join(f"{word} {row[word]}" for word in words),
            "correct the line; give cells of other types a column of their own",
        )
    return amounts


def shares(
    amounts: NDArray[np.float64], class_ids: NDArray[np.int16], names: Sequence[str]
) -> NDArray[np.float32] | None:
    """Share (K,) of each class among amounts (N,) of classes (N,); None when none is known."""
    known = class_ids >= 0
    sums = np.bincount(class_ids[known], weights=amounts[known], minlength=len(names))
    return (sums / sums.sum()).astype(np.float32) if sums.sum() > 0 else None
