"""Annotated fields: images with points, and with sizes where the extent of nuclei is known.

A folder of points holds ``images/<stem>.png`` and ``points/<stem>.csv`` (columns x, y and, where
classes are wanted, class; in px), and may hold ``split.csv`` (columns image, patient, split). A
folder of instances holds ``images/<stem>.*`` and ``instances/<stem>.png`` (integer ids, 0 is
background).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True, eq=False)
class Field:
    """One annotated image.

    Attributes
    ----------
    name, group : str
        File stem; patient (or other unit that must not be divided between training and test).
    image : (H, W, 3) uint8 RGB
    mpp : float or None
        µm/px, None where unknown.
    points : (N, 2) float32
        Centres x, y in px, pixel 0 spanning 0..1.
    sizes : (N, 2) float32
        Box width and height in px; NaN where the extent is unknown.
    class_ids : (N,) int16
        Index into `class_names`, -1 for unknown.
    class_names : tuple of str
    complete : bool
        Whether a place without a point is background.
    instances : (H, W) int32 or None
        Instance map; id i + 1 is row i of `points`.
    composition : (K,) float32 or None
        Share of each class among the field's cells, where only that is known.
    """

    name: str
    group: str
    image: NDArray[np.uint8]
    mpp: float | None
    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    class_names: tuple[str, ...] = ()
    complete: bool = True
    instances: NDArray[np.int32] | None = None
    composition: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.points)
        object.__setattr__(self, "points", np.asarray(self.points, np.float32).reshape(n, 2))
        object.__setattr__(self, "sizes", np.asarray(self.sizes, np.float32).reshape(-1, 2))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, np.int16))
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            self._refuse("the image", "uint8 (H, W, 3)", f"{self.image.dtype} {self.image.shape}")
        if self.sizes.shape != (n, 2) or self.class_ids.shape != (n,):
            self._refuse(
                "sizes or class_ids",
                f"one per point ({n})",
                f"{self.sizes.shape}, {self.class_ids.shape}",
            )
        if n and not UNKNOWN <= self.class_ids.min() <= self.class_ids.max() < len(
            self.class_names
        ):
            self._refuse(
                "class_ids",
                f"-1..{len(self.class_names) - 1}",
                f"{self.class_ids.min()}..{self.class_ids.max()}",
            )
        if self.mpp is not None and not (math.isfinite(self.mpp) and self.mpp > 0):
            self._refuse("mpp", "a positive number of µm/px, or None", repr(self.mpp))

    def _refuse(self, what: str, expected: str, found: str) -> None:
        raise DataError(
            f"Field {self.name!r}: {what} is wrong.",
            expected=expected,
            found=found,
            remedy="correct the annotation",
        )

    def __len__(self) -> int:
        return len(self.points)


# --- reading ---------------------------------------------------------------------------------


def read_image(path: Path) -> NDArray[np.uint8]:
    """An 8-bit picture as RGB (H, W, 3); transparent parts lie on white. Raises `DataError`."""
    pixels = _read_pixels(path)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(
            f"Image {path.name!r} is not 8-bit colour or grey.",
            expected="uint8 with 1, 3 or 4 channels",
            found=f"{pixels.dtype} {pixels.shape}",
            remedy="save it as 8-bit RGB",
        )
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        over = pixels[:, :, :3] * alpha + 255 * (255 - alpha)
        return ((over + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, :3])


def _read_pixels(path: Path) -> NDArray[Any]:
    from PIL import Image

    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            return np.asarray(tifffile.imread(path))
        with Image.open(path) as picture:
            mode = "RGBA" if picture.mode in ("P", "PA", "LA") else None
            mode = "RGB" if picture.mode in ("CMYK", "YCbCr") else mode
            return np.asarray(picture.convert(mode) if mode else picture)
    except Exception as error:
        # Decoders raise whatever they like on damaged files (struct, zlib, key, type errors).
        raise DataError(
            f"Image {path.name!r} cannot be read.",
            expected="a PNG, JPEG or TIFF picture",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="replace or remove the file",
        ) from error


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise DataError(
            f"The data folder {root.name!r} has no {name!r}.",
            expected=f"a folder {name!r} in it",
            found="nothing" if root.is_dir() else "that the folder itself does not exist",
            remedy="check the path of the data set",
        )
    return folder


def _images(root: Path, labels: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Images with the label file of the same stem, sorted by name."""
    pictures = sorted(
        p for p in _folder(root, "images").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
    )
    pairs = [(p, labels / f"{p.stem}{suffix}") for p in pictures]
    lacking = [label.name for _, label in pairs if not label.is_file()]
    stems = {p.stem for p in pictures}
    alone = sorted(p.name for p in labels.glob(f"*{suffix}") if p.stem not in stems)
    if not pairs or lacking or alone:
        raise DataError(
            f"Images and {labels.name} of {root.name!r} do not belong together.",
            expected=f"for every image a file {labels.name}/<stem>{suffix} and the other way round",
            found=_list_some("no label for", lacking)
            or _list_some("no image for", alone)
            or "no images",
            remedy="complete or remove them",
        )
    return pairs


def _list_some(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what} {', '.join(names[:5])}{more}"


def _read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [c for c in columns if c not in header]
            rows = [] if missing else list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Table {path.name!r} cannot be read.",
            expected="a UTF-8 CSV file with columns " + ", ".join(columns),
            found=f"{type(error).__name__}: {error}",
            remedy="replace or remove the file",
        ) from error
    if missing:
        raise DataError(
            f"Table {path.name!r} lacks columns.",
            expected="columns " + ", ".join(columns),
            found=", ".join(header) if header else "an empty file",
            remedy="add a header line with " + ", ".join(missing),
        )
    return rows


def read_split(root: str | Path) -> dict[str, tuple[str, str]]:
    """Patient and split of every image stem in ``split.csv``; empty without that file."""
    path = Path(root) / "split.csv"
    if not path.is_file():
        return {}
    rows = _read_table(path, ("image", "patient", "split"))
    return {Path(r["image"]).stem: (r["patient"], r["split"]) for r in rows}


def _group_of(stem: str, pattern: str) -> str:
    found = re.search(pattern, stem)
    return found.group(0) if found else stem


def load_points_folder(
    root: str | Path,
    *,
    mpp: float | None,
    class_names: Sequence[str] | None = None,
    split: str | None = None,
    group_pattern: str = r"^[^_]+",
    complete: bool = True,
    empty_is_background: bool = False,
) -> list[Field]:
    """Fields with points only, sorted by name; their sizes are NaN.

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
        patient, and the whole stem where nothing matches.
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
    root = Path(root)
    known = read_split(root)
    pairs = _images(root, _folder(root, "points"), ".csv")
    if split is not None:
        pairs = _of_split(root, pairs, known, split)
    fields = []
    for picture, table in pairs:
        image = read_image(picture)
        points, class_ids = _read_points(table, image.shape, class_names)
        patient = known.get(picture.stem, (_group_of(picture.stem, group_pattern), ""))[0]
        fields.append(
            Field(
                name=picture.stem,
                group=patient,
                image=image,
                mpp=mpp,
                points=points,
                sizes=np.full_like(points, np.nan),
                class_ids=class_ids,
                class_names=tuple(class_names or ()),
                complete=complete and (len(points) > 0 or empty_is_background),
            )
        )
    return fields


def _of_split(
    root: Path,
    pairs: list[tuple[Path, Path]],
    known: dict[str, tuple[str, str]],
    split: str,
) -> list[tuple[Path, Path]]:
    chosen = [p for p in pairs if known.get(p[0].stem, ("", ""))[1] == split]
    if not chosen:
        splits = sorted({s for _, s in known.values()})
        raise DataError(
            f"The data folder {root.name!r} has no split {split!r}.",
            expected="a split named in split.csv",
            found=", ".join(splits) or "no split.csv",
            remedy="choose one of these, or none for all images",
        )
    return chosen


def _read_points(
    path: Path, shape: tuple[int, ...], class_names: Sequence[str] | None
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    rows = _read_table(path, ("x", "y") if class_names is None else ("x", "y", "class"))
    points = np.zeros((len(rows), 2), np.float32)
    class_ids = np.full(len(rows), UNKNOWN, np.int16)
    for i, row in enumerate(rows):
        try:
            points[i] = float(row["x"]) + 0.5, float(row["y"]) + 0.5
        except (TypeError, ValueError) as error:
            raise DataError(
                f"Table {path.name!r}, line {i + 2}: not a point.",
                expected="numbers for x and y",
                found=f"{row['x']!r}, {row['y']!r}",
                remedy="correct the line",
            ) from error
        if class_names is not None:
            class_ids[i] = _class_id(row["class"], class_names, path, i + 2)
    _refuse_outside(points, shape, path)
    return points, class_ids


def _class_id(name: str | None, class_names: Sequence[str], path: Path, line: int) -> int:
    """Index of a class name; an empty cell or ``unknown`` is a nucleus of unknown type."""
    word = (name or "").strip()
    if word in class_names:
        return list(class_names).index(word)
    if word in ("", "unknown"):
        return UNKNOWN
    raise DataError(
        f"Table {path.name!r}, line {line}: unknown class {word!r}.",
        expected="one of " + (", ".join(class_names) or "no classes"),
        found=word,
        remedy="correct the line, or give all class names of the data set",
    )


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


def load_instances_folder(
    root: str | Path,
    *,
    mpp: float | None,
    group_pattern: str = r"^\d+(?=_)",
    complete: bool = True,
    border_sizes: bool = False,
) -> list[Field]:
    """Fields with instance masks, sorted by name: exact boxes, no classes.

    Parameters
    ----------
    root : folder with ``images`` and ``instances``
    mpp : float or None
        µm/px; None where it is unknown or differs between images (see `guess_mpp`).
    group_pattern : str
        Regular expression; its match in the stem is the group, else the whole stem is.
    border_sizes : bool
        Keep the box of what is visible of a nucleus that the image border cuts. By default its
        size is NaN, because its true extent is unknown; its centre is that of the visible box.

    Raises
    ------
    DataError
        Missing folder or file, unreadable image, a map of another size than its image.
    """
    root = Path(root)
    fields = []
    for picture, label in _images(root, _folder(root, "instances"), ".png"):
        image, instances = read_image(picture), _read_instances(label)
        if instances.shape != image.shape[:2]:
            raise DataError(
                f"Instance map {label.name!r} does not fit its image.",
                expected=f"height, width {image.shape[:2]}",
                found=str(instances.shape),
                remedy="make both the same size",
            )
        boxes = instance_boxes(instances)
        sizes = boxes[:, 2:] - boxes[:, :2]
        if not border_sizes:
            height, width = instances.shape
            cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= [width, height]).any(axis=1)
            sizes[cut] = np.nan
        fields.append(
            Field(
                name=picture.stem,
                group=_group_of(picture.stem, group_pattern),
                image=image,
                mpp=mpp,
                points=((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32),
                sizes=sizes,
                class_ids=np.full(len(boxes), UNKNOWN, np.int16),
                complete=complete,
                instances=instances,
            )
        )
    return fields


def _read_instances(path: Path) -> NDArray[np.int32]:
    """Instance map with ids 1..n without gaps."""
    pixels = _read_pixels(path)
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu" or (pixels.size and pixels.min() < 0):
        raise DataError(
            f"Instance map {path.name!r} is not a map of ids.",
            expected="one channel of whole numbers, 0 for background",
            found=f"{pixels.dtype} {pixels.shape}",
            remedy="save it as a 16-bit grey PNG",
        )
    ids, compact = np.unique(pixels, return_inverse=True)
    first = 0 if len(ids) and ids[0] == 0 else 1
    return (compact.reshape(pixels.shape) + first).astype(np.int32)


def instance_boxes(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """xyxy boxes (N, 4) of ids 1..N, px with pixel 0 spanning 0..1, exact to the pixel edge."""
    from scipy import ndimage

    found = [s for s in ndimage.find_objects(instances) if s is not None]
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    return np.array(boxes, np.float32).reshape(-1, 4)


# --- changing --------------------------------------------------------------------------------


def resample(field: Field, mpp: float) -> Field:
    """The field at `mpp` µm/px: averaged over areas when shrinking, cubic when enlarging.

    Points and sizes scale with the pixels that were really made, so they stay exact where a side
    does not divide. The instance map follows by nearest neighbour. Raises `DataError` when the
    field's own mpp is unknown.
    """
    if field.mpp is None or not (math.isfinite(mpp) and mpp > 0):
        raise DataError(
            f"Field {field.name!r} cannot be resampled.",
            expected="its own and a wished µm/px, both positive",
            found=f"{field.mpp} and {mpp}",
            remedy="give the data set's µm/px (or guess_mpp)",
        )
    height, width = field.image.shape[:2]
    ratio = field.mpp / mpp
    shape = max(1, round(height * ratio)), max(1, round(width * ratio))
    if shape == (height, width):
        return replace(field, mpp=mpp)
    scale = np.array([shape[1] / width, shape[0] / height], np.float32)
    return replace(
        field,
        image=_resize(field.image, shape),
        mpp=mpp,
        points=field.points * scale,
        sizes=field.sizes * scale,
        instances=None if field.instances is None else _nearest(field.instances, shape),
    )


def _resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    from skimage import transform

    source = image.astype(np.float32)
    resize: Any = transform.resize  # scikit-image is not typed
    shrink: Any = transform.resize_local_mean
    if shape[0] < image.shape[0] or shape[1] < image.shape[1]:
        made = shrink(source, shape, channel_axis=2)
    else:
        made = resize(source, shape, order=3, mode="reflect", anti_aliasing=False)
    return np.asarray(np.clip(np.rint(made), 0, 255), np.uint8)


def _nearest(instances: NDArray[np.int32], shape: tuple[int, int]) -> NDArray[np.int32]:
    rows = ((np.arange(shape[0]) + 0.5) * instances.shape[0] / shape[0]).astype(np.intp)
    columns = ((np.arange(shape[1]) + 0.5) * instances.shape[1] / shape[1]).astype(np.intp)
    return instances[np.ix_(rows, columns)]


def guess_mpp(field: Field, *, diameter_um: float = 6.0) -> float | None:
    """µm/px at which the median nucleus would measure `diameter_um`; None without sizes.

    A heuristic for sets whose resolution is not known: the median labelled nucleus of a section,
    lymphocytes and cut ones included, measures 5 to 8 µm, so the guess may be a third off.
    """
    known = field.sizes[np.isfinite(field.sizes).all(axis=1)]
    if not len(known):
        return None
    return float(diameter_um / np.median(np.sqrt(known.prod(axis=1))))


def split(
    fields: Iterable[Field],
    by: str | Callable[[Field], str] = "group",
    *,
    hold_out: Iterable[str],
) -> tuple[list[Field], list[Field]]:
    """Fields to train on, and fields held out whose group (or other attribute) is named.

    Raises `DataError` for a name that no field has and when either side would be empty.
    """
    items = list(fields)
    key: Callable[[Field], str] = by if callable(by) else lambda f: str(getattr(f, by))
    wanted = set(hold_out)
    present = {key(f) for f in items}
    held = [f for f in items if key(f) in wanted]
    kept = [f for f in items if key(f) not in wanted]
    if wanted - present or not held or not kept:
        raise DataError(
            "The fields cannot be divided like that.",
            expected="names out of "
            + ", ".join(sorted(present)[:20])
            + ", and some left on each side",
            found=", ".join(sorted(wanted)) or "no names",
            remedy="name other groups to hold out",
        )
    return kept, held
