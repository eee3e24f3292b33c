"""The accuracy page, written from measured results alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from methods import METHODS

Row = Sequence[object]


def table(head: Sequence[str], rows: Iterable[Row]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """``.875`` for 0.875; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def spread(value: float | None, interval: Sequence[float | None] | None) -> str:
    """``.875 [.854, .888]``."""
    if interval is None or interval[0] is None:
        return number(value)
    return f"{number(value)} [{number(interval[0])}, {number(interval[1])}]"


def score_row(label: str, scores: dict[str, Any], class_names: Sequence[str]) -> list[str]:
    """Method, detection and class F1 with intervals, class mean."""
    spans = scores.get("intervals", {})
    names = [n for n in class_names if n in scores]
    cells = [spread(scores[n]["f1"], spans.get(n)) for n in ("detection", *names)]
    if names:
        cells.append(spread(scores["class_mean_f1"], spans.get("class mean")))
    return [label, *cells]


def difference_row(label: str, gaps: Sequence[dict[str, Any]]) -> list[str]:
    """Differences in points (hundredths) with their intervals."""
    cells = [
        f"{100 * g['value']:+.1f} [{100 * g['low']:+.1f}, {100 * g['high']:+.1f}]" for g in gaps
    ]
    return [label, *cells]


def render(known: dict[str, Any]) -> str:
    """The page out of stored figures; a study that was not run is said to be missing."""
    parts = [INTRODUCTION]
    for title, study, write in SECTIONS:
        parts.append(f"## {title}")
        parts.append(write(known[study]) if study in known else "Not measured yet.")
    parts.append(UNKNOWN)
    return "\n\n".join(parts) + "\n"


def _cross(found: dict[str, Any]) -> str:
    parts = [
        "Every field is scored by networks that never saw its patient (five folds) or its site "
        "(the tissue source site in the TCGA barcode; three folds). Score thresholds are chosen "
        "on the other folds. Brackets are 95 % intervals, bootstrapped over fields; each training "
        "was run with one seed. What another seed changes is not in the intervals (earlier trials "
        "of the dense network: about .002 in detection, .015 in the class mean). All methods get "
        "the same fields, eight crops of 256 px a step and the same first weights; a crop at "
        "0.25 µm/px shows a quarter of the tissue of one at 0.5. The recipe was chosen while "
        "looking at sites A7 and A8 and at the first fold by patient; the site AC and the "
        "other folds were run once, at the end.\n\n"
        + "\n".join(
            f"- `{m.name}`: {m.words}; {m.changes['steps']} steps."
            for m in METHODS.values()
            if m.ways
        )
    ]
    for by, one in found.items():
        parts.append(f"### By {'patient' if by == 'group' else 'site'}")
        for name in sorted({s for m in one["methods"].values() for s in m}):
            parts += _set_tables(name, one)
    return "\n\n".join(parts)


def _set_tables(name: str, one: dict[str, Any]) -> list[str]:
    methods = {m: sets[name] for m, sets in one["methods"].items() if name in sets}
    first = next(iter(methods.values()))
    radii = list(first["scores_by_radius_um"])
    classes = _classes(first["scores_by_radius_um"][radii[0]])
    parts = []
    for radius in radii:
        rows = [
            score_row(method, found["scores_by_radius_um"][radius], classes)
            for method, found in methods.items()
        ]
        fields = first["scores_by_radius_um"][radius]["fields"]
        head = ["", "detection F1", *classes, *(["class mean"] if classes else [])]
        parts.append(f"**{name}**, {fields} fields, a cell counts within {radius} µm")
        parts.append(table(head, rows))
    gaps = {m: g[name] for m, g in one["gaps"].items() if name in g}
    head = ["points of F1 gained", "detection", *classes]
    head += ["class mean"] if classes else []
    parts.append(table(head, [difference_row(m, g) for m, g in gaps.items()]))
    rows = [
        [method, number(found[rule]["f_d"]), number(found[rule]["class_mean_f1"])]
        for rule in ("hovernet", "hovernet_gated")
        for method, found in ((f"{m}, {WORDS[rule]}", f) for m, f in methods.items())
    ]
    parts.append("By HoVer-Net's rule, at the first radius:")
    parts.append(table(["", "F_d", "mean F_c"], rows))
    return parts


WORDS = {"hovernet": "as published", "hovernet_gated": "pairs within the radius only"}


def _classes(scores: dict[str, Any]) -> list[str]:
    known = {"rule", "radius", "fields", "class_mean_f1", "detection", "intervals"}
    return [k for k in scores if k not in known]


def _pictures(found: dict[str, Any]) -> str:
    name = found["name"]
    rows = [[r["word"], r["name"], number(r["mean_f1"], 2)] for r in found["fields"]]
    counts = ", ".join(f"{kind} {count}" for kind, count in found["errors"].items())
    return "\n\n".join(
        [
            f"The best, middle and worst four fields of the cross-validation of `{name}` by "
            "patient, with what was found over what is annotated.",
            f"![Twelve fields](images/fields-{name}.jpg)",
            table(["", "field", "mean F1"], rows),
            TWELVE,
            "The surest errors of the same: places where nothing is annotated, annotated cells "
            "that were missed, and wrong classes; one of a kind per field.",
            f"![Errors](images/errors-{name}.jpg)",
            f"All errors: {counts}.",
        ]
    )


def _failures(found: dict[str, Any]) -> str:
    parts = [
        "The surest errors of each shipped model at its own threshold, on fields that its "
        "training left out: the validation fields of he_brca_m2c, and EndoNuke tiles of another "
        "prefix."
    ]
    for name, counts in found.items():
        words = ", ".join(f"{kind} {count}" for kind, count in counts.items())
        parts += [f"### {name}", f"![{name}](images/failures-{name}.jpg)", f"All errors: {words}."]
    return "\n\n".join(parts)


def _few(found: dict[str, Any]) -> str:
    steps = found["steps"]
    starts = list(dict.fromkeys(row["start"] for row in found["rows"]))
    cells = {(r["share"], r["probe"], r["start"]): r for r in found["rows"]}
    rows = [
        [
            f"{100 * share:g} %",
            *(number(cells[share, True, s]["class_mean"]) for s in starts),
            *(number(cells[share, False, s]["detection"]) for s in starts),
            *(number(cells[share, False, s]["class_mean"]) for s in starts),
        ]
        for share in dict.fromkeys(row["share"] for row in found["rows"])
    ]
    heads = [
        f"{what}, {start}"
        for what in ("probe: class mean", "fine-tuned: detection F1", "fine-tuned: class mean")
        for start in starts
    ]
    return (
        f"One fold by patient: {len(found['held_out'])} patients that nothing here has seen. "
        f"Pretraining {steps['pretraining']} steps, with boxes from the detector that 5 % of the "
        f"fields give; probe {steps['probe']}, fine-tuning {steps['tuning']} steps. A probe "
        "classifies cells at annotated places and does not detect; from ImageNet weights it reads "
        "a decoder that was never trained. Thresholds are the best on these very fields, one seed "
        "each.\n\n" + table(["labelled fields", *heads], rows) + "\n\n" + FEW_WORDS
    )


FEW_WORDS = (
    "At this size contrastive pretraining is of no use: its probes are worse than those on "
    "ImageNet features at every share of labels. After fine-tuning the two starts are within a "
    "point of each other in the classes, one seed each, but for 5 %, where pretraining is 3 points "
    "worse. Some 90 fields of one organ without labels hold no more than the labels do; no shipped "
    "model uses it. A quarter of the fields is enough for what 400 steps can learn; below that the "
    "lymphocytes, which stand in few of the fields, are lost, while detection hardly suffers."
)
"""What the figures show, looked at by a person; to be read again when they are measured anew."""


def _pixel_sizes(found: dict[str, Any]) -> str:
    sizes = list(next(iter(next(iter(found.values())).values())))
    rows = [
        [model, name, *(number(values[s]) for s in sizes)]
        for model, sets in found.items()
        for name, values in sets.items()
    ]
    return (
        "Detection F1 within 3 µm on fields that were resampled to another pixel size first. "
        "Finer than the field's own size (0.5 µm/px for he_brca_m2c, 0.25 for he_tnbc) they are "
        "only enlarged.\n\n" + table(["model", "fields", *(f"{s} µm/px" for s in sizes)], rows)
    )


def _speed(found: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{row['mpp']:g}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['ms_per_mpx']:.0f}",
            f"{row['ms_per_mm2'] / 1000:.1f}",
        ]
        for name, row in found["models"].items()
    ]
    head = ["model", "µm/px", "parameters", "ms per Mpx", "s per mm²"]
    return f"{found['threads']} CPU threads, float32.\n\n" + table(head, rows)


def _scanners(found: dict[str, Any]) -> str:
    rows = [
        [name, row["cells"], f"{100 * row['positive']:.1f} %"]
        for name, row in found["scanners"].items()
    ]
    return (
        "One Ki67 region on two scanners with celldetr-ihc.\n\n"
        + table(["scanner", "cells", "positive"], rows)
        + f"\n\nCounts are {100 * found['counts_apart']:.1f} % apart, positive shares "
        f"{100 * found['positive_apart']:.1f} points."
    )


def _endonuke(found: dict[str, Any]) -> str:
    return (
        "EndoNuke tiles of a prefix that training leaves out, within 4 µm, at the model's own "
        f"threshold: F1 {spread(found['detection']['f1'], found['intervals']['detection'])}, "
        f"precision {number(found['detection']['precision'])}, "
        f"recall {number(found['detection']['recall'])}."
    )


def _ablation(found: dict[str, Any]) -> str:
    return str(found["markdown"])


def _calibration(found: dict[str, Any]) -> str:
    rows = []
    for model, report in found.items():
        for name, figures in report["figures"].items():
            for what in ("calibration_detection", "calibration_class"):
                word = "score" if what.endswith("detection") else "class probability"
                error = figures[what].get("width")
                if error is not None:
                    rows.append(
                        [model, name, word, error["count"], spread(error["ece"], error["interval"])]
                    )
    return (
        "Expected calibration error, 15 bins of equal width: how far the share of right cells is "
        "from the score, on average. The calibration was fitted on these very validation fields, "
        "where the models' thresholds were chosen, too; the last table is of calibrations fitted "
        "without the patient they are judged on.\n\n"
        + table(["model", "fields", "", "cells", "ECE"], rows)
        + "\n\n"
        + table(["model", "score, other patients", "class, other patients"], _honest(found))
    )


def _honest(found: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for model, report in found.items():
        kept = report["card_calibration"]
        errors = [(kept.get(k) or {}).get("ece_held_out_groups") for k in ("score", "class")]
        rows.append([model, *map(number, errors)])
    return rows


SECTIONS = (
    ("Patients and sites nobody trained on", "cross", _cross),
    ("Twelve fields and the surest errors", "pictures", _pictures),
    ("Failures of the models that ship", "failures", _failures),
    ("Few labels, and pretraining without any", "few", _few),
    ("What each part of the network is worth", "ablation", _ablation),
    ("Immunohistochemistry: another prefix", "endonuke", _endonuke),
    ("Immunohistochemistry: two scanners", "scanners", _scanners),
    ("Are scores probabilities?", "calibration", _calibration),
    ("Slides of other pixel sizes", "pixel_sizes", _pixel_sizes),
    ("Speed", "speed", _speed),
)

INTRODUCTION = """\
# Accuracy

All figures on this page were measured by `python tools/accuracy DATA`, which writes it. Research
use only. Not a medical device; not for diagnostic or treatment decisions."""

TWELVE = (
    "Looked at by eye: the best four are sheets of tumour of one kind, or tumour and infiltrate "
    "that lie apart. In the median ones most errors are squares on what look like nuclei, and "
    "wrong classes where tumour, lymphocytes and stroma mingle. The worst four are nearly empty "
    "collagen with a few dozen thin, pale nuclei, many of them missed, and hardly a cell of the "
    "other classes, so that one error weighs much in the mean. Among the surest errors, those of "
    "the first row look like nuclei that were not annotated, most of the missed ones lie at a "
    "field's edge or on another nucleus, and of the wrong classes several are dark round nuclei "
    "in an infiltrate that the annotation calls stromal."
)
"""What was seen in the pictures, by eye."""

UNKNOWN = """\
## What we do not know

- How far labels cap these figures: some dark or blurred nuclei are not annotated, as the pictures
  of the surest errors show, and a cell found there counts as wrong. How many was not counted.
- All annotated H&E fields with classes come from breast cancer and three source sites. How
  classes hold on other organs was not measured.
- Extents were learned from nuclei of one laboratory."""
