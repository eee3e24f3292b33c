"""Which weights a finished training keeps, and what its validation says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_celldetr.training.config import TrainConfig
from napari_celldetr.training.history import read_history
from napari_celldetr.training.page import best_row

THRESHOLD = 0.4
"""Score threshold of a model whose own was never measured."""

SCORE_FLOOR = 0.05
"""Lowest score a new model returns."""


@dataclass(frozen=True)
class Kept:
    """The weights a training keeps.

    Attributes
    ----------
    step : int
        After which they were taken.
    threshold : float or None
        Score at which detection F1 was highest on the validation fields; None where no
        validation found a cell.
    best_step : int
        The step that validated best; `step` where no other was better.
    validated : bool
    """

    step: int
    threshold: float | None = None
    best_step: int = 0
    validated: bool = False

    @classmethod
    def of(cls, config: TrainConfig) -> Kept:
        """What the finished run in ``config.output`` keeps, by its log."""
        rows = read_history(Path(config.output)).validations
        if not rows:
            return cls(config.steps, best_step=config.steps)
        best, last = rows[best_row(rows)], rows[-1]
        row = best if config.keep == "best" else last
        same = best["validation"]["overall"] <= row["validation"]["overall"]
        return cls(row["step"], _threshold(row), row["step"] if same else best["step"], True)

    def as_text(self, *, detects: bool) -> str:
        """Lines for people."""
        lines = []
        if self.best_step != self.step:
            lines.append(
                f"The model holds step {self.step}; step {self.best_step} validated better "
                "(--keep best)."
            )
        elif self.validated:
            lines.append(f"The model holds step {self.step}; no other validated better.")
        if detects and self.threshold is not None:
            lines.append(
                f"Score threshold {self.threshold:.2f}, the best on the validation fields."
            )
        elif detects:
            lines.append(
                f"Score threshold {THRESHOLD:g}, not measured: celldetr evaluate "
                "--best-threshold, on fields that were not trained on, finds a better one."
            )
        return "\n".join(lines)


def _threshold(row: dict[str, Any]) -> float | None:
    found = row["validation"]
    if not found["detection"] or found["threshold"] is None:
        return None
    # Rounded down, so that the cell it was chosen at stays.
    value: float = math.floor(found["threshold"] * 1e4) / 1e4
    return min(max(value, SCORE_FLOOR), 0.9999)
