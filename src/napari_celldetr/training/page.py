"""The page that shows how a training is going: one file, refreshed by the browser itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from napari_celldetr import RESEARCH_USE
from napari_celldetr.training.chart import Line, line_chart, smooth
from napari_celldetr.training.history import History

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#555555")
"""Okabe and Ito's, the yellow darkened: told apart with every kind of colour vision."""

WORDS = {
    "objectness": ("Is it a cell?", "calling cells cells, and nothing else"),
    "centre": ("Where is it?", "distance of centres"),
    "size": ("How large is it?", "width and height; 0 where the data has points only"),
    "giou": ("Does the box fit?", "overlap of boxes"),
    "heat": ("Heatmap", "the first guess of where cells are"),
    "dense": ("Class map", "the type, seen from each place"),
    "class": ("Which type?", "the type, seen in each box"),
    "composition": ("Mixture", "shares of types in a whole field"),
    "contrast": ("Telling cells apart", "a cell shown twice against all others"),
    "patch class": ("Which class?", "the class of a patch"),
    "mask class": ("What is the mask of?", "the class of each mask, or none"),
    "mask focal": ("Which pixels?", "each pixel of the masks"),
    "mask dice": ("Does the mask fit?", "overlap of masks"),
}
"""Parts of the loss in plain words."""

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;max-width:920px;
margin:24px auto;padding:0 16px}
h1{font-size:22px;margin:0}h2{font-size:17px;margin:28px 0 2px}p{margin:4px 0;color:#555}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:#555}
.grid{stroke:#e6e6e6;fill:none}.axis{stroke:#888;fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.faint{stroke-width:1;opacity:.3}
text.x{text-anchor:middle}text.y{text-anchor:end}
.bar{height:10px;background:#e6e6e6;border-radius:5px;margin:10px 0}
.bar div{height:10px;background:#0072b2;border-radius:5px}
.parts{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:12px}
.parts h3{font-size:14px;margin:4px 0 0}.parts p,.key{font-size:13px}
.key span{margin-right:16px;white-space:nowrap}.key i{display:inline-block;width:18px;
height:3px;margin:0 6px 4px 0}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid #e6e6e6}
td:first-child,th:first-child{text-align:left}.best td{font-weight:600}
pre{white-space:pre-wrap;font-size:12px}.note{margin-top:28px;font-size:13px}
"""


@dataclass(frozen=True)
class State:
    """What the page says on top: running or how it ended, seconds gone by and still to go.

    `written` is the time of day; a page that says it is running and grows old was left behind by
    a process that was killed.
    """

    running: bool
    words: str
    seconds: float
    seconds_left: float | None
    written: str


def render(history: History, state: State, *, refresh_s: int = 5) -> str:
    """The page as HTML; while `state.running` a browser loads it again every few seconds."""
    total = int(history.settings.get("steps", 0)) or max(len(history.steps), 1)
    name = str(history.settings.get("name", "training"))
    again = f'<meta http-equiv="refresh" content="{refresh_s}">' if state.running else ""
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8">{again}',
        f"<title>{escape(name)}: {escape(state.words)}</title><style>{_STYLE}</style></head><body>",
        *_head(name, history, state, total),
        *_loss(history, total),
        *_validation(history, total),
        *_parts(history, total),
        *_rates(history, total),
        "<h2>Settings</h2><details><summary>All settings of this run</summary><pre>",
        escape(json.dumps(history.settings, indent=1, ensure_ascii=False)),
        f"</pre></details><p class='note'>{RESEARCH_USE}</p></body></html>",
    ]
    return "\n".join(parts) + "\n"


def clock(seconds: float) -> str:
    """Seconds in words: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _head(name: str, history: History, state: State, total: int) -> list[str]:
    done = int(history.steps[-1]) if len(history.steps) else 0
    left = "" if state.seconds_left is None else f", about {clock(state.seconds_left)} left"
    pace = f" {state.seconds / done:.2f} s per step," if done and state.seconds else ""
    how = escape(f"{history.precision.get('name', '')} numbers".strip())
    return [
        f"<h1>{escape(name)}</h1>",
        f"<p><b>{escape(state.words)}</b>: step {done} of {total}; {clock(state.seconds)} so far"
        f"{left};{pace} {how}. Written {escape(state.written)}.</p>",
        f'<div class="bar"><div style="width:{100 * min(done / total, 1):.1f}%"></div></div>',
    ]


def _key(names: Sequence[tuple[str, str]]) -> str:
    items = [f'<span><i style="background:{c}"></i>{escape(n)}</span>' for n, c in names]
    return f'<p class="key">{"".join(items)}</p>'


def _loss(history: History, total: int) -> list[str]:
    loss = history.parts.get("loss", ())
    lines = [
        Line("each step", history.steps, loss, COLOURS[0], faint=True),
        Line("mean of the steps around", history.steps, smooth(loss), COLOURS[0]),
    ]
    return [
        "<h2>Loss</h2>",
        "<p>How wrong the network is on the training data, all parts together: less is better. "
        "It should fall fast at first and slowly later. Jumps between steps are normal; a mean "
        "that rises for long is not: then lower the learning rates.</p>",
        line_chart(lines, x_range=(0, total), name="Loss by step"),
    ]


def _parts(history: History, total: int) -> list[str]:
    names = [n for n in history.parts if n != "loss"]
    if len(names) < 2:
        return []
    out = ["<h2>Parts of the loss</h2>", '<div class="parts">']
    for i, name in enumerate(names):
        title, hint = WORDS.get(name, (name, ""))
        colour = COLOURS[i % len(COLOURS)]
        values = history.parts[name]
        lines = [
            Line(name, history.steps, values, colour, faint=True),
            Line(name, history.steps, smooth(values), colour),
        ]
        picture = line_chart(lines, x_range=(0, total), width=300, height=170, name=title)
        out.append(f"<div><h3>{escape(title)}</h3><p>{escape(hint)}</p>{picture}</div>")
    return [*out, "</div>"]


def _rates(history: History, total: int) -> list[str]:
    lines = [
        Line(name, history.steps, values, COLOURS[i % len(COLOURS)])
        for i, (name, values) in enumerate(history.rates.items())
    ]
    return [
        "<h2>Learning rate</h2>",
        "<p>How large the steps are: rising while warming up, then falling to almost nothing, "
        "so that the network settles.</p>",
        _key([(line.name, line.colour) for line in lines]),
        line_chart(lines, x_range=(0, total), height=180, name="Learning rate by step"),
    ]


def _validation(history: History, total: int) -> list[str]:
    rows = history.validations
    if not rows:
        return []
    steps = [row["step"] for row in rows]
    curves = {n: [_number(_value(row, n)) for row in rows] for n in curve_names(rows)}
    lines = [
        Line(name, steps, values, COLOURS[i % len(COLOURS)], dots=True)
        for i, (name, values) in enumerate(curves.items())
    ]
    values = [v for column in curves.values() for v in column if v == v]
    low = 0.5 if values and min(values) >= 0.5 else 0.0
    header, *body = table(rows)
    best = best_row(rows)
    cells = ["<tr>" + "".join(f"<th>{escape(w)}</th>" for w in header) + "</tr>"]
    for i, words in enumerate(body):
        mark = ' class="best"' if i == best else ""
        cells.append(f"<tr{mark}>" + "".join(f"<td>{escape(w)}</td>" for w in words) + "</tr>")
    return [
        "<h2>Validation</h2>",
        f"<p>{escape(_what(rows[-1]['validation']))} When these curves fall while the loss still "
        "falls, the network learns by heart: stop earlier, or keep the best weights with --keep "
        "best. The best row is bold.</p>",
        _key([(line.name, line.colour) for line in lines]),
        line_chart(lines, x_range=(0, total), y_range=(low, 1), name="Validation by step"),
        "<table>",
        *cells,
        "</table>",
    ]


def _what(found: dict[str, Any]) -> str:
    # What the figures are of; those of cells have no words of their own.
    if "caption" in found:
        return f"{found['caption']} (weights averaged over the last steps): 1 is perfect."
    return (
        f"F1 on {found['fields']} fields with {found['cells']} cells that are not trained on "
        "(weights averaged over the last steps): 1 is perfect. A cell found within 3 µm counts, at "
        "the score threshold that suits these fields best."
    )


def curve_names(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was validated: named figures, or detection, class mean, then each class."""
    first = rows[0]["validation"]
    if "figures" in first:
        return list(first["figures"])
    names = [] if first["given"] else ["detection"]
    return names + (["class mean", *first["classes"]] if first["classes"] else [])


def best_row(rows: Sequence[dict[str, Any]]) -> int:
    """Index of the best validation, the first among equals."""
    return max(range(len(rows)), key=lambda i: rows[i]["validation"]["overall"])


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Header and a row per validation, as words."""
    names = curve_names(rows)
    header = ["step", *names]
    body = [[str(row["step"]), *(_three(_value(row, n)) for n in names)] for row in rows]
    if not rows[0]["validation"].get("given", True):
        header.append("threshold")
        for words, row in zip(body, rows, strict=True):
            words.append(_three(row["validation"]["threshold"]))
    return [header, *body]


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _value(row: dict[str, Any], name: str) -> float | None:
    found = row["validation"]
    if "figures" in found:
        figure: float | None = found["figures"].get(name)
        return figure
    if name in ("detection", "class mean"):
        value: float | None = found[name.replace(" ", "_")]
        return value
    of_class: float | None = found["classes"].get(name)
    return of_class


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
