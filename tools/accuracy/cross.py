"""Figures on patients and on sites that no training saw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gallery import Judged, draw_failures, draw_twelve
from methods import BREAST, DENSE, METHODS, By, Places, cross_config

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
                f"{name} over {other}": against(report, reports[other])
                for name, report in reports.items()
                for other in METHODS[name].beside
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


def pictures(places: Places, name: str, images: Path) -> dict[str, Any]:
    """Twelve fields and the surest errors of a cross-validation by patient, drawn."""
    report = drain(crossvalidate(cross_config(METHODS[name], "group", places))).sets[BREAST]
    spec = parse_data(places.breast_words)[0]
    loaded = {f.name: f for f in load_fields(spec, class_names=report.class_names)}
    radius_um = next(iter(report.scores))
    fields = []
    for one in report.held_out:
        threshold = report.thresholds[one.fold]
        field = loaded[one.cells.name]
        cells, sure = above(one, threshold), one.sure[one.scores >= threshold]
        mpp = field.mpp or report.mpp
        fields.append(Judged.of(field.image, mpp, cells, report.mpp, sure, radius_um))
    return {
        "name": name,
        "fields": draw_twelve(fields, report.class_names, images / f"fields-{name}.jpg"),
        "errors": draw_failures(fields, report.class_names, images / f"errors-{name}.jpg"),
    }
