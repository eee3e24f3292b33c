"""A transform as a file: whole or not there, and refused when it is something else."""

from __future__ import annotations

from pathlib import Path

from napari_celldetr.core.errors import no_file
from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.pipeline.atomic import not_written, replacing

LARGEST_FILE = 256 * 2**20


def write_transform(transform: SlideTransform, path: str | Path) -> None:
    """Write `transform` as JSON. `ExportError` when that is not possible."""
    try:
        with replacing(Path(path)) as temporary:
            temporary.write_text(transform.to_json(), encoding="utf-8")
    except OSError as error:
        raise not_written("The transform", error) from error


def read_transform(path: str | Path) -> SlideTransform:
    """The transform in a file. `TransformError` when there is none, or it is broken."""
    return SlideTransform.from_json(read_text(path, "JSON as `celldetr register` writes it"))


def read_text(path: str | Path, expected: str) -> str:
    """A text file of sane size. `TransformError` when it is none."""
    try:
        size = Path(path).stat().st_size
        if size > LARGEST_FILE:
            raise _unreadable(path, expected, f"{size >> 20} MiB")
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise no_file(TransformError, path) from error
    except OSError as error:
        raise _unreadable(path, expected, error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, expected, "bytes that are not UTF-8") from error


def _unreadable(path: str | Path, expected: str, found: str) -> TransformError:
    return TransformError(
        f"{Path(path).name} cannot be read.",
        expected=expected,
        found=found,
        remedy="check the path",
    )
