"""Words that name data sets on a command line, and what they mean."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from napari_celldetr.core.errors import ConfigError

DATA_WORDS = (
    "KIND:FOLDER[@MPP][*WEIGHT][+dab][?OPTION=VALUE&...], e.g. points:fields@0.5 "
    "instances:masks@0.25*0.3"
)
REMEDY = (
    "write kind, colon, folder, and optionally @µm/px (0.05 to 4), *share (or *auto), +dab and "
    "?option=value; quote words with spaces"
)
YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of data set has: its µm/px (None: its files say), and its options.

    `options` maps a name to the values it may have; none means any text.
    """

    mpp: float | None
    options: dict[str, tuple[str, ...]]
    asks_mpp: bool = False


_COMMON: dict[str, tuple[str, ...]] = {"map": (), "group": ()}
_EMPTY = {"empty": ("background", "unknown")}
_COMPLETE = {"complete": YES_NO}

KINDS = {
    "points": Kind(0.5, {**_COMMON, **_EMPTY, **_COMPLETE}),
    "instances": Kind(0.5, {**_COMMON, **_COMPLETE}),
    "composition": Kind(None, _COMMON, asks_mpp=True),
    "pannuke": Kind(0.25, _COMMON),
    "consep": Kind(0.25, {**_COMMON, "types": ("all", "merged")}),
    "lizard": Kind(0.5, _COMMON),
    "conic": Kind(0.5, _COMMON),
    "coco": Kind(None, {**_COMMON, **_EMPTY, "json": ()}, asks_mpp=True),
    "geojson": Kind(
        None, {**_COMMON, **_COMPLETE, **_EMPTY, "slides": (), "region": (), "tile": ()}
    ),
    "xenium": Kind(
        None,
        {
            "map": (),
            **_COMPLETE,
            "image": (),
            "align": (),
            "types": (),
            "labels": ("points", "composition"),
            "tile": (),
        },
    ),
}


@dataclass(frozen=True, slots=True)
class DataSpec:
    """One data set: `kind` (one of `KINDS`), folder, µm/px and share in sampling.

    `mpp` is None where the set's own files say it. `restain` shows H&E fields as haematoxylin
    and DAB. `options` are pairs of name and value; `balanced` leaves the share to the set's size.
    """

    kind: str
    folder: Path
    mpp: float | None
    weight: float
    restain: bool = False
    options: tuple[tuple[str, str], ...] = ()
    balanced: bool = False

    def option(self, name: str, default: str = "") -> str:
        """The value of an option, `default` where it is not given."""
        return dict(self.options).get(name, default)


def parse_data(text: str) -> list[DataSpec]:
    """Data sets out of words like ``points:fields@0.5*1.0``; `ConfigError` when malformed.

    Words are separated by spaces; quotes keep a folder with spaces together.
    """
    specs = [_parse_one(word) for word in _words(text)]
    if not specs:
        raise ConfigError(
            "No data set is named.",
            expected=DATA_WORDS,
            found="nothing",
            remedy="name at least one data set",
        )
    return specs


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""  # a backslash separates folders on Windows
    try:
        return list(lexer)
    except ValueError as error:
        raise _unreadable(text) from error


def _parse_one(word: str) -> DataSpec:
    # A folder may have a question mark in its name: options start with one and a name.
    found = re.fullmatch(r"(?s)(.*?)(?:\?([a-z]+=.*))?", word)
    head, listed = (found.group(1), found.group(2)) if found else (word, None)
    plain = head.removesuffix("+dab")
    kind, _, rest = plain.partition(":")
    body, _, weight = rest.rpartition("*") if "*" in rest else (rest, "", "1")
    folder, _, mpp = body.rpartition("@") if "@" in body else (body, "", "")
    if kind not in KINDS or not folder:
        raise _unreadable(word)
    balanced = weight == "auto"
    share = _number(1 if balanced else weight, word)
    scale = _number(mpp, word) if mpp or "@" in body else KINDS[kind].mpp
    if KINDS[kind].asks_mpp and scale is None:
        raise ConfigError(
            f"The data set {folder!r} does not say how large its pixels are.",
            expected=f"{kind}:FOLDER@MPP",
            found=word,
            remedy="add @ and the µm/px of its images",
        )
    if share <= 0 or (scale is not None and not 0.05 <= scale <= 4):
        raise _unreadable(word)
    options = _options(kind, listed, word) if listed else ()
    return DataSpec(kind, Path(folder), scale, share, plain != head, options, balanced)


def _number(text: str | float, word: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _unreadable(word)
    return value


def _options(kind: str, listed: str, word: str) -> tuple[tuple[str, str], ...]:
    pairs = [item.partition("=")[::2] for item in listed.split("&")]
    known = KINDS[kind].options
    for name, value in pairs:
        expected = _wanted(name, value, known)
        if expected:
            raise ConfigError(
                f"An option of a data set cannot be used: {name}={value}",
                expected=expected,
                found=word,
                remedy="correct the option; several are joined by &",
            )
    if len({name for name, _ in pairs}) != len(pairs):
        raise _unreadable(word)
    return tuple((name, value) for name, value in pairs)


def _wanted(name: str, value: str, known: dict[str, tuple[str, ...]]) -> str:
    """What should stand in place of an option that cannot be used; '' where it can."""
    if name not in known:
        return "options " + ", ".join(sorted(known))
    if known[name]:
        return "" if value in known[name] else f"{name}=" + " or ".join(known[name])
    if name == "tile":
        return "" if value.isdigit() and 64 <= int(value) <= 8192 else "tile=64 to 8192 px"
    return "" if value else f"{name}=something"


def _unreadable(found: str) -> ConfigError:
    return ConfigError(
        "A data set is named in a way that cannot be read.",
        expected=DATA_WORDS + "; kinds " + ", ".join(KINDS),
        found=found,
        remedy=REMEDY,
    )
