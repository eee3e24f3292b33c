"""Files that annotations come in: pictures, tables, and split.csv, which says who is where."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm", ".zarr")
SPLIT_FILE = "split.csv"


def read_image(path: Path) -> NDArray[np.uint8]:
    """An 8-bit picture as RGB (H, W, 3); transparent parts lie on white. Raises `DataError`."""
    pixels = read_pixels(path)
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


def read_pixels(path: Path) -> NDArray[Any]:
    """The pixels of a picture as they are stored, palettes resolved. Raises `DataError`."""
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


def folder_in(root: Path, name: str) -> Path:
    """The folder `name` of a data set. Raises `DataError` when it is not there."""
    folder = root / name
    if not folder.is_dir():
        inside = root.name in ("images", name) and root.is_dir()
        raise DataError(
            f"The data folder {root.name!r} has no {name!r}.",
            expected=f"a folder {name!r} in it",
            found=f"what looks like the folder of {root.name} itself"
            if inside
            else ("nothing" if root.is_dir() else "that the folder itself does not exist"),
            remedy=f"name the folder that holds it, {root.parent}"
            if inside
            else "check the path of the data set",
        )
    return folder


def image_pairs(root: Path, labels: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Images with the label file of the same stem, sorted by name."""
    pictures = sorted(
        p for p in folder_in(root, "images").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
    )
    pairs = [(p, labels / f"{p.stem}{suffix}") for p in pictures]
    lacking = [label.name for _, label in pairs if not label.is_file()]
    stems = {p.stem for p in pictures}
    alone = sorted(p.name for p in labels.glob(f"*{suffix}") if p.stem not in stems)
    if not pairs or lacking or alone:
        raise DataError(
            f"Images and {labels.name} of {root.name!r} do not belong together.",
            expected=f"for every image a file {labels.name}/<stem>{suffix} and the other way round",
            found=list_some("no label for", lacking)
            or list_some("no image for", alone)
            or "no images",
            remedy="complete or remove them",
        )
    return pairs


def list_some(what: str, names: Sequence[str]) -> str:
    """`what` and the first five names; '' without names."""
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{what} {', '.join(names[:5])}{more}"


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that must have `columns`. Raises `DataError`."""
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
            remedy=_separated(header) or "add a header line with " + ", ".join(missing),
        )
    return rows


def _separated(header: Sequence[str]) -> str:
    """What to do about a header in one piece that holds another separator; '' for others."""
    used = [mark for mark in (";", "\t") if len(header) == 1 and mark in header[0]]
    if not used:
        return ""
    name = {";": "';'", "\t": "tabs"}[used[0]]
    return f"columns are separated by {name}: save with commas, and points in decimal numbers"


def data_error(message: str, expected: str, found: str, remedy: str) -> DataError:
    """A `DataError`; for readers that refuse much."""
    return DataError(message, expected=expected, found=found, remedy=remedy)


# --- split.csv -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Who an image's patient is and which part it belongs to, as ``split.csv`` says.

    Attributes
    ----------
    rows : stem -> patient, split, and ``no`` where the labels are not complete
    wanted : str or None
        Only images of this split are read; None reads all.
    """

    rows: dict[str, tuple[str, str, str]]
    wanted: str | None = None

    @classmethod
    def of(cls, root: str | Path, wanted: str | None = None) -> Parts:
        """The table of a data set. Raises `DataError` when it does not name the split wanted."""
        root = Path(root)
        rows = _split_rows(root)
        if wanted is not None and not rows:
            raise DataError(
                f"The data set {root.name!r} has no splits.",
                expected=f"a {SPLIT_FILE} with columns image, patient, split",
                found="none",
                remedy="write one, or choose groups instead of a split",
            )
        splits = {s for _, s, _ in rows.values()}
        if wanted is not None and wanted not in splits:
            raise DataError(
                f"The data folder {root.name!r} has no split {wanted!r}.",
                expected=f"a split named in {SPLIT_FILE}",
                found=", ".join(sorted(splits)),
                remedy="choose one of these, or none for all images",
            )
        return cls(rows, wanted)

    def wants(self, stem: str) -> bool:
        """Whether an image is to be read; one the table does not name is in no split."""
        return self.wanted is None or self._row(stem)[1] == self.wanted

    def group(self, stem: str, default: str) -> str:
        """The patient of an image, `default` where the table names none."""
        return self._row(stem)[0] or default

    def complete(self, stem: str) -> bool:
        """False where the table says so."""
        return self._row(stem)[2] != "no"

    def _row(self, stem: str) -> tuple[str, str, str]:
        return self.rows.get(stem, ("", "", ""))


def _split_rows(root: Path) -> dict[str, tuple[str, str, str]]:
    path = root / SPLIT_FILE
    if not path.is_file():
        return {}
    rows = read_table(path, ("image", "patient", "split"))
    found = {}
    for row in rows:
        complete = (row.get("complete") or "").strip().lower()
        if complete not in ("", "yes", "no"):
            raise DataError(
                f"Table {SPLIT_FILE!r}: 'complete' of {row['image']!r} is not clear.",
                expected="yes, no or nothing",
                found=complete,
                remedy="correct the line",
            )
        found[image_stem(row["image"])] = (row["patient"], row["split"], complete)
    return found


def image_stem(name: str) -> str:
    """Name of an image without the suffix of a picture or slide; other dots belong to it."""
    path = Path(name)
    known = path.suffix.lower() in IMAGE_SUFFIXES + SLIDE_SUFFIXES
    return path.stem if known else path.name


def read_split(root: str | Path) -> dict[str, tuple[str, str]]:
    """Patient and split of every image stem in ``split.csv``; empty without that file."""
    return {stem: (patient, part) for stem, (patient, part, _) in _split_rows(Path(root)).items()}


def or_patient(pattern: str) -> str:
    """A pattern of groups that takes the patient of a TCGA barcode where a name holds one.

    The barcode of a slide goes on (``TCGA-A7-A0D9-01Z-00-DX2``); slides of one patient must not
    be told apart.
    """
    patient = r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])"
    return rf"{patient}|^(?!.*{patient}){pattern}"


def group_of(stem: str, pattern: str) -> str:
    """What a regular expression finds in a stem; the whole stem where it finds nothing."""
    found = re.search(pattern, stem)
    return found.group(0) if found else stem
