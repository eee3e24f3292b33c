"""A result as a report: JSON, or a page with the same JSON inside, by the file's suffix."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.pipeline.her2.content import Content, report_content
from napari_celldetr.pipeline.her2.page import render_page
from napari_celldetr.pipeline.her2.pictures import near_views, overviews
from napari_celldetr.pipeline.her2.result import Her2Result
from napari_celldetr.pipeline.her2.seal import sealed, write_text

JSON, PAGE = (".json",), (".html", ".htm")


def write_report(
    result: Her2Result, path: str | Path, *, corrections: Mapping[str, Any] | None = None
) -> Content:
    """Write a report, ``.json`` or ``.html``, and return what it says.

    Raises
    ------
    ConfigError
        Another suffix.
    ExportError
        The file cannot be written.
    SlideError
        The slide cannot be read for the page's pictures.
    """
    target = check_suffix(path)
    content = sealed(report_content(result, corrections=corrections))
    if target.suffix.lower() in JSON:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    else:
        text = render_page(content, overviews(result), near_views(result))
    write_text(target, text)
    return content


def check_suffix(path: str | Path) -> Path:
    """The path, if its suffix names a kind of report."""
    target = Path(path)
    if target.suffix.lower() not in (*JSON, *PAGE):
        raise ConfigError(
            "A report is a page or JSON.",
            expected="a file that ends in .html or .json",
            found=target.name,
            remedy="choose another name with -o",
        )
    return target
