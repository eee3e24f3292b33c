"""The part of the page that says where its figures come from, and what is not in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from napari_celldetr.core.config import from_mapping
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.pipeline.her2.content import Content

Rows = Sequence[tuple[str, str]]


def sources(content: Content) -> Iterator[str]:
    """Sections of the page, as HTML."""
    yield "<h2>What is not counted</h2>"
    yield _items(list(_not_counted(content)))
    yield "<h2>How it was measured</h2>"
    yield '<div class="two">'
    for title, rows in (
        ("Slide", _slide(content)),
        ("Tumour", _tumour(content)),
        ("Stain", _stain(content)),
        ("Cut-offs", _cutoffs(content)),
        ("Models", _models(content)),
        ("Registration", _registration(content)),
        ("Corrections", _plain(content["corrections"])),
    ):
        if rows:
            yield f"<div><h3>{title}</h3>{_rows(rows)}</div>"
    yield "</div>"
    if content["notes"]:
        yield "<h2>Notes</h2>"
        yield _items(content["notes"])


def _items(lines: Sequence[str]) -> str:
    return f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _rows(rows: Rows) -> str:
    parts = (f"<dt>{escape(name)}</dt><dd>{_value(value)}</dd>" for name, value in rows)
    return f'<dl class="rows">{"".join(parts)}</dl>'


def _value(value: str) -> str:
    text = escape(value)
    is_hash = len(value) == 64 and value.isalnum()
    return f'<span class="mono">{text}</span>' if is_hash else text


def _not_counted(content: Content) -> Iterator[str]:
    found = content["exclusions"]
    left = [r for r in found["by_reason"] if r["cells"]]
    for reason in left:
        yield f"{reason['cells']:,} cells: {reason['words']}."
    if content["n_cells"] is None:
        yield "Cells were not measured; no pixel of stained tissue was left out."
    elif not left:
        yield "No cell of the tumour was left out as unreadable."
    if found["outside_tumour"]:
        yield f"{found['outside_tumour']:,} measured cells lie outside what was scored."
    registration = content["registration"]
    if registration is not None:
        share = registration["excluded_share"]
        if share is not None:
            yield (
                f"{100 * share:.1f} % of the H&E slide's tissue is aligned worse than "
                f"{registration['limit_um']:g} µm; {registration['excluded_um2'] / 1e6:,.3f} mm² "
                f"of tumour with {registration['excluded_cells']:,} cells do not count for it."
            )
    detection = content["detection"]
    if detection is not None and detection["failed"]:
        yield f"{detection['failed']:,} tiles could not be read: their cells are missing."


def _slide(content: Content) -> Rows:
    slide = content["slide"]
    mpp = slide["mpp"]
    return [
        ("name", slide["name"]),
        ("size", f"{slide['size'][0]:,} × {slide['size'][1]:,} px"),
        ("pixel size", "not known" if mpp is None else f"{mpp[0]:.5g} × {mpp[1]:.5g} µm"),
        ("known from", slide["mpp_source"]),
        ("identity", slide["identity"]),
    ]


def _tumour(content: Content) -> Rows:
    tumour = content["tumour"]
    rows = [("known how", tumour["words"]), ("outlines", str(len(tumour["zones"])))]
    if tumour["cut_out"]:
        rows.append(("cut out", f"{len(tumour['cut_out'])} areas"))
    if tumour["badly_aligned"]:
        rows.append(("badly aligned", f"{len(tumour['badly_aligned'])} areas"))
    return rows


def _stain(content: Content) -> Rows:
    stain = content["stain"]
    names = ("haematoxylin", "DAB", "residual")
    rows = [("white", " / ".join(f"{v:.0f}" for v in stain["white"]))]
    rows += [
        (name, " ".join(f"{v:.3f}" for v in vector))
        for name, vector in zip(names, stain["vectors"], strict=True)
    ]
    rows.append(("gain", f"{stain['gain']:.3f}"))
    if (control := stain["control"]) is not None:
        where = control["region"]
        place = f"{where['width']} × {where['height']} px at {where['x']}, {where['y']}"
        rows.append(("control", f"{place}; DAB {control['expected_od']:g} expected"))
    return [*rows, *(("", note) for note in stain["notes"])]


def _cutoffs(content: Content) -> Rows:
    cut, least = content["cutoffs"], content["minimum"]
    return [
        ("weak from", f"{cut['weak']:g} DAB optical density"),
        ("moderate from", f"{cut['moderate']:g}"),
        ("intense from", f"{cut['intense']:g}"),
        ("complete from", f"{100 * cut['complete']:g} % of the outline"),
        ("stained from", f"{100 * cut['trace']:g} % of the outline"),
        ("fewest cells", f"{least['cells']:,}"),
        ("“any” from", f"{least['any_cells']} cells and {least['any_percent']} %"),
        ("whose", _whose(content)),
    ]


def _whose(content: Content) -> str:
    if from_mapping(Cutoffs, content["cutoffs"]) != Cutoffs():
        return "changed by a person: see beside the score"
    return "this software's own: the guideline gives words, not numbers"


def _models(content: Content) -> Rows:
    rows: list[tuple[str, str]] = []
    for model in content["models"]:
        rows += [(model["role"], model["name"] or "given"), ("", model["weights_sha256"])]
    if content["nuclei"]["source"] == "given":
        rows.append(("nuclei", "given with the slide, and kept in this report"))
    return [row for row in rows if row[1]]


def _registration(content: Content) -> Rows:
    found = content["registration"]
    if found is None:
        return []
    error = found["error_um"]
    rows = [
        ("H&E slide", found["he_name"]),
        ("identity", found["he_identity"]),
        ("method", found["method"]),
        ("error", "not measured" if error is None else f"{error:.1f} µm (median over tissue)"),
        ("limit", f"{found['limit_um']:g} µm"),
        ("transform", found["sha256"]),
    ]
    return [*rows, *(("", note) for note in found["notes"])]


def _plain(values: Mapping[str, Any] | None) -> Rows:
    return [(str(k), str(v)) for k, v in (values or {}).items()]
