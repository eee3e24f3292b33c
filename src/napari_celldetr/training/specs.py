"""Words that name data sets on a command line, and what they mean."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_celldetr.core.errors import ConfigError

DATA_WORDS = (
    "KIND:FOLDER[@MPP][*WEIGHT][+dab][?OPTION=VALUE&...], e.g. points:fields@0.5 "
    "instances:masks@0.25*0.3"
)
REMEDY = "quote words with spaces, as in --data \"'points:my fields@0.5'\""
LEAST_MPP, MOST_MPP = 0.05, 4.0
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
    and DAB: True with a nuclear marker, ``any`` with one of nuclei, membranes or cytoplasm.
    `options` are pairs of name and value; `balanced` leaves the share to the set's size.
    """

    kind: str
    folder: Path
    mpp: float | None
    weight: float
    restain: bool | Literal["any"] = False
    options: tuple[tuple[str, str], ...] = ()
    balanced: bool = False

    def option(self, name: str, default: str = "") -> str:
        """The value of an option, `default` where it is not given."""
        return dict(self.options).get(name, default)


def parse_data(text: str) -> list[DataSpec]:
    """Data sets out of words like ``points:fields@0.5*1.0``; `ConfigError` when malformed.

    Words are separated by spaces; quotes keep a folder with spaces together. The error names
    the part that cannot be read.
    """
    words = _words(text)
    if not words:
        raise ConfigError(
            "No data set is named.",
            expected=DATA_WORDS,
            found="nothing",
            remedy="name at least one data set",
        )
    return [_parse_one(word, words[i - 1] if i else "") for i, word in enumerate(words)]


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    lexer.escape = ""  # a backslash separates folders on Windows
    try:
        return list(lexer)
    except ValueError as error:
        raise _unreadable(text, "a quotation mark is not closed") from error


def _parse_one(word: str, before: str) -> DataSpec:
    """One word; `before` is the one it may be torn from."""
    # A folder may have a question mark in its name: options start with one and a name.
    found = re.fullmatch(r"(?s)(.*?)(?:\?([a-z]+=.*))?", word)
    head, listed = (found.group(1), found.group(2)) if found else (word, None)
    plain = head.removesuffix("+dab-any").removesuffix("+dab")
    restain: bool | Literal["any"] = "any" if head.endswith("+dab-any") else plain != head
    kind, colon, rest = plain.partition(":")
    body, _, weight = rest.rpartition("*") if "*" in rest else (rest, "", "1")
    folder, at, mpp = body.rpartition("@") if "@" in body else (body, "", "")
    if kind not in KINDS:
        raise _no_kind(word, kind if colon else "", before)
    if not folder:
        raise _unreadable(word, "no folder after the colon", "name the folder")
    balanced = weight == "auto"
    share = 1.0 if balanced else _number(weight, word, "share", "*1 or *auto")
    scale = _number(mpp, word, "µm/px", "@0.5") if at else KINDS[kind].mpp
    if KINDS[kind].asks_mpp and scale is None:
        raise ConfigError(
            f"The data set {folder!r} does not say how large its pixels are.",
            expected=f"{kind}:FOLDER@MPP",
            found=word,
            remedy="add @ and the µm/px of its images",
        )
    if share <= 0:
        raise _unreadable(
            word,
            f"the share {weight} is not above 0",
            "write a share such as *0.5, or leave the set out",
        )
    if scale is not None and not LEAST_MPP <= scale <= MOST_MPP:
        raise _unreadable(
            word,
            f"{mpp} µm/px is not between {LEAST_MPP:g} and {MOST_MPP:g}",
            "give the µm/px of the images; scanners have 0.2 to 0.6",
        )
    options = _options(kind, listed, word) if listed else ()
    return DataSpec(kind, Path(folder), scale, share, restain, options, balanced)


def _no_kind(word: str, kind: str, before: str) -> ConfigError:
    kinds = "; kinds: " + ", ".join(KINDS)
    if kind:
        near = difflib.get_close_matches(kind, KINDS, 1)
        remedy = f"write {near[0]}:" if near else "write one of the kinds"
        return _unreadable(word, f"unknown kind {kind!r}{kinds}", remedy)
    remedy = f"write the kind and a colon before it, e.g. points:{word}"
    if before:
        remedy += f"; where a name has a space, write --data \"'{before} {word}'\""
    return _unreadable(word, f"no kind before a colon{kinds}", remedy)


def _number(text: str, word: str, what: str, example: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        point = text.replace(",", ".")
        better = point if re.fullmatch(r"\d*\.\d+", point) else ""
        fault = f"the {what} {text!r} is not a number" if text else f"the {what} is missing"
        raise _unreadable(word, fault, f"write {better or example}")
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
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise _unreadable(word, f"the option {twice} is given twice", "keep one of them")
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


def _unreadable(word: str, fault: str, remedy: str = REMEDY) -> ConfigError:
    return ConfigError(
        f"A data set cannot be read: {fault}.",
        expected=DATA_WORDS,
        found=word,
        remedy=remedy,
    )
