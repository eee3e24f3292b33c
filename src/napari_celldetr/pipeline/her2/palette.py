"""One colour for each score, wherever cells are shown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Rgb = tuple[int, int, int]

SCORE_COLORS: Mapping[str, Rgb] = MappingProxyType(
    {
        "0": (255, 222, 60),
        "1+": (56, 190, 120),
        "2+": (30, 105, 200),
        "3+": (120, 0, 160),
    }
)
"""Pale to dark, told apart by lightness alone, and none of them the brown of DAB."""
NOT_COUNTED: Rgb = (150, 150, 150)


def css(color: Rgb) -> str:
    """The colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)
