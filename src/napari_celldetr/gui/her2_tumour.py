"""What can be the tumour: areas drawn on the slide, whoever drew them, in level-0 px. No Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.gui.carry import CARRIED_KEY, SOURCE_KEY
from napari_celldetr.gui.layers import Frame, rectangle_world
from napari_celldetr.pipeline.her2.tumour import ASSUMED, CARRIED, DRAWN, Tumour
from napari_celldetr.pipeline.her2.zones import Zone

LEFT_OUT = "left_out"
"""Feature of shapes that *Align slides* carried."""
CORNERS = 48
"""Of a polygon that stands for an ellipse."""
NOTHING_KEY, ALL_KEY, AREAS_KEY, LAYER_KEY = "nothing", "all", "areas", "layer:"
WORDS = {
    NOTHING_KEY: "Not said yet",
    ALL_KEY: "All that is measured",
    AREAS_KEY: "Areas of Review cells",
}


@dataclass(frozen=True)
class Choice:
    """One thing that can be the tumour: `key` stays the same while the areas change."""

    key: str
    words: str


def choices(areas: Mapping[str, Area], layers: Iterable[Any]) -> list[Choice]:
    """What can be chosen now: nothing, drawn areas, each Shapes layer, and everything."""
    found = [Choice(NOTHING_KEY, WORDS[NOTHING_KEY])]
    found += [Choice(LAYER_KEY + la.name, la.name) for la in layers if is_shapes(la)]
    if areas:
        found.append(Choice(AREAS_KEY, f"{WORDS[AREAS_KEY]} ({len(areas)})"))
    return [*found, Choice(ALL_KEY, WORDS[ALL_KEY])]


def tumour_of(key: str, areas: Mapping[str, Area], layers: Iterable[Any], frame: Frame) -> Tumour:
    """The tumour that a choice means at this moment."""
    if key == ALL_KEY:
        return Tumour(ASSUMED)
    if key == AREAS_KEY:
        return _drawn(areas.values())
    for layer in layers:
        if is_shapes(layer) and LAYER_KEY + layer.name == key:
            return _drawn(areas_of(layer, frame), _source_of(layer))
    return Tumour()


def _source_of(layer: Any) -> str:
    """Who says that the shapes of a layer are tumour."""
    carried = layer.metadata.get(CARRIED_KEY)
    return DRAWN if carried is None else str(carried.get(SOURCE_KEY, CARRIED))


def _drawn(areas: Iterable[Area], source: str = DRAWN) -> Tumour:
    zones = tuple(Zone(area) for area in areas)
    return Tumour(source, zones) if zones else Tumour()


def is_shapes(layer: Any) -> bool:
    """Whether a layer holds drawn shapes."""
    return isinstance(layer, Shapes)


def areas_of(layer: Any, frame: Frame) -> list[Area]:
    """The shapes of a layer as areas, but for lines and shapes without an area.

    Of shapes carried from the H&E slide, those are left out that lie where the two slides do not
    match well enough.
    """
    found = []
    left_out = layer.features.get(LEFT_OUT, np.zeros(len(layer.data), bool))
    for index, (kind, bad) in enumerate(zip(layer.shape_type, left_out, strict=True)):
        if kind in ("line", "path") or (isinstance(bad, bool | np.bool_) and bad):
            continue
        corners = frame.from_world(rectangle_world(layer, index))
        if kind == "ellipse":
            corners = _ellipse(corners)
        try:
            found.append(Area(tuple(map(tuple, corners.tolist())), "region", layer.name))
        except AnnotationError:
            # A shape that is being drawn has no area yet.
            continue
    return found


def _ellipse(box: NDArray[np.floating]) -> NDArray[np.floating]:
    """An ellipse as a polygon; `box` (4, 2) are the corners around it, which may be turned."""
    centre = box.mean(axis=0)
    along, across = (box[1] - box[0]) / 2, (box[2] - box[1]) / 2
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(turn) * along + np.sin(turn) * across)
