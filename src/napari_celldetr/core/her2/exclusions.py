"""Why a cell is not counted: its membrane cannot be read, or it is no cell."""

from __future__ import annotations

from enum import IntEnum


class Exclusion(IntEnum):
    """What makes the staining of a cell unreadable, or no cell's; `NONE` where nothing does."""

    NONE = 0
    EDGE = 1
    FOLD = 2
    CRUSHED = 3
    PIGMENT = 4
    SPECK = 5

    @property
    def words(self) -> str:
        """The reason in plain words."""
        return EXCLUSION_WORDS[self]


EXCLUSION_WORDS = {
    Exclusion.NONE: "counted",
    Exclusion.EDGE: "at the edge of the tissue, where stain gathers",
    Exclusion.FOLD: "in a fold, where tissue lies double",
    Exclusion.CRUSHED: "crushed: nuclei smeared and dark",
    Exclusion.PIGMENT: "pigment that is not DAB",
    Exclusion.SPECK: "no nucleus but a piece of stained membrane",
}
