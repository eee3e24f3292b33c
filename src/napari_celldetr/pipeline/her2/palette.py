"""One colour for each score, wherever cells are shown."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

Rgb = tuple[int, int, int]

SCORE_COLORS: Mapping[str, Rgb] = MappingProxyType(
    {
        "0": (203, 215, 236),
        "1+": (226, 162, 0),
        "2+": (232, 92, 0),
        "3+": (208, 0, 80),
    }
)
"""From pale blue over yellow and orange to red, told apart by lightness alone.

What is looked for, 3+, is the most vivid; unstained cells are hardly seen.
"""
NOT_COUNTED: Rgb = (150, 150, 150)


def css(color: Rgb) -> str:
    """The colour as a style sheet writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)
