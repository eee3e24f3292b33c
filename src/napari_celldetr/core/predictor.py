"""What the pipeline needs of a model: pixels in, cells or classes out, and an honest word."""

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


UNKNOWN = 255
"""Class of a pixel that the network could say nothing of; in truth, of one that does not count."""


@dataclass(frozen=True, slots=True)
class TilePrediction:
    """Cells of one tile in tile pixels, with flags.

    Flag ``saturated``: at least as many cells as the model can return, some may be missing.
    Flag ``numerical``: the network gave values that are not finite; `detections` is empty and
    must be reported as a failure, never as "no cells".
    """

    detections: Detections
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class PointAnswers:
    """What a model says about points: row i of `detections` is its answer to point i.

    `failed` (N,) bool is True where the network gave values that are not finite. Such a row is
    no cell: its box is the point itself, its score 0 and its class unknown.
    """

    detections: Detections
    failed: NDArray[np.bool_]


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


@runtime_checkable
class AskablePredictor(Predictor, Protocol):
    """A model that can also be asked what is at a given point."""

    def encode_tile(self, tile: NDArray[np.uint8]) -> Any:
        """`tile` (H, W, 3) uint8 RGB at the card's µm/px, in a form that can be kept and asked.

        Raises ``MemoryError`` when the device has not enough memory.
        """
        ...

    def ask(self, encoded: Any, xy: NDArray[Any]) -> PointAnswers:
        """The model's answer to each point `xy` (N, 2) in tile px, in the order asked.

        Every point gets a row: nothing is suppressed, and nothing is left out for its score.
        Raises `CellDETRError` for a point outside the tile.
        """
        ...

    def heat(self, encoded: Any) -> tuple[NDArray[np.float32], float]:
        """The model's probability (h, w) that a nucleus' centre is there, and its px in tile px.

        Values that are not finite are left as they are.
        """
        ...


@runtime_checkable
class PatchPredictor(Protocol):
    """A model that names the class of a square patch."""

    @property
    def card(self) -> Any:
        """The model's card."""
        ...

    @property
    def device(self) -> str:
        """Where it runs now."""
        ...

    @property
    def patch_px(self) -> int:
        """Side of a patch, px at the card's µm/px."""
        ...

    def predict(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (B, K) of the card's classes for patches (B, P, P, 3) uint8 RGB.

        A row of NaN where the network gave values that are not finite: no class is known there.
        Raises ``MemoryError`` when the device has not enough memory for this batch.
        """
        ...

    def heatmap(self, tile: NDArray[np.uint8], stride: int = 0) -> NDArray[np.float32]:
        """Probabilities (rows, columns, K) of the patches of a tile (H, W, 3), `stride` px apart.

        Entry (i, j) is of the patch whose upper left corner is x = j · stride, y = i · stride.
        """
        ...


@runtime_checkable
class PixelPredictor(Protocol):
    """A model that names the class of every pixel."""

    @property
    def card(self) -> Any:
        """The model's card."""
        ...

    @property
    def device(self) -> str:
        """Where it runs now."""
        ...

    @property
    def halo_px(self) -> int:
        """What a tile should have around the part that is used, px at the card's µm/px."""
        ...

    @property
    def lattice_px(self) -> int:
        """Tiles whose corners are multiples of this apart see the same pixels the same way."""
        ...

    def predict(self, tiles: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Probabilities (B, K, H, W) of the card's classes for tiles (B, H, W, 3) uint8 RGB.

        They add up to 1 in every pixel. A tile where the network gave values that are not finite
        is NaN throughout. Raises ``MemoryError`` when the device has not enough memory.
        """
        ...

    def classes(self, tiles: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The likeliest class (B, H, W) of every pixel; `UNKNOWN` where `predict` gives NaN."""
        ...
