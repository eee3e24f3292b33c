"""`celldetr finetune --what head`: corrections become a head on the model that found the cells."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from napari_celldetr.core.cell_table import CellTable
    from napari_celldetr.pipeline.lesson import Lesson
    from napari_celldetr.slides.slide import Slide


def teach_head(args: argparse.Namespace, screen: Screen) -> None:
    """Teach a head, write the model, say whether it helped."""
    from napari_celldetr.nets.registry import CARD
    from napari_celldetr.pipeline.share_lesson import share_lesson
    from napari_celldetr.slides.readers import open_slide

    if (args.output / CARD).exists():
        raise ModelError(
            f"There is a model in {args.output.name!r} already.",
            expected="a new folder",
            found=f"{CARD} in it",
            remedy="choose another folder with -o, or delete this one",
        )
    prepare_folder(args.output.parent)
    with open_slide(args.slide, mpp=args.mpp) as slide:
        given = _given(args, slide, screen)
        lesson = _taught(args, slide, given, screen)
    card = share_lesson(lesson, given.base, args.output)
    screen.say(f"classes: {', '.join(card.class_names)}")
    screen.say(lesson.sentence())
    if lesson.verdict is not None:
        screen.say(lesson.verdict.sentence())
    for warning in lesson.warnings:
        screen.note(f"warning: {warning}")


@dataclass(frozen=True, eq=False)
class _Given:
    """What there is to learn from. `parent` is the lesson that holds in a project."""

    table: CellTable
    base: str | Path
    parent: Lesson | None = None
    audited: frozenset[tuple[int, int]] = frozenset()
    colors: Mapping[str, tuple[int, int, int]] | None = None


def _given(args: argparse.Namespace, slide: Slide, screen: Screen) -> _Given:
    if args.corrections.is_dir():
        return _of_project(args, slide)
    if not args.corrections.is_file():
        raise ConfigError(
            "There are no such corrections.",
            expected="the folder of a project, or a GeoJSON file",
            found=f"nothing at {args.corrections.name!r}",
            remedy="check the path",
        )
    return _of_file(args, slide, screen)


def _of_project(args: argparse.Namespace, slide: Slide) -> _Given:
    from napari_celldetr.pipeline.reviewed import class_colors, find_record, reviewed_table

    record = find_record(slide, args.corrections)
    table = reviewed_table(record)
    return _Given(
        table,
        args.model or model_with(table.source.weights_sha256, table.source.model),
        record.lessons.current(),
        frozenset(record.lessons.asked()),
        class_colors(record),
    )


def _of_file(args: argparse.Namespace, slide: Slide, screen: Screen) -> _Given:
    from napari_celldetr.core.config import DetectConfig
    from napari_celldetr.nets.registry import load_model
    from napari_celldetr.pipeline.corrections_file import correct_from_file

    base = args.model or DetectConfig().model
    predictor = load_model(base, device=args.device or "auto", class_columns=True)
    found, _ = screen.follow(correct_from_file(slide, args.corrections, predictor), slide.name)
    screen.say(found.report.sentence())
    return _Given(found.table, base)


def model_with(weights: str, name: str) -> Path:
    """Folder of the installed model with these weights."""
    from napari_celldetr.nets.card import ModelCard
    from napari_celldetr.nets.registry import list_models, model_places

    places = model_places()
    mine: list[ModelCard] = [c for c in list_models() if c.weights_sha256 == weights]
    for place in (places[c.name] for c in mine if c.name in places):
        return place
    raise ModelError(
        "The model that found these cells is not installed.",
        expected=f"{name or 'a model'} with weights {weights[:12]}…",
        found=", ".join(c.name for c in list_models()) or "no models",
        remedy="name its folder with --model, or put it into a folder of CELLDETR_MODELS",
    )


def _taught(args: argparse.Namespace, slide: Slide, given: _Given, screen: Screen) -> Lesson:
    from napari_celldetr.pipeline.project import user_name
    from napari_celldetr.pipeline.teach import TeachSettings, teach

    settings = TeachSettings(
        author=args.author or user_name(),
        colors=given.colors or {},
        mpp=given.table.source.mpp or slide.mpp,
        audited=given.audited,
        ask=_asking(args, slide, given),
    )
    job = teach(given.table, settings, parent=given.parent)
    lesson, _ = screen.follow(job, "teaching", unit="steps")
    return lesson


def _asking(args: argparse.Namespace, slide: Slide, given: _Given) -> Any:
    """What asks the model about cells that were added by hand; it is loaded when there are any."""
    from napari_celldetr.nets.registry import load_model
    from napari_celldetr.pipeline.ask import Asker

    def ask(xy: Any) -> Any:
        predictor = load_model(given.base, device=args.device or "auto", class_columns=True)
        return Asker(slide, predictor, mpp=args.mpp).ask(xy)

    return ask
