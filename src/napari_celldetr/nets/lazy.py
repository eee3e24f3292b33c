"""A model that is loaded when first asked to predict: stored results need no torch at all."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.predictor import Predictor, TilePrediction
from napari_celldetr.nets import registry
from napari_celldetr.nets.card import DETECT, ModelCard, read_card


class LazyModel:
    """A `Predictor` by name or folder. Its card is read at once, its weights when needed.

    Raises `ModelError` on construction when there is no such model or it is no detector, and
    from `predict` when its weights cannot be used.
    """

    def __init__(
        self, name_or_folder: str | Path, *, device: str = "auto", flips: bool = False
    ) -> None:
        self._folder = registry.find_model(name_or_folder)
        self._card = read_card(self._folder)
        registry.refuse_other_task(self._card, DETECT)
        self._device, self._flips = device, flips
        self._loaded: Predictor | None = None
        self._lock = Lock()

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    @property
    def device(self) -> str:
        """Where it runs; before it is loaded, where it was asked to."""
        return self._device if self._loaded is None else self._loaded.device

    @property
    def loaded(self) -> Predictor:
        """The model itself, loaded now if it was not before."""
        with self._lock:
            if self._loaded is None:
                self._loaded = registry.load_model(
                    self._folder, device=self._device, flips=self._flips
                )
            return self._loaded

    def predict(self, tiles: NDArray[np.uint8]) -> list[TilePrediction]:
        """See `napari_celldetr.core.predictor.Predictor.predict`."""
        return self.loaded.predict(tiles)

    def to(self, device: str) -> Predictor:
        """The loaded model on another device."""
        return self.loaded.to(device)
