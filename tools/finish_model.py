"""Turn a trained run into a shipped model: words, credits and measured figures go into its card.

    python tools/finish_model.py RUN/MODEL NOTES.json EVALUATION.json … -o models/NAME
    python tools/finish_model.py … --calibration EVALUATION.json

Evaluations are what `celldetr evaluate --json FILE` wrote for this very model; one of other
weights is refused. With `--calibration` the scores become what `celldetr evaluate --calibrate`
fitted in that file; the notes' threshold and floor, which are of raw scores, move along.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.errors import CellDETRError, DataError
from napari_celldetr.nets.card import DETECT, ModelCard, read_card
from napari_celldetr.nets.registry import CARD, WEIGHTS, check_weights

_WORDS = ("title", "description", "intended_use", "limits", "threshold", "score_floor")


def finish(
    trained: Path,
    notes: Path,
    evaluations: list[Path],
    out: Path,
    calibration: Path | None = None,
) -> ModelCard:
    """Write the finished model folder; returns its card."""
    card = read_card(trained)
    weights = check_weights(trained, card)
    words = json.loads(notes.read_text(encoding="utf-8"))
    changes = {key: words[key] for key in (*_WORDS, "class_rule") if key in words}
    if "classes" in words:
        changes["class_names"] = tuple(c["name"] for c in words["classes"])
        changes["class_colors"] = tuple(tuple(c["color"]) for c in words["classes"])
    # What classifiers of patches and pixels were validated with stays; cells are evaluated apart.
    metrics = {} if card.task == DETECT else dict(card.metrics)
    for path in evaluations:
        metrics.update(_figures(path, card))
    data = [_credited(entry, words["data"]) for entry in card.data] + words.get("more_data", [])
    if "parent" in words:
        changes["parent"] = read_card(out.parent / words["parent"]).weights_sha256
    changes["training"] = _without_paths(card.training)
    done = dataclasses.replace(card, name=out.name, data=data, metrics=metrics, **changes)
    if calibration is not None:
        done = _calibrated(done, calibration)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, out / WEIGHTS)
    (out / CARD).write_text(done.to_json(), encoding="utf-8")
    return done


def _without_paths(training: dict[str, object]) -> dict[str, object]:
    """The training settings with names instead of one machine's folders."""
    kept = {k: v for k, v in training.items() if k not in ("output", "fresh", "workers")}
    if "data" in kept:
        kept["data"] = re.sub(r":[^\s@*+]*/", ":", str(kept["data"]))
    for key in ("backbone_weights", "init"):
        kept[key] = Path(str(kept[key])).name
    overview = kept.get("overview")
    if isinstance(overview, dict):
        kept["overview"] = {**overview, "training": _without_paths(overview["training"])}
    return kept


def _calibrated(card: ModelCard, path: Path) -> ModelCard:
    report = _report(path, card)
    fitted = report["calibration"]
    if fitted is None:
        raise DataError(
            f"The evaluation {path.name!r} holds no calibration.",
            expected="what `celldetr evaluate --calibrate --json` wrote",
            found="an evaluation without it",
            remedy="evaluate again with --calibrate",
        )
    card = card.calibrated(Calibration.from_dict(fitted["card"]["calibration"]))
    errors = {k: fitted[k] for k in ("score", "class")}
    return dataclasses.replace(card, metrics={**card.metrics, "calibration": errors})


def _report(path: Path, card: ModelCard) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if report["weights_sha256"] != card.weights_sha256:
        raise DataError(
            f"The evaluation {path.name!r} is of other weights.",
            expected=card.weights_sha256[:16],
            found=report["weights_sha256"][:16],
            remedy="evaluate this model again",
        )
    return report


def _figures(path: Path, card: ModelCard) -> dict[str, object]:
    report = _report(path, card)
    shared = {k: report[k] for k in ("threshold", "radius_um")}
    chosen = {k: report["config"][k] for k in ("split", "groups", "flips")}
    return {
        f"{name} ({path.stem})": {**shared, **chosen, **scores}
        for name, scores in report["scores"].items()
    }


def _credited(entry: dict[str, object], credits: dict[str, dict[str, str]]) -> dict[str, object]:
    name = str(entry["name"])
    if name not in credits:
        raise DataError(
            f"The notes give no credits for the data set {name!r}.",
            expected="licence and citation of every data set",
            found=", ".join(sorted(credits)),
            remedy="add them to the notes",
        )
    return {**entry, **credits[name]}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trained", type=Path)
    parser.add_argument("notes", type=Path)
    parser.add_argument("evaluations", type=Path, nargs="*")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, metavar="EVALUATION")
    given = parser.parse_args()
    try:
        card = finish(given.trained, given.notes, given.evaluations, given.out, given.calibration)
    except CellDETRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {card.title}, weights {card.weights_sha256[:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
