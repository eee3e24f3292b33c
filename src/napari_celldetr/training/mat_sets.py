"""Published sets that come as MATLAB files: CoNSeP and Lizard.

CoNSeP (Graham et al., 2019): ``inst_map``, ``inst_type`` and ``inst_centroid``, rows in the
order of ids. Lizard (Graham et al., 2021): ``inst_map`` and, in any order, ``id``, ``class``,
``bbox`` (y1, y2, x1, x2) and ``centroid`` (x, y); ids are not contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.array_sets import LIZARD_CLASSES
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.fields import Field, box_rows, compact_ids, instance_boxes
from napari_celldetr.training.label_files import (
    IMAGE_SUFFIXES,
    Parts,
    data_error,
    group_of,
    list_some,
    read_image,
)

CONSEP_CLASSES = (
    "other",
    "inflammatory",
    "healthy epithelial",
    "malignant epithelial",
    "fibroblast",
    "muscle",
    "endothelial",
)
CONSEP_MERGED = (
    "other",
    "inflammatory",
    "epithelial",
    "epithelial",
    "spindle",
    "spindle",
    "spindle",
)
"""The published convention: types 3 and 4 are epithelial, 5, 6 and 7 spindle-shaped."""
CONSEP_MPP = 0.25
LIZARD_MPP = 0.5
NEAR_PX = 2.0
DISAGREE = 0.05
"""More centroids than this outside their nucleus' box mean that rows and ids do not belong."""


def read_consep(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = CONSEP_MPP,
    merged: bool = False,
    group_pattern: str = r"^.*$",
) -> Iterator[Field]:
    """Fields of the pictures below `root` (the whole set, or its Train or Test folder).

    `merged` names the seven types as the four of `CONSEP_MERGED`. The group is the picture.
    Raises `DataError` for pictures without labels, missing variables, and rows that do not
    belong to the ids.
    """
    words = CONSEP_MERGED if merged else CONSEP_CLASSES
    classes.check_names(words, root.name)
    class_ids = classes.ids(words, root.name)
    for picture, label in _pairs(root):
        if not parts.wants(picture.stem):
            continue
        values = _read_mat(label, ("inst_map", "inst_type", "inst_centroid"))
        kinds = _column(values["inst_type"], label, "inst_type", len(words))
        rows = np.arange(1, len(kinds) + 1)
        ids = np.unique(values["inst_map"])
        ids = ids[ids != 0]
        if len(ids) == len(rows):
            rows = ids  # rows follow the ids that are there
        yield _field(
            picture, label, values["inst_map"], rows, class_ids[kinds - 1],
            values["inst_centroid"], classes, parts, mpp, group_pattern,
        )  # fmt: skip


def read_lizard(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = LIZARD_MPP,
    group_pattern: str = r"^.*$",
) -> Iterator[Field]:
    """Fields of the pictures below `root`; the group is the picture.

    Rows are found by ``id``, whatever their order. Raises `DataError` as `read_consep` does.
    """
    classes.check_names(LIZARD_CLASSES, root.name)
    class_ids = classes.ids(LIZARD_CLASSES, root.name)
    for picture, label in _pairs(root):
        if not parts.wants(picture.stem):
            continue
        values = _read_mat(label, ("inst_map", "id", "class", "centroid"))
        kinds = _column(values["class"], label, "class", len(LIZARD_CLASSES))
        rows = np.asarray(values["id"]).ravel()
        yield _field(
            picture, label, values["inst_map"], rows, class_ids[kinds - 1],
            values["centroid"], classes, parts, mpp, group_pattern,
        )  # fmt: skip


def _field(
    picture: Path,
    label: Path,
    pixels: NDArray[Any],
    rows: NDArray[Any],
    class_ids: NDArray[np.int16],
    centroids: NDArray[Any],
    classes: ClassMap,
    parts: Parts,
    mpp: float | None,
    group_pattern: str,
) -> Field:
    """A field out of a map and rows (id, class, centroid).

    A row whose nucleus has no pixel in the map, because others cover it, stays as a point.
    """
    image = read_image(picture)
    whole = np.asarray(pixels).astype(np.int64)
    if whole.shape != image.shape[:2] or (whole != pixels).any() or whole.min(initial=0) < 0:
        raise data_error(
            f"The instance map of {label.name!r} does not fit its image.",
            f"whole numbers, height, width {image.shape[:2]}",
            f"{pixels.dtype} {pixels.shape}",
            "check that both files are those published",
        )
    centroids = np.asarray(centroids, np.float64).reshape(-1, 2)
    instances, ids = compact_ids(whole)
    order = {int(i): n for n, i in enumerate(rows)}
    unknown = [int(i) for i in ids if int(i) not in order]
    if unknown or len(order) != len(rows) or not len(rows) == len(class_ids) == len(centroids):
        raise data_error(
            f"The rows of {label.name!r} do not belong to its instance map.",
            f"one class and centroid for each of {len(ids)} ids",
            list_some("no row for", [str(i) for i in unknown])
            or f"{len(rows)} ids, {len(class_ids)} classes, {len(centroids)} centroids",
            "check that the file is the one published",
        )
    boxes = instance_boxes(instances)
    seen = np.array([order[int(i)] for i in ids], np.intp)
    _check_centroids(boxes, centroids[seen], label)
    hidden = np.setdiff1d(np.arange(len(rows)), seen)
    points, sizes = box_rows(boxes, image.shape)
    return Field(
        name=picture.stem,
        group=parts.group(picture.stem, group_of(picture.stem, group_pattern)),
        image=image,
        mpp=mpp,
        points=np.concatenate([points, centroids[hidden].astype(np.float32)]),
        sizes=np.concatenate([sizes, np.full((len(hidden), 2), np.nan, np.float32)]),
        class_ids=np.concatenate([class_ids[seen], class_ids[hidden]]),
        class_names=classes.names,
        complete=parts.complete(picture.stem),
        instances=instances,
    )


def _check_centroids(
    boxes: NDArray[np.float32], centroids: NDArray[np.float64], label: Path
) -> None:
    low, high = boxes[:, :2] - NEAR_PX, boxes[:, 2:] + NEAR_PX
    outside = ~((centroids >= low) & (centroids <= high)).all(axis=1)
    if outside.sum() > DISAGREE * len(boxes):
        raise data_error(
            f"The centroids of {label.name!r} do not lie in their nuclei.",
            "centroid x, y of each row in the nucleus of its id",
            f"{int(outside.sum())} of {len(boxes)} elsewhere",
            "check that the file is the one published; rows may have been sorted anew",
        )


def _column(values: NDArray[Any], label: Path, name: str, classes: int) -> NDArray[np.int64]:
    column = np.asarray(values).ravel()
    whole = column.astype(np.int64)
    if (whole != column).any() or not ((whole >= 1) & (whole <= classes)).all():
        raise data_error(
            f"{name!r} of {label.name!r} holds a class that the set does not define.",
            f"1..{classes}",
            ", ".join(str(v) for v in np.unique(column)[:10]),
            "check that the file is the one published",
        )
    return whole


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """Pictures with the .mat file of the same stem, wherever below `root` they are.

    Sets also hold overlays under the same names; where a folder's name has "image" in it, only
    such folders count.
    """
    files = [
        p
        for p in sorted(root.rglob("*"))
        if not p.name.startswith("._") and "__MACOSX" not in p.parts
    ]
    labels = [p for p in files if p.suffix.lower() == ".mat"]
    pictures = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    real = [p for p in pictures if "image" in p.parent.name.lower()]
    pictures = real or pictures
    stems = {p.stem for p in pictures}
    by_stem = {p.stem: p for p in labels}
    lacking, alone = sorted(stems - set(by_stem)), sorted(set(by_stem) - stems)
    doubled = len(stems) != len(pictures) or len(by_stem) != len(labels)
    if not pictures or lacking or alone or doubled:
        raise data_error(
            f"Images and .mat files of {root.name!r} do not belong together.",
            "for every image one <stem>.mat below the folder and the other way round",
            list_some("no label for", lacking)
            or list_some("no image for", alone)
            or ("a name twice" if pictures else "no images"),
            "complete or remove them",
        )
    return [(p, by_stem[p.stem]) for p in pictures]


def _read_mat(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    from scipy import io

    try:
        values = io.loadmat(path, variable_names=names)
    except Exception as error:
        # The reader raises whatever it meets on damaged files (struct, zlib, key, type errors).
        raise DataError(
            f"File {path.name!r} cannot be read.",
            expected="a MATLAB file of version 5 to 7.2",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="download it again, or save it with -v7",
        ) from error
    lacking = [name for name in names if name not in values]
    if lacking:
        raise data_error(
            f"File {path.name!r} lacks variables.",
            ", ".join(names),
            "no " + ", ".join(lacking),
            "check that the file belongs to this set",
        )
    return {name: np.asarray(values[name]) for name in names}
