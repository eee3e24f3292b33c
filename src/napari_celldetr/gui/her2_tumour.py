"""What can be the tumour: areas drawn on the slide, whoever drew them, in level-0 px. No Qt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.gui.carry import ALIGNMENT_KEY, CARRIED_KEY, CLASS_COLUMNS, SOURCE_KEY
from napari_celldetr.gui.layers import Frame, rectangle_world
from napari_celldetr.pipeline.her2.tumour import (
    ASSUMED,
    CARRIED,
    DRAWN,
    Alignment,
    Refusal,
    Tumour,
)
from napari_celldetr.pipeline.her2.zones import Zone, kind_of

CLASSES = CLASS_COLUMNS[:3]
"""Features whose words are classes; a name or label may be anything."""
HOLE = re.compile(r"\bholes?\b|\bcut.?out", re.IGNORECASE)
CONTROL = re.compile(r"\bcontrols?\b", re.IGNORECASE)
BADLY_ALIGNED = "align the slides again with landmarks, or draw the tumour on this slide"
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
    """What can be chosen now: nothing, drawn areas, each Shapes layer, and everything.

    Layers named as what is cut out of a tumour, or as a control, are none.
    """
    found = [Choice(NOTHING_KEY, WORDS[NOTHING_KEY])]
    shapes = [la for la in layers if is_shapes(la) and not is_cut_out(la.name)]
    shapes = [la for la in shapes if not is_control(la.name)]
    found += [Choice(LAYER_KEY + la.name, la.name) for la in shapes]
    if areas:
        found.append(Choice(AREAS_KEY, f"{WORDS[AREAS_KEY]} ({len(areas)})"))
    return [*found, Choice(ALL_KEY, WORDS[ALL_KEY])]


def tumour_of(key: str, areas: Mapping[str, Area], layers: Iterable[Any], frame: Frame) -> Tumour:
    """The tumour that a choice means at this moment.

    Out of it are cut the shapes that say by their class or name that they are in situ, necrosis,
    a hole, and all of every layer that is named so.
    """
    shapes = [la for la in layers if is_shapes(la)]
    cut = [Zone(a) for la in shapes if is_cut_out(la.name) for a in areas_of(la, frame)]
    cut += [Zone(a) for a in areas.values() if is_cut_out(a.name)]
    if key == ALL_KEY:
        return Tumour(ASSUMED, cut_out=tuple(cut))
    if key == AREAS_KEY:
        zones = tuple(Zone(a) for a in areas.values() if not is_cut_out(a.name))
        return Tumour(DRAWN, zones, tuple(cut)) if zones else Tumour()
    for layer in shapes:
        if LAYER_KEY + layer.name == key:
            return _of_layer(layer, cut, frame)
    return Tumour()


def is_cut_out(word: str) -> bool:
    """Whether a class or name means what is no invasive tumour."""
    return kind_of(word) == "cut_out" or HOLE.search(word) is not None


def is_control(word: str) -> bool:
    """Whether a layer of this name is drawn round control tissue."""
    return CONTROL.search(word) is not None


def _of_layer(layer: Any, cut: list[Zone], frame: Frame) -> Tumour:
    """The shapes of a layer; of carried ones, those that lie too badly are not to be trusted."""
    parts: dict[str, list[Zone]] = {"tumour": [], "bad": [], "cut_out": [*cut], "other": []}
    for shape in shapes_of(layer, frame):
        bad = shape.kind == "tumour" and shape.left_out
        parts["bad" if bad else shape.kind].append(Zone(shape.area))
    zones, misplaced = (*parts["tumour"], *parts["bad"]), tuple(parts["bad"])
    if not zones:
        return Tumour()
    alignment = _alignment(layer, misplaced, frame)
    cut_out = tuple(parts["cut_out"])
    found = Tumour(_source_of(layer), zones, cut_out, misplaced, alignment=alignment)
    if parts["tumour"]:
        return found
    within = "" if alignment is None else f" to within {alignment.limit_um:g} µm"
    reason = f"no tumour lies where the two slides match{within}"
    return replace(found, refusal=Refusal(reason, BADLY_ALIGNED))


def _alignment(layer: Any, bad: Iterable[Zone], frame: Frame) -> Alignment | None:
    """The registration that carried a layer, with the area that is left out for it."""
    said = layer.metadata.get(ALIGNMENT_KEY)
    if not isinstance(said, Mapping):
        return None
    um2 = 0.0 if frame.mpp is None else frame.mpp[0] * frame.mpp[1]
    lost = sum(zone.area_px for zone in bad) * um2
    return Alignment(**{**said, "notes": tuple(said["notes"]), "excluded_um2": lost})


def _source_of(layer: Any) -> str:
    """Who says that the shapes of a layer are tumour."""
    carried = layer.metadata.get(CARRIED_KEY)
    return DRAWN if carried is None else str(carried.get(SOURCE_KEY, CARRIED))


def is_shapes(layer: Any) -> bool:
    """Whether a layer holds drawn shapes."""
    return isinstance(layer, Shapes)


@dataclass(frozen=True)
class Shape:
    """A drawn shape: its area, whether it lies where the slides do not match, and what it is.

    `kind` is ``tumour``, ``cut_out`` or ``other`` by what it says of itself.
    """

    area: Area
    kind: str
    left_out: bool


def areas_of(layer: Any, frame: Frame) -> list[Area]:
    """The shapes of a layer as areas, but for lines and shapes without an area."""
    return [shape.area for shape in shapes_of(layer, frame)]


def shapes_of(layer: Any, frame: Frame) -> list[Shape]:
    """The shapes of a layer, but for lines and shapes without an area; level-0 px."""
    found = []
    for index, form in enumerate(layer.shape_type):
        if form in ("line", "path"):
            continue
        corners = corners_of(layer, index, frame)
        if form == "ellipse":
            corners = _ellipse(corners)
        try:
            area = Area(tuple(map(tuple, corners.tolist())), "region", layer.name)
        except AnnotationError:
            # A shape that is being drawn has no area yet.
            continue
        said = {name: layer.features[name].iloc[index] for name in layer.features}
        # A shape that a person adds to carried ones has no such feature yet.
        bad = said.get(LEFT_OUT)
        found.append(Shape(area, _kind(said), isinstance(bad, bool | np.bool_) and bool(bad)))
    return found


def _kind(said: Mapping[str, Any]) -> str:
    """What a shape is by its features: of a mere name it matters only if it is to be cut out."""
    words = {n: v for n in CLASS_COLUMNS if isinstance(v := said.get(n), str) and v}
    if any(is_cut_out(word) for word in words.values()):
        return "cut_out"
    classes = [words[n] for n in CLASSES if n in words]
    return kind_of(classes[0]) if classes else "tumour"


def corners_of(layer: Any, index: int, frame: Frame) -> NDArray[np.floating]:
    """Corners (M, 2) x, y of a shape in level-0 px; of an ellipse those around it."""
    return frame.from_world(rectangle_world(layer, index))


def _ellipse(box: NDArray[np.floating]) -> NDArray[np.floating]:
    """An ellipse as a polygon; `box` (4, 2) are the corners around it, which may be turned."""
    centre = box.mean(axis=0)
    along, across = (box[1] - box[0]) / 2, (box[2] - box[1]) / 2
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(turn) * along + np.sin(turn) * across)
