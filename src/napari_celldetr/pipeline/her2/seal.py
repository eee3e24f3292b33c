"""A report that knows whether it was changed, as JSON and within a page."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.pipeline.her2.content import KIND, SCHEMA, Content

SEAL = "sha256"
SCRIPT_ID = "celldetr-report"
LARGEST_FILE = 512 * 2**20
_SCRIPT = re.compile(rf'<script type="application/json" id="{SCRIPT_ID}">(.*?)</script>', re.DOTALL)
_PAGE_SEAL = re.compile(r"<!-- sha256 of the page above: ([0-9a-f]{64}) -->\s*\Z")


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


def embedded(content: Mapping[str, Any]) -> str:
    """The content as a script element of a page that nothing in it can end."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{SCRIPT_ID}">{text}</script>'


def sealed_page(page: str) -> str:
    """`page` with its own sha256 in a last line."""
    body = page if page.endswith("\n") else page + "\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}<!-- sha256 of the page above: {digest} -->\n"


def write_text(path: Path, text: str) -> None:
    """Write a report: the old file or the complete new one. `ExportError` when it cannot be."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise not_written("The report", error) from error


def read_report(path: str | Path) -> Content:
    """The content of a report, JSON or page, its seal found whole.

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
        _check_page(source, text)
    return content


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _no_report(path, f"more than {LARGEST_FILE >> 20} MiB")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise _no_report(path, error.strerror or type(error).__name__) from error
    except UnicodeDecodeError as error:
        raise _no_report(path, "bytes that are not UTF-8") from error


def _script(path: Path, text: str) -> str:
    found = _SCRIPT.findall(text)
    if len(found) != 1:
        raise _no_report(path, f"{len(found)} reports within the page")
    return str(found[0])


def _parsed(path: Path, text: str) -> Content:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        content = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _no_report(path, str(error)[:120]) from error
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


def _check_page(path: Path, text: str) -> None:
    found = _PAGE_SEAL.search(text)
    if found is None:
        raise _changed(path, "the page has no seal")
    body = text[: found.start()]
    if hashlib.sha256(body.encode()).hexdigest() != found[1]:
        raise _changed(path, "the page is not what its sha256 was made of")


def _no_report(path: Path, found: str) -> ReportError:
    return ReportError(
        f"{path.name!r} is no HER2 report.",
        expected="a .json or .html file that `celldetr her2` wrote",
        found=found,
        remedy="check the path",
    )


def _changed(path: Path, found: str) -> ReportError:
    return ReportError(
        f"The seal of {path.name!r} is broken: it was changed after it was written.",
        expected="the file as it was written",
        found=found,
        remedy="take it from where it was first kept, or score the slide again",
    )
