"""Regions of one slide on the other: drawing them, carrying them, and finding tumour."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Shapes
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject

from napari_celldetr.core.errors import CellDETRError, ConfigError
from napari_celldetr.gui.align_pairs import Pairs
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_region_box import RegionBox
from napari_celldetr.gui.align_sides import SIDES, note_side, show_sides, side_of
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.carry import ALIGNMENT_KEY, KEPT_COLOR, LINE_PX, Reading, carry_regions
from napari_celldetr.gui.layers import AXES, Frame
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.pipeline.her2.tumour import alignment_of

DRAWN_ELSEWHERE = (
    "Where these regions lie cannot be told in this view.",
    "the view in which they were drawn: Side by side, or H&E as scanned",
)

OLDER = (
    "Regions that were carried before still follow the earlier alignment and limit. Carry them "
    "over again, and delete the earlier layers."
)


class Regions(QObject):
    """Draws and carries the regions of the chosen pair, and looks for tumour in its H&E."""

    def __init__(self, pairs: Pairs, box: RegionBox, parent: QObject) -> None:
        super().__init__(parent)
        self._pairs, self._box = pairs, box
        box.to_ihc.connect(lambda: self.carry(inverse=False))
        box.to_he.connect(lambda: self.carry(inverse=True))
        box.tumour.run_clicked.connect(self.find_tumour)
        box.tumour.finder.added.connect(self._show_on_ihc)

    @property
    def _aligned(self) -> bool:
        view = self._pairs.view
        return view is not None and view.transform is not None

    def show(self) -> None:
        """List the layers with regions."""
        shapes = [layer for layer in self._pairs.viewer.layers if isinstance(layer, Shapes)]
        self._box.show_layers(shapes, aligned=self._aligned)

    def note_older(self) -> None:
        """Say so where regions lie as another alignment or limit has carried them."""
        view = self._pairs.view
        facts = [la.metadata.get(ALIGNMENT_KEY) for la in self._pairs.viewer.layers]
        known = [f for f in facts if f is not None]
        if view is None or view.transform is None or not known:
            return
        now = alignment_of(view.transform, 0.0)
        older = [f for f in known if f["he_identity"] == now.he_identity]
        if any(f["sha256"] != now.sha256 for f in older):
            self._box.say(OLDER)
        elif self._box.said.text() == OLDER:
            self._box.say("")

    def offer_tumour(self) -> None:
        """Offer to look for tumour where there is an alignment."""
        self._box.tumour.offer(aligned=self._aligned)

    def find_tumour(self) -> None:
        """Let the network look for tumour in the H&E, and carry it to the IHC."""
        view = self._pairs.view
        if view is not None and self._box.tumour.run_button.isEnabled():
            self._box.tumour.press(view)

    def _show_on_ihc(self, view: AlignView) -> None:
        """A view in which what lies on the IHC is in its place."""
        if view is self._pairs.view and view.look in (Look.PLAIN, Look.HE):
            self._pairs.show_look(Look.BLEND)

    def draw(self) -> None:
        """A new layer in which the mouse draws regions."""
        view = self._pairs.view
        if view is None:
            return
        layer = Shapes(
            ndim=2,
            name="Regions",
            edge_color=KEPT_COLOR,
            face_color="transparent",
            edge_width=LINE_PX / camera_of(view.viewer).zoom,
            units=Frame.of_layer(view.ihc).units,
            axis_labels=AXES,
        )
        note_side(layer, view, SIDES.get(view.look))
        view.viewer.add_layer(layer)
        view.viewer.layers.selection.active = layer
        layer.mode = "add_polygon"

    def carry(self, *, inverse: bool) -> None:
        """Carry the chosen layer's regions to the other slide, as a new layer."""
        view, source = self._pairs.view, self._box.layer
        if view is None or view.transform is None or source is None:
            return
        try:
            reading = _reading(view, source, inverse=inverse)
            frame = Frame.of_layer(view.he if inverse else view.ihc)
            zoom = camera_of(view.viewer).zoom
            carried = carry_regions(
                source, reading, view.transform, frame=frame, inverse=inverse, zoom=zoom
            )
        except CellDETRError as error:
            show_error(str(error))
            self._box.say(error.message)
            return
        was_beside = view.look is Look.BESIDE
        if side_of(source, view) is None and (inverse or not was_beside):
            # On the H&E's picture beside the IHC they lie nowhere else in their place.
            note_side(source, view, "ihc" if inverse else "he")
        look = Look.HE if inverse else Look.BESIDE if was_beside else Look.BLEND
        if look is not view.look:
            self._pairs.show_look(look)
        show_sides(view, view.viewer.layers)
        view.viewer.add_layer(carried.layer)
        self._box.say(carried.sentence())


def _reading(view: AlignView, source: Any, *, inverse: bool) -> Reading:
    """How to read a layer's places, on the slide they are to be carried from."""
    side = "ihc" if inverse else "he"
    known = side_of(source, view)
    if known is not None:
        _refuse_way(source, known, side)
        return view.ihc_at if known == "ihc" else _he_at(view)
    fits = view.look in ((Look.PLAIN, Look.HE) if not inverse else (Look.PLAIN, Look.BLEND))
    overlaid = inverse and view.look in (Look.SWIPE, Look.CHECKER)

    def read(world: Any) -> Any:
        if view.look is Look.BESIDE:
            if any(side not in view.sides(place) for place in world):
                raise _elsewhere("some lie on the other slide")
        elif not (fits or overlaid):
            raise _elsewhere("another view")
        return view.ihc_at(world) if inverse else view.he_at(world)

    return read


def _he_at(view: AlignView) -> Reading:
    """Where regions are that were drawn on the H&E as scanned, whatever is shown now."""
    frame = Frame.of_layer(view.he)
    return lambda world: np.asarray(frame.from_world(world), np.float64)


def _refuse_way(source: Any, known: str, side: str) -> None:
    if known != side:
        names = {"he": "H&E", "ihc": "IHC"}
        raise ConfigError(
            f"These regions lie on the {names[known]}, and are not to be carried from the "
            f"{names[side]}. Press {names[known]} → {names[side]}.",
            expected=f"regions on the {names[side]}",
            found=f"{source.name!r}, on the {names[known]}",
            remedy=f"press {names[known]} → {names[side]}",
        )


def _elsewhere(found: str) -> ConfigError:
    return ConfigError(
        DRAWN_ELSEWHERE[0],
        expected=DRAWN_ELSEWHERE[1],
        found=found,
        remedy="choose that view under Show, then press again",
    )
