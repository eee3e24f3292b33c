"""Contrastive pretraining on fields without labels, as a job: boxes found, then cells told apart.

What comes out is a model folder whose trunk and representation decoder know tissue; it does not
detect. `celldetr train --init` goes on from it (CellDETR, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from napari_celldetr.core.config import check
from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.core.progress import Job
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.contrastive import ContrastiveHead, contrastive_loss
from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.noise import BoxNoise
from napari_celldetr.nets.registry import choose_device, save_model
from napari_celldetr.training.config import PretrainConfig
from napari_celldetr.training.datasets import IMAGE_SUFFIXES, Field, read_image, resample
from napari_celldetr.training.earlier import finished_before
from napari_celldetr.training.found_boxes import find_boxes
from napari_celldetr.training.loop import Loss, Work, crop_feed, run
from napari_celldetr.training.pools import Pool, load_fields, refuse_unknown_groups, split_to_read
from napari_celldetr.training.specs import DataSpec, parse_data
from napari_celldetr.training.start import parameter_groups, rate_factor, start
from napari_celldetr.training.summary import what_is_trained_on
from napari_celldetr.training.train import make_card, trunk_of

PIECE_PX = 1024
"""Larger pictures are cut into pieces of at most this side."""


def pretrain(config: PretrainConfig) -> Job[Path]:
    """Pretrain on unlabelled fields; yields `Progress` and returns the model's folder.

    Boxes come from the detector ``config.boxes_from``, which runs first and whose boxes are kept
    in the run's folder, or from data sets that have them. It is resumable, logged and shown as
    `train` is.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, data or a model cannot be used.
    JobError
        When the folder holds another run, or the loss stops being a number.
    """
    check(config)
    noise = BoxNoise(config.noise_low, config.noise_high)
    pools = load_unlabelled(config)
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    begun = replace(start(config), detects=False)
    model = begun.model.train()
    if not isinstance(model, CellDETR):
        raise ConfigError(
            "This network cannot be pretrained.",
            expected="a CellDETR, which describes the cell in a box",
            found=type(model).__name__,
            remedy="choose another architecture",
        )
    # What is drawn next must not depend on whether boxes are found now or were before.
    head = ContrastiveHead(model.config.size)
    if config.boxes_from:
        pools = yield from find_boxes(
            pools,
            config.boxes_from,
            device=device,
            mpp=config.mpp,
            cache=Path(config.output),
        )
    pools = [_with_boxes(pool, config) for pool in pools]
    groups = parameter_groups(config, model, factor=rate_factor(config, begun))
    groups["decoders"]["params"].extend(head.parameters())
    work = Work(
        config,
        nn.ModuleDict({"model": model, "head": head}),
        trunk_of(config, model),
        _loss(config, model, head, noise),
        groups,
        begun.statistics,
        lambda: crop_feed(config, pools),
        device,
        {"objective": "contrastive"},
        about=what_is_trained_on(pools, ()),
    )
    out = Path(config.output) / config.name
    if (yield from finished_before(config, work.settings)):
        return out
    average = yield from run(work)
    kept = average.get_submodule("model")
    save_model(out, kept, make_card(config, begun, kept, pools, work.precision.name))
    return out


def _loss(config: PretrainConfig, model: CellDETR, head: ContrastiveHead, noise: BoxNoise) -> Loss:
    def loss(image: Tensor, targets: list[Targets], number: int) -> tuple[Tensor, dict[str, float]]:
        encoded = model.encode(image)
        generator = torch.Generator(image.device)
        generator.manual_seed(config.seed * 1_000_003 + number)
        value = contrastive_loss(
            model,
            head,
            encoded,
            [t.boxes(encoded.image) for t in targets],
            noise=noise,
            temperature=config.temperature,
            copies=config.copies,
            generator=generator,
        )
        return value, {"contrast": float(value.detach())}

    return loss


def load_unlabelled(config: PretrainConfig) -> list[Pool]:
    """Fields of ``config.images`` and ``config.data`` at their own scale, classes left out.

    Groups that are held out are left out here too. Raises `ConfigError` or `DataError` when
    nothing is named, or nothing is there.
    """
    specs = [_images_spec(word) for word in config.images.split()]
    if config.data.strip() or not specs:
        specs += parse_data(config.data)
    pools = []
    known: set[str] = set()
    for spec in specs:
        if spec.kind == "images":
            fields = _pictures(spec)
        else:
            fields = load_fields(spec, class_names=(), split=split_to_read(spec, config))
        known |= {f.group for f in fields}
        kept = [f for f in fields if f.group not in config.held_out]
        if not kept:
            raise DataError(
                f"Nothing is left of the data set {spec.folder.name!r}.",
                expected="fields outside the held-out groups",
                found=f"{len(fields)} fields, all held out",
                remedy="hold out fewer groups",
            )
        pools.append(Pool(spec, tuple(p for f in kept for p in pieces(f, PIECE_PX))))
    refuse_unknown_groups(config.held_out - known, known)
    return pools


def _images_spec(word: str) -> DataSpec:
    # µm/px as data words give it, so that there is one rule for both.
    spec = parse_data(f"points:{word}")[0]
    return replace(spec, kind="images")


def _pictures(spec: DataSpec) -> list[Field]:
    files = sorted(p for p in _listed(spec.folder) if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(
            f"The folder {spec.folder.name!r} has no pictures.",
            expected="files of the kinds " + ", ".join(IMAGE_SUFFIXES),
            found="none of them" if spec.folder.is_dir() else "no such folder",
            remedy="check the path",
        )
    none = np.zeros((0, 2), np.float32)
    ids = np.zeros(0, np.int16)
    return [
        Field(p.stem, p.stem.split("_")[0], read_image(p), spec.mpp, none, none, ids) for p in files
    ]


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def pieces(field: Field, side: int) -> list[Field]:
    """The field cut into equal parts of at most `side` px; itself where it is no larger.

    A cell belongs to the part that holds its centre.
    """
    height, width = field.image.shape[:2]
    if max(height, width) <= side:
        return [field]
    rows, columns = _edges(height, side), _edges(width, side)
    return [
        _part(field, (left, top, right, bottom), f"{field.name}_{i}_{j}")
        for i, (top, bottom) in enumerate(pairwise(rows))
        for j, (left, right) in enumerate(pairwise(columns))
    ]


def _edges(length: int, side: int) -> list[int]:
    return [int(e) for e in np.linspace(0, length, -(-length // side) + 1).round()]


def _part(field: Field, box: tuple[int, int, int, int], name: str) -> Field:
    left, top, right, bottom = box
    corner, end = np.array([left, top], np.float32), np.array([right, bottom], np.float32)
    inside = ((field.points >= corner) & (field.points < end)).all(1)
    return Field(
        name,
        field.group,
        np.ascontiguousarray(field.image[top:bottom, left:right]),
        field.mpp,
        field.points[inside] - corner,
        field.sizes[inside],
        field.class_ids[inside],
        field.class_names,
        field.complete,
    )


def _with_boxes(pool: Pool, config: PretrainConfig) -> Pool:
    """The fields at the network's scale, with those cells alone whose extent is known."""
    fields = [_extents(resample(f, config.mpp)) for f in pool.fields]
    # A cell is told apart from others of its field.
    useful = [f for f in fields if len(f) > 1]
    if not useful:
        raise DataError(
            f"The data set {pool.spec.folder.name!r} has no boxes to learn from.",
            expected="fields with at least two cells whose extent is known",
            found=f"none among {_counted(pool.fields)}",
            remedy="name a detector with --boxes-from, e.g. celldetr-he",
        )
    return replace(pool, fields=tuple(useful))


def _extents(field: Field) -> Field:
    known = np.isfinite(field.sizes).all(1)
    return replace(
        field,
        points=field.points[known],
        sizes=field.sizes[known],
        class_ids=np.full(int(known.sum()), -1, np.int16),
        instances=None,
    )


def _counted(fields: Sequence[Field]) -> str:
    return f"{len(fields)} fields with {sum(len(f) for f in fields)} cells"
