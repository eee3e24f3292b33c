"""Figures on patients and on sites that no training saw."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from gallery import Judged, draw_failures, draw_twelve
from methods import BREAST, DENSE, FINE, METHODS, By, Places, cross_config

from napari_celldetr.core.metrics import point_scores
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
            "steered_by": steered_by(places, reports[FINE.name]),
        }
        if by == "site":
            found[by]["each"] = each_fold(reports[FINE.name], reports[DENSE.name])
    return found


def each_fold(ours: CrossReport, theirs: CrossReport) -> list[dict[str, Any]]:
    """Figures of each fold by itself, and the paired differences, at the first radius."""
    mine, other = ours.sets[BREAST], theirs.sets[BREAST]
    radius = next(iter(mine.scores))
    rows = []
    for fold in sorted({f.fold for f in mine.held_out}):
        kept = {f.cells.name: f.group for f in mine.held_out if f.fold == fold}
        pair = [[f for f in rescaled(r) if f.name in kept] for r in (mine, other)]
        gaps = paired_differences(*pair, radius, mine.class_names)
        f1, base = (point_scores(p, radius).f1 for p in pair)
        rows.append(
            {
                "site": sorted({g[5:7] for g in kept.values()}),
                "fields": len(kept),
                "cells": sum(len(f.truth_xy) for f in pair[0]),
                "detection": [f1, base],
                "gaps": [asdict(gap) for gap in gaps],
            }
        )
    return rows


def steered_by(places: Places, report: CrossReport) -> dict[str, Any]:
    """The cross-validation's figures on the fields that steered the models that ship."""
    spec = parse_data(f"points:{places.data / BREAST}@0.5")[0]
    names = {
        f.name for f in load_fields(spec, class_names=report.sets[BREAST].class_names, split="val")
    }
    one = report.sets[BREAST]
    cells = [f for f in rescaled(one) if f.name in names]
    radius = next(iter(one.scores))
    found = point_scores(cells, radius, class_names=one.class_names)
    return {"fields": len(cells), "detection": found.f1, "class_mean": found.class_mean}


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
