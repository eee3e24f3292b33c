"""Which slide regions lie on, and that they are shown only where they lie in their place.

"H&E as scanned" shows other coordinates than every other view of a pair. A layer that is put away
for it comes back with the view in which it is right, unless the user hides it meanwhile. No Qt.
"""

from __future__ import annotations

from typing import Any

from napari.layers import Shapes

from napari_celldetr.gui.align_places import Look, PairPlaces
from napari_celldetr.gui.carry import CARRIED_KEY
from napari_celldetr.gui.landmarks import Side

DRAWN_KEY = "celldetr_drawn_on"
"""In the metadata of drawn regions: side and name of the slide layer that they lie on."""
AWAY_KEY = "celldetr_put_away"
"""In the metadata of a layer that is hidden because it would lie in the wrong place."""
SIDES: dict[Look, Side] = {
    Look.HE: "he",
    Look.BLEND: "ihc",
    Look.SWIPE: "ihc",
    Look.CHECKER: "ihc",
}
"""What is drawn in these views lies on this slide. Side by side it can lie on either."""


def note_side(layer: Any, view: PairPlaces, side: Side | None) -> None:
    """Remember which slide of a pair a layer's regions lie on; None for not known."""
    if side is not None:
        layer.metadata[DRAWN_KEY] = (side, (view.he if side == "he" else view.ihc).name)


def side_of(layer: Any, view: PairPlaces) -> Side | None:
    """The slide of this pair that a layer's regions lie on; None where that is not known."""
    about, transform = layer.metadata.get(CARRIED_KEY), view.transform
    if about is not None and transform is not None:
        origin = about["from"], about["slide"]
        if origin == ("H&E", transform.he.name):
            return "ihc"
        return "he" if origin == ("IHC", transform.ihc.name) else None
    drawn = layer.metadata.get(DRAWN_KEY)
    if drawn == ("he", view.he.name):
        return "he"
    return "ihc" if drawn == ("ihc", view.ihc.name) else None


def show_sides(view: PairPlaces, layers: Any) -> None:
    """Put away the regions that would lie in the wrong place in this view, bring others back."""
    for layer in [la for la in layers if isinstance(la, Shapes)]:
        side = side_of(layer, view)
        fits = side is None or view.look is Look.PLAIN or (side == "he") == (view.look is Look.HE)
        if fits and layer.metadata.pop(AWAY_KEY, False):
            layer.visible = True
        elif not fits and layer.visible:
            layer.metadata[AWAY_KEY] = True
            layer.visible = False
