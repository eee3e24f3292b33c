"""The grey over the IHC where the two slides are not aligned well enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_celldetr.gui.align_places import TRANSFORM_KEY, Look, PairPlaces
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.own_layers import OwnLayers

VEIL_COLOR = (0.25, 0.25, 0.25, 1.0)
VEIL_NAME = "Not aligned well enough"


class VeilLayer:
    """A layer of what an alignment leaves out; none where nobody measured its error."""

    def __init__(self, places: PairPlaces, own: OwnLayers) -> None:
        self._places, self._own = places, own
        self._layer: Any = None

    def show(self, *, above: Sequence[Any]) -> None:
        """Show it over some layers, where the IHC is seen."""
        aligned = self._places.aligned
        if aligned is None or aligned.veil is None:
            return
        if not self._own.there(self._layer):
            clear = (0.0, 0.0, 0.0, 0.0)
            self._layer = Labels(
                aligned.veil.left_out(aligned.transform.limit_um),
                name=VEIL_NAME,
                colormap=DirectLabelColormap(color_dict={None: clear, 0: clear, 1: VEIL_COLOR}),
                opacity=0.55,
                metadata={TRANSFORM_KEY: aligned.transform},
                **Frame.of_layer(self._places.ihc).raster_options(aligned.veil.factor),
            )
            self._own.add(self._layer, above=above)
            self._layer.editable = False
        self._layer.visible = self._places.look is not Look.HE

    def follow_limit(self) -> None:
        """The limit is another one."""
        aligned = self._places.aligned
        if aligned is not None and aligned.veil is not None and self._own.there(self._layer):
            self._layer.data = aligned.veil.left_out(aligned.transform.limit_um)
            self._layer.metadata[TRANSFORM_KEY] = aligned.transform

    def remove(self) -> None:
        """Take it away."""
        self._own.remove(self._layer)
        self._layer = None
