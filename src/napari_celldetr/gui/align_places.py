"""Where the two slides of a pair lie in the viewer, and what a place on one is on the other.

World places are (y, x) as napari gives them, places on a slide (x, y) in its level-0 px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.gui.align_job import Aligned
from napari_celldetr.gui.landmarks import Side
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.sources import levels_of
from napari_celldetr.gui.warped import WarpedPyramid

TRANSFORM_KEY = "celldetr_transform"
"""In the metadata of a layer that follows a `SlideTransform`: which."""
GAP = 0.04
"""Between slides that lie beside each other, of the IHC's width."""

Floats = NDArray[np.float64]


class Look(StrEnum):
    """How the two slides are shown."""

    PLAIN = "plain"
    BESIDE = "beside"
    BLEND = "blend"
    SWIPE = "swipe"
    CHECKER = "checker"
    HE = "he"


NEEDS_TRANSFORM = (Look.BLEND, Look.SWIPE, Look.CHECKER)


@dataclass(frozen=True)
class Here:
    """What is known of a place on the screen.

    `sides` are the slides shown there; `he`, `ihc` its level-0 px (x, y) on either, None where
    not known; `error_um` None off the H&E's tissue.
    """

    sides: tuple[Side, ...]
    he: tuple[float, float] | None = None
    ihc: tuple[float, float] | None = None
    error_um: float | None = None
    trusted: bool = True


class PairPlaces:
    """A pair of slide layers, its alignment, and how it is looked at."""

    def __init__(self, he: Any, ihc: Any, aligned: Aligned | None = None) -> None:
        self.he, self.ihc = he, ihc
        self.aligned = aligned
        self.look = Look.PLAIN
        self.pyramid: WarpedPyramid | None = None

    @property
    def transform(self) -> SlideTransform | None:
        """What is known of the pair."""
        return None if self.aligned is None else self.aligned.transform

    @property
    def is_shown(self) -> bool:
        """Whether anything of this pair is on the screen in a way of ours."""
        return self.look is not Look.PLAIN

    @property
    def he_frame(self) -> Frame:
        """Where the H&E's pixels are shown: level-0 px of the H&E, or of the IHC once aligned."""
        if self.look in (Look.HE, Look.PLAIN):
            return Frame.of_layer(self.he)
        ihc = Frame.of_layer(self.ihc)
        if self.look is not Look.BESIDE:
            return ihc
        if self.pyramid is None:
            left = ihc.translate[1] - extent_of(self.he)[1] - self.gap
            return replace(Frame.of_layer(self.he), translate=(ihc.translate[0], left))
        right = (self.pyramid.origin[0] + self.pyramid.extent[0]) * ihc.scale[1]
        return replace(ihc, translate=(ihc.translate[0], ihc.translate[1] - right - self.gap))

    @property
    def gap(self) -> float:
        """World units between slides that lie beside each other."""
        return GAP * extent_of(self.ihc)[1]

    def he_at(self, world: Floats) -> Floats:
        """H&E level-0 px (N, 2) of places on its picture, world (N, 2) y, x."""
        at = self.he_frame.from_world(world)
        if self.transform is None or self.look in (Look.HE, Look.PLAIN):
            return np.asarray(at, np.float64)
        return self.transform.inverse(at)

    def world_of_he(self, points: Floats) -> Floats:
        """World (N, 2) y, x of H&E level-0 px (N, 2) as they are shown."""
        if self.transform is not None and self.look not in (Look.HE, Look.PLAIN):
            points = self.transform.forward(points)
        return np.asarray(self.he_frame.to_world(points), np.float64)

    def ihc_at(self, world: Floats) -> Floats:
        """IHC level-0 px (N, 2) of world (N, 2) y, x."""
        return np.asarray(Frame.of_layer(self.ihc).from_world(world), np.float64)

    def world_of_ihc(self, points: Floats) -> Floats:
        """World (N, 2) y, x of IHC level-0 px (N, 2)."""
        return np.asarray(Frame.of_layer(self.ihc).to_world(points), np.float64)

    def sides(self, world: Floats) -> tuple[Side, ...]:
        """The slides shown at a place, world (y, x)."""
        if self.look is Look.PLAIN:
            return ()
        if self.look is Look.HE:
            return ("he",)
        if self.look is not Look.BESIDE:
            return ("he", "ihc")
        ihc = Frame.of_layer(self.ihc)
        edge = ihc.translate[1] - ihc.scale[1] / 2 - self.gap / 2
        return ("he",) if world[1] < edge else ("ihc",)

    def here(self, world: Floats) -> Here:
        """What is known of a place, world (y, x)."""
        at = np.asarray(world, np.float64)[None]
        sides, t = self.sides(at[0]), self.transform
        he: Floats | None
        ihc: Floats | None
        try:
            if not sides:
                return Here(sides)
            if "ihc" in sides:
                ihc = self.ihc_at(at)
                he = None if t is None else t.inverse(ihc)
            else:
                he = self.he_at(at)
                ihc = None if t is None else t.forward(he)
        except TransformError:
            return Here(sides)
        error, trusted = None, True
        if t is not None and t.error_map is not None and he is not None:
            um = he * t.he.mpp
            if t.error_map.tissue_at(um)[0] > 0:
                error, trusted = float(t.error_map.at(um)[0]), bool(t.trusted(he)[0])
        return Here(sides, _point(he), _point(ihc), error, trusted)

    @property
    def placed(self) -> Frame:
        """The frame of the picture's finest level."""
        frame, pyramid = self.he_frame, self.pyramid
        if pyramid is None:
            return frame
        options = frame.raster_options(pyramid.factor)
        shift = np.array(pyramid.origin[::-1]) * frame.scale
        y, x = (np.array(options["translate"]) + shift).tolist()
        return replace(frame, scale=options["scale"], translate=(y, x))

    def box(self) -> tuple[Floats, Floats]:
        """Upper left and lower right, world y, x, of all that is shown."""
        boxes = [_box(Frame.of_layer(self.ihc), self.ihc)] if self.look is not Look.HE else []
        if self.look is Look.HE:
            boxes = [_box(Frame.of_layer(self.he), self.he)]
        elif self.look is Look.BESIDE:
            boxes.append(self._picture_box())
        low, high = (np.array(ends) for ends in zip(*boxes, strict=True))
        return low.min(axis=0), high.max(axis=0)

    def _picture_box(self) -> tuple[Floats, Floats]:
        frame, pyramid = self.he_frame, self.pyramid
        if pyramid is None:
            return _box(frame, self.he)
        low = np.array([pyramid.origin], np.float64)
        ends = np.concatenate([low, low + pyramid.extent])
        return tuple(np.asarray(end) for end in frame.to_world(ends))  # type: ignore[return-value]


def extent_of(layer: Any) -> tuple[float, float]:
    """Height and width of a slide layer in world units."""
    frame, full = Frame.of_layer(layer), levels_of(layer)[0]
    return full.shape[0] * frame.scale[0], full.shape[1] * frame.scale[1]


def _box(frame: Frame, layer: Any) -> tuple[Floats, Floats]:
    full = levels_of(layer)[0]
    ends = np.array([(0.0, 0.0), (full.shape[1], full.shape[0])])
    low, high = frame.to_world(ends)
    return np.asarray(low), np.asarray(high)


def _point(points: Floats | None) -> tuple[float, float] | None:
    return None if points is None else (float(points[0, 0]), float(points[0, 1]))
