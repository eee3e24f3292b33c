"""What each part of CellDETR is worth: variants of the network, trained and measured alike.

CellDETR's paper has no such table. Every variant gets the same data, steps, seeds and recipe; its
run has a folder of its own, and one that is finished is read back.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.errors import ConfigError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.celldetr import CellDETRConfig
from napari_celldetr.nets.registry import choose_device, load_network
from napari_celldetr.training.ablation_report import AblationReport, Outcome, VariantRun
from napari_celldetr.training.checkpoint import FREE
from napari_celldetr.training.config import AblateConfig, TrainConfig
from napari_celldetr.training.history import read_history
from napari_celldetr.training.loop import DivergedError, make_folder
from napari_celldetr.training.pools import load_pools
from napari_celldetr.training.train import train
from napari_celldetr.training.validation import Scores, Validation, load_validation

TABLE, MARKDOWN, RESULT = "ablation.json", "ablation.md", "result.json"


def ablate(
    config: AblateConfig, *, variants: dict[str, CellDETRConfig] | None = None
) -> Job[AblationReport]:
    """Train and measure every variant; yields a `Progress` per step over all of them.

    The fields measured on are ``config.validation``'s, or those of ``config.data`` whose groups
    are not trained on. The table is written anew after each run, to ``ablation.json`` and
    ``ablation.md`` in ``config.output``. A variant whose loss stops being a number is named as
    failed, and the others go on.

    Parameters
    ----------
    config : AblateConfig
    variants : dict of str to CellDETRConfig, optional
        In place of `nets.variants.ablation_variants`; the first is what the others differ from.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, data or a variant cannot be used.
    JobError
        When the folder holds an ablation with other settings.
    """
    check(config)
    if variants is None:
        from napari_celldetr.nets.variants import ablation_variants

        variants = ablation_variants(len(config.class_names), mpp=config.mpp)
    variants = {name: _fitted(network, config.crop) for name, network in variants.items()}
    reference = next(iter(variants.values()))
    chosen = _chosen(config, variants)
    validation = _validation(config)
    folder = Path(config.output)
    if not config.fresh:
        _refuse_other(folder, config)
    make_folder(folder)
    plan = [(name, i) for name in chosen for i in range(config.repeats)]
    outcomes = {name: Outcome(name, _changes(reference, chosen[name])) for name in chosen}
    report = AblationReport(tuple(outcomes.values()), json.loads(to_json(config)))
    for done, (name, repeat) in enumerate(plan):
        job = _run(config, name, chosen[name], repeat, validation)
        made = yield from _shown(job, done, len(plan), config.steps, name)
        before = outcomes[name]
        outcomes[name] = replace(before, runs=(*before.runs, made))
        report = replace(report, outcomes=tuple(outcomes.values()))
        _write(folder / TABLE, json.dumps(report.as_dict(), indent=2) + "\n")
        _write(folder / MARKDOWN, report.as_markdown())
    return report


def _fitted(network: CellDETRConfig, crop: int) -> CellDETRConfig:
    """A network tied to a window, with the window and the queries of a crop of that side."""
    if network.geometry != "sigmoid" or network.window == crop:
        return network
    queries = max(round(network.queries * (crop / network.window) ** 2), 1)
    return replace(network, window=crop, queries=queries)


def _chosen(config: AblateConfig, variants: dict[str, CellDETRConfig]) -> dict[str, CellDETRConfig]:
    if config.init:
        raise ConfigError(
            "An ablation starts every variant afresh.",
            expected="no model to start from",
            found=config.init,
            remedy="leave out --init; --backbone-weights suits all variants",
        )
    wanted = [word.strip() for word in config.variants.split(",") if word.strip()]
    unknown = [name for name in wanted if name not in variants]
    if unknown:
        raise ConfigError(
            "There is no such variant.",
            expected="names out of " + ", ".join(variants),
            found=", ".join(unknown),
            remedy="correct --variants, or leave it out for all of them",
        )
    return {name: variants[name] for name in wanted or variants}


def _validation(config: AblateConfig) -> Validation:
    named = replace(config, validation=config.validation.strip() or config.data)
    validation = load_validation(named, load_pools(config))
    assert validation is not None
    return validation


def _refuse_other(folder: Path, config: AblateConfig) -> None:
    path = folder / TABLE
    if not path.is_file():
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    new = json.loads(to_json(config))
    free = FREE | {"variants", "repeats"}
    other = sorted(k for k in new if k not in free and old.get(k, new[k]) != new[k])
    if other:
        raise JobError(
            f"The folder {folder.name!r} holds an ablation with other settings.",
            expected=f"{other[0]} = {old[other[0]]!r}",
            found=f"{other[0]} = {new[other[0]]!r}",
            remedy="choose another output folder, or start over with --fresh",
        )


def _unreadable(path: Path, error: Exception) -> JobError:
    return JobError(
        f"{path.name} in {path.parent.name!r} cannot be read.",
        expected="what an earlier ablation wrote",
        found=f"{type(error).__name__}: {str(error)[:120]}",
        remedy="choose another output folder, or start over with --fresh",
    )


def _changes(reference: CellDETRConfig, variant: CellDETRConfig) -> dict[str, Any]:
    first, other = asdict(reference), asdict(variant)
    return {name: value for name, value in other.items() if value != first[name]}


def _shown(job: Job[VariantRun], done: int, total: int, steps: int, name: str) -> Job[VariantRun]:
    # The same job, its progress counted over all runs; closed at once when this one is.
    with contextlib.closing(job):
        while True:
            try:
                step = next(job)
            except StopIteration as stop:
                run: VariantRun = stop.value
                return run
            passed = done * steps + max(steps - (step.total - step.done), 0)
            words = f"{name} ({done + 1} of {total}): "
            note = words + step.note if step.note else ""
            yield Progress(passed, total * steps, words + step.message, note=note)


def _run(
    config: AblateConfig,
    name: str,
    network: CellDETRConfig,
    repeat: int,
    validation: Validation,
) -> Job[VariantRun]:
    seed = config.seed + repeat
    folder = Path(config.output) / f"{name}-seed{seed}"
    settings = json.loads(json.dumps(asdict(network)))
    if not config.fresh and (folder / RESULT).is_file():
        yield Progress(config.steps, config.steps, "read back")
        return _read_back(folder / RESULT, settings)
    own = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    own |= {"output": str(folder), "name": "model", "title": name, "seed": seed}
    try:
        model = yield from train(TrainConfig(**own), network=network)
        run = yield from _measured(seed, model, validation, config)
    except DivergedError as error:
        run = VariantRun(seed, failed=f"{error.message} Found: {error.found}")
        make_folder(folder)
    result = asdict(run) | {"network": settings}
    _write(folder / RESULT, json.dumps(result, indent=2) + "\n")
    return run


def _measured(
    seed: int, model: Path, validation: Validation, config: AblateConfig
) -> Job[VariantRun]:
    # What was saved is what is measured, as a user of the model would find it.
    network, card = load_network(model)
    device = choose_device(config.device)
    warm = replace(validation, fields=validation.fields[:1])
    yield from _quiet(warm.score(network, card, device), config)
    scores = yield from _quiet(validation.score(network, card, device), config)
    seconds = np.diff(np.asarray(read_history(model.parent).seconds))
    return VariantRun(
        seed,
        scores.as_dict(),
        sum(p.numel() for p in network.parameters()),
        round(scores.ms_per_mpx, 2),
        round(float(np.median(seconds)), 4) if len(seconds) else None,
        torch.cuda.get_device_name() if device.startswith("cuda") else device,
    )


def _quiet(job: Job[Scores], config: AblateConfig) -> Job[Scores]:
    while True:
        try:
            field = next(job)
        except StopIteration as stop:
            scores: Scores = stop.value
            return scores
        yield Progress(config.steps, config.steps, field.message)


def _read_back(path: Path, network: dict[str, Any]) -> VariantRun:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found.pop("network") == network
        run = VariantRun(**found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    if not same:
        raise JobError(
            f"{path.parent.name} was measured with another network.",
            expected="the network this version means by that name",
            found="other settings of the network",
            remedy="choose another output folder, or start over with --fresh",
        )
    return run


def _write(path: Path, text: str) -> None:
    try:
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise JobError(
            f"{path.name} cannot be written.",
            expected=f"room in {path.parent}",
            found=error.strerror or type(error).__name__,
            remedy="make room, then give the same command: finished variants are read back",
        ) from error
