"""Published sets that come as NumPy arrays: PanNuke folds and CoNIC patches.

PanNuke (Gamper et al., 2020): ``images.npy`` (N, 256, 256, 3), ``masks.npy`` (N, 256, 256, 6),
one channel of instance ids per class and the background last, ``types.npy`` (N) tissue names; a
folder per fold. CoNIC (Graham et al., 2021): ``images.npy`` (N, 256, 256, 3), ``labels.npy``
(N, 256, 256, 2), ids and classes, optionally ``patch_info.csv``. Arrays are mapped, and read one
patch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.fields import Field, box_rows, compact_ids, instance_boxes
from napari_celldetr.training.label_files import Parts, data_error, group_of, read_table

PANNUKE_CLASSES = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
LIZARD_CLASSES = ("neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective")
PANNUKE_MPP = 0.25
CONIC_MPP = 0.5


def read_pannuke(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = PANNUKE_MPP,
    group_pattern: str = r"^.*(?=_\d+$)",
) -> Iterator[Field]:
    """Fields ``<fold>_<number>`` of all folds below `root`; the group is the fold.

    No patients are published, so nothing finer than folds can be held out. Where two classes
    claim a pixel, the instance map keeps the first; boxes are those of each nucleus' own mask.
    Raises `DataError` for missing or unlike arrays, and for pixels that are not 0..255.
    """
    classes.check_names(PANNUKE_CLASSES, root.name)
    ids = classes.ids(PANNUKE_CLASSES, root.name)
    for fold, paths in _pannuke_folds(root).items():
        images = _array(paths["images"], (None, None, None, 3))
        masks = _array(paths["masks"], (*images.shape[:3], len(PANNUKE_CLASSES) + 1))
        tissues = _tissues(paths["types"], len(images))
        for i in range(len(images)):
            name = f"{fold}_{i:05d}"
            if not parts.wants(name):
                continue
            instances, boxes, channels = _merge_channels(masks[i, :, :, :-1], paths["masks"])
            points, sizes = box_rows(boxes, instances.shape)
            yield Field(
                name=name,
                group=parts.group(name, group_of(name, group_pattern)),
                image=_picture(images[i], paths["images"]),
                mpp=mpp,
                points=points,
                sizes=sizes,
                class_ids=ids[channels],
                class_names=classes.names,
                complete=parts.complete(name),
                instances=instances,
                tissue=tissues[i],
            )


def _pannuke_folds(root: Path) -> dict[str, dict[str, Path]]:
    """Arrays of every fold, whether together in a folder or as published (Fold 1/images/fold1)."""
    found: dict[str, dict[str, Path]] = {}
    for images in sorted(root.rglob("images.npy")):
        folder = images.parent
        masks = folder / "masks.npy"
        if not masks.is_file():
            places = [("masks" if part == "images" else part) for part in folder.parts]
            masks = Path(*places) / "masks.npy"
        named = folder.parent if folder.name == "images" else folder
        fold = named.resolve().name
        if not masks.is_file() or fold in found:
            raise data_error(
                f"The fold {fold!r} of {root.name!r} cannot be read.",
                "images.npy and masks.npy in one folder, or in images/… and masks/…; "
                "folds with different names",
                "no masks.npy" if fold not in found else "two folds of this name",
                "arrange the files as published",
            )
        found[fold] = {"images": images, "masks": masks, "types": folder / "types.npy"}
    if not found:
        raise data_error(
            f"The folder {root.name!r} holds no PanNuke fold.",
            "images.npy, masks.npy and types.npy in it or in folders below",
            "none" if root.is_dir() else "that the folder itself does not exist",
            "check the path of the data set",
        )
    return found


def _array(path: Path, shape: Sequence[int | None]) -> NDArray[Any]:
    """A mapped array of a known shape (None is any length)."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"Array {path.name!r} of {path.parent.name!r} cannot be read.",
            expected="a .npy file of numbers",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="download it again",
        ) from error
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "uif":
        raise data_error(
            f"Array {path.name!r} of {path.parent.name!r} is not what it should be.",
            "numbers of shape " + str(tuple("any" if s is None else s for s in shape)),
            f"{array.dtype} {array.shape}",
            "check that the arrays belong together and are those published",
        )
    return array


def _tissues(path: Path, count: int) -> list[str]:
    if not path.is_file():
        return [""] * count
    try:
        names = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"Array {path.name!r} of {path.parent.name!r} cannot be read.",
            expected="a .npy file of tissue names",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="download it again, or remove it",
        ) from error
    if names.shape != (count,) or names.dtype.kind not in "US":
        raise data_error(
            f"Array {path.name!r} of {path.parent.name!r} does not fit its images.",
            f"{count} names",
            f"{names.dtype} {names.shape}",
            "check that the arrays belong together",
        )
    return [str(name) for name in names.astype(str)]


def _picture(patch: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """uint8 pixels, left in the mapped file where they are stored so."""
    if patch.dtype == np.uint8:
        return np.asarray(patch)
    pixels = np.asarray(patch, np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    # Comparisons with NaN are False. Nothing stained is as dark as 1 of 255 all over.
    if not (low >= 0 and 1 < high <= 255):
        raise data_error(
            f"Array {path.name!r} of {path.parent.name!r} holds no 8-bit colours.",
            "values 0..255",
            f"{low:g}..{high:g}",
            "scale the images to 0..255",
        )
    return np.rint(pixels).astype(np.uint8)


def _ids(layer: NDArray[Any], path: Path) -> NDArray[np.int64]:
    whole = np.asarray(layer).astype(np.int64, copy=False)
    if (whole != layer).any() or (whole.size and whole.min() < 0):
        raise data_error(
            f"Array {path.name!r} of {path.parent.name!r} is not a map of ids.",
            "whole numbers, 0 for background",
            f"{layer.dtype} {float(np.nanmin(layer)):g}..{float(np.nanmax(layer)):g}",
            "check that the array is the one published",
        )
    return whole


def _merge_channels(
    layers: NDArray[Any], path: Path
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.intp]]:
    """Instance map (H, W), boxes (N, 4) and channel (N,) of maps (H, W, K) of ids."""
    merged = np.zeros(layers.shape[:2], np.int32)
    boxes, channels = [np.zeros((0, 4), np.float32)], [np.zeros(0, np.intp)]
    count = 0
    for channel in range(layers.shape[2]):
        layer = layers[:, :, channel]
        if not layer.any():
            continue
        own, ids = compact_ids(_ids(layer, path))
        free = (own > 0) & (merged == 0)
        merged[free] = own[free] + count
        boxes.append(instance_boxes(own))
        channels.append(np.full(len(ids), channel, np.intp))
        count += len(ids)
    return merged, np.concatenate(boxes), np.concatenate(channels)


def read_conic(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None = CONIC_MPP,
    group_pattern: str = r"^.*(?=-)",
) -> Iterator[Field]:
    """Fields of CoNIC patches; the group is the picture a patch was cut from.

    ``patch_info.csv`` tells (``consep_1-0004`` is a patch of ``consep_1``); without it all
    patches are one group, since they overlap. Raises `DataError` as `read_pannuke` does.
    """
    classes.check_names(LIZARD_CLASSES, root.name)
    ids = classes.ids(LIZARD_CLASSES, root.name)
    images = _array(root / "images.npy", (None, None, None, 3))
    labels = _array(root / "labels.npy", (*images.shape[:3], 2))
    names = _patch_names(root, len(images))
    for i, name in enumerate(names):
        if not parts.wants(name):
            continue
        instances, found = compact_ids(_ids(labels[i, :, :, 0], root / "labels.npy"))
        kinds = _ids(labels[i, :, :, 1], root / "labels.npy")
        points, sizes = box_rows(instance_boxes(instances), instances.shape)
        yield Field(
            name=name,
            group=parts.group(name, group_of(name, group_pattern)),
            image=_picture(images[i], root / "images.npy"),
            mpp=mpp,
            points=points,
            sizes=sizes,
            class_ids=ids[_majority(instances, kinds, len(found), len(ids), name)],
            class_names=classes.names,
            complete=parts.complete(name),
            instances=instances,
        )


def _patch_names(root: Path, count: int) -> list[str]:
    path = root / "patch_info.csv"
    if not path.is_file():
        return [f"{root.resolve().name}-{i:05d}" for i in range(count)]
    names = [row["patch_info"] for row in read_table(path, ("patch_info",))]
    if len(names) != count or len(set(names)) != count:
        raise data_error(
            f"Table {path.name!r} does not fit the patches.",
            f"{count} names, no two alike",
            f"{len(names)} names, {len(set(names))} of them different",
            "use the table published with the arrays",
        )
    return names


def _majority(
    instances: NDArray[np.int32], kinds: NDArray[np.int64], count: int, classes: int, name: str
) -> NDArray[np.intp]:
    """The class (from 0) that most pixels of each nucleus have."""
    if kinds.max(initial=0) > classes:
        raise data_error(
            f"Field {name!r} has a class that the set does not define.",
            f"classes 1..{classes}",
            str(int(kinds.max())),
            "check that the array is the one published",
        )
    wide = classes + 1
    votes = np.bincount((instances * wide + kinds).ravel(), minlength=(count + 1) * wide)
    table = votes.reshape(count + 1, wide)[1:, 1:]
    if (table.sum(axis=1) == 0).any():
        raise data_error(
            f"Field {name!r} has nuclei without a class.",
            "a class for every nucleus",
            f"{int((table.sum(axis=1) == 0).sum())} without",
            "check that the array is the one published",
        )
    return np.asarray(table.argmax(axis=1))
