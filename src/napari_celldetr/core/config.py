"""One frozen dataclass per job: the same object makes the form, the flags and the provenance."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from napari_celldetr.core.errors import ConfigError

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Field:
    """How one setting is shown and bounded.

    `label` and `help` are for people; `ge` and `le` bound numbers; `unit` is shown behind the
    value; `zero` says in a word what 0 means; `advanced` settings are folded away in forms.
    """

    label: str
    help: str = ""
    ge: float | None = None
    le: float | None = None
    unit: str = ""
    zero: str = ""
    advanced: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One described field of a config class: name, type, default and how it is shown."""

    name: str
    kind: type
    choices: tuple[str, ...]
    optional: bool
    default: Any
    info: Field


def describe(config: type) -> list[Setting]:
    """The settings of a config class, in order, for forms and command lines."""
    hints = typing.get_type_hints(config, include_extras=True)
    return [_describe_one(f, hints[f.name]) for f in dataclasses.fields(config)]


def _describe_one(field: dataclasses.Field[Any], hint: Any) -> Setting:
    info = Field(field.name)
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        info = next((e for e in extras if isinstance(e, Field)), info)
    optional = False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        optional, hint = True, inner[0]
    choices: tuple[str, ...] = ()
    if typing.get_origin(hint) is Literal:
        choices, hint = typing.get_args(hint), str
    kind = typing.get_origin(hint) or hint
    return Setting(field.name, kind, choices, optional, field.default, info)


def check(config: C) -> C:
    """Return `config` if every setting has its type and lies in its bounds, else `ConfigError`."""
    for setting in describe(type(config)):
        _check_one(setting, getattr(config, setting.name))
    return config


def _check_one(setting: Setting, value: Any) -> None:
    info = setting.info
    if value is None:
        if setting.optional:
            return
        _out_of_range(setting, "a value", "nothing")
    if setting.choices and value not in setting.choices:
        _out_of_range(setting, "one of " + ", ".join(setting.choices), repr(value))
    if setting.kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            _out_of_range(setting, "a number", repr(value))
        if value != value or (info.ge is not None and value < info.ge):
            _out_of_range(setting, f"at least {info.ge}", repr(value))
        if info.le is not None and value > info.le:
            _out_of_range(setting, f"at most {info.le}", repr(value))
    elif setting.kind in (str, bool) and not isinstance(value, setting.kind):
        _out_of_range(setting, setting.kind.__name__, repr(value))


def _out_of_range(setting: Setting, expected: str, found: str) -> None:
    raise ConfigError(
        f"Setting {setting.name!r} is not valid.",
        expected=expected,
        found=found,
        remedy=f"change {setting.info.label!r}",
    )


def from_mapping(config: type[C], values: Mapping[str, Any]) -> C:
    """Build and check a config; unknown keys are refused with `ConfigError`."""
    known = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            "Unknown settings.",
            expected=", ".join(sorted(known)),
            found=", ".join(unknown),
            remedy="remove or rename them",
        )
    return check(config(**values))


def to_json(config: Any) -> str:
    """The config as sorted JSON, for provenance and run keys."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


@dataclass(frozen=True)
class DetectConfig:
    """Settings of *Detect cells*. A None threshold or mpp means "as the model or slide says"."""

    model: Annotated[str, Field("Model", "Name of an installed model, or a model folder")] = (
        "celldetr-he"
    )
    threshold: Annotated[
        float | None,
        Field("Score threshold", "Cells scored lower are left out", ge=0.0, le=1.0),
    ] = None
    mpp: Annotated[
        float | None,
        Field("Pixel size", "Replaces the slide's own µm per pixel", ge=0.1, le=2.0, unit="µm/px"),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field("Device", "Where the network runs; auto takes a GPU when there is one"),
    ] = "auto"
    tissue_only: Annotated[
        bool, Field("Tissue only", "Skip tiles without tissue (they are recorded as skipped)")
    ] = True
    tile_px: Annotated[
        int,
        Field(
            "Tile side", "Side of what is read at once", ge=256, le=4096, unit="px", advanced=True
        ),
    ] = 1024
    halo_px: Annotated[
        int,
        Field(
            "Tile overlap", "Read around each tile as well", ge=16, le=512, unit="px", advanced=True
        ),
    ] = 96
    batch: Annotated[
        int,
        Field(
            "Tiles at once",
            "0 chooses for the device",
            ge=0,
            le=256,
            zero="automatic",
            advanced=True,
        ),
    ] = 0
    prefetch: Annotated[
        int, Field("Reading threads", "Tiles read ahead", ge=1, le=32, advanced=True)
    ] = 2
    flips: Annotated[
        bool,
        Field("Average flips", "Twice to four times slower, slightly more accurate", advanced=True),
    ] = False
