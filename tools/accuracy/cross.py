"""Figures on patients and on sites that no training saw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from methods import BREAST, DENSE, METHODS, By, Places, cross_config
from pictures import around, best_median_worst, field_score, panel, sheet

from napari_celldetr.core.metrics import match_points
from napari_celldetr.core.progress import drain
from napari_celldetr.training.crossval import CrossReport, SetReport, crossvalidate
from napari_celldetr.training.held_out import above, paired_differences, thresholded
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

WAYS: tuple[By, ...] = ("group", "site")


def train_folds(places: Places, method: str, by: By, only: str = "") -> None:
    """Train and score folds of one method's networks alone; `run_all` reads them back."""
    config = cross_config(METHODS[method], by, places, only=only, overview_from="", flips=False)
    report = drain(crossvalidate(config))
    print(f"{method}\n{report.as_text()}", flush=True)


def run_all(places: Places) -> dict[str, Any]:
    """Cross-validate every method both ways; returns figures by way and method."""
    found: dict[str, Any] = {}
    for by in WAYS:
        reports = {
            name: drain(crossvalidate(cross_config(method, by, places)))
            for name, method in METHODS.items()
            if by in method.ways
        }
        found[by] = {
            "folds": [list(f) for f in reports[DENSE.name].folds],
            "methods": {name: report.as_dict()["sets"] for name, report in reports.items()},
            "gaps": {
                f"{name} over {METHODS[name].beside}": against(
                    report, reports[METHODS[name].beside]
                )
                for name, report in reports.items()
                if METHODS[name].beside
            },
        }
    return found


def against(ours: CrossReport, theirs: CrossReport) -> dict[str, Any]:
    """Paired differences of every set at the first radius."""
    gaps = {}
    for name, mine in ours.sets.items():
        other = theirs.sets[name]
        gaps[name] = [
            asdict(gap)
            for gap in paired_differences(
                rescaled(mine), rescaled(other), next(iter(mine.scores)), mine.class_names
            )
        ]
    return gaps


def rescaled(report: SetReport) -> list[Any]:
    """Thresholded fields in µm, so that networks of other pixel sizes can be paired."""
    from dataclasses import replace

    return [
        replace(f, truth_xy=f.truth_xy * report.mpp, found_xy=f.found_xy * report.mpp)
        for f in thresholded(report.held_out, report.thresholds)
    ]


def twelve_fields(places: Places, name: str, images: Path) -> list[dict[str, Any]]:
    """The best, middle and worst four fields by patient, drawn; returns their figures."""
    report = drain(crossvalidate(cross_config(METHODS[name], "group", places))).sets[BREAST]
    cells = thresholded(report.held_out, report.thresholds)
    radius = next(iter(report.scores)) / report.mpp
    values = [field_score(f, radius, report.class_names) for f in cells]
    spec = parse_data(places.breast_words)[0]
    images = {f.name: f for f in load_fields(spec, class_names=report.class_names)}
    panels, rows = [], []
    for word, i in best_median_worst(values, 4):
        field = images[cells[i].name]
        # Shown at the field's own scale.
        shown = report.mpp / (field.mpp or report.mpp)
        title = f"{word}: {cells[i].name[:23]}, mean of F1 {values[i]:.2f}"
        panels.append((title, panel(field.image, moved(cells[i], shown), radius * shown)))
        rows.append({"name": cells[i].name, "word": word, "mean_f1": values[i]})
    sheet(panels, 4, report.class_names, images / f"fields-{name}.jpg")
    return rows


def failures(places: Places, name: str, images: Path, each: int = 8) -> dict[str, int]:
    """The surest errors of the cross-validation by patient, drawn; returns how many there are.

    A row each: cells found where nothing is annotated, best scored first; annotated cells that
    were missed, fields taking turns; cells of a wrong class, surest first. One per field.
    """
    report = drain(crossvalidate(cross_config(METHODS[name], "group", places))).sets[BREAST]
    radius = next(iter(report.scores)) / report.mpp
    spec = parse_data(places.breast_words)[0]
    images = {f.name: f for f in load_fields(spec, class_names=report.class_names)}
    errors: dict[str, list[tuple[float, Any, Any]]] = {"nothing annotated": [], "missed": []}
    errors["wrong class"] = []
    for field in report.held_out:
        kept = field.scores >= report.thresholds[field.fold]
        cells = above(field, report.thresholds[field.fold])
        for kind, sure, xy in judged(cells, field.sure[kept], radius):
            errors[kind].append((sure, xy, cells))
    panels = []
    for kind, rows in errors.items():
        seen: set[str] = set()
        for sure, xy, cells in sorted(rows, key=lambda row: -row[0]):
            if cells.name in seen or len(seen) == each:
                continue
            seen.add(cells.name)
            image = images[cells.name]
            factor = report.mpp / (image.mpp or report.mpp)
            picture = panel(image.image, moved(cells, factor), radius * factor)
            title = kind if kind == "missed" else f"{kind}, {sure:.2f}"
            panels.append((title, around(picture, xy * factor)))
    sheet(panels, each, report.class_names, images / f"failures-{name}.jpg")
    return {kind: len(rows) for kind, rows in errors.items()}


def judged(cells: Any, sure: Any, radius: float) -> list[tuple[str, float, Any]]:
    """Errors of a field: kind, how sure the model was (0 for a miss), and where."""
    true_ids, found_ids = cells.ids()
    true, found, _ = match_points(cells.truth_xy, cells.found_xy, radius)
    false = np.setdiff1d(np.arange(len(cells.found_xy)), found)
    missed = np.setdiff1d(np.arange(len(cells.truth_xy)), true)
    wrong = found[(true_ids[true] >= 0) & (true_ids[true] != found_ids[found])]
    return [
        *(("nothing annotated", float(cells.scores[i]), cells.found_xy[i]) for i in false),
        *(("missed", 0.0, cells.truth_xy[i]) for i in missed),
        *(("wrong class", float(sure[i]), cells.found_xy[i]) for i in wrong),
    ]


def moved(cells: Any, factor: float) -> Any:
    """The cells of a field whose pixels are that much larger."""
    from dataclasses import replace

    return replace(cells, truth_xy=cells.truth_xy * factor, found_xy=cells.found_xy * factor)
