"""How many classes are still wrong, from cells drawn at random; and when one can stop.

Cells that are asked about because they are doubtful are wrong far more often than others, so
they say nothing of the slide. Only cells that were drawn at random do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_celldetr.core.her2.shares import wilson_interval

LEAST_ASKED = 50
"""Fewer random cells cannot vouch for a slide."""
LIMIT = 0.05
"""Share of wrong classes that one may live with, unless a person chooses another."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """An estimate of the share of cells whose class is wrong.

    Attributes
    ----------
    wrong, asked : int
        Of cells that were drawn at random and answered.
    low, high : float
        Wilson's 95 % interval of the share; NaN where nothing was asked.
    limit : float
        The share that is good enough.
    """

    wrong: int
    asked: int
    low: float
    high: float
    limit: float = LIMIT

    @property
    def share(self) -> float:
        """Wrong of asked; NaN where nothing was asked."""
        return self.wrong / self.asked if self.asked else math.nan

    @property
    def may_stop(self) -> bool:
        """Whether even the worse end of the interval is good enough, and enough was asked."""
        return self.asked >= LEAST_ASKED and self.high < self.limit

    def sentence(self) -> str:
        """The estimate in words for people."""
        if not self.asked:
            return "How many classes are wrong is not known yet: no random cell was answered."
        told = (
            f"{self.wrong} of {self.asked} random cells had the wrong class: "
            f"{100 * self.share:.1f} % (95 % interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f} %)."
        )
        if self.may_stop:
            return f"{told} You can stop: with 95 % confidence it is below {100 * self.limit:g} %."
        missing = LEAST_ASKED - self.asked
        if missing > 0:
            return f"{told} {missing} more random cells are needed before one can tell."
        return f"{told} It is not shown to be below {100 * self.limit:g} % yet."


def remaining_error(wrong: int, asked: int, *, limit: float = LIMIT) -> Remaining:
    """The estimate from `wrong` of `asked` cells that were drawn at random."""
    low, high = wilson_interval(wrong, asked)
    return Remaining(int(wrong), int(asked), low, high, limit)
