"""A report as one page that needs nothing else: for a screen, for paper, and for the replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from napari_celldetr.core.her2 import SCORES, Pattern, cell_scores
from napari_celldetr.pipeline.her2.bars import share_bar
from napari_celldetr.pipeline.her2.content import BY_CELLS, Content
from napari_celldetr.pipeline.her2.embed import embedded, sealed_page
from napari_celldetr.pipeline.her2.page_pictures import Views, pictures
from napari_celldetr.pipeline.her2.page_sources import sources
from napari_celldetr.pipeline.her2.pictures import Picture
from napari_celldetr.pipeline.her2.style import STYLE, class_of

LIMIT = 10.0
"""The per cent that the rule compares with."""


def render_page(content: Content, overviews: Sequence[Picture] = (), views: Views = ()) -> str:
    """The page (HTML) of a sealed content, itself sealed."""
    name = escape(content["slide"]["name"])
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>HER2 {escape(_mark(content))}: {name}</title>",
        f"<style>{STYLE}</style></head><body>",
        *_head(content),
        *_tree(content),
        *_shares(content),
        *pictures(content, overviews, views),
        *_doubts(content),
        *_regions(content),
        *sources(content),
        *_foot(content),
        embedded(content),
        "</body></html>",
    ]
    return sealed_page("\n".join(part for part in parts if part))


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A figure for people; a dash for none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def span(interval: Sequence[float | None] | None, digits: int = 1, unit: str = "") -> str:
    """An interval for people, '' for none."""
    if interval is None or any(edge is None for edge in interval):
        return ""
    low, high = interval
    return f"{number(low, digits)} to {number(high, digits)}{unit}"


def _mark(content: Content) -> str:
    return str(content["score"] or "no score")


def _head(content: Content) -> Iterator[str]:
    score = content["score"]
    slide, mpp = content["slide"], content["slide"]["mpp"]
    scale = "pixel size not known" if mpp is None else f"{mpp[0]:.4g} µm/px"
    what = f"HER2 IHC, {content['scope']}. {content['research_use']}"
    yield f'<p class="over">{escape(what)}</p>'
    yield f"<h1>{escape(slide['name'])}</h1>"
    yield f'<p class="over">{scale}; report of {escape(content["created"])}</p>'
    colour = f"--c:var(--{class_of(score)})" if score else ""
    kind = "mark" if score else "mark none"
    shown = f"IHC {score}" if score else "No score"
    yield f'<div class="verdict"><div class="{kind}" style="{colour}">'
    yield f"<small>HER2 score</small>{escape(shown)}</div><div>"
    yield f'<p class="why">{escape(_sentence(content["reason"]))}</p>'
    if not score and content["remedy"]:
        yield f"<p><b>What to do:</b> {escape(_sentence(content['remedy']))}</p>"
    notes = "".join(f"<li>{escape(note)}</li>" for note in content["score_notes"])
    yield f"<ul>{notes}</ul>" if notes else ""
    yield f"<p>{escape(_who(content))}</p></div></div>"
    yield _facts(content)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else text + "."


def _who(content: Content) -> str:
    return f"Invasive tumour: {content['tumour']['words']}."


def _facts(content: Content) -> str:
    wilson = content["intervals"]["h_score"]
    area = content["tumour"]["area_um2"]
    zones = len(content["tumour"]["zones"])
    size = "–" if area is None else f"{area / 1e6:,.2f} mm²"
    if content["tumour"]["source"] == "assumed":
        size = "all"
    confirmed = content["tumour_confirmed"]
    rows = [
        (
            "Cells that count" if confirmed else "Cells measured",
            number(content["n_cells"], 0),
            _left_out(content) if confirmed else "not confirmed as tumour",
        ),
        ("H-score", number(content["h_score"], 0), span(wilson, 0)),
        ("Tumour area", size, f"{zones:,} outlined" if zones else "not outlined"),
    ]
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>"
        for name, value, more in rows
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def _left_out(content: Content) -> str:
    return f"{content['exclusions']['cells']:,} left out"


def _tree(content: Content) -> Iterator[str]:
    if not content["tree"]:
        return
    yield "<h2>How the rule decides</h2>"
    said = (
        f"{content['guideline']}. Questions are asked in this order until one is answered yes. "
        "“More than 10 %” is strict; the line marks 10 %, the whisker the 95 % interval (Wilson)."
    )
    if content["score"] is None:
        said += " No score is given here: these are the counts of what was measured."
    yield f"<p>{escape(said)}</p>"
    highest = max(branch["percent"] or 0 for branch in content["tree"])
    most = 50.0 if highest <= 45 else 100.0
    items = (_question(branch, content, most) for branch in content["tree"])
    yield f'<ol class="tree">{"".join(items)}</ol>'


def _question(branch: Mapping[str, Any], content: Content, most: float) -> str:
    decides = branch["key"] == content["branch"]
    kind = "decides" if decides else "" if branch["asked"] else "unasked"
    answer = ("yes" if branch["answer"] else "no") if branch["asked"] else "not asked"
    leads = f"<small>decides: {escape(branch['leads_to'])}</small>" if decides else ""
    counts = f"{branch['cells']:,} of {branch['total']:,} cells, {number(branch['percent'])} %"
    interval = span(branch["interval"])
    counts += f" ({interval})" if interval else ""
    bar = share_bar(
        branch["percent"] or 0.0,
        f"var(--{class_of(branch['leads_to'])})",
        inner=branch["interval"],
        line=LIMIT,
        most=most,
    )
    return (
        f'<li class="{kind}"><div class="q">{escape(branch["question"])}'
        f'<small>{escape(counts)}</small></div>{bar}<div class="a">{answer}{leads}</div></li>'
    )


def _shares(content: Content) -> Iterator[str]:
    by_cells = content["area_basis"] == BY_CELLS
    yield "<h2>Coverage</h2>"
    if by_cells:
        yield (
            "<p>Each cell that counts has the score its own membrane would give. Thick whisker: "
            "95 % interval as if cells were drawn one by one (Wilson). Thin whisker: drawing "
            "squares of 250 µm again, wider where staining is patchy.</p>"
        )
    else:
        yield f"<p>By {escape(content['area_basis'])}. This is no score of cells.</p>"
    head = "<th>Score of a cell</th><th>Share of cells</th><th class='n'>% cells</th>"
    head += "<th class='n'>Wilson</th><th class='n'>by squares</th><th class='n'>% area</th>"
    if not by_cells:
        head = "<th>DAB density</th><th>Share of pixels</th><th class='n'>% area</th>"
    rows = "".join(_share(content, score, by_cells=by_cells) for score in SCORES)
    yield f"<table><tr>{head}</tr>{rows}</table>"
    if by_cells:
        yield _patterns(content)
    network = content["networks"]["pixels"]
    if network is not None:
        figures = ", ".join(f"{s} {number(network['percent_area'][s])} %" for s in SCORES)
        yield (
            f"<p>The network for pixels, asked separately, sees of the cells' area: {figures}. "
            f"It says otherwise of the staining in {100 * (network['disagreement'] or 0):.1f} % "
            "of the pixels in measured cells.</p>"
        )


def _patterns(content: Content) -> str:
    """What the scores of single cells are made of: 2+ is two patterns, asked about apart."""
    whole = content["n_cells"] or 0
    rows = []
    for pattern in Pattern:
        cells = content["patterns"][pattern.name.lower()]
        share = 100 * cells / whole if whole else None
        score = SCORES[int(cell_scores([pattern])[0])]
        rows.append(
            f"<tr><td>{escape(pattern.words)}</td><td>{escape(score)}</td>"
            f'<td class="n">{cells:,}</td><td class="n">{number(share)}</td></tr>'
        )
    head = "<th>Membrane of a cell</th><th>Its score</th><th class='n'>Cells</th>"
    return f"<table><tr>{head}<th class='n'>% cells</th></tr>{''.join(rows)}</table>"


_DENSITIES = {"0": "unstained", "1+": "weak", "2+": "moderate", "3+": "intense"}


def _share(content: Content, score: str, *, by_cells: bool) -> str:
    colour = f"var(--{class_of(score)})"
    dot = f'<span class="dot" style="background:{colour}"></span>'
    if not by_cells:
        share = content["percent_area"][score]
        name = f'<td class="name">{dot}{_DENSITIES[score]}</td>'
        return (
            f"<tr>{name}<td>{share_bar(share or 0, colour)}</td>"
            f'<td class="n"><b>{number(share)}</b></td></tr>'
        )
    share = content["percent_cells"][score]
    wilson = content["intervals"]["wilson"][score]
    squares = content["intervals"]["bootstrap"][score]
    bar = share_bar(share or 0, colour, inner=wilson, outer=squares)
    return (
        f'<tr><td class="name">{dot}{score}</td><td style="width:42%">{bar}</td>'
        f'<td class="n"><b>{number(share)}</b></td><td class="n"><small>{span(wilson)}</small></td>'
        f'<td class="n"><small>{span(squares)}</small></td>'
        f'<td class="n">{number(content["percent_area"][score])}</td></tr>'
    )


def _doubts(content: Content) -> Iterator[str]:
    lines = list(_doubt_lines(content))
    if lines and content["score"]:
        yield "<h2>How near another score is</h2>"
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        yield f'<ul class="plain">{items}</ul>'


def _doubt_lines(content: Content) -> Iterator[str]:
    for margin in (content["margins"]["lower"], content["margins"]["higher"]):
        if margin is not None:
            share = 100 * margin["cells"] / content["n_cells"]
            yield f"{margin['score']} if {_otherwise(margin)} ({share:.1f} % of all)."
    if content["redrawn"]:
        shares = [f"{s} in {100 * p:.0f} %" for s, p in content["redrawn"].items() if p]
        yield f"Drawing squares of 250 µm again gives {', '.join(shares)} of 1,000 drawings."
    if content["maximum_rule"]:
        yield (
            f"The maximum rule of the literature (the highest patch of 112 µm decides) would say "
            f"{content['maximum_rule']} by measured cells. It is not the guideline's."
        )
    patches = content["networks"]["patches"]
    if patches is not None:
        counts = ", ".join(f"{n:,} × {name}" for name, n in patches["counts"].items())
        yield (
            f"The network for patches sees {counts}; by the maximum rule "
            f"{patches['maximum_rule'] or 'none'}."
        )


def _otherwise(margin: Mapping[str, Any]) -> str:
    if margin["pattern"] == Pattern.NONE.name.lower():
        return f"the {margin['cells']:,} most strongly stained cells were unstained"
    return f"{margin['cells']:,} more cells had {margin['words']} staining"


def _regions(content: Content) -> Iterator[str]:
    if len(content["regions"]) < 2:
        return
    yield "<h2>Regions</h2>"
    head = "".join(f'<th class="n">% {s}</th>' for s in SCORES)
    yield f"<table><tr><th>Region</th><th>Score</th><th class='n'>Cells</th>{head}"
    yield "<th class='n'>H-score</th></tr>"
    for region in content["regions"]:
        shares = "".join(f'<td class="n">{number(region["percent_cells"][s])}</td>' for s in SCORES)
        name = region["name"] or f"region {region['zone'] + 1}"
        yield (
            f"<tr><td>{escape(name)}</td><td><b>{escape(region['score'] or '–')}</b></td>"
            f'<td class="n">{region["n_cells"]:,}</td>{shares}'
            f'<td class="n">{number(region["h_score"], 0)}</td></tr>'
        )
    yield "</table>"


def _foot(content: Content) -> Iterator[str]:
    software = content["software"]
    yield f"<footer><p><b>{escape(content['research_use'])}</b></p>"
    rule = f"{content['guideline']}. {software['name']} {software['version']}."
    yield f"<p>{escape(rule)}</p>"
    yield f'<p>Sealed: sha256 <span class="mono">{escape(content["sha256"])}</span>. '
    yield "<code>celldetr replay</code> computes every figure again and compares.</p></footer>"
