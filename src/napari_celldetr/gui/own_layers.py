"""Layers that a view adds to a viewer for itself, without getting in the user's way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class OwnLayers:
    """Adds and takes away layers of ours; `viewer` needs ``add_layer`` and ``layers``."""

    def __init__(self, viewer: Any) -> None:
        self.viewer = viewer

    def there(self, layer: Any) -> bool:
        """Whether a layer is (still) in the viewer."""
        return layer is not None and layer in self.viewer.layers

    def add(self, layer: Any, *, above: Sequence[Any] = ()) -> None:
        """Add on top, or just above some layers, without taking the selection away."""
        layers = self.viewer.layers
        before = list(layers.selection)
        self.viewer.add_layer(layer)
        if above:
            # Cells and regions of the user stay above the pictures.
            lower = [layers.index(la) for la in above if self.there(la)]
            layers.move(layers.index(layer), max(lower, default=-1) + 1)
        kept = [la for la in before if la in layers]
        if kept:
            layers.selection = kept

    def remove(self, layer: Any) -> None:
        """Take a layer away, where it is still there."""
        if self.there(layer):
            self.viewer.layers.remove(layer)
