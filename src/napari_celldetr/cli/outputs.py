"""Where results go: checked before anything is computed, so that no work is lost at the end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.export import SUFFIXES, suffix_of

FORMATS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
DEFAULT_FORMAT = "csv"


@dataclass(frozen=True, slots=True)
class Output:
    """The files of one slide: its table, and its picture where asked for."""

    slide: Path
    table: Path
    picture: Path | None


def plan_outputs(
    slides: Sequence[Path],
    out: str,
    *,
    format: str | None = None,
    picture: bool = False,
    formats: Sequence[str] = FORMATS,
    default: str = DEFAULT_FORMAT,
) -> list[Output]:
    """One output per slide, in their order.

    `ExportError` when two would be the same file, or the suffix names no format.

    Parameters
    ----------
    slides : paths
    out : str
        A file, or a folder: several slides, a `format`, a trailing slash or an existing folder
        make it one. In a folder each file is named after its slide's stem.
    format : str, optional
        One of `formats`.
    picture : bool
        Whether an overlay picture is wanted too.
    formats, default
        What the command can write, and what it writes into a folder unless told otherwise.
    """
    if not _is_folder(slides, out, format):
        table = Path(out)
        suffix_of(table, tuple(f".{name}" for name in formats))
        return [Output(slides[0], table, _picture(table) if picture else None)]
    tables = [Path(out) / f"{s.stem}.{format or default}" for s in slides]
    _refuse_doubles(slides, tables)
    pairs = zip(slides, tables, strict=True)
    return [Output(s, t, _picture(t) if picture else None) for s, t in pairs]


def prepare_folder(folder: Path) -> None:
    """Make `folder` and prove that it can be written to; `ExportError` when not."""
    probe = folder / f".celldetr-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ExportError(
            "The output folder cannot be written to.",
            expected=f"a folder to write into: {folder}",
            found=error.strerror or type(error).__name__,
            remedy="choose another folder with -o, or change its permissions",
        ) from error


def _is_folder(slides: Sequence[Path], out: str, format: str | None) -> bool:
    return (
        len(slides) > 1 or format is not None or out.endswith(("/", os.sep)) or Path(out).is_dir()
    )


def _picture(table: Path) -> Path:
    stem = table.name[: -len(suffix_of(table))]
    return table.with_name(stem + ".overlay.png")


def _refuse_doubles(slides: Sequence[Path], tables: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for slide, table in zip(slides, tables, strict=True):
        if table in seen:
            raise ExportError(
                f"Two slides would write the same file {table.name!r}.",
                expected="slides with different names",
                found=f"{seen[table]} and {slide}",
                remedy="give them in two runs with different output folders",
            )
        seen[table] = slide
