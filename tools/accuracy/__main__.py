"""Measure how accurate the models are, and write `docs/accuracy.md`.

    python tools/accuracy DATA [--studies cross,few,…] [--render]
    python tools/accuracy DATA --train dense:site celldetr-he-hr:group:1,3

DATA is a folder with the data sets named in `methods.py`. Trainings are kept in `--runs`: the
command goes on where it was, and what is finished is read back. Everything together takes many
hours on two cores; with `--train` several processes can share the folds beforehand. Figures of
each study are stored in ``docs/accuracy.json`` when it ends, and the page is written from them
alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cross
import few
import shipped
from ablation import run_ablation
from methods import FINE, METHODS, Places
from page import render

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.training.memory import keep_memory

ROOT = Path(__file__).resolve().parents[2]


def studies(places: Places) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    images = places.out / "images"
    return {
        "cross": lambda: cross.run_all(places),
        "pictures": lambda: cross.pictures(places, FINE.name, images),
        "failures": lambda: shipped.failures(places, images),
        "few": lambda: few.run_all(places),
        "ablation": lambda: run_ablation(places),
        "scanners": lambda: shipped.two_scanners(places),
        "endonuke": lambda: shipped.endonuke(places),
        "calibration": lambda: shipped.calibration(places),
        "pixel_sizes": lambda: shipped.pixel_sizes(places),
        "speed": shipped.speed,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "accuracy")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    parser.add_argument("--studies", default="", help="names, separated by commas; empty runs all")
    parser.add_argument(
        "--train", nargs="+", metavar="METHOD:WAY[:FOLDS]", help="only train these folds"
    )
    parser.add_argument("--render", action="store_true", help="write the page and run nothing")
    given = parser.parse_args()
    places = Places(given.data, given.runs, given.out)
    every = studies(places)
    wanted = [w for w in given.studies.split(",") if w] or list(every)
    store = given.out / "accuracy.json"
    known = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    if unknown := set(wanted) - set(every):
        parser.error(f"no such studies: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    keep_memory()
    try:
        if given.train:
            if unknown := {w.split(":")[0] for w in given.train} - set(METHODS):
                parser.error(f"no such methods: {unknown}; there are {', '.join(METHODS)}")
            for word in given.train:
                cross.train_folds(places, *word.split(":"))
            return 0
        for name in [] if given.render else wanted:
            print(f"{name} …", file=sys.stderr, flush=True)
            known[name] = every[name]()
            store.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    except CellDETRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (given.out / "accuracy.md").write_text(render(known), encoding="utf-8")
    print(given.out / "accuracy.md")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
