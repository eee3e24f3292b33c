"""Cross-validation by patient or by site: what a recipe is worth on people it never saw.

Every fold is a training of its own in a folder of its own, with exact resume; a finished fold is
read back. Several processes may share the work by `only`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import fields as settings
from pathlib import Path
from typing import Any, Literal

import numpy as np

from napari_celldetr import RESEARCH_USE, __version__
from napari_celldetr.core.config import check
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.core.metrics import HoverNetScores, PointScores, hovernet_scores
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.registry import load_model
from napari_celldetr.training.checkpoint import FREE
from napari_celldetr.training.config import CrossvalidateConfig, TrainConfig
from napari_celldetr.training.datasets import Field as AnnotatedField
from napari_celldetr.training.datasets import resample
from napari_celldetr.training.evaluate import found_cells, point_field, where_labels_speak
from napari_celldetr.training.folds import group_folds, site_of
from napari_celldetr.training.held_out import (
    HeldOutField,
    fold_thresholds,
    load_held_out,
    save_held_out,
    scores_at,
    thresholded,
)
from napari_celldetr.training.join import join
from napari_celldetr.training.pools import load_fields, split_to_read
from napari_celldetr.training.specs import DataSpec, parse_data
from napari_celldetr.training.train import train

MODEL, JOINED = "model", "joined"


@dataclass(frozen=True)
class SetReport:
    """What cross-validation says of one data set.

    `held_out` are the fields with all that was found; `thresholds` are by fold, each chosen on
    the other folds; `scores` are by radius in µm. `hovernet` and `gated` are HoVer-Net's figures
    at the first radius: as published, and with pairs within the radius only.
    """

    name: str
    mpp: float
    class_names: tuple[str, ...]
    held_out: tuple[HeldOutField, ...]
    thresholds: dict[int, float]
    scores: dict[float, PointScores]
    hovernet: HoverNetScores
    gated: HoverNetScores


@dataclass(frozen=True)
class CrossReport:
    """Scores of every data set on networks that never saw the groups they are scored on.

    `folds` are the groups held out together; `done` the numbers of the folds that were run.
    """

    by: str
    folds: tuple[tuple[str, ...], ...]
    done: tuple[int, ...]
    sets: dict[str, SetReport]

    def as_text(self) -> str:
        """The report for people."""
        head = f"{len(self.done)} of {len(self.folds)} folds by {self.by}"
        parts = [head + ". Intervals: 95 %, bootstrap over fields."]
        for report in self.sets.values():
            cuts = ", ".join(f"{t:g}" for t in report.thresholds.values())
            chosen = "each chosen on the other folds"
            if len(report.thresholds) < 2:
                chosen = "chosen on these very fields, so a little optimistic"
            parts.append(f"\n{report.name} (score thresholds, {chosen}: {cuts})")
            parts += [
                f"radius {radius:g} µm\n{scores.to_text()}"
                for radius, scores in report.scores.items()
            ]
        return "\n".join([*parts, "", RESEARCH_USE])

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "by": self.by,
            "folds": [list(groups) for groups in self.folds],
            "done": list(self.done),
            "sets": {
                name: {
                    "mpp": r.mpp,
                    "thresholds": {str(k): v for k, v in r.thresholds.items()},
                    "scores_by_radius_um": {f"{k:g}": s.to_dict() for k, s in r.scores.items()},
                    "hovernet": r.hovernet.to_dict(),
                    "hovernet_gated": r.gated.to_dict(),
                }
                for name, r in self.sets.items()
            },
        }


def crossvalidate(config: CrossvalidateConfig) -> Job[CrossReport]:
    """Train once per fold without its groups, and score every field by the network of its fold.

    Yields a `Progress` per training step and per field. A fold whose run is finished is read
    back; the report (`report_path`) in the output folder is written last. With
    ``config.overview_from`` it is the networks joined with those overviews that are scored.

    Raises
    ------
    ConfigError, DataError, ModelError, JobError
        As `train`, `join` and `evaluate`; `ConfigError` also for folds that do not exist, and
        where the overviews were trained on patients that are held out.
    """
    check(config)
    if config.keep == "best":
        raise ConfigError(
            "Cross-validation keeps the last weights.",
            expected="keep last: the best would be chosen on the fields that are scored",
            found="keep best",
            remedy="leave it out; train with validation to choose the number of steps",
        )
    radii = config.radii
    sets = _labelled_sets(config)
    folds = divide(sets, config.by, config.folds)
    wanted = _wanted(config.only, len(folds))
    out = Path(config.output)
    found: dict[str, list[HeldOutField]] = {}
    plans = {n: _fold_config(config, out / f"{config.by}-{n}", folds[n - 1]) for n in wanted}
    if config.overview_from:
        # Before hours of training.
        for plan in plans.values():
            _overview(config, plan)
    for number, plan in plans.items():
        folder = Path(plan.output)
        if not _is_trained(folder / MODEL, plan):
            yield from _renamed(train(plan), f"fold {number} of {len(folds)}")
        model = _joined(config, plan) if config.overview_from else folder / MODEL
        for (spec, members), name in zip(sets.items(), set_names(sets), strict=True):
            held = [f for f in members if f.group in folds[number - 1]]
            if held:
                kept = folder / f"found-{name}{_variant(config)}.npz"
                cells = yield from _cells(model, spec, held, number, kept, flips=config.flips)
                found.setdefault(name, []).extend(cells)
    card = read_card(out / f"{config.by}-{wanted[0]}" / MODEL)
    reports = {
        name: _report(name, members, card.mpp, card.class_names, radii)
        for name, members in found.items()
    }
    report = CrossReport(config.by, tuple(tuple(sorted(f)) for f in folds), tuple(wanted), reports)
    report_path(config, wanted, len(folds)).write_text(
        json.dumps(report.as_dict(), indent=1), encoding="utf-8"
    )
    return report


def report_path(config: CrossvalidateConfig, done: Sequence[int], folds: int) -> Path:
    """``report-site.json`` in the output folder; with the folds' numbers where not all were run.

    What else is part of the name says how the networks were scored.
    """
    part = "" if len(done) == folds else "-" + "-".join(str(n) for n in done)
    return Path(config.output) / f"report-{config.by}{part}{_variant(config)}.json"


def _variant(config: CrossvalidateConfig) -> str:
    # The same networks are scored in several ways, each with files of its own.
    return ("-joined" if config.overview_from else "") + ("-flips" if config.flips else "")


def held_out_groups(config: CrossvalidateConfig) -> list[set[str]]:
    """The groups that each fold of a cross-validation holds out; raises as `crossvalidate`."""
    return divide(_labelled_sets(config), config.by, config.folds)


def set_names(specs: Iterable[DataSpec]) -> list[str]:
    """A name for each set: its folder's, with a number where several folders are called alike."""
    counted: Counter[str] = Counter()
    names = []
    for spec in specs:
        counted[spec.folder.name] += 1
        again = counted[spec.folder.name]
        names.append(spec.folder.name if again == 1 else f"{spec.folder.name}~{again}")
    return names


def divide(
    sets: dict[DataSpec, list[AnnotatedField]], by: Literal["group", "site"], folds: int
) -> list[set[str]]:
    """Groups to hold out together, fold by fold.

    By group every set is divided on its own, and fold k holds out the k-th part of each; sets
    that share a group are divided as one. By site a fold is a site; sets without TCGA barcodes
    are never held out.
    """
    if by == "group":
        parts = [group_folds(members, folds) for members in _apart(sets)]
        return [set().union(*(p[k] for p in parts)) for k in range(folds)]
    sites: dict[str, set[str]] = {}
    for members in sets.values():
        for field in members:
            site = site_of(field.group) or site_of(field.name)
            if site is not None:
                sites.setdefault(site, set()).add(field.group)
    if len(sites) < 2:
        raise DataError(
            "The fields cannot be divided by site.",
            expected="TCGA barcodes of at least two sites in the names of groups or images",
            found=", ".join(sorted(sites)) or "none",
            remedy="divide by group",
        )
    return [sites[name] for name in sorted(sites)]


def _apart(sets: dict[DataSpec, list[AnnotatedField]]) -> list[list[AnnotatedField]]:
    # Fields that are divided together: those of a set, and of all sets that share a group with it.
    parts: list[list[AnnotatedField]] = []
    for members in sets.values():
        groups = {f.group for f in members}
        sharing = [p for p in parts if groups & {f.group for f in p}]
        parts = [p for p in parts if not any(p is q for q in sharing)]
        parts.append([f for p in (*sharing, members) for f in p])
    return parts


def _labelled_sets(config: CrossvalidateConfig) -> dict[DataSpec, list[AnnotatedField]]:
    sets = {}
    for spec in parse_data(config.data):
        split = split_to_read(spec, config)
        members = load_fields(spec, class_names=config.data_classes, split=split)
        # On a field that is not annotated throughout, a found cell may well be right.
        usable = [f for f in members if f.complete and f.group not in config.held_out]
        if usable:
            sets[spec] = usable
    return sets


def _wanted(only: str, folds: int) -> list[int]:
    words = [w.strip() for w in only.split(",") if w.strip()]
    numbers = sorted({int(w) for w in words if w.isdigit()}) if words else list(range(1, folds + 1))
    if not numbers or len(numbers) < len(set(words)) or not 1 <= numbers[0] <= numbers[-1] <= folds:
        raise ConfigError(
            "There are no such folds.",
            expected=f"numbers from 1 to {folds}, separated by commas",
            found=repr(only),
            remedy="name folds that exist, or none for all",
        )
    return numbers


def _fold_config(config: CrossvalidateConfig, folder: Path, held: set[str]) -> TrainConfig:
    same = {s.name: getattr(config, s.name) for s in settings(TrainConfig)}
    changes = {
        "output": str(folder),
        "name": MODEL,
        "hold_out": ",".join(sorted(held | config.held_out)),
    }
    return TrainConfig(**(same | changes))


def _is_trained(folder: Path, plan: TrainConfig) -> bool:
    # The model is written when training ends, with its settings in the card.
    if plan.fresh or not (folder / "card.json").is_file():
        return False
    training = read_card(folder).training
    ours = {s.name: getattr(plan, s.name) for s in settings(TrainConfig)} | asdict(plan.recipe)
    # Where it runs, and in which number format, is no part of what is trained.
    free = {*FREE, "device", "precision"}
    return all(training.get(k) == v for k, v in ours.items() if k not in free)


def _overview(config: CrossvalidateConfig, plan: TrainConfig) -> Path:
    """The other cross-validation's network of the same fold; `ConfigError` when it is none."""
    fold = Path(plan.output).name
    folder = Path(config.overview_from) / fold / MODEL
    if not (folder / "card.json").is_file():
        raise ConfigError(
            f"There is no overview for {fold}.",
            expected=f"a finished fold in {folder.parent}",
            found="none",
            remedy="run the cross-validation of the overviews first",
        )
    said = read_card(folder).training
    # Whatever else it was trained with, it must not know who is held out here.
    other = [k for k in ("hold_out", "data", "split", "init") if said.get(k) != getattr(plan, k)]
    if other:
        raise ConfigError(
            f"The overview for {fold} was trained on other groups or fields.",
            expected="; ".join(f"{k} {getattr(plan, k)!r}" for k in other),
            found="; ".join(f"{k} {said.get(k)!r}" for k in other),
            remedy="cross-validate both over the same data",
        )
    return folder


def _joined(config: CrossvalidateConfig, plan: TrainConfig) -> Path:
    """The fold's network joined with its overview, anew where one of them is another."""
    coarse, folder = _overview(config, plan), Path(plan.output)
    made = folder / JOINED
    parts = tuple(read_card(p).weights_sha256 for p in (folder / MODEL, coarse))
    if (made / "card.json").is_file():
        card = read_card(made)
        if (card.parent, card.training.get("overview", {}).get("weights_sha256")) == parts:
            return made
        (made / "card.json").unlink()
    join(folder / MODEL, coarse, made)
    return made


def _renamed(job: Job[Path], words: str) -> Job[Path]:
    # Closed at once when this one is, so that an interrupted fold is saved.
    with contextlib.closing(job):
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                return Path(end.value)
            note = f"{words}: {step.note}" if step.note else ""
            yield replace(step, message=f"{words}: {step.message}", note=note)


def _cells(
    model: Path,
    spec: DataSpec,
    held: Sequence[AnnotatedField],
    number: int,
    path: Path,
    *,
    flips: bool,
) -> Job[list[HeldOutField]]:
    weights = read_card(model).weights_sha256
    words = {"weights": weights, "content": _content(spec, held), "version": __version__}
    known = load_held_out(path, **words)
    if known is not None:
        return known
    predictor = load_model(model, flips=flips)
    started = time.monotonic()
    cells = []
    for done, field in enumerate(held, 1):
        small = resample(field, predictor.card.mpp)
        cells.append(_one(predictor, small, number))
        yield Progress(done, len(held), field.name, seconds=time.monotonic() - started)
    save_held_out(path, cells, **words)
    return cells


def _content(spec: DataSpec, held: Sequence[AnnotatedField]) -> str:
    # Another folder, other pixels or corrected labels are other fields.
    sha = hashlib.sha256(str(spec).encode())
    for field in held:
        sha.update(field.name.encode())
        for array in (field.image, field.points, field.class_ids):
            sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _one(predictor: Predictor, field: AnnotatedField, number: int) -> HeldOutField:
    field, found = where_labels_speak(field, found_cells(predictor, field))
    cells = replace(point_field(field, found), scores=np.asarray(found.scores, np.float64))
    return HeldOutField(field.group, number, cells, _sure(found))


def _sure(found: Detections) -> np.ndarray[Any, np.dtype[np.float32]]:
    known = found.columns.get("class_probability")
    return np.ones(len(found), np.float32) if known is None else np.asarray(known, np.float32)


def _report(
    name: str,
    members: list[HeldOutField],
    mpp: float,
    class_names: tuple[str, ...],
    radii: Sequence[float],
) -> SetReport:
    labelled = any((f.cells.ids()[0] >= 0).any() for f in members)
    names = class_names if labelled else ()
    thresholds = fold_thresholds(members, radii[0] / mpp)
    px = scores_at(members, thresholds, [r / mpp for r in radii], names)
    cells, main = thresholded(members, thresholds), radii[0] / mpp
    return SetReport(
        name,
        mpp,
        names,
        tuple(members),
        thresholds,
        dict(zip(radii, px.values(), strict=True)),
        hovernet_scores(cells, main, class_names=names),
        hovernet_scores(cells, main, class_names=names, gated=True),
    )
