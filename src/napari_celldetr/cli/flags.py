"""Command-line flags out of a config dataclass, and the config out of the parsed flags."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from napari_celldetr.core.config import Setting, describe, from_mapping

C = TypeVar("C")


def add_config_flags(
    parser: argparse.ArgumentParser,
    config: type,
    *,
    prefix: str = "",
    skip: Collection[str] = (),
) -> None:
    """One flag per setting: ``tile_px`` becomes ``--tile-px``, a switch that is on gets ``--no-``.

    `prefix` stands before the names, where a command has several configs; settings to `skip` get
    no flag. Settings without a
    default become required flags; advanced ones stand in a group of their own. Bounds are checked
    while parsing, so that a bad value is a usage error.
    """
    advanced = parser.add_argument_group("advanced settings")
    required = _without_default(config)
    for setting in describe(config):
        if setting.name in skip:
            continue
        group: Any = advanced if setting.info.advanced else parser
        group.add_argument(
            "--" + (prefix + setting.name).replace("_", "-"),
            dest=prefix + setting.name,
            default=None,
            required=setting.name in required,
            help=_help(setting),
            **_kind(setting, config),
        )


def config_from(
    args: argparse.Namespace, config: type[C], *, prefix: str = "", skip: Collection[str] = ()
) -> C:
    """The config that the flags ask for; what was not given keeps its default."""
    names = [s.name for s in describe(config) if s.name not in skip]
    given = {name: getattr(args, prefix + name) for name in names}
    # argparse collects several values in a list; a frozen config holds a tuple.
    given = {k: tuple(_flat(v)) if isinstance(v, list) else v for k, v in given.items()}
    return from_mapping(config, {k: v for k, v in given.items() if v is not None})


def _flat(values: list[Any]) -> Iterator[Any]:
    for value in values:
        yield from value if isinstance(value, list) else (value,)


def _numbers(text: str) -> list[float]:
    """Numbers with commas between them, so that ``3,2`` is taken as ``3 2`` is."""
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _without_default(config: type) -> set[str]:
    missing = dataclasses.MISSING
    fields = dataclasses.fields(config)
    return {f.name for f in fields if f.default is missing and f.default_factory is missing}


def _kind(setting: Setting, config: type) -> dict[str, Any]:
    if setting.kind is bool:
        if setting.default:
            return {"action": argparse.BooleanOptionalAction}
        return {"action": "store_const", "const": True}
    if setting.choices:
        return {"choices": setting.choices}
    if setting.kind in (int, float):
        return {"type": _number(setting), "metavar": setting.info.unit or setting.kind.__name__}
    if setting.kind in (tuple, list):
        element = _element(config, setting.name)
        parse = _numbers if element is float else element
        return {"type": parse, "nargs": "+", "metavar": element.__name__}
    text = Path if issubclass(setting.kind, Path) else str
    return {"type": text, "metavar": "PATH" if text is Path else "TEXT"}


def _number(setting: Setting) -> Callable[[str], float]:
    low, high = setting.info.ge, setting.info.le

    def parse(text: str) -> float:
        try:
            value: float = setting.kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        below = low is not None and not value >= low
        if below or (high is not None and not value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return parse


def _element(config: type, name: str) -> type:
    hint = typing.get_type_hints(config)[name]
    inner = [a for a in typing.get_args(hint) if isinstance(a, type) and a is not type(None)]
    return inner[0] if inner else str


def _help(setting: Setting) -> str:
    text = setting.info.help or setting.info.label
    if setting.kind is bool:
        text += " (default: yes)" if setting.default else ""
    elif isinstance(setting.default, tuple):
        text += f" (default: {' '.join(str(v) for v in setting.default)})"
    elif setting.default not in (None, "", dataclasses.MISSING):
        text += f" (default: {setting.default})"
    return text.replace("%", "%%")
