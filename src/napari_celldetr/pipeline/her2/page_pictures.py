"""The pictures of a page with their captions, which come from the content like everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.pipeline.her2.content import BY_CELLS, Content
from napari_celldetr.pipeline.her2.palette import NOT_COUNTED, css
from napari_celldetr.pipeline.her2.pictures import Picture
from napari_celldetr.pipeline.her2.style import class_of

Views = Sequence[tuple[str, Picture, Picture]]


def pictures(content: Content, overviews: Sequence[Picture], views: Views) -> Iterator[str]:
    """The section of the page, as HTML; nothing without overviews."""
    if not overviews:
        return
    yield "<h2>Pictures</h2>"
    yield "<p>Examples, for the eye: the figures come from all cells.</p>"
    yield _key(content)
    figures = map(_figure, overviews, _captions(content))
    yield f'<div class="overview">{"".join(figures)}</div>'
    if not views:
        return
    yield '<div class="near">'
    for score, plain, drawn in views:
        dot = f'<span class="dot" style="background:var(--{class_of(score)})"></span>'
        yield f"<div><h3>{dot}around cells {escape(score)}</h3>"
        yield _image(plain, f"Tissue with cells {score}.", "")
        yield _image(drawn, "The same tissue, cells outlined in the colour of their score.", "")
        yield "</div>"
    yield "</div>"
    yield "<p class='over'>Above as scanned, below with the outlines that were measured.</p>"


def overview_count(content: Content) -> int:
    """How many overviews a content has."""
    return 2 if content["area_basis"] == BY_CELLS else 1


def viewed_scores(content: Content) -> list[str]:
    """Scores whose cells are shown from near: those that occur."""
    return [score for score in SCORES if content["percent_cells"][score]]


def _captions(content: Content) -> tuple[str, str]:
    tumour = content["tumour"]
    outlined = ", the tumour outlined in black" if tumour["zones"] else ""
    if tumour["cut_out"] or tumour["badly_aligned"]:
        outlined += ", in grey what does not count"
    return f"As scanned{outlined}.", "Each measured cell in the colour of its score."


def _key(content: Content) -> str:
    if content["area_basis"] != BY_CELLS:
        return ""
    colours = [(f"var(--{class_of(s)})", s) for s in SCORES]
    colours.append((css(NOT_COUNTED), "not counted"))
    items = (
        f'<span><span class="dot" style="background:{c}"></span>{escape(n)}</span>'
        for c, n in colours
    )
    return f'<div class="key">{"".join(items)}</div>'


def _figure(picture: Picture, words: str) -> str:
    return _image(picture, words, f"<figcaption>{escape(words)}</figcaption>")


def _image(picture: Picture, words: str, below: str) -> str:
    return (
        f'<figure><img src="{picture.url}" width="{picture.width}" height="{picture.height}" '
        f'alt="{escape(words)}">{below}</figure>'
    )
