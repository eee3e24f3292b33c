"""What a fine-tuned model's card says: whence it comes, what it was taught, what that was worth."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from typing import Any

from napari_celldetr import __version__
from napari_celldetr.core.config import to_json
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.pipeline.journal import now
from napari_celldetr.slides.slide import Slide
from napari_celldetr.training.finetune import Tuned
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.finetune_tiles import Parted, Taught
from napari_celldetr.training.train import PALETTE

GUARD = "guard"
"""Key of the card's `training` with the names of what is held aside for ever."""
FINETUNE = "finetune"
FIGURES = "corrected tiles held aside"


@dataclass(frozen=True, eq=False)
class Teaching:
    """What was taught to which model, on which slide, by whom."""

    slide: Slide
    taught: Taught
    parted: Parted
    parent: ModelCard
    config: FinetuneConfig
    author: str = ""


def held_before(parent: ModelCard) -> list[str]:
    """Names of squares and tiles that the model's earlier teaching held aside."""
    known = parent.training.get(GUARD)
    return [str(name) for name in known] if isinstance(known, list) else []


def working_card(parent: ModelCard, model: CellDETR, names: tuple[str, ...]) -> ModelCard:
    """The parent's card for a network with further classes or adapters."""
    colors = list(parent.class_colors)
    colors += [PALETTE[i % len(PALETTE)] for i in range(len(colors), len(names))]
    return replace(
        parent,
        arguments=dataclasses.asdict(model.config),
        class_names=names,
        class_colors=tuple(colors),
    )


def finished_card(card: ModelCard, name: str, teaching: Teaching, tuned: Tuned) -> ModelCard:
    """The card of the new model `name`; its hash is filled in when it is written."""
    parent, slide, config = teaching.parent, teaching.slide, teaching.config
    told = json.loads(to_json(config)) | {"model": parent.name, "version": __version__}
    told |= {"kept_step": tuned.step, "steps_done": tuned.steps, "seconds": round(tuned.seconds, 1)}
    guard = sorted({*held_before(parent), *teaching.parted.units})
    return replace(
        card,
        name=name,
        title=f"{parent.title}, fine-tuned on {slide.name}",
        description=f"{parent.name} taught with corrections of {slide.name} "
        f"({config.what}; napari-celldetr {__version__}).",
        data=[*parent.data, _entry(teaching)],
        metrics=_figures(tuned),
        limits="Fine-tuned on corrections of one slide. Threshold and calibration are those of "
        f"{parent.name} and were not fitted again. {parent.limits}",
        training=parent.training | {FINETUNE: told, GUARD: guard},
        parent=parent.weights_sha256,
    )


def _entry(teaching: Teaching) -> dict[str, Any]:
    taught, parted, slide = teaching.taught, teaching.parted, teaching.slide
    return {
        "name": "corrections",
        "kind": "corrections",
        "slide": slide.name,
        "slide_id": slide.identity(),
        "cells": int(taught.vouched.sum()),
        "deleted": len(taught.gone),
        "complete_areas": len(taught.areas),
        "tiles": len(parted.taught),
        "tiles_held_aside": len(parted.guard),
        "authors": list(taught.authors),
        "taught_by": teaching.author or ", ".join(taught.authors),
        "date": now(),
        "licence": "that of the slide's owner",
    }


def _figures(tuned: Tuned) -> dict[str, Any]:
    both = {"before": tuned.before, "after": tuned.after}
    known = {word: scores.to_dict() for word, scores in both.items() if scores is not None}
    return {FIGURES: known} if known else {}
