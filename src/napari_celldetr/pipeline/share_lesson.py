"""Share a lesson: a model folder that finds what its parent finds, and names it as was taught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.head import Head
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.registry import CARD, find_model, load_network, save_model
from napari_celldetr.pipeline.atomic_folder import replacing_folder
from napari_celldetr.pipeline.lesson import Figure, Lesson, Scores

LIMITS = (
    "Its head was taught on corrections of one slide by one person ({cells} labels); on other "
    "slides, stains, scanners and tissues it was not measured. Boxes and scores are its parent's."
)


def share_lesson(lesson: Lesson, base: str | Path, output: str | Path) -> ModelCard:
    """Write a lesson with its model into a folder that `celldetr detect` and the dock can use.

    Parameters
    ----------
    lesson : Lesson
        With a head.
    base : str or path
        Name or folder of the model that was taught; by its hash it must be the very one.
    output : str or path
        Folder of the new model, named after it.

    Returns
    -------
    ModelCard
        Its parent is the base; classes, colours and origin are the lesson's.

    Raises
    ------
    ModelError
        When the base is another model or carries a lesson itself, has no embeddings of that
        size, or `output` holds a model already.
    """
    folder = Path(output)
    if (folder / CARD).exists():
        raise ModelError(
            f"There is a model in {folder.name!r} already.",
            expected="a new folder",
            found=f"{CARD} in {folder.name}",
            remedy="choose another folder, or delete this one",
        )
    head = _head_for(lesson, read_card(find_model(base)))
    from napari_celldetr.nets.celldetr import CellDETR
    from napari_celldetr.nets.lesson_head import LessonHead

    network, card = load_network(base)
    if not isinstance(network, CellDETR) or network.config.size != head.size:
        raise _unsuited(
            card, f"a CellDETR with embeddings of {head.size} values", "another network"
        )
    network.lesson = LessonHead.of(head)
    try:
        with replacing_folder(folder) as temporary:
            return save_model(temporary, network, _card(lesson, head, card, folder.name))
    except OSError as error:
        raise ModelError(
            f"The model {folder.name!r} cannot be written.",
            expected="a folder to write into",
            found=error.strerror or type(error).__name__,
            remedy="choose another folder, or make room",
        ) from error


def _head_for(lesson: Lesson, card: ModelCard) -> Head:
    """The lesson's head, if it was taught on this very model."""
    if lesson.head is None:
        raise _unsuited(card, "a lesson with a head", f"one of the kind {lesson.kind}")
    if lesson.weights != card.weights_sha256:
        raise _unsuited(
            card, f"the model with weights {lesson.weights[:12]}…", f"{card.weights_sha256[:12]}…"
        )
    if card.lesson is not None:
        raise _unsuited(card, "a model without a lesson of its own", "one that has one")
    if card.class_rule is not None or lesson.head.model_classes != card.class_names:
        raise _unsuited(
            card,
            "a model whose own classes are " + ", ".join(lesson.head.model_classes),
            ", ".join(card.class_names) + (" by a measurement" if card.class_rule else ""),
        )
    return lesson.head


def _card(lesson: Lesson, head: Head, card: ModelCard, name: str) -> ModelCard:
    taught = int((~lesson.guard).sum())
    counts = {
        n: int(((lesson.labels == i) & ~lesson.guard).sum())
        for i, n in enumerate(lesson.class_names)
    }
    corrections: dict[str, Any] = {
        "name": "corrections",
        "title": "What a person said of the cells of one slide",
        "licence": "not stated",
        "cells": taught,
        "by class": {n: count for n, count in counts.items() if count},
        "slide": lesson.slide[:16],
        "split": "by 250 µm square; a fifth was kept aside",
    }
    own = dict(zip(card.class_names, card.class_colors, strict=True))
    return replace(
        card,
        name=name,
        title=f"{card.title}, taught" if card.title != card.name else name,
        description=f"{card.name} with a lesson: {lesson.sentence()}",
        class_names=head.class_names,
        class_colors=tuple(
            own.get(n) or lesson.class_colors.get(n, (128, 128, 128)) for n in head.class_names
        ),
        data=[*card.data, corrections],
        metrics=_metrics(lesson),
        limits=f"{LIMITS.format(cells=taught)} Of its parent: {card.limits}",
        parent=card.weights_sha256,
        lesson={
            "model_classes": list(head.model_classes),
            "id": lesson.id,
            "parent": lesson.parent,
            "author": lesson.author,
            "time": lesson.time,
            "warnings": list(lesson.warnings),
        },
    )


def _metrics(lesson: Lesson) -> dict[str, Any]:
    if lesson.verdict is None:
        return {}
    kept = {"model": lesson.verdict.model, "after": lesson.verdict.after}
    return {"cells kept aside": {name: _plain(scores) for name, scores in kept.items()}}


def _plain(scores: Scores) -> dict[str, Any]:
    told = {"accuracy": _figure(scores.accuracy), "class mean F1": _figure(scores.mean_f1)}
    told |= {f"F1 {name}": _figure(f) for name, f in scores.f1.items()}
    ece = None if scores.ece != scores.ece else round(scores.ece, 4)
    return {"cells": scores.cells, "ece": ece, **told}


def _figure(figure: Figure) -> list[float | None]:
    values = (figure.value, figure.low, figure.high)
    return [None if v != v else round(v, 4) for v in values]


def _unsuited(card: ModelCard, expected: str, found: str) -> ModelError:
    return ModelError(
        f"The lesson cannot be joined with the model {card.name!r}.",
        expected=expected,
        found=found,
        remedy="name the model that found the cells which were corrected",
    )
