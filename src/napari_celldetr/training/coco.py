"""COCO files: boxes, polygons and run-length masks of many images in one JSON file."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.datasets import PREFIX
from napari_celldetr.training.fields import Field, box_rows
from napari_celldetr.training.label_files import (
    Parts,
    data_error,
    group_of,
    image_stem,
    read_image,
)
from napari_celldetr.training.polygons import Ring, rings_box, rings_mask

MARGIN_PX = 1.0
"""A box may reach this far beyond its image; writers round."""


def decode_counts(text: str) -> list[int]:
    """Run lengths of COCO's compressed form.

    A number is a chain of characters, each 48 plus six bits: five of the number, least
    significant first, and a sixth that says whether another follows. The fifth bit of the last
    is the sign. From the fourth number on, the difference from the number two before is stored.
    Raises `ValueError` for anything else.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the text ends inside a number")
    return counts


def decode_mask(counts: str | Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
    """Mask (height, width) of run lengths down the columns, background first.

    Raises `ValueError` when the runs do not fill `size` (height, width) exactly.
    """
    runs = np.array(decode_counts(counts) if isinstance(counts, str) else counts, np.int64)
    height, width = (int(v) for v in size)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"runs of {int(runs.sum())} px for {height} × {width}")
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(values.reshape(width, height).T)


@dataclass(frozen=True)
class _Shape:
    """What one annotation covers: a box, and its mask in a window of the image if it has one."""

    box: NDArray[np.float64]
    corner: tuple[int, int]
    mask: NDArray[np.bool_] | None


def read_coco(
    root: Path,
    classes: ClassMap,
    parts: Parts,
    *,
    mpp: float | None,
    annotations: str = "",
    group_pattern: str = PREFIX,
    empty_is_background: bool = False,
) -> Iterator[Field]:
    """Fields of the images that a COCO file lists.

    Parameters
    ----------
    root : folder with ``images`` (or the images themselves) and the JSON file
    annotations : str
        The JSON file's path below `root`; without it the only one there is taken.
    empty_is_background : bool
        Whether an image without annotations shows background; by default nobody looked at it.

    Where ``iscrowd`` is 1, the place counts as neither cell nor background. Raises `DataError`
    for unknown ids, boxes outside their image, or boxes that do not fit their outline.
    """
    path = _json_file(root, annotations)
    images, by_image, words = _read_json(path)
    classes.check_names(words.values(), root.name)
    used = {a["category_id"] for group in by_image.values() for a in group if not _crowd(a)}
    class_ids = dict(
        zip(used, classes.ids([words[c] for c in used], root.name).tolist(), strict=True)
    )
    for entry in images:
        stem = image_stem(Path(entry["file_name"]).name)
        if not parts.wants(stem):
            continue
        image = _image(root, entry, path)
        labels = by_image.get(entry["id"], [])
        cells = [a for a in labels if not _crowd(a)]
        shapes = [_shape(a, image.shape, path) for a in cells]
        boxes = np.array([s.box for s in shapes], np.float32).reshape(-1, 4)
        points, sizes = box_rows(boxes, image.shape)
        crowds = [_shape(a, image.shape, path) for a in labels if _crowd(a)]
        yield Field(
            name=stem,
            group=parts.group(stem, group_of(stem, group_pattern)),
            image=image,
            mpp=mpp,
            points=points,
            sizes=sizes,
            class_ids=np.array([class_ids[a["category_id"]] for a in cells], np.int16),
            class_names=classes.names,
            complete=parts.complete(stem) and (bool(labels) or empty_is_background),
            instances=_instances(shapes, image.shape),
            valid=_valid(crowds, image.shape),
        )


def _crowd(annotation: dict[str, Any]) -> bool:
    return bool(annotation.get("iscrowd", 0))


def _json_file(root: Path, name: str) -> Path:
    found = [root / name] if name else sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    if len(found) != 1 or not found[0].is_file():
        raise data_error(
            f"The COCO file of {root.name!r} is not clear.",
            "one .json file in the folder, or its name as ?json=",
            ", ".join(p.name for p in found) or "none",
            "name the file",
        )
    return found[0]


def _read_json(
    path: Path,
) -> tuple[list[dict[str, Any]], dict[Any, list[dict[str, Any]]], dict[Any, str]]:
    """Images, annotations by image id, and names by category id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        images, annotations = list(content["images"]), list(content["annotations"])
        words = {c["id"]: str(c["name"]) for c in content["categories"]}
        ids = {i["id"]: str(i["file_name"]) for i in images}
        marks = [(a["id"], a["image_id"], a["category_id"]) for a in annotations]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"File {path.name!r} cannot be read.",
            expected="COCO JSON with images, annotations and categories, and their ids",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="export it again as COCO instances",
        ) from error
    stems = Counter(image_stem(Path(name).name) for name in ids.values())
    faults = {
        "an image id or name twice": len(ids) != len(images) or max(stems.values(), default=0) > 1,
        "an annotation id twice": len({m[0] for m in marks}) != len(marks),
        "a category id twice": len(words) != len(content["categories"]),
        "annotations of an image that is not listed": any(m[1] not in ids for m in marks),
        "annotations of a category that is not listed": any(m[2] not in words for m in marks),
        "no images": not images,
    }
    if any(faults.values()):
        raise data_error(
            f"File {path.name!r} contradicts itself.",
            "ids that occur once, and annotations of listed images and categories",
            "; ".join(name for name, there in faults.items() if there),
            "export it again",
        )
    by_image = defaultdict(list)
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    return images, by_image, words


def _image(root: Path, entry: dict[str, Any], path: Path) -> NDArray[np.uint8]:
    name = Path(entry["file_name"])
    places = [root / "images" / name, root / name]
    inside = not name.is_absolute() and ".." not in name.parts
    found = next((p for p in places if inside and p.is_file()), None)
    if found is None:
        raise data_error(
            f"An image that {path.name!r} lists is not there.",
            f"{name} in {root.name!r} or its folder 'images'",
            "no such file",
            "add the image, or remove it from the list",
        )
    image = read_image(found)
    said = entry.get("height", image.shape[0]), entry.get("width", image.shape[1])
    if tuple(said) != image.shape[:2]:
        raise data_error(
            f"Image {name.name!r} is not the one that was annotated.",
            f"height, width {said}",
            str(image.shape[:2]),
            "use the image at the size of its annotations",
        )
    return image


def _shape(annotation: dict[str, Any], shape: tuple[int, ...], path: Path) -> _Shape:
    try:
        outline = _outline(annotation.get("segmentation"), shape)
        given = annotation.get("bbox")
        if given:
            x, y, width, height = (float(v) for v in given)
            box = np.array([x, y, x + width, y + height])
        elif outline is not None:
            box = outline.box
        else:
            raise ValueError("neither bbox nor segmentation")
        _check_box(box, None if outline is None else outline.box, shape)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DataError(
            f"Annotation {annotation['id']} of {path.name!r} cannot be used.",
            expected="bbox as x, y, width, height in px inside the image; a segmentation that "
            "fits it",
            found=str(error)[:200],
            remedy="correct the annotation",
        ) from error
    height_px, width_px = shape[:2]
    clipped = np.clip(box, 0, [width_px, height_px] * 2)
    if outline is None:
        return _Shape(clipped, (0, 0), None)
    return _Shape(clipped, outline.corner, outline.mask)


def _check_box(
    box: NDArray[np.float64], outline: NDArray[np.float64] | None, shape: tuple[int, ...]
) -> None:
    height, width = shape[:2]
    if not np.isfinite(box).all() or (box[2:] <= box[:2]).any():
        raise ValueError(f"a box without extent, {box.tolist()}")
    limit = np.array([width, height]) + MARGIN_PX
    if (box[:2] < -MARGIN_PX).any() or (box[2:] > limit).any():
        raise ValueError(
            f"a box from {box[:2].tolist()} to {box[2:].tolist()} in {width} × {height}"
        )
    if outline is not None and len(outline):
        slack = 2 + 0.1 * np.tile(box[2:] - box[:2], 2)
        if (np.abs(outline - box) > slack).any():
            raise ValueError(f"bbox {box.tolist()} but outline {outline.tolist()} (x0, y0, x1, y1)")


def _outline(segmentation: Any, shape: tuple[int, ...]) -> _Shape | None:
    if not segmentation:
        return None
    height, width = shape[:2]
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != (height, width):
            raise ValueError(f"a mask of {segmentation['size']}")
        mask = decode_mask(segmentation["counts"], segmentation["size"])
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            raise ValueError("an empty mask")
        x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        part = mask[y0:y1, x0:x1]
        return _Shape(np.array([x0, y0, x1, y1], np.float64), (int(x0), int(y0)), part)
    rings: list[Ring] = [np.array(r, np.float64).reshape(-1, 2) for r in segmentation]
    if any(len(ring) < 3 for ring in rings):
        raise ValueError("a polygon of fewer than three corners")
    box = rings_box(rings)
    x0, y0 = np.clip(np.floor(box[:2]), 0, [width, height]).astype(int)
    x1, y1 = np.clip(np.ceil(box[2:]), 0, [width, height]).astype(int)
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    for ring in rings:  # the parts of one object; they have no holes
        mask |= rings_mask([ring], (int(x0), int(y0)), mask.shape)
    return _Shape(box, (int(x0), int(y0)), mask)


def _instances(shapes: list[_Shape], shape: tuple[int, ...]) -> NDArray[np.int32] | None:
    """The map, where every annotation has an outline; the first keeps shared pixels."""
    if not shapes or any(s.mask is None for s in shapes):
        return None
    instances = np.zeros(shape[:2], np.int32)
    for number, item in enumerate(shapes, 1):
        assert item.mask is not None
        window = _window(instances, item)
        window[item.mask & (window == 0)] = number
    return instances


def _valid(crowds: list[_Shape], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    if not crowds:
        return None
    valid = np.ones(shape[:2], bool)
    for item in crowds:
        if item.mask is not None:
            _window(valid, item)[item.mask] = False
        else:
            x0, y0 = np.floor(item.box[:2]).astype(int)
            x1, y1 = np.ceil(item.box[2:]).astype(int)
            valid[y0:y1, x0:x1] = False
    return valid


def _window(values: NDArray[Any], item: _Shape) -> NDArray[Any]:
    assert item.mask is not None
    (x, y), (height, width) = item.corner, item.mask.shape
    return values[y : y + height, x : x + width]
