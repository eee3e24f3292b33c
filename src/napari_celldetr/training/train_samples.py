"""Training of patch and pixel classifiers on samples that a function makes, as jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_celldetr import __version__
from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.progress import Job
from napari_celldetr.nets.card import CLASSIFY, SEGMENT, ModelCard
from napari_celldetr.nets.mask_criterion import MaskCriterion
from napari_celldetr.nets.maskformer import COARSEST, MaskFormer, MaskFormerConfig
from napari_celldetr.nets.patch_predictor import ViTPatchPredictor
from napari_celldetr.nets.patch_vit import PatchViT, PatchViTConfig
from napari_celldetr.nets.pixel_predictor import MaskFormerPredictor
from napari_celldetr.nets.registry import (
    MASKFORMER,
    PATCH_VIT,
    choose_device,
    load_network,
    save_model,
)
from napari_celldetr.training.earlier import finished_before
from napari_celldetr.training.history import read_history
from napari_celldetr.training.loop import Feed, Loss, Work, run
from napari_celldetr.training.page import best_row
from napari_celldetr.training.sample_config import (
    PatchTrainConfig,
    PixelTrainConfig,
    SampleConfig,
)
from napari_celldetr.training.sample_scores import (
    SampleScores,
    refuse_no_validation,
    score_patches,
    score_pixels,
)
from napari_celldetr.training.samples import (
    Sample,
    SampleStream,
    collate_patches,
    collate_pixels,
    refuse_unsendable,
)
from napari_celldetr.training.start import grouped, input_statistics
from napari_celldetr.training.train import PALETTE

FINE_MPP = 0.35
"""At this µm/px and below masks are read at stride 4: as coarse in µm as stride 2 at 0.5."""

Make = Callable[[int], Sample]


@dataclass(frozen=True)
class _Task:
    """What differs between the two trainings."""

    architecture: str
    task: str
    heads: tuple[str, ...]
    loss: Callable[[nn.Module, Any], Loss]
    collate: Callable[[list[Any]], tuple[Tensor, Any]]
    predictor: Callable[[Any, ModelCard, str], Any]
    score: Callable[[Any, Sequence[Sample], Sequence[str]], Job[SampleScores]]


def train_patches(
    config: PatchTrainConfig,
    sample: Make,
    *,
    validation: Sequence[Sample] | None = None,
    network: PatchViTConfig | None = None,
    data: Sequence[dict[str, Any]] = (),
) -> Job[Path]:
    """Train a patch classifier; yields a `Progress` per step and returns the model's folder.

    Resumable, logged and shown as `napari_celldetr.training.train.train` is.

    Parameters
    ----------
    config : PatchTrainConfig
    sample : callable
        Number -> image (P, P, 3) uint8 and class id, or share of each class (K,). Must depend on
        the number alone, and be picklable where ``config.workers`` is not 0. Numbers run from 0
        to ``config.steps · batch``.
    validation : sequence of samples, optional
    network : PatchViTConfig, optional
        In place of the default; number of classes and patch are those of `config`.
    data : sequence of dict
        Where the samples come from, for the card: ``name``, ``licence`` … A run of other data is
        another run.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, samples or the model to start from cannot be used.
    JobError
        When the folder holds another run, or the loss stops being a number.
    """
    _check(config, sample, validation)
    classes = len(config.class_names)
    settings = network or PatchViTConfig()
    settings = replace(settings, num_classes=classes, patch=config.crop)
    task = _Task(
        PATCH_VIT,
        CLASSIFY,
        ("embed", "classify", "norm"),
        lambda model, c: _patch_loss(model, c.smoothing),
        partial(collate_patches, classes=classes),
        lambda model, card, device: ViTPatchPredictor(model, card, device=device),
        score_patches,
    )
    return _train(config, task, sample, validation, settings, network is not None, data)


def train_pixels(
    config: PixelTrainConfig,
    sample: Make,
    *,
    validation: Sequence[Sample] | None = None,
    network: MaskFormerConfig | None = None,
    data: Sequence[dict[str, Any]] = (),
) -> Job[Path]:
    """Train a pixel classifier by mask classification, as `train_patches` does a patch one.

    A sample is an image (S, S, 3) uint8 and class ids (S, S) uint8, 255 where a pixel does not
    count. S is ``config.crop`` and should be the network's window.
    """
    _check(config, sample, validation)
    if config.crop % COARSEST:
        raise ConfigError(
            "Crops of that size cannot be segmented.",
            expected=f"a multiple of {COARSEST} px",
            found=f"{config.crop} px",
            remedy="change the crop",
        )
    stride = 4 if config.mpp <= FINE_MPP else 2
    settings = network or MaskFormerConfig(mask_stride=stride)
    settings = replace(settings, num_classes=len(config.class_names))
    task = _Task(
        MASKFORMER,
        SEGMENT,
        ("pyramid", "memory_in", "classify", "mask_head"),
        lambda model, c: _pixel_loss(model, c.no_mask),
        collate_pixels,
        lambda model, card, device: MaskFormerPredictor(model, card, device=device),
        score_pixels,
    )
    return _train(config, task, sample, validation, settings, network is not None, data)


def _check(config: SampleConfig, sample: Make, validation: Sequence[Sample] | None) -> None:
    check(config)
    if len(config.class_names) < 2:
        raise ConfigError(
            "There are no classes to tell apart.",
            expected="at least two class names, separated by commas",
            found=repr(config.classes),
            remedy="name the classes",
        )
    refuse_no_validation(validation, config.keep)
    refuse_unsendable(sample, config.workers)


def _train(
    config: SampleConfig,
    task: _Task,
    sample: Make,
    validation: Sequence[Sample] | None,
    settings: Any,
    own: bool,
    data: Sequence[dict[str, Any]],
) -> Job[Path]:
    torch.manual_seed(config.seed)
    device = choose_device(config.device)
    model, parent = _start(config, task, settings)
    model = model.to(device).train()
    known: dict[str, Any] = {"data": [dict(d) for d in data]}
    if own:
        known["network"] = asdict(settings)

    def judge(average: nn.Module) -> Job[SampleScores]:
        assert validation is not None
        # The loop goes on with the average: only its mode is changed.
        made = task.predictor(average, _card(config, task, average, parent, data), device)
        return task.score(made, validation, config.class_names)

    work = Work(
        config,
        model,
        model.get_submodule("backbone"),
        task.loss(model, config),
        grouped(model, config.recipe, backbone=("backbone",), heads=task.heads),
        _statistics(settings, parent),
        lambda: Feed(_stream(config, sample), task.collate, _moved),
        device,
        json.loads(json.dumps(known)),
        None if validation is None else judge,
        config.keep == "best",
        f"Training to {task.task}: {', '.join(config.class_names)}"
        + ("" if validation is None else f"; validating on {len(validation)} samples"),
    )
    out = Path(config.output) / config.name
    if (yield from finished_before(config, work.settings)):
        return out
    average = yield from run(work)
    card = _card(config, task, average, parent, data, precision=work.precision.name)
    save_model(out, average, replace(card, metrics=_validated(config)))
    return out


def _start(config: SampleConfig, task: _Task, settings: Any) -> tuple[nn.Module, ModelCard | None]:
    build: Any = PatchViT if task.architecture == PATCH_VIT else MaskFormer
    if not config.init:
        return build(settings, backbone_weights=config.backbone_weights or None), None
    parent, card = load_network(config.init)
    if card.architecture != task.architecture or config.backbone_weights:
        raise ConfigError(
            f"Model {config.init!r} cannot be the start of this training.",
            expected=f"a model to {task.task}, and no other backbone weights",
            found=f"{card.architecture} {config.backbone_weights}".strip(),
            remedy="start from another model, or leave out the backbone weights",
        )
    changes = {"num_classes": len(config.class_names)}
    if task.architecture == PATCH_VIT:
        changes["patch"] = config.crop
    model = build(replace(cast(Any, parent).config, **changes))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    # With other classes everything but the class heads goes on.
    fitting = {n: v for n, v in parent.state_dict().items() if v.shape == shapes.get(n)}
    model.load_state_dict(fitting, strict=False)
    return model, card


def _statistics(settings: Any, parent: ModelCard | None) -> Any:
    if parent is not None:
        return parent.mean, parent.std
    return input_statistics(settings.backbone or "mobilenetv2_100")


def _stream(config: SampleConfig, sample: Make) -> SampleStream:
    return SampleStream(
        sample,
        length=config.steps * config.recipe.batch,
        side=config.crop,
        classes=len(config.class_names),
        seed=config.seed,
        augmentation=config.augmentation,
    )


def _moved(targets: Tensor, device: str) -> Tensor:
    return targets.to(device)


def _patch_loss(model: nn.Module, smoothing: float) -> Loss:
    def loss(image: Tensor, wanted: Tensor, number: int) -> tuple[Tensor, dict[str, float]]:
        value = F.cross_entropy(model(image).float(), wanted, label_smoothing=smoothing)
        return value, {"patch class": float(value.detach())}

    return loss


def _pixel_loss(model: nn.Module, no_mask: float) -> Loss:
    settings = cast(MaskFormer, model).config
    criterion = MaskCriterion(settings.num_classes, settings.mask_stride, no_mask=no_mask)

    def loss(image: Tensor, truth: Tensor, number: int) -> tuple[Tensor, dict[str, float]]:
        found = model(image)
        with torch.autocast(image.device.type, enabled=False):
            return criterion(found, list(truth))

    return loss


def _validated(config: SampleConfig) -> dict[str, Any]:
    # What the log says of the kept weights.
    rows = read_history(Path(config.output)).validations
    if not rows:
        return {}
    row = rows[best_row(rows)] if config.keep == "best" else rows[-1]
    kept = ("figures", "confusion", "samples", "caption")
    return {"validation": {"step": row["step"], **{k: row["validation"][k] for k in kept}}}


def _card(
    config: SampleConfig,
    task: _Task,
    model: nn.Module,
    parent: ModelCard | None,
    data: Sequence[dict[str, Any]],
    *,
    precision: str = "float32",
) -> ModelCard:
    settings: Any = model.config
    mean, std = _statistics(settings, parent)
    colours = tuple(PALETTE[i % len(PALETTE)] for i in range(len(config.class_names)))
    return ModelCard(
        name=config.name,
        title=config.title or config.name,
        description=f"{type(model).__name__} trained with napari-celldetr {__version__}.",
        architecture=task.architecture,
        arguments=asdict(settings),
        class_names=config.class_names,
        class_colors=colours,
        mpp=config.mpp,
        mean=mean,
        std=std,
        stain=config.stain,
        threshold=0.5,
        score_floor=0.5,
        weights_sha256="0" * 64,
        licence="BSD-3-Clause",
        data=[dict(d) for d in data],
        metrics={},
        intended_use="Research use only. Not a medical device.",
        limits="Not evaluated yet.",
        training=json.loads(to_json(config)) | asdict(config.recipe) | {"precision": precision},
        parent=None if parent is None else parent.weights_sha256,
        task=task.task,
    )
