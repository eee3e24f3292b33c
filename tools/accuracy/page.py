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
    return [label, *map(difference, gaps)]


def difference(gap: dict[str, Any]) -> str:
    """``+1.9 [+0.8, +3.0]`` points; ``same`` where the two cannot differ."""
    value, low, high = (100 * gap[k] for k in ("value", "low", "high"))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if value or low or high else "same"


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
        CROSS_WORDS
        + "\n\n"
        + "\n".join(
            f"- `{m.name}`: {m.words}; {m.changes['steps']} steps."
            for m in METHODS.values()
            if m.ways
        )
        + "\n\n"
        + GAIN_WORDS
    ]
    for by, one in found.items():
        parts.append(f"### By {'patient' if by == 'group' else 'site'}")
        for name in sorted({s for m in one["methods"].values() for s in m}):
            parts += _set_tables(name, one)
        if by == "group":
            parts.append(_steered(one))
        else:
            parts += _each_site(one["each"])
    return "\n\n".join(parts)


CROSS_WORDS = """\
Data: he_brca_m2c, 90 fields of 83 patients with 21,780 points (lymphocyte 4,899, tumour 10,689,
stromal 6,192) from the sites A7 (36 fields), A8 (37) and AC (17); he_tnbc, 37 fields of 8 patients
with 3,157 masks of nuclei and no classes. These are not the official test fields of BRCA-M2C: the
figures cannot be set beside published ones.

Every field is scored by networks that never saw its patient (five folds) or its site (the tissue
source site in the TCGA barcode; three folds, in all of which he_tnbc is trained on and not scored).
Found and annotated cells are paired one to one within the radius, and counts are pooled over all
fields. Each class is paired on its own, so that a cell of the wrong class counts against two
classes; the class mean is the plain mean of the three class F1. Score thresholds are chosen on the
other folds. Brackets are 95 % intervals, bootstrapped over fields; each training was run with one
seed. What another seed changes is not in the intervals: earlier trials of the dense network showed
about .002 in detection and .015 in the class mean.

All methods get the same fields, eight crops of 256 px a step and the same first weights; a crop at
0.25 µm/px shows a quarter of the tissue of one at 0.5. The recipe was chosen while looking at sites
A7 and A8 and at the first fold by patient. The site AC and the other folds were run once, at the
end; most fields of these other folds are nevertheless of A7 and A8, so that AC as a site is the
cleanest test here."""

GAIN_WORDS = """\
The rows differ in pixel size, augmentation, soft negatives, steps and decoders at once: gains over
`dense` say what the recipe gains, not why. The overview has no say in detection; what it adds to
the classes is smaller than what another seed may change."""


def _steered(one: dict[str, Any]) -> str:
    fields = one["steered_by"]
    return (
        f"The {fields['fields']} validation fields that the models that ship were steered by and "
        "report in their cards are easier than most: these same networks score "
        f"{number(fields['detection'])} in detection and {number(fields['class_mean'])} in the "
        "class mean there."
    )


def _each_site(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = [gap["name"] for gap in rows[0]["gaps"]]
    body = [
        [
            ", ".join(row["site"]),
            row["fields"],
            f"{row['cells']:,}",
            *map(number, row["detection"]),
            *map(difference, row["gaps"]),
        ]
        for row in rows
    ]
    heads = ["site left out", "fields", "cells", "celldetr-he-hr", "dense"]
    return [
        "**he_brca_m2c, each site by itself**: detection F1 within 3 µm of both, and the gain in "
        "points.",
        table([*heads, *names], body),
    ]


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
    parts.append(
        "By HoVer-Net's rule, at the first radius. As published, all cells are paired first and "
        "pairs farther apart are dropped; gated, only pairs within the radius are made, so that "
        "F_d is the detection F1 above:"
    )
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
            "Mean F1 is the mean of detection F1 and class mean; a class that a field lacks counts "
            "0 if one cell of it is found.",
            table(["", "field", "mean F1"], rows),
            TWELVE,
            "Errors of the same, one of a kind per field: the surest found where nothing is "
            "annotated, annotated cells that were missed (drawn at random), and the surest wrong "
            "classes.",
            f"![Errors](images/errors-{name}.jpg)",
            f"All errors, among 21,780 annotated cells: {counts}.",
        ]
    )


def _failures(found: dict[str, Any]) -> str:
    parts = [
        "Errors of each shipped model at its own threshold, on fields that its training left out: "
        "the validation fields of he_brca_m2c, and EndoNuke tiles of another prefix. The surest "
        "ones, but missed cells, which have no score, at random."
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
        "Scored on the breast patients of the first fold (16 patients, 18 fields, 4,357 cells). "
        "Labelled fields, breast and TNBC: 5 % are 4 + 2, 10 % 7 + 3, 25 % 18 + 8, 100 % 72 + 34; "
        f"one draw, nested. Pretraining {steps['pretraining']} steps on all 106, with boxes from "
        f"the detector that 5 % of the labels give; probe {steps['probe']}, fine-tuning "
        f"{steps['tuning']} steps. A probe classifies cells at annotated places and does not "
        "detect; from ImageNet weights it reads a decoder that was never trained. Thresholds are "
        "the best on these very fields, one seed each.\n\n"
        + table(["labelled fields", *heads], rows)
        + "\n\n"
        + FEW_WORDS
    )


FEW_WORDS = (
    "Tried so, contrastive pretraining did not help: its probes are worse than those on ImageNet "
    "features at every share of labels. After fine-tuning the two starts are within a point of "
    "each other in the classes, but for 5 %, where pretraining is 3 points worse. No shipped model "
    "uses it. A quarter of the fields is enough for what 400 steps can learn; below that the "
    "lymphocytes are lost (4 or 7 breast fields hold few kinds of them), while detection hardly "
    "suffers."
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
        "only enlarged. No slides scanned at these sizes were tried.\n\n"
        + table(["model", "fields", *(f"{s} µm/px" for s in sizes)], rows)
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
    machine = f"{found['threads']} threads of {found.get('processor', 'this machine')}"
    return (
        f"{machine}, float32, median of five turns on "
        "1024 × 1024 px of tissue (an IHC texture, also for the H&E models).\n\n"
        + table(head, rows)
    )


def _scanners(found: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['cells']:,}", f"{100 * row['positive']:.1f} %"]
        for name, row in found["scanners"].items()
    ]
    return (
        "One Ki67 region on two scanners with celldetr-ihc.\n\n"
        + table(["scanner", "cells", "positive"], rows)
        + f"\n\nCounts are {100 * found['counts_apart']:.1f} % apart, positive shares "
        f"{100 * found['positive_apart']:.1f} points. The rule for positive was chosen while "
        "looking at this very pair (by a limit on the density of DAB the shares were 23.2 and "
        "20.3 %), and nobody counted the cells: agreement is not correctness. QuPath's own "
        "detection, as stored with the images: 1,323 and 1,353 cells (2.2 % apart), 16.6 and "
        "13.5 % positive (3.1 points)."
    )


def _endonuke(found: dict[str, Any]) -> str:
    detection = found["detection"]
    return (
        f"{found['fields']} EndoNuke tiles of one prefix that training leaves out, "
        f"{detection['truth']:,} annotated and {detection['found']:,} found cells, within 4 µm, at "
        f"the model's own threshold: F1 "
        f"{spread(detection['f1'], found['intervals']['detection'])}, "
        f"precision {number(detection['precision'])}, recall {number(detection['recall'])}. The "
        "interval is over tiles of that one prefix; whether a prefix is a patient is not known. "
        "Which of three trainings ships was decided on these tiles too. The best threshold on them "
        "would be .5, with .794."
    )


def _ablation(found: dict[str, Any]) -> str:
    text = str(found["markdown"]).removeprefix("# Ablation").strip()
    return f"{text}\n\n{ABLATION_WORDS}"


ABLATION_WORDS = (
    "Every run starts from ImageNet weights at 0.25 µm/px and takes 400 steps, a third of what the "
    "cross-validated networks take. One seed each; another seed changed the class mean of the "
    "dense network by .015. What is larger than that: a network whose queries are learned, as the "
    "paper's, instead of taken from a heatmap, does not learn in this time (.714 against .818 with "
    "a heatmap in the same window), and one with two-stage queries finds less (.801). What is "
    "about as large, and so a hint: classes learned on all queries by sigmoid gain 2 points in the "
    "class mean, and a dense class map in place of the representation decoder gains 2 points of "
    "detection. Decoupled decoders, the box constraint, self-attention, parallel training and the "
    "number of queries make no difference that could be told from chance after so few steps, and "
    "neither do the decoders as a whole: without them the network is as good and a little faster "
    "here. What they gain when trained for longer is not separated from the rest of the recipe "
    "above. ms per Mpx is of one thread of an otherwise nearly idle machine; seconds per step were "
    "taken while other work was going on."
)
"""What the table shows, looked at by a person; to be read again when it is measured anew."""


def _calibration(found: dict[str, Any]) -> str:
    rows = []
    for model, report in found.items():
        kept = report["card_calibration"].get("score") or {}
        for name, figures in report["figures"].items():
            score = figures["calibration_detection"]["width"]
            rows.append([model, name, "score", f"{score['count']:,}", number(score["ece"]),
                         number(kept.get("ece_held_out_groups"))])  # fmt: skip
            sure = [b for b in score["bins"] if b["low"] >= SURE - 1e-9]
            count = sum(b["count"] for b in sure)
            ece = sum(b["count"] * abs(b["confidence"] - b["right"]) for b in sure) / count
            rows.append([model, name, f"score, cells from {SURE:.2f} on alone", f"{count:,}",
                         number(ece), "–"])  # fmt: skip
            classes = figures["calibration_class"]["width"]
            rows.append([model, name, "class certainty", f"{classes['count']:,}",
                         number(classes["ece"]), "as it is"])  # fmt: skip
    return (
        "Expected calibration error, 15 bins of equal width: how far the share of right cells is "
        "from the score, on average. The calibration of scores was fitted on these very validation "
        "fields, where the models' thresholds were chosen, too; the last column is of calibrations "
        "fitted without the patient they are judged on. A third of the cells has next to no score "
        "and is easily right, hence the row without the lower half. Class certainty is as the "
        "network gives it: a fitted temperature made it worse on other patients. Chance alone "
        "makes an ECE above 0.\n\n"
        + table(["model", "fields", "", "cells", "ECE", "on other patients"], rows)
    )


SURE = 7 / 15
"""Lower edge of the first bin that holds cells as good as shown."""


SECTIONS = (
    ("Patients and sites nobody trained on", "cross", _cross),
    ("Twelve fields and some errors", "pictures", _pictures),
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

The tables on this page were measured by `python tools/accuracy DATA`, which writes it; what was
seen by eye and a few earlier figures stand in its text. Research use only. Not a medical device;
not for diagnostic or treatment decisions."""

TWELVE = (
    "Looked at by eye: the best four are sheets of tumour of one kind, or tumour and infiltrate "
    "that lie apart. In the median ones most errors are squares on what look like nuclei, and "
    "wrong classes where tumour, lymphocytes and stroma mingle. The worst four, all of site AC, "
    "are nearly empty collagen with a few dozen thin, pale nuclei, many of them missed, and hardly "
    "a cell of the other classes, so that one error weighs much in the mean. Among the errors, "
    "those of the first row look like nuclei that were not annotated. Of all 3,073 missed cells "
    "21 % lie within 3 µm of a field's edge, as do 5 % of all cells; in the middle row most of the "
    "others are pale or lie on another nucleus. Of the wrong classes several are dark round nuclei "
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
