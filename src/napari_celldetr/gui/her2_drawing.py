"""A pen for outlines on a slide: whose they are, when one is finished, how they look.

Each layer remembers the slides that it was drawn on, or said to belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined]

from napari_celldetr.gui.carry import CARRIED_KEY
from napari_celldetr.gui.layers import SLIDE_KEY
from napari_celldetr.gui.overlay import _line_width, camera_of
from napari_celldetr.gui.session import SlideSession

TUMOUR_LAYER, CUT_OUT_LAYER, CONTROL_LAYER = "Tumour", "Cut out", "Control"
COLORS = {TUMOUR_LAYER: "#00e5ff", CUT_OUT_LAYER: "#ff4081", CONTROL_LAYER: "#ffd54f"}
WHAT = {
    TUMOUR_LAYER: "the invasive tumour",
    CUT_OUT_LAYER: "what lies in the tumour and is none",
    CONTROL_LAYER: "the control tissue",
}
GUIDE = "Click round {what} on the slide. A double click ends the outline."
OWNER_KEY, COLORS_KEY = "celldetr_drawn_on", "celldetr_colors"
LINE_PX, THIN_PX = 2.5, 1.2
"""Screen px of the outline that is chosen, and of the others."""
UNCHOSEN = "#999999"
DRAWING = "add_polygon"
ADDED = "added"
"""What napari says of a shape that is finished; one that is begun is "adding"."""
MANY_SHAPES = 300
"""Of so many shapes another width takes too long."""


def owner_of(session: SlideSession | None) -> str:
    """What a slide is known by: its file, or the name of its layer."""
    if session is None:
        return ""
    return str(session.layer.metadata.get(SLIDE_KEY) or session.layer.name)


def owners(layer: Any) -> Sequence[str]:
    """The slides that a layer belongs to; empty where nobody said so."""
    return tuple(layer.metadata.get(OWNER_KEY, ()))


def belongs(layer: Any, owner: str) -> bool:
    """Whether a layer is not another slide's."""
    known = owners(layer)
    return not known or owner in known


def claim(layer: Any, session: SlideSession | None) -> None:
    """From now on the layer belongs to this slide, too."""
    owner = owner_of(session)
    if owner and owner not in owners(layer):
        layer.metadata[OWNER_KEY] = [*owners(layer), owner]


class Drawing(QObject):
    """Puts a pen into the person's hand, and takes it away once an outline is finished.

    `guided` is sent with what to do now, '' for nothing.
    """

    guided = Signal(str)

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._layer: Any = None
        self._count = 0

    def begin(self, session: SlideSession | None, what: str) -> Any | None:
        """Draw on the slide's layer of this kind, which is made if there is none yet."""
        if session is None:
            return None
        layer = self._found(session, what) or self._new(session, what)
        layer.metadata.setdefault(COLORS_KEY, COLORS[what])
        self._viewer.layers.selection.active = layer
        layer.visible = True
        layer.mode = DRAWING
        self._layer, self._count = layer, len(layer.data)
        self.guided.emit(GUIDE.format(what=WHAT[what]))
        return layer

    def end(self) -> None:
        """Take the pen away."""
        layer, self._layer = self._layer, None
        if layer is None:
            return
        if layer in self._viewer.layers and layer.mode == DRAWING:
            layer.mode = "pan_zoom"
        self.guided.emit("")

    def heard(self, event: Any) -> None:
        """A layer of shapes has changed."""
        if self._layer is not None and event is not None and event.action == ADDED:
            # Not within napari's own handling of the last click.
            QTimer.singleShot(0, self, self._on_added)

    def _on_added(self) -> None:
        if self._layer is not None and len(self._layer.data) > self._count:
            self.end()

    def _found(self, session: SlideSession, what: str) -> Any | None:
        owner = owner_of(session)
        for layer in self._viewer.layers:
            is_kind = isinstance(layer, Shapes) and layer.name.startswith(f"{what} · ")
            if is_kind and owner in owners(layer):
                return layer
        return None

    def _new(self, session: SlideSession, what: str) -> Any:
        zoom = camera_of(self._viewer).zoom * float(np.mean(session.frame.scale))
        layer = Shapes(
            ndim=2,
            name=f"{what} · {Path(session.layer.name).stem}",
            edge_color=COLORS[what],
            face_color=[0, 0, 0, 0],
            edge_width=_line_width(LINE_PX, zoom) if zoom > 0 else 1.0,
            **session.frame.layer_options(),
        )
        claim(layer, session)
        self._viewer.add_layer(layer)
        return self._viewer.layers[layer.name]


def looks(layer: Any, *, is_chosen: bool, zoom: float) -> None:
    """An outline that is chosen keeps its colour; others of the dock's are thin and grey.

    `zoom` is screen px per level-0 px. Layers that were never chosen or drawn here stay as they
    are, and so do carried ones, whose colours say how well they lie.
    """
    if CARRIED_KEY in layer.metadata or layer.mode == DRAWING:
        return
    if is_chosen:
        layer.metadata.setdefault(COLORS_KEY, _color_of(layer))
    color = layer.metadata.get(COLORS_KEY)
    if color is None or not 0 < len(layer.data) <= MANY_SHAPES or zoom <= 0:
        return
    stays = is_chosen or layer.name.startswith((CUT_OUT_LAYER, CONTROL_LAYER))
    width = _line_width(LINE_PX if stays else THIN_PX, zoom)
    if set(layer.edge_width) != {width}:
        layer.edge_width = width
        # napari draws another width only with the next change.
        layer.refresh(thumbnail=False)
    wanted = color if stays else UNCHOSEN
    if layer.metadata.get(_SHOWN_KEY) != (wanted, len(layer.data)):
        layer.metadata[_SHOWN_KEY] = (wanted, len(layer.data))
        layer.edge_color = wanted


_SHOWN_KEY = "celldetr_color_shown"


def _color_of(layer: Any) -> str:
    if not len(layer.data):
        return COLORS[TUMOUR_LAYER]
    red, green, blue = (round(255 * float(v)) for v in layer.edge_color[0][:3])
    return f"#{red:02x}{green:02x}{blue:02x}"
