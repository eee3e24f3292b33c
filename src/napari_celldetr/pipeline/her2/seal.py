"""A report that knows whether it was changed, as JSON and within a page.

The seal finds accidents and careless editing. It has no secret: whoever changes a report and
computes the seal anew is found by computing the report anew, and not here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_celldetr import __version__
from napari_celldetr.core.errors import CellDETRError, no_file
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.pipeline.her2.content import KIND, SCHEMA, Content
from napari_celldetr.pipeline.her2.embed import PAGE_SEAL, SCRIPT, embedded, sealed_page
from napari_celldetr.pipeline.her2.page_check import shows_its_content

__all__ = [
    "SEAL",
    "ReportError",
    "embedded",
    "read_report",
    "sealed",
    "sealed_page",
    "write_text",
]

SEAL = "sha256"
LARGEST_FILE = 512 * 2**20


class ReportError(CellDETRError):
    """A report is broken, was changed, or is none."""


def sealed(content: Mapping[str, Any]) -> Content:
    """`content` with the sha256 of its canonical JSON."""
    bare = {k: v for k, v in content.items() if k != SEAL}
    return {**bare, SEAL: _digest(bare)}


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a report: the old file or the complete new one. `ExportError` when it cannot be."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise not_written("The report", error) from error


def read_report(path: str | Path) -> Content:
    """The content of a report, JSON or page, its seal found whole.

    A page must show what its content says: it is written again and compared, but for its pictures.

    Raises
    ------
    ReportError
        The file is no report, of another version, or was changed after it was written.
    """
    source = Path(path)
    text = _text(source)
    is_page = source.suffix.lower() in (".html", ".htm")
    content = _parsed(source, _script(source, text) if is_page else text)
    if content.get(SEAL) != sealed(content)[SEAL]:
        raise _changed(source, "its content is not what its sha256 was made of")
    if is_page:
        _check_page(source, text, content)
    return content


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _no_report(path, f"more than {LARGEST_FILE >> 20} MiB")
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise no_file(ReportError, path) from error
    except OSError as error:
        raise _no_report(path, error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise _no_report(path, "bytes that are not UTF-8") from error


def _script(path: Path, text: str) -> str:
    found = SCRIPT.findall(text)
    if len(found) != 1 and KIND in text:
        raise _damaged(path)
    if len(found) != 1:
        raise _no_report(path, "a page without a report")
    return str(found[0])


def _parsed(path: Path, text: str) -> Content:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        content = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise (_damaged(path) if KIND in text else _no_report(path, "no JSON")) from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise _no_report(path, "another kind of JSON")
    if content.get("schema") != SCHEMA:
        raise ReportError(
            "The report was written by another version.",
            expected=f"schema {SCHEMA}",
            found=f"schema {content.get('schema')}",
            remedy="install the version that wrote it, or score the slide again",
        )
    return content


def _check_page(path: Path, text: str, content: Content) -> None:
    found = PAGE_SEAL.search(text)
    if found is None:
        raise _changed(path, "the page has no seal")
    body = text[: found.start()]
    if hashlib.sha256(body.encode()).hexdigest() != found[1]:
        raise _changed(path, "the page is not what its sha256 was made of")
    try:
        shows = shows_its_content(text, content)
        version = content["software"]["version"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _no_report(path, f"{type(error).__name__} in its content") from error
    if not shows and version == __version__:
        raise _changed(path, "the page does not show what its content says")
    if not shows:
        # Another version may set the same figures otherwise: nothing can be said of this page.
        raise ReportError(
            f"Whether the page {path.name!r} shows what its content says cannot be told.",
            expected=f"a page as version {__version__} writes it",
            found=f"one that says it is of version {version}",
            remedy="check it with the version that wrote it, or use its JSON report",
        )


def _no_report(path: Path, found: str) -> ReportError:
    return ReportError(
        f"{path.name!r} is no HER2 report.",
        expected="a .json or .html file that `celldetr her2` wrote",
        found=found,
        remedy="check the path",
    )


def _damaged(path: Path) -> ReportError:
    return ReportError(
        f"{path.name!r} is a HER2 report that is damaged or cut off.",
        expected="the file as it was written",
        found="a part of its content",
        remedy="take it from where it was first kept, or score the slide again",
    )


def _changed(path: Path, found: str) -> ReportError:
    return ReportError(
        f"The seal of {path.name!r} is broken: it was changed after it was written.",
        expected="the file as it was written",
        found=found,
        remedy="take it from where it was first kept, or score the slide again",
    )
