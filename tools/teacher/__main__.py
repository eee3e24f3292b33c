"""Measure what teaching is worth with a simulated teacher, by patient or slide.

    python tools/teacher DATA [--runs FOLDER] [--tune] [--seeds 5]

DATA is a folder with `he_brca_m2c` and `ihc_endonuke`. Three tasks: a model that has tumour and
stromal cells as one class learns to tell them apart on validation patients; the same on patients
of the training split, by which the queue was tuned (``--tune``); and the H&E model, which never
saw immunohistochemistry, learns stroma and epithelium there. Figures go to ``docs/teaching.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from cells import Cells, find_cells
from simulate import COUNTS, Result, Task, mean_f1, run

from napari_celldetr.core.head import FLOOR
from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval

ROOT = Path(__file__).resolve().parents[2]
MODEL = "celldetr-he"
BREAST = ("lymphocyte", "tumour", "stromal")
TUNED = (0.0, 0.5, 1.0)
DRAWS = 1000


def split_task(name: str, cells: Cells, *, per_split: int, splits: int) -> Task:
    """Tumour and stromal are one class of the model; the split of them is taught."""
    p = np.exp(cells.word)
    merged = np.column_stack((p[:, 0], p[:, 1] + p[:, 2], np.full(len(p), FLOOR)))
    cells = replace(cells, word=np.log(np.clip(merged, FLOOR, 1)).astype(np.float32))
    groups, parts = np.unique(cells.group), []
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(groups)
        parts.append((tuple(order[:per_split]), tuple(order[per_split : 2 * per_split])))
    return Task(name, cells, BREAST, BREAST[:2], parts)


def ihc_task(cells: Cells) -> Task:
    """Of the H&E model's classes tumour stands for epithelium, the others for stroma."""
    cells = cells.select(np.flatnonzero(cells.truth < 2))
    p = np.exp(cells.word)
    joined = np.column_stack((p[:, 0] + p[:, 2], p[:, 1]))
    cells = replace(cells, word=np.log(np.clip(joined, FLOOR, 1)).astype(np.float32))
    groups = np.unique(cells.group).tolist()
    parts = [((g,), tuple(o for o in groups if o != g)) for g in groups]
    names = ("stroma", "epithelium")
    return Task("ihc", cells, names, names, parts)


def summary(task: Task, results: list[Result]) -> dict[str, Any]:
    """Means over splits and seeds, and what the queue gains over chance by group."""
    told: dict[str, Any] = {
        "cells": len(task.cells.truth),
        "groups": len(np.unique(task.cells.group)),
        "splits": len(task.splits),
        "rows": [],
    }
    for how in ("queue", "random"):
        for count in (0, *COUNTS):
            mine = [r for r in results if r.how == how and r.count == count]
            if mine:
                told["rows"].append({"how": how, "count": count, **_row(task, mine)})
    told["queue 200 less random 400"] = _difference(task, results, ("queue", 200), ("random", 400))
    told["queue 100 less random 100"] = _difference(task, results, ("queue", 100), ("random", 100))
    return told


def _row(task: Task, mine: list[Result]) -> dict[str, Any]:
    f1 = [r.f1 for r in mine]
    return {
        "f1": float(np.mean(f1)),
        "f1 interval over groups": _interval(task, mine),
        "f1 least and most of runs": [min(f1), max(f1)],
        "accuracy": float(np.mean([r.accuracy for r in mine])),
        "ece": float(np.mean([r.ece for r in mine])),
        "runs": len(mine),
    }


def _guard(task: Task, split: int) -> Cells:
    return task.cells.select(np.flatnonzero(np.isin(task.cells.group, task.splits[split][1])))


def _drawn(task: Task, mine: list[Result]) -> np.ndarray:
    """Class mean F1 (DRAWS,), mean of all runs, when groups (or fields of few groups) are drawn.

    They are drawn once for all runs: the same patients are judged in many.
    """
    few = len(np.unique(task.cells.group)) < 5
    units = np.unique(task.cells.field if few else task.cells.group)
    draws = field_draws(len(units), DRAWS)
    rows = []
    for r in mine:
        kept = _guard(task, r.split)
        place = np.searchsorted(units, kept.field if few else kept.group)
        tables = np.zeros((len(units), len(task.class_names), 3))
        for i in range(len(task.class_names)):
            for j, what in enumerate(
                ((kept.truth == i) & (r.found == i), kept.truth == i, r.found == i)
            ):
                tables[:, i, j] = np.bincount(place, what, len(units))
        hit, true, found = np.moveaxis(np.einsum("df,fkj->dkj", draws, tables), 2, 0)
        f1 = np.where(true > 0, 2 * hit / np.maximum(true + found, 1), np.nan)
        # Drawings in which a run has no cell of some class say nothing of its class mean.
        rows.append(np.where(np.isnan(f1).any(axis=1), np.nan, f1.mean(axis=1)))
    known = np.isfinite(rows)
    count = known.sum(axis=0)
    total = np.where(known, rows, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _interval(task: Task, mine: list[Result]) -> list[float]:
    return list(percentile_interval(_drawn(task, mine)))


def _difference(
    task: Task, results: list[Result], one: tuple[str, int], other: tuple[str, int]
) -> dict[str, Any]:
    a, b = ([r for r in results if (r.how, r.count) == which] for which in (one, other))
    value = float(np.mean([r.f1 for r in a]) - np.mean([r.f1 for r in b]))
    interval = percentile_interval(_drawn(task, a) - _drawn(task, b))
    return {"value": value, "interval": list(interval)}


def tune(task: Task, seeds: int) -> dict[str, Any]:
    """Class mean F1 by the exponent of novelty and the number of corrections."""
    told: dict[str, Any] = {}
    for novelty in TUNED:
        results = [
            r
            for split in range(len(task.splits))
            for seed in range(seeds)
            for r in run(
                task,
                how="queue",
                seed=seed,
                split=split,
                novelty=novelty,
                most=200,
                calibrate=False,
            )
        ]
        told[f"novelty {novelty:g}"] = _by_count(results)
        print(f"novelty {novelty:g}", told[f"novelty {novelty:g}"], flush=True)
    results = [
        r
        for split in range(len(task.splits))
        for seed in range(seeds)
        for r in run(task, how="random", seed=seed, split=split, calibrate=False)
    ]
    told["random"] = _by_count(results)
    print("random", told["random"], flush=True)
    return told


def forgetting(task: Task, results: list[Result]) -> dict[str, Any]:
    """F1 of the classes that the model had, before and after: those split count as one."""
    told = {}
    for count in (0, 200, 400):
        mine = [r for r in results if r.how == "queue" and r.count == count]
        rows = []
        for r in mine:
            truth, found = (np.minimum(x, 1) for x in (_guard(task, r.split).truth, r.found))
            rows.append(mean_f1(truth, found, 2))
        told[str(count)] = float(np.mean(rows))
    return told


def elsewhere(ihc: Cells, he: Cells, seeds: int) -> dict[str, Any]:
    """Class mean F1 on H&E of heads taught with 200 cells of immunohistochemistry.

    Epithelium is named tumour there, stroma stromal; rehearsal has cells of that stain alone.
    """
    ihc = ihc.select(np.flatnonzero(ihc.truth < 2))
    ihc = replace(ihc, truth=np.where(ihc.truth == 1, 1, 2))
    joined = Cells(
        *(np.concatenate((getattr(ihc, f.name), getattr(he, f.name))) for f in fields(Cells))
    )
    groups = tuple(np.unique(ihc.group).tolist()), tuple(np.unique(he.group).tolist())
    task = Task("elsewhere", joined, BREAST, BREAST, [groups])
    results = [
        r
        for seed in range(seeds)
        for r in run(task, how="queue", seed=seed, split=0, most=200, calibrate=False)
    ]
    return _by_count(results)


def _by_count(results: list[Result]) -> dict[str, float]:
    counts = sorted({r.count for r in results})
    return {str(n): float(np.mean([r.f1 for r in results if r.count == n])) for n in counts}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "teacher")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "teaching.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tune", action="store_true", help="measure the queue's mixes as well")
    args = parser.parse_args()
    breast, ihc = f"points:{args.data}/he_brca_m2c@0.5", f"points:{args.data}/ihc_endonuke@0.29"
    told: dict[str, Any] = {}
    if args.out.is_file():
        told = json.loads(args.out.read_text())
    if args.tune:
        cells = find_cells(MODEL, breast, BREAST, split="train", cache=args.runs / "train.npz")
        task = split_task("split, training patients", cells, per_split=6, splits=6)
        told["tuning"] = tune(task, args.seeds)
    val = find_cells(MODEL, breast, BREAST, split="val", cache=args.runs / "val.npz")
    names = ("stroma", "epithelium", "other")
    other = find_cells(MODEL, ihc, names, radius_um=4.0, cache=args.runs / "ihc.npz")
    for task in (split_task("split", val, per_split=4, splits=6), ihc_task(other)):
        results = [
            r
            for split in range(len(task.splits))
            for seed in range(args.seeds)
            for how in ("queue", "random")
            for r in run(task, how=how, seed=seed, split=split)
        ]
        told[task.name] = summary(task, results)
        if task.name == "split":
            told[task.name]["classes the model had, F1 by corrections"] = forgetting(task, results)
        print(task.name, json.dumps(told[task.name], indent=1), flush=True)
    told["taught on IHC, H&E class mean F1 by corrections"] = elsewhere(other, val, args.seeds)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
