"""What settings of a network may be: a card from elsewhere may hold anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_celldetr.core.errors import ConfigError

STRIDES = (1, 2, 4, 8, 16, 32)


def outside(settings: Any, limits: Mapping[str, tuple[int, int]]) -> list[str]:
    """Which whole-number settings are of another type or outside their limits, in words."""
    return [
        f"{name} = {getattr(settings, name)!r:.80}"
        for name, (low, high) in limits.items()
        if type(getattr(settings, name)) is not int or not low <= getattr(settings, name) <= high
    ]


def not_a_share(settings: Any, *names: str) -> list[str]:
    """Which settings are no number of 0..1 (1 excluded), in words."""
    values = {name: getattr(settings, name) for name in names}
    return [
        f"{name} = {value!r:.80}"
        for name, value in values.items()
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1
    ]


def refuse(network: str, wrong: list[str]) -> None:
    """`ConfigError` where anything is wrong."""
    if wrong:
        raise ConfigError(
            f"This {network} cannot be built.",
            expected="a consistent configuration",
            found="; ".join(wrong),
            remedy="change the named settings",
        )
