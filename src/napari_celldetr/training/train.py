"""Supervised training of a detector as a job: resumable to the bit, one log, one model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_celldetr import __version__
from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.progress import Job
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.registry import choose_device, save_model
from napari_celldetr.training.config import RunConfig, TrainConfig
from napari_celldetr.training.earlier import finished_before
from napari_celldetr.training.fraction import take_fraction
from napari_celldetr.training.kept import SCORE_FLOOR, THRESHOLD, Kept
from napari_celldetr.training.loop import Loss, Work, crop_feed, run
from napari_celldetr.training.pools import Pool, load_pools
from napari_celldetr.training.start import (
    ARCHITECTURES,
    Start,
    freeze,
    parameter_groups,
    rate_factor,
    settings_of,
    start,
)
from napari_celldetr.training.summary import what_is_trained_on
from napari_celldetr.training.validation import Scores, Validation, load_validation

PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66))
"""Okabe-Ito colours: told apart with every kind of colour vision."""


def train(config: TrainConfig, *, network: Any = None) -> Job[Path]:
    """Train a detector; yields a `Progress` per step and returns the model's folder.

    A checkpoint in ``config.output`` with the same settings is continued: the result is that of
    an uninterrupted run on the same machine. The log is ``log.jsonl``, a line per step and per
    validation; ``progress.html`` shows it while it grows.

    Parameters
    ----------
    config : TrainConfig
    network : dataclass, optional
        Settings of the network in place of those that ``config.architecture`` stands for, e.g. a
        `CellDETRConfig`.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, data or the model to start from cannot be used.
    JobError
        When the folder holds another run, or the loss stops being a number.
    """
    _check(config)
    every = load_pools(config)
    # Whatever the share, the same fields are validated on.
    validation = load_validation(config, every)
    pools = take_fraction(every, config.fraction, seed=config.seed)
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    begun = start(config, network)
    model = begun.model.to(device).train()
    freeze(model, config)
    work = Work(
        config,
        model,
        trunk_of(config, model),
        _loss(config, model, class_weights(pools, len(config.class_names)).to(device)),
        parameter_groups(config, model, factor=rate_factor(config, begun)),
        begun.statistics,
        lambda: crop_feed(config, pools),
        device,
        {} if network is None else {"network": json.loads(json.dumps(asdict(network)))},
        _validate(config, begun, pools, validation, device),
        config.keep == "best",
        what_is_trained_on(
            pools, config.class_names, () if validation is None else validation.fields
        ),
    )
    out = Path(config.output) / config.name
    if (yield from finished_before(config, work.settings)):
        return out
    average = yield from run(work)
    kept = Kept.of(config)
    card = make_card(config, begun, average, pools, work.precision.name, kept=kept)
    save_model(out, average, card)
    return out


def _check(config: TrainConfig) -> None:
    check(config)
    if not config.class_names:
        raise ConfigError(
            "No classes are named.",
            expected="class names separated by commas",
            found=repr(config.classes),
            remedy="give at least one, e.g. nucleus",
        )
    if config.keep == "best" and not config.validation.strip():
        raise ConfigError(
            "The best weights cannot be told without validation.",
            expected="data sets to validate on, or keep last",
            found="keep best and no validation",
            remedy="name data sets with --validation",
        )
    if config.freeze == "all_but_classifier" and not config.init:
        raise ConfigError(
            "A linear probe needs a model to probe.",
            expected="a model to start from",
            found="none",
            remedy="name one with --init",
        )


def trunk_of(config: RunConfig, model: nn.Module) -> nn.Module:
    """The convolutions of a network, on which number formats are tried."""
    return model.get_submodule(ARCHITECTURES[config.architecture].backbone)


def _loss(config: TrainConfig, model: nn.Module, weights: Tensor) -> Loss:
    criterion = ARCHITECTURES[config.architecture].criterion(model, weights, config)

    def loss(image: Tensor, targets: list[Targets], number: int) -> tuple[Tensor, dict[str, float]]:
        return criterion(model, image, targets)

    return loss


def _validate(
    config: TrainConfig,
    begun: Start,
    pools: Sequence[Pool],
    validation: Validation | None,
    device: str,
) -> Any:
    if validation is None:
        return None

    def validate(average: nn.Module) -> Job[Scores]:
        card = make_card(config, begun, average, pools, "float32")
        return validation.score(average, card, device)

    return validate


def class_weights(pools: Sequence[Pool], classes: int) -> Tensor:
    """Weights (K,) by the inverse square root of how often a class occurs, mean 1."""
    ids = np.concatenate([f.class_ids for p in pools for f in p.fields])
    counts = np.bincount(ids[ids >= 0], minlength=classes).astype(np.float64)
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    weights[counts == 0] = weights[counts > 0].mean() if (counts > 0).any() else 1.0
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def make_card(
    config: RunConfig,
    begun: Start,
    model: nn.Module,
    pools: Sequence[Pool],
    precision: str,
    *,
    kept: Kept | None = None,
) -> ModelCard:
    """The card of a freshly trained model; figures are added by evaluation.

    The threshold is the one that validation of the kept weights found best, on the scale of the
    scores as they are, where there was one.
    """
    arguments = settings_of(model)
    data = [
        {
            "name": p.spec.folder.name,
            "kind": p.spec.kind,
            "mpp": p.spec.mpp,
            "weight": p.spec.weight,
            "restained": p.spec.restain,
            "fields": len(p.fields),
            "cells": int(sum(len(f) for f in p.fields)),
            "groups": sorted({f.group for f in p.fields}),
        }
        for p in pools
    ]
    resolved = asdict(config.recipe) | {"precision": precision, "detects": begun.detects}
    if kept is not None:
        resolved["kept_step"] = kept.step
    measured = None if kept is None else kept.threshold
    return ModelCard(
        name=config.name,
        title=config.title or config.name,
        description=_description(type(model).__name__, begun.detects),
        architecture=ARCHITECTURES[config.architecture].registered,
        arguments=arguments,
        class_names=config.class_names,
        class_colors=tuple(PALETTE[i % len(PALETTE)] for i in range(len(config.class_names))),
        mpp=config.mpp,
        mean=begun.statistics[0],
        std=begun.statistics[1],
        stain=config.stain,
        threshold=THRESHOLD if measured is None else measured,
        score_floor=SCORE_FLOOR,
        weights_sha256="0" * 64,
        licence="BSD-3-Clause",
        data=data,
        metrics={},
        intended_use="Research use only. Not a medical device.",
        limits="Not evaluated yet." if begun.detects else "Cannot detect cells.",
        training=json.loads(to_json(config)) | resolved,
        parent=None if begun.parent is None else begun.parent.weights_sha256,
    )


def _description(network: str, detects: bool) -> str:
    made = f"{network} trained with napari-celldetr {__version__}."
    if detects:
        return made
    return made + " Its trunk and representation decoder are trained; it does not find cells."
