"""Small files of a project folder: written whole, read within limits, never through links."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.pipeline.atomic import TEMPORARY, replacing, why

MAX_BYTES = 4 * 2**20
MAX_NAMES = 10_000
"""Names looked at in one folder."""


def inside(root: Path, path: Path) -> Path:
    """`path`, if no link on the way to it leads away from where it lies under `root`.

    `root` itself may be a link: the user chose it. Raises `AnnotationError` otherwise.
    """
    try:
        straight = root.resolve() / path.relative_to(root)
        if path.resolve() == straight:
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links.
        raise _leads_away(path) from error
    raise _leads_away(path)


def read_json(root: Path, path: Path, *, limit: int = MAX_BYTES) -> dict[str, Any]:
    """A JSON object from a plain file of at most `limit` bytes; `AnnotationError` otherwise."""
    inside(root, path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise refused(path.name, "no plain file")
        with open(path, "rb") as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise refused(path.name, f"more than {limit:,} bytes")
        value = json.loads(raw, parse_constant=_no_number)
    except OSError as error:
        raise refused(path.name, why(error)) from error
    except (ValueError, RecursionError) as error:
        raise refused(path.name, f"no JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise refused(path.name, "JSON that is no object")
    return value


def write_json(root: Path, path: Path, value: dict[str, Any], *, limit: int = MAX_BYTES) -> None:
    """Write a JSON object atomically. `AnnotationError` where it cannot be, or is no JSON."""
    inside(root, path)
    try:
        raw = json.dumps(value, indent=1, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(path.name, f"values that JSON does not have ({error})") from error
    if len(raw) > limit:
        raise refused(path.name, f"{len(raw):,} bytes, {limit:,} are allowed")
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(raw)
    except OSError as error:
        raise unwritable(path.name, error) from error


def names_in(folder: Path) -> list[str]:
    """Names of what lies in a folder, sorted, `MAX_NAMES` at most; none where it is missing."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) == MAX_NAMES:
                    break
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refused(folder.name, why(error)) from error
    return sorted(names)


def sweep(folder: Path) -> None:
    """Remove what a killed program left half written."""
    for name in names_in(folder):
        if name.endswith(TEMPORARY):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(name, error) from error


def refused(name: str, found: str) -> AnnotationError:
    """For a file of a project that is not what it should be."""
    return AnnotationError(
        f"The project's file {name!r} cannot be used.",
        expected="a file as napari-celldetr writes it",
        found=found,
        remedy="bring it back from a copy, or remove it; the rest of the project can be used",
    )


def unwritable(name: str, error: OSError) -> AnnotationError:
    """For a file of a project that cannot be written."""
    return AnnotationError(
        f"The project's file {name!r} cannot be written.",
        expected="a writable project folder with free space",
        found=why(error),
        remedy="free some space or choose another project folder; what was there is kept",
    )


def _leads_away(path: Path) -> AnnotationError:
    return AnnotationError(
        f"{path.name!r} in the project folder is a link.",
        expected="files that lie in the project folder itself",
        found="a link that leads away from it",
        remedy="put the file itself there, or remove the link",
    )


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
