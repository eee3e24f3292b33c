"""Two reports side by side: every value that is not the same, by its place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-6
"""Relative: what another processor may add up differently."""


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


MISSING = _Missing()


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that did not come out again."""

    where: str
    reported: Any
    replayed: Any

    def sentence(self) -> str:
        """The difference in a line."""
        return f"{self.where}: {_shown(self.reported)} in the report, {_shown(self.replayed)} now"


def differences(where: str, old: Any, new: Any) -> Iterator[Difference]:
    """Every value that differs between two values as JSON has them; `where` is their place."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            place = f"{where}.{key}" if where else str(key)
            yield from differences(place, old.get(key, MISSING), new.get(key, MISSING))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            name = a.get("key", number) if isinstance(a, Mapping) else number
            yield from differences(f"{where}[{name}]", a, b)
    elif not _same(old, new):
        yield Difference(where, old, new)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _same(old: Any, new: Any) -> bool:
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (old, new))
    if numbers and (isinstance(old, float) or isinstance(new, float)):
        return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return type(old) is type(new) and bool(old == new)


def _shown(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
