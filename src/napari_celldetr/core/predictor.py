"""What the pipeline needs of a model: pixels in, cells out, and an honest word on trouble."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections

NUMERICAL = "numerical"
SATURATED = "saturated"
PROBABILITY = "probability_"
"""What the names of columns with one class's probability begin with; the class's name follows."""


@dataclass(frozen=True, slots=True)
class TilePrediction:
    """Cells of one tile in tile pixels, with flags.

    Flag ``saturated``: at least as many cells as the model can return, some may be missing.
    Flag ``numerical``: the network gave values that are not finite; `detections` is empty and
    must be reported as a failure, never as "no cells".
    """

    detections: Detections
    flags: frozenset[str] = frozenset()


@runtime_checkable
class Predictor(Protocol):
    """A loaded model. `card` is a `napari_celldetr.nets.card.ModelCard` (or looks like one)."""

    @property
    def card(self) -> Any:
        """The model's card."""
        ...

    @property
    def device(self) -> str:
        """Where it runs now, e.g. ``cpu`` or ``cuda:0``."""
        ...

    def predict(self, tiles: NDArray[np.uint8]) -> list[TilePrediction]:
        """Cells in each of `tiles` (B, H, W, 3) uint8 RGB at the card's µm/px.

        Keeps every cell scored at least ``card.score_floor``. Raises ``MemoryError`` when the
        device has not enough memory for this batch; the caller then tries a smaller one.
        """
        ...

    def to(self, device: str) -> Predictor:
        """The same model on another device."""
        ...
