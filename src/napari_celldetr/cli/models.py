"""`celldetr models`: which models there are, and what each says about itself."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.screen import Screen

if TYPE_CHECKING:
    from napari_celldetr.nets.card import ModelCard


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `models`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="show this model (or folder)")


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """List the models, or show one and check its weights."""
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import (
        broken_models,
        check_weights,
        find_model,
        is_shipped,
        model_places,
    )

    if args.name is None:
        broken = broken_models()
        places = model_places()
        if not places:
            screen.say("No models are installed.")
        for name, folder in places.items():
            if name in broken:
                screen.say(f"{name}  cannot be used: {broken[name]}")
            else:
                _line(name, read_card(folder), None if is_shipped(folder) else folder, screen)
        return Exit.OK
    folder = find_model(args.name)
    card = read_card(folder)
    _show(card, screen)
    check_weights(folder, card)
    screen.say("The weights are those the card names.")
    screen.research_use()
    return Exit.OK


def _line(name: str, card: ModelCard, folder: Path | None, screen: Screen) -> None:
    # The name that `--model` takes is the folder's; a model of one's own says where it is.
    classes = ", ".join(card.class_names)
    screen.say(f"{name}  {card.stain}, {card.mpp:g} µm/px: {classes}")
    if card.title != name:
        screen.say(f"  {card.title}")
    if card.task != "detect":
        screen.say(f"  to {card.task}, not to detect cells")
    from napari_celldetr.nets.registry import WEIGHTS

    if folder is not None:
        screen.say(f"  in {folder}")
        if not (folder / WEIGHTS).is_file():
            screen.say("  its weights are missing: take the folder again from its source")
    if not card.training.get("detects", True):
        screen.say("  pretrained only, cannot detect: go on from it with `celldetr train --init`")


def _show(card: ModelCard, screen: Screen) -> None:
    screen.say(f"{card.name}: {card.title}")
    for paragraph in (card.description, card.intended_use, f"Limits: {card.limits}"):
        screen.say(textwrap.fill(paragraph, 96, initial_indent="  ", subsequent_indent="  "))
    screen.rows(
        [
            ("task", card.task),
            ("classes", ", ".join(card.class_names)),
            ("stain", card.stain),
            ("works at", f"{card.mpp:g} µm/px"),
            ("threshold", _threshold(card)),
            ("class rule", "" if card.class_rule is None else _plain(card.class_rule)),
            ("architecture", card.architecture),
            ("weights sha256", card.weights_sha256),
            ("licence", card.licence),
            ("fine-tuned from", card.parent or ""),
        ],
        indent=2,
    )
    for title, value in (("trained on", card.data), ("measured", card.metrics)):
        screen.say(f"  {title}")
        _tree(value, screen, indent=4)


def _threshold(card: ModelCard) -> str:
    floor = f" (keeps scores from {card.score_floor:g})" if card.task == "detect" else ""
    return f"{card.threshold:g}{floor}"


def _plain(values: dict[str, object]) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items())


def _tree(value: object, screen: Screen, *, indent: int) -> None:
    """A nested value, one leaf a line."""
    pad = " " * indent
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(inner, dict | list) and not _is_short(inner):
                screen.say(f"{pad}{key}")
                _tree(inner, screen, indent=indent + 2)
            else:
                screen.say(f"{pad}{key}: {_short(inner)}")
    elif isinstance(value, list):
        for inner in value:
            _tree(inner, screen, indent=indent)
    else:
        screen.say(f"{pad}{_short(value)}")


def _is_short(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | float | str) for v in value)


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_short(v) for v in value)
    return str(value)
