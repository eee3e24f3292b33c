"""What corrections are worth to a detector: fine-tuned on some patients, measured on others.

    python benchmarks/bench_finetune.py --data DATA

A simulated teacher: the labels of a data set are given as corrections, in complete pieces of
fields, 25 to 400 cells. Both sides are printed: the model before and after, on patients of that
set that gave no corrections, and on validation patients of the model's own old set (forgetting).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_celldetr.core.metrics import PointScores, point_scores
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.registry import find_model, load_network
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.nets.widen import widened
from napari_celldetr.pipeline.finetune_lessons import ADAPTER_CHANNELS, CROPS
from napari_celldetr.training.evaluate import found_cells, point_field, where_labels_speak
from napari_celldetr.training.fields import Field, resample
from napari_celldetr.training.finetune import Lessons, tune
from napari_celldetr.training.finetune_cache import MOST_VIEWS, see_crops
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.rehearsal import read_rehearsal
from napari_celldetr.training.specs import parse_data
from napari_celldetr.training.validation import RADIUS_UM

COUNTS = (25, 50, 100, 200, 400)
PIECE_UM = 48.0
"""Side of what the teacher reviews completely at a time."""


@dataclass(frozen=True)
class Setting:
    """The model, what it is taught, and what it must not forget."""

    model: CellDETR
    card: ModelCard
    taught: list[Field]
    others: list[Field]
    old: list[Field]


def fields(word: str, card: ModelCard, groups: set[str] | None, split: str | None) -> list[Field]:
    names = card.class_names if split else ()
    every = load_fields(parse_data(word)[0], class_names=names, split=split)
    chosen = [f for f in every if len(f) and (groups is None or f.group in groups)]
    return [resample(f, card.mpp) for f in chosen]


def figures(model: CellDETR, card: ModelCard, on: list[Field], *, typed: bool) -> PointScores:
    predictor = CellDETRPredictor(copy.deepcopy(model), card)
    items = []
    for field in on:
        found = found_cells(predictor, field).above(card.threshold)
        items.append(point_field(*where_labels_speak(field, found)))
    if not typed:
        items = [replace(i, truth_ids=None, found_ids=None) for i in items]
    names = card.class_names if typed else ()
    return point_scores(items, RADIUS_UM / card.mpp, class_names=names, bootstrap=500)


def pieces(every: list[Field], count: int, seed: int) -> list[Field]:
    """Fields in which random squares are reviewed until `count` cells are: else nothing counts."""
    rng = np.random.default_rng(seed)
    side = round(PIECE_UM / float(every[0].mpp or 0.5))
    places = [
        (i, x, y)
        for i, f in enumerate(every)
        for x in range(0, f.image.shape[1] - side // 2, side)
        for y in range(0, f.image.shape[0] - side // 2, side)
    ]
    valid = {i: np.zeros(f.image.shape[:2], bool) for i, f in enumerate(every)}
    given = 0
    for k in rng.permutation(len(places)):
        i, x, y = places[k]
        at = every[i].points
        inside = ((at >= (x, y)) & (at < (x + side, y + side))).all(axis=1)
        valid[i][y : y + side, x : x + side] = True
        given += int(inside.sum())
        if given >= count:
            break
    made = []
    for i, field in enumerate(every):
        if valid[i].any():
            kept = np.flatnonzero(replace(field, valid=valid[i]).known_at(field.points))
            made.append(
                replace(
                    field,
                    valid=valid[i],
                    points=field.points[kept],
                    sizes=field.sizes[kept],
                    class_ids=field.class_ids[kept],
                    instances=None,
                )
            )
    return made


def run(setting: Setting, count: int, config: FinetuneConfig, seed: int) -> dict[str, Any]:
    card = setting.card
    lessons = pieces(setting.taught, count, seed)
    inner = ADAPTER_CHANNELS if config.what == "adapters" else 0
    model = widened(copy.deepcopy(setting.model), len(card.class_names), adapters=inner)
    started, used = time.monotonic(), time.process_time()
    crops = drain(
        see_crops(
            model.eval(),
            Normalizer(card.mean, card.std),
            lessons,
            side=192 if card.mpp > 0.35 else 384,
            count=min(CROPS, MOST_VIEWS * len(lessons)),
            seed=seed,
        )
    )
    sample = read_rehearsal(find_model(config.model), card) if config.rehearsal else []
    done = drain(tune(model, card, Lessons(crops, sample), config, device="cpu"))
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    return {
        "corrections": sum(len(f) for f in lessons),
        "tiles": len(lessons),
        "steps": done.steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "others": figures(done.model, card, setting.others, typed=False).to_dict(),
        "old": figures(done.model, card, setting.old, typed=True).to_dict(),
    }


def told(name: str, row: dict[str, Any]) -> str:
    new, old = row["others"], row["old"]
    low, high = new["intervals"]["detection"]
    return (
        f"{name:>12}  others {new['detection']['f1']:.3f} [{low:.3f}, {high:.3f}]"
        f"  old {old['detection']['f1']:.3f}, class mean {old['class_mean_f1']:.3f}"
        + (f"  {row['seconds']:.0f} s ({row['cpu_seconds']:.0f} s CPU)" if "seconds" in row else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="celldetr-he")
    parser.add_argument("--word", default="points:{data}/ihc_endonuke@0.29")
    parser.add_argument("--teach", default="9209df3f", help="patients that give corrections")
    parser.add_argument("--others", default="214cef3d", help="patients that it is measured on")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--what", nargs="+", default=["adapters"])
    parser.add_argument("--rehearsal", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=FinetuneConfig().steps)
    parser.add_argument("--rate", type=float, default=FinetuneConfig().rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    model, card = load_network(given.model)
    assert isinstance(model, CellDETR)
    word = given.word.format(data=given.data)
    setting = Setting(
        model.eval(),
        card,
        [
            replace(f, class_names=card.class_names)
            for f in fields(word, card, set(given.teach.split(",")), None)
        ],
        fields(word, card, set(given.others.split(",")), None),
        fields(f"points:{given.data}/he_brca_m2c@0.5", card, None, "val"),
    )
    before = {
        "others": figures(model, card, setting.others, typed=False).to_dict(),
        "old": figures(model, card, setting.old, typed=True).to_dict(),
    }
    print(f"{given.model} on {torch.get_num_threads()} threads; 95 % intervals over fields")
    print(told("before", before), flush=True)
    rows: dict[str, Any] = {"before": before}
    for what in given.what:
        for count in given.counts:
            config = FinetuneConfig(
                model=given.model,
                what=what,
                steps=given.steps,
                rate=given.rate,
                rehearsal=given.rehearsal,
            )
            name = f"{what} {count}"
            rows[name] = run(setting, count, config, given.seed)
            print(told(name, rows[name]), flush=True)
            if given.json:
                given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
