"""What is drawn on both slides of a pair: the mouse's place on the other one, and landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Points
from numpy.typing import NDArray

from napari_celldetr.gui.align_places import Here, Look, PairPlaces
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.layers import AXES, Frame
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.own_layers import OwnLayers

DOT_PX, RING_PX, LINE_PX = 5, 18, 2
"""Screen px of a place's dot, and of the ring around it; a cursor's ring is never smaller."""
CURSOR_COLOR = "#ffd400"
MARK_COLOR, HALF_COLOR = "#00c8ff", "#ff7a00"
CURSOR_NAME, MARKS_NAME = "Same place on the other slide", "Landmarks"

Floats = NDArray[np.float64]


class Signs:
    """The layers of the cursor and of the landmarks. What the user removes comes back."""

    def __init__(self, places: PairPlaces, own: OwnLayers) -> None:
        self._places, self._own = places, own
        self.marks = Landmarks()
        self._zoom = 0.0
        self._shown = True
        self._cursor: Any = None
        self._points: Any = None

    def show_cursor(self, here: Here | None) -> None:
        """Show a place on the other slide, in a ring as wide as its expected error."""
        other = None if here is None or self._places.transform is None else self._other(here)
        if other is None:
            if self._own.there(self._cursor) and len(self._cursor.data):
                self._cursor.data = np.zeros((0, 2))
            return
        if not self._own.there(self._cursor):
            self._cursor = self._new_points(CURSOR_NAME, CURSOR_COLOR)
            self._own.add(self._cursor)
        layer, world = self._cursor, other
        assert here is not None
        error = here.error_um or 0.0
        ring = 2 * error if np.isfinite(error) else 0.0
        pixel = 1 / camera_of(self._own.viewer).zoom
        is_new = len(layer.data) != 2
        layer.data = np.array([world, world])
        if is_new:
            layer.face_color = [CURSOR_COLOR, "transparent"]
        layer.size = [DOT_PX * pixel, max(ring, RING_PX * pixel)]
        layer.border_width = [0.0, LINE_PX * pixel]

    def _other(self, here: Here) -> Floats | None:
        if here.sides == ("he",):
            found = here.ihc if self._places.look is not Look.HE else None
            return None if found is None else self._places.world_of_ihc(np.array([found]))[0]
        return None if here.he is None else self._places.world_of_he(np.array([here.he]))[0]

    def show_marks(self, marks: Landmarks, *, shown: bool | None = None) -> None:
        """Show landmarks with their numbers on both slides; None for `shown` as before."""
        self.marks = marks
        self._shown = self._shown if shown is None else shown
        places, numbers, whole = self._mark_places()
        if not self._own.there(self._points):
            if not len(places) or not self._places.is_shown:
                return
            self._points = self._new_points(MARKS_NAME, MARK_COLOR)
            self._own.add(self._points)
        # A layer that the user has hidden keeps the slice of its old data.
        seen, self._points.visible = self._points.visible, True
        self._fill(self._points, places, numbers, whole)
        self._points.visible = seen

    def _fill(self, layer: Any, places: Floats, numbers: list[str], whole: list[bool]) -> None:
        layer.data = places
        # What is added or moved here with napari's own tools would be no landmark.
        layer.editable = False
        if not len(places):
            return
        colors = [MARK_COLOR if w else HALF_COLOR for w in whole]
        layer.face_color = [c if i % 2 else "transparent" for i, c in enumerate(colors)]
        layer.border_color = colors
        self.fit_marks()
        layer.features = {"number": numbers}
        layer.text = {
            "string": "{number}",
            "size": 11,
            "color": MARK_COLOR,
            "anchor": "upper_left",
        }

    def fit_marks(self) -> None:
        """As large on the screen as ever."""
        layer, zoom = self._points, camera_of(self._own.viewer).zoom
        if self._own.there(layer) and len(layer.data):
            count = len(layer.data) // 2
            layer.size = np.array([RING_PX, DOT_PX] * count) / zoom
            layer.border_width = np.array([LINE_PX, 0.0] * count) / zoom

    def _mark_places(self) -> tuple[Floats, list[str], list[bool]]:
        """World places (N, 2), number of each, and whether its landmark is finished.

        Each place comes twice: for a ring, which has the number, and the dot in it.
        """
        places: list[Floats] = []
        numbers: list[str] = []
        whole: list[bool] = []
        for number, mark in enumerate(self.marks.items if self._shown else (), 1):
            shown = []
            if mark.he is not None:
                shown.append(self._places.world_of_he(np.array([mark.he]))[0])
            if mark.ihc is not None and self._places.look is not Look.HE:
                shown.append(self._places.world_of_ihc(np.array([mark.ihc]))[0])
            places += [place for place in shown for _ in range(2)]
            # Beside the ring, not in it.
            numbers += [f"   {number}", ""] * len(shown)
            whole += [mark.whole] * 2 * len(shown)
        return np.array(places).reshape(-1, 2), numbers, whole

    def _new_points(self, name: str, color: str) -> Any:
        return Points(
            np.zeros((0, 2)),
            ndim=2,
            name=name,
            face_color=color,
            border_color=color,
            border_width=0.0,
            border_width_is_relative=False,
            canvas_size_limits=(DOT_PX, 10_000),
            units=Frame.of_layer(self._places.ihc).units,
            axis_labels=AXES,
        )

    def follow_zoom(self) -> None:
        """Keep landmarks as large on the screen as they are."""
        zoom = float(camera_of(self._own.viewer).zoom)
        if zoom != self._zoom:
            self._zoom = zoom
            self.fit_marks()

    def remove(self) -> None:
        """Take the layers away; the landmarks are kept."""
        self._own.remove(self._cursor)
        self._own.remove(self._points)
        self._cursor = self._points = None
