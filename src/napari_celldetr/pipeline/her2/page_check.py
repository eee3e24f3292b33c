"""Does a page show what its content says? It is written anew, with its pictures, and compared."""

from __future__ import annotations

import re

from napari_celldetr.pipeline.her2.content import Content
from napari_celldetr.pipeline.her2.page import render_page
from napari_celldetr.pipeline.her2.page_pictures import overview_count, viewed_scores
from napari_celldetr.pipeline.her2.pictures import Picture

_IMAGE = re.compile(
    r'<img src="(data:image/jpeg;base64,[A-Za-z0-9+/=]*)" width="(\d+)" height="(\d+)"'
)


def shows_its_content(page: str, content: Content) -> bool:
    """Whether every letter of a page but its pictures follows from its content.

    `LookupError`, `TypeError`, `ValueError` or `AttributeError` where the content makes no page.
    """
    found = [Picture(url, int(wide), int(high)) for url, wide, high in _IMAGE.findall(page)]
    scores = viewed_scores(content) if found else []
    count = overview_count(content) if found else 0
    if len(found) != count + 2 * len(scores):
        return False
    near = iter(found[count:])
    views = [(score, next(near), next(near)) for score in scores]
    return render_page(content, found[:count], views) == page
