"""Supervised training of CellDETR as a job: resumable to the bit, one log, one model folder."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from napari_celldetr import __version__
from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.errors import ConfigError, JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.registry import (
    choose_device,
    find_model,
    load_network,
    save_model,
)
from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.checkpoint import load_checkpoint, save_checkpoint
from napari_celldetr.training.config import TrainConfig
from napari_celldetr.training.pools import Pool, load_pools
from napari_celldetr.training.stream import CropStream, collate, to_device

LOG = "log.jsonl"
PALETTE = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66))
"""Okabe-Ito colours: told apart with every kind of colour vision."""
_MEAN = {"mobilenetv2_100": (0.5, 0.5, 0.5), "resnet50": (0.7048, 0.5733, 0.7413)}
_STD = {"mobilenetv2_100": (0.5, 0.5, 0.5), "resnet50": (0.1787, 0.2259, 0.1903)}


def train(config: TrainConfig) -> Job[Path]:
    """Train a detector; yields a `Progress` per step and returns the model's folder.

    A checkpoint in ``config.output`` with the same settings is continued: the result is that of
    an uninterrupted run on the same machine. The log is ``log.jsonl``, a line per step.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, data or the model to start from cannot be used.
    JobError
        When the folder holds another run, or the loss stops being a number.
    """
    check(config)
    if not config.class_names:
        raise ConfigError(
            "No classes are named.",
            expected="class names separated by commas",
            found=repr(config.classes),
            remedy="give at least one, e.g. nucleus",
        )
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    pools = load_pools(config)
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    model = _start_model(config).to(device)
    run = _Run(config, model, pools, device)
    first = 0
    if not config.fresh:
        first = load_checkpoint(folder, model, run.average, run.optimizer, config=to_json(config))
    yield from _loop(run, folder, first)
    out = folder / config.name
    save_model(out, run.average, make_card(config, run.average, pools))
    return out


class _Run:
    """Everything a training step needs."""

    def __init__(
        self, config: TrainConfig, model: CellDETR, pools: list[Pool], device: str
    ) -> None:
        self.config, self.model, self.device, self.pools = config, model, device, pools
        model.to(memory_format=torch.channels_last).train()
        # The fast form's gradient is the reference's, so forwards it would only be extra work.
        model.set_backend("grid_sample")
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.groups = _parameter_groups(config, model)
        self.optimizer = torch.optim.AdamW(
            self.groups, betas=(0.9, 0.99), weight_decay=config.recipe.weight_decay
        )
        self.rates = [g["lr"] for g in self.groups]
        weights = class_weights(pools, len(config.class_names)).to(device)
        self.criterion = Criterion.for_model(model, weights)
        mean, std = input_statistics(model.config.backbone)
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255

    def step(self, number: int, image: Tensor, targets: list[Targets]) -> dict[str, float]:
        """One optimisation step; returns the parts of the loss."""
        torch.manual_seed(self.config.seed * 1_000_003 + number)
        self._set_rates(number)
        image = (image.to(self.device).float() - self.mean) / self.std
        image = image.contiguous(memory_format=torch.channels_last)
        loss, parts = self.criterion(self.model, image, to_device(targets, self.device))
        if not math.isfinite(float(loss.detach())):
            raise _not_a_number("loss", number, parts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [
            nn.utils.clip_grad_norm_(g["params"], self.config.recipe.clip) for g in self.groups
        ]
        if not all(math.isfinite(float(norm)) for norm in norms):
            raise _not_a_number("gradient", number, parts)
        self.optimizer.step()
        self._update_average(number)
        return {"loss": float(loss.detach()), **parts}

    def _set_rates(self, number: int) -> None:
        c = self.config
        rise = min(1.0, (number + 1) / max(c.recipe.warmup, 1))
        fall = 0.5 * (1 + math.cos(math.pi * number / c.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rise * max(fall, 0.01)

    @torch.no_grad()
    def _update_average(self, number: int) -> None:
        decay = min(self.config.ema, (1 + number) / (10 + number))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for mean, new in pairs:
            mean.lerp_(new, 1 - decay)
        for kept, now in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(now)


def _not_a_number(what: str, step: int, parts: dict[str, float]) -> JobError:
    return JobError(
        f"The {what} is not a number at step {step}.",
        expected=f"a finite {what}",
        found=json.dumps(parts),
        remedy="lower the learning rates, or check the annotations; the last checkpoint is kept",
    )


def _loop(run: _Run, folder: Path, first: int) -> Iterator[Progress]:
    config = run.config
    started = time.monotonic()
    batches = iter(_batches(config, run.pools, first))
    _trim_log(folder / LOG, first)
    with (folder / LOG).open("a", encoding="utf-8") as log:
        for number in range(first, config.steps):
            image, targets = next(batches)
            parts = run.step(number, image, targets)
            seconds = time.monotonic() - started
            line = {"step": number + 1, "seconds": round(seconds, 2)}
            log.write(json.dumps(line | {k: round(v, 5) for k, v in parts.items()}) + "\n")
            log.flush()
            if (number + 1) % config.checkpoint_steps == 0 or number + 1 == config.steps:
                _save(run, folder, number + 1)
            yield Progress(
                number + 1 - first,
                config.steps - first,
                f"step {number + 1} of {config.steps}, loss {parts['loss']:.3f}",
                seconds=seconds,
            )


def _trim_log(path: Path, steps: int) -> None:
    # Steps after the checkpoint are done again: one line a step, of one run.
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    path.write_text("".join(f"{line}\n" for line in lines[:steps]), encoding="utf-8")


def _save(run: _Run, folder: Path, step: int) -> None:
    save_checkpoint(
        folder, run.model, run.average, run.optimizer, step=step, config=to_json(run.config)
    )


def _batches(
    config: TrainConfig, pools: list[Pool], first: int
) -> DataLoader[tuple[Tensor, list[Targets]]]:
    stream = CropStream(
        pools,
        size=config.crop,
        length=config.steps * config.recipe.batch,
        seed=config.seed,
        augmentation=Augmentation(),
    )
    rest = Subset(stream, range(first * config.recipe.batch, len(stream)))
    # The loader's items are what `collate` makes of the stream's.
    return DataLoader(
        cast("Dataset[tuple[Tensor, list[Targets]]]", rest),
        batch_size=config.recipe.batch,
        num_workers=config.workers,
        collate_fn=collate,
        multiprocessing_context="spawn" if config.workers else None,
        prefetch_factor=4 if config.workers else None,
    )


def _start_model(config: TrainConfig) -> CellDETR:
    count = len(config.class_names)
    weights = config.backbone_weights or None
    if config.architecture == "small":
        wanted = CellDETRConfig.small(count)
    else:
        wanted = CellDETRConfig(num_classes=count)
    if not config.init:
        return CellDETR(wanted, backbone_weights=weights)
    parent, _ = load_network(config.init)
    if not isinstance(parent, CellDETR):
        raise ConfigError(
            f"Model {config.init!r} cannot be the start of this training.",
            expected="a CellDETR",
            found=type(parent).__name__,
            remedy="start from another model",
        )
    if parent.config.num_classes == count:
        return parent
    # Other classes: everything but the class heads goes on.
    from dataclasses import replace

    model = CellDETR(replace(parent.config, num_classes=count))
    own = model.state_dict()
    fitting = {k: v for k, v in parent.state_dict().items() if v.shape == own[k].shape}
    model.load_state_dict(fitting, strict=False)
    return model


def _parameter_groups(config: TrainConfig, model: CellDETR) -> list[dict[str, Any]]:
    heads = ("encoder.pyramid", "encoder.heat_head", "encoder.class_head")
    recipe = config.recipe
    rates = {"backbone": recipe.lr_backbone, "heads": recipe.lr_heads}
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "heads": [], "decoders": []}
    for name, parameter in model.named_parameters():
        if name.startswith("encoder.backbone"):
            groups["backbone"].append(parameter)
        elif name.startswith(heads):
            groups["heads"].append(parameter)
        else:
            groups["decoders"].append(parameter)
    return [
        {"params": members, "lr": rates.get(name, recipe.lr_decoders)}
        for name, members in groups.items()
        if members
    ]


def class_weights(pools: list[Pool], classes: int) -> Tensor:
    """Weights (K,) by the inverse square root of how often a class occurs, mean 1."""
    ids = np.concatenate([f.class_ids for p in pools for f in p.fields])
    counts = np.bincount(ids[ids >= 0], minlength=classes).astype(np.float64)
    weights = 1 / np.sqrt(np.maximum(counts, 1))
    weights[counts == 0] = weights[counts > 0].mean() if (counts > 0).any() else 1.0
    return torch.tensor(weights / weights.mean(), dtype=torch.float32)


def input_statistics(backbone: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input, as the backbone's weights expect."""
    return _MEAN.get(backbone, (0.485, 0.456, 0.406)), _STD.get(backbone, (0.229, 0.224, 0.225))


def make_card(config: TrainConfig, model: CellDETR, pools: list[Pool]) -> ModelCard:
    """The card of a freshly trained model; figures are added by evaluation."""
    from dataclasses import asdict

    mean, std = input_statistics(model.config.backbone)
    arguments = asdict(model.config) | {"backend": "embedding_bag"}
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
    return ModelCard(
        name=config.name,
        title=config.title or config.name,
        description=f"CellDETR trained with napari-celldetr {__version__}.",
        architecture="celldetr",
        arguments=arguments,
        class_names=config.class_names,
        class_colors=tuple(PALETTE[i % len(PALETTE)] for i in range(len(config.class_names))),
        mpp=config.mpp,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        stain=config.stain,
        threshold=0.4,
        score_floor=0.05,
        weights_sha256="0" * 64,
        licence="BSD-3-Clause",
        data=data,
        metrics={},
        intended_use="Research use only. Not a medical device.",
        limits="Not evaluated yet.",
        training=json.loads(to_json(config)) | asdict(config.recipe),
        parent=read_card(find_model(config.init)).weights_sha256 if config.init else None,
    )
