"""Two slides in one viewer: beside each other, laid over each other, and what one knows of both.

The slides' own layers are shown or hidden, never changed. What is drawn (the H&E as it lies on the
IHC, what is left out, the cursor's place on the other slide, landmarks) are layers of our own.
No Qt here: the dock decides what is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from napari.layers import Image, Labels, Points
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.gui.align_job import Aligned
from napari_celldetr.gui.landmarks import Landmarks, Side
from napari_celldetr.gui.layers import AXES, Frame
from napari_celldetr.gui.overlay import camera_of, canvas_size_of
from napari_celldetr.gui.sources import VIEW_KEY, levels_of
from napari_celldetr.gui.warped import WHOLE, Checker, Mask, Swipe, WarpedPyramid, around
from napari_celldetr.pipeline.warp import Mover

TRANSFORM_KEY = "celldetr_transform"
"""In the metadata of the H&E's layer on the IHC: the `SlideTransform` it follows."""
GAP = 0.04
"""Between slides that lie beside each other, of the IHC's width."""
FILLED = 0.95
VEIL_COLOR = (0.25, 0.25, 0.25, 1.0)
DOT_PX, RING_PX, LINE_PX = 5, 18, 2
"""Screen px of a place's dot, and of the ring around it; a cursor's ring is never smaller."""
CURSOR_COLOR = "#ffd400"
MARK_COLOR, HALF_COLOR = "#00c8ff", "#ff7a00"
VEIL_NAME, CURSOR_NAME, MARKS_NAME = (
    "Not aligned well enough",
    "Same place on the other slide",
    "Landmarks",
)

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


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


class AlignView:
    """What a viewer shows of a pair of slide layers.

    `viewer` needs ``add_layer``, ``layers`` and a camera. Layers that the user removes are let go
    and come back with the next look.
    """

    def __init__(self, viewer: Any, he: Any, ihc: Any, aligned: Aligned | None = None) -> None:
        self.viewer, self.he, self.ihc = viewer, he, ihc
        self.aligned = aligned
        self.look = Look.PLAIN
        self.marks = Landmarks()
        self.opacity, self.seam, self.cell_um = 0.5, 0.5, 500.0
        self._eyes: tuple[bool, bool] | None = None
        self._zoom = 0.0
        self._pyramid: WarpedPyramid | None = None
        self._picture: Any = None
        self._veil: Any = None
        self._cursor: Any = None
        self._points: Any = None

    # Frames -----------------------------------------------------------------------------

    @property
    def transform(self) -> SlideTransform | None:
        """What is known of the pair."""
        return None if self.aligned is None else self.aligned.transform

    @property
    def picture(self) -> Any | None:
        """The layer with the H&E as it lies on, or beside, the IHC."""
        return self._picture

    @property
    def he_frame(self) -> Frame:
        """Where the H&E's pixels are shown: level-0 px of the H&E, or of the IHC once aligned."""
        if self.look in (Look.HE, Look.PLAIN):
            return Frame.of_layer(self.he)
        ihc = Frame.of_layer(self.ihc)
        if self.look is not Look.BESIDE:
            return ihc
        if self._pyramid is None:
            left = ihc.translate[1] - _extent(self.he)[1] - self._gap
            return replace(Frame.of_layer(self.he), translate=(ihc.translate[0], left))
        right = (self._pyramid.origin[0] + self._pyramid.extent[0]) * ihc.scale[1]
        return replace(ihc, translate=(ihc.translate[0], ihc.translate[1] - right - self._gap))

    @property
    def _gap(self) -> float:
        return GAP * _extent(self.ihc)[1]

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
        edge = ihc.translate[1] - ihc.scale[1] / 2 - self._gap / 2
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

    # Showing ----------------------------------------------------------------------------

    def show(self, look: Look) -> None:
        """Show the slides another way; one that needs an alignment waits for it."""
        if look in NEEDS_TRANSFORM and self.transform is None:
            look = Look.BESIDE
        if look is Look.PLAIN:
            self.hide()
            return
        self.look = look
        if self._eyes is None:
            self._eyes = (bool(self.he.visible), bool(self.ihc.visible))
        self._show_picture()
        self.he.visible = look is Look.HE
        self.ihc.visible = look is not Look.HE
        self._show_veil()
        self.show_marks(self.marks)
        self.show_cursor(None)

    def take(self, aligned: Aligned | None) -> None:
        """Show another alignment of the same pair, or none."""
        self.aligned = aligned
        self._remove("_picture")
        self._pyramid = None
        self._remove("_veil")
        if self.is_shown:
            self.show(self.look)

    @property
    def is_shown(self) -> bool:
        """Whether anything of this pair is on the screen in a way of ours."""
        return self.look is not Look.PLAIN

    def _show_picture(self) -> None:
        # A picture of the H&E alone is its own layer.
        if self.look is Look.HE:
            if self._there(self._picture):
                self._picture.visible = False
            return
        if self._pyramid is None and self.transform is not None:
            self._pyramid = WarpedPyramid(levels_of(self.he), Mover(self.transform))
        if not self._there(self._picture):
            self._picture = self._new_picture()
            self._add(self._picture, above=(self.he, self.ihc))
        layer, frame = self._picture, self.he_frame
        pyramid = self._pyramid
        placed = frame if pyramid is None else _placed(frame, pyramid)
        mask = self._mask()
        # Each of these draws: what is already so is left alone.
        if tuple(layer.translate) != tuple(placed.translate):
            layer.translate = placed.translate
        layer.name = self._picture_name()
        layer.opacity = self.opacity if self.look is Look.BLEND else 1.0
        layer.visible = True
        if pyramid is not None and pyramid.mask != mask:
            pyramid.mask = mask
            layer.refresh(thumbnail=False, highlight=False, extent=False)

    def _picture_name(self) -> str:
        # What it shows comes first: the layer list cuts long names at their end.
        return f"H&E {'beside' if self.look is Look.BESIDE else 'on'} IHC · {self.he.name}"

    def _new_picture(self) -> Any:
        options: dict[str, Any] = {"rgb": True, "interpolation2d": "linear"}
        if self.transform is None:
            levels = levels_of(self.he)
            return Image(
                levels if len(levels) > 1 else levels[0],
                multiscale=len(levels) > 1,
                metadata={VIEW_KEY: self.he.name},
                **self.he_frame.layer_options(),
                **options,
            )
        assert self._pyramid is not None
        metadata = {VIEW_KEY: self.he.name, TRANSFORM_KEY: self.transform}
        placed = _placed(self.he_frame, self._pyramid)
        return Image(
            self._pyramid.levels,
            multiscale=True,
            metadata=metadata,
            **placed.layer_options(),
            **options,
        )

    def _mask(self) -> Mask:
        transform = self.transform
        if transform is None or self.look not in (Look.SWIPE, Look.CHECKER):
            return WHOLE
        if self.look is Look.CHECKER:
            mpp = transform.ihc.mpp
            return Checker((self.cell_um / mpp[0], self.cell_um / mpp[1]))
        camera = camera_of(self.viewer)
        width = canvas_size_of(self.viewer)[1]
        x = float(camera.center[-1]) + (self.seam - 0.5) * width / camera.zoom
        frame = Frame.of_layer(self.ihc)
        at = frame.from_world(np.array([[0.0, x]]))[0, 0]
        return Swipe(float(at), float(2.0 / (camera.zoom * frame.scale[1])))

    def compare(
        self,
        *,
        opacity: float | None = None,
        seam: float | None = None,
        cell_um: float | None = None,
    ) -> None:
        """Set the H&E's share of the blend, the seam's place on the screen, or the fields' side."""
        self.opacity = self.opacity if opacity is None else opacity
        self.seam = self.seam if seam is None else seam
        self.cell_um = self.cell_um if cell_um is None else cell_um
        if self.is_shown:
            self._show_picture()

    def follow_camera(self) -> None:
        """Keep the seam where it is on the screen, and landmarks as large as they are."""
        if self.is_shown and self.look is Look.SWIPE:
            self._show_picture()
        zoom = float(camera_of(self.viewer).zoom)
        if zoom != self._zoom:
            self._zoom = zoom
            self._fit_marks()

    def set_limit(self, limit_um: float) -> None:
        """Another limit of the error; acts at once."""
        if self.aligned is None or self.aligned.transform.limit_um == limit_um:
            return
        transform = replace(self.aligned.transform, limit_um=limit_um)
        self.aligned = replace(self.aligned, transform=transform)
        if self._there(self._picture) and TRANSFORM_KEY in self._picture.metadata:
            self._picture.metadata[TRANSFORM_KEY] = transform
        if self._there(self._veil):
            self._veil.data = self._left_out()
            self._veil.metadata[TRANSFORM_KEY] = transform

    def _left_out(self) -> NDArray[np.uint8]:
        assert self.aligned is not None
        assert self.aligned.veil is not None
        return self.aligned.veil.left_out(self.aligned.transform.limit_um)

    def _show_veil(self) -> None:
        if self.aligned is None or self.aligned.veil is None:
            return
        if not self._there(self._veil):
            frame = Frame.of_layer(self.ihc)
            clear = (0.0, 0.0, 0.0, 0.0)
            self._veil = Labels(
                self._left_out(),
                name=VEIL_NAME,
                colormap=DirectLabelColormap(color_dict={None: clear, 0: clear, 1: VEIL_COLOR}),
                opacity=0.55,
                metadata={TRANSFORM_KEY: self.aligned.transform},
                **frame.raster_options(self.aligned.veil.factor),
            )
            self._add(self._veil, above=(self.he, self.ihc, self._picture))
            self._veil.editable = False
        self._veil.visible = self.look is not Look.HE

    # Cursor and landmarks ---------------------------------------------------------------

    def other_slide(self, here: Here, size: tuple[int, int]) -> Bytes | None:
        """The other slide around a place, (h, w, 3) for a `size` (w, h), at the screen's zoom.

        Over the H&E that is the IHC, elsewhere the H&E, turned as the IHC lies. None without one.
        """
        if self._pyramid is None or here.ihc is None or self.look is Look.PLAIN:
            return None
        frame = Frame.of_layer(self.ihc)
        step = 1 / (camera_of(self.viewer).zoom * frame.scale[1])
        if here.sides == ("he",):
            return around(levels_of(self.ihc), here.ihc, step, size)
        x, y = (v - o for v, o in zip(here.ihc, self._pyramid.origin, strict=True))
        return around(self._pyramid.unmasked, (x, y), step, size, width=self._pyramid.extent[0])

    def show_cursor(self, here: Here | None) -> None:
        """Show a place on the other slide, in a ring as wide as its expected error."""
        other = None if here is None or self.transform is None else self._other(here)
        if other is None:
            if self._there(self._cursor) and len(self._cursor.data):
                self._cursor.data = np.zeros((0, 2))
            return
        if not self._there(self._cursor):
            self._cursor = self._new_points(CURSOR_NAME, CURSOR_COLOR)
            self._add(self._cursor)
        layer, world = self._cursor, other
        assert here is not None
        error = here.error_um or 0.0
        ring = 2 * error if np.isfinite(error) else 0.0
        pixel = 1 / camera_of(self.viewer).zoom
        is_new = len(layer.data) != 2
        layer.data = np.array([world, world])
        if is_new:
            layer.face_color = [CURSOR_COLOR, "transparent"]
        layer.size = [DOT_PX * pixel, max(ring, RING_PX * pixel)]
        layer.border_width = [0.0, LINE_PX * pixel]

    def _other(self, here: Here) -> Floats | None:
        if here.sides == ("he",):
            found = here.ihc if self.look is not Look.HE else None
            return None if found is None else self.world_of_ihc(np.array([found]))[0]
        return None if here.he is None else self.world_of_he(np.array([here.he]))[0]

    def show_marks(self, marks: Landmarks) -> None:
        """Show landmarks with their numbers on both slides."""
        self.marks = marks
        places, numbers, whole = self._mark_places()
        if not self._there(self._points):
            if not len(places) or not self.is_shown:
                return
            self._points = self._new_points(MARKS_NAME, MARK_COLOR)
            self._add(self._points)
        layer = self._points
        layer.data = places
        if not len(places):
            return
        colors = [MARK_COLOR if w else HALF_COLOR for w in whole]
        layer.face_color = [c if i % 2 else "transparent" for i, c in enumerate(colors)]
        layer.border_color = colors
        self._fit_marks()
        layer.features = {"number": numbers}
        layer.text = {
            "string": "{number}",
            "size": 11,
            "color": MARK_COLOR,
            "anchor": "upper_left",
        }

    def _fit_marks(self) -> None:
        """As large on the screen as ever."""
        layer, zoom = self._points, camera_of(self.viewer).zoom
        if self._there(layer) and len(layer.data):
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
        for number, mark in enumerate(self.marks.items, 1):
            shown = []
            if mark.he is not None:
                shown.append(self.world_of_he(np.array([mark.he]))[0])
            if mark.ihc is not None and self.look is not Look.HE:
                shown.append(self.world_of_ihc(np.array([mark.ihc]))[0])
            places += [place for place in shown for _ in range(2)]
            # Beside the ring, not in it.
            numbers += [f"   {number}", ""] * len(shown)
            whole += [mark.whole] * 2 * len(shown)
        return np.array(places).reshape(-1, 2), numbers, whole

    def look_at(self, number: int) -> None:
        """Move to a landmark, by its place in the list."""
        mark = self.marks.items[number]
        at = [] if mark.he is None else [self.world_of_he(np.array([mark.he]))[0]]
        at += [] if mark.ihc is None else [self.world_of_ihc(np.array([mark.ihc]))[0]]
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *np.mean(at, axis=0))

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
            units=Frame.of_layer(self.ihc).units,
            axis_labels=AXES,
        )

    # Layers -----------------------------------------------------------------------------

    def _there(self, layer: Any) -> bool:
        return layer is not None and layer in self.viewer.layers

    def _add(self, layer: Any, *, above: Sequence[Any] = ()) -> None:
        """Add on top, or just above some layers, without taking the selection away."""
        layers = self.viewer.layers
        before = list(layers.selection)
        self.viewer.add_layer(layer)
        if above:
            # Cells and regions of the user stay above the pictures.
            lower = [layers.index(la) for la in above if self._there(la)]
            layers.move(layers.index(layer), max(lower, default=-1) + 1)
        kept = [la for la in before if la in self.viewer.layers]
        if kept:
            self.viewer.layers.selection = kept

    def _remove(self, name: str) -> None:
        layer = getattr(self, name)
        if self._there(layer):
            self.viewer.layers.remove(layer)
        setattr(self, name, None)

    def hide(self) -> None:
        """Take everything of ours away; the slides are shown as they were."""
        for name in ("_cursor", "_points", "_veil", "_picture"):
            self._remove(name)
        self._pyramid = None
        eyes, self._eyes = self._eyes, None
        for layer, eye in zip((self.he, self.ihc), eyes or (), strict=False):
            if self._there(layer):
                layer.visible = eye
        self.look = Look.PLAIN

    def leave(self) -> None:
        """Leave a finished alignment in the viewer, laid on the IHC; take the rest away."""
        if self.transform is None or not self.is_shown:
            self.hide()
            return
        self.show(Look.BLEND)
        for name in ("_cursor", "_points"):
            self._remove(name)

    def _picture_box(self) -> tuple[Floats, Floats]:
        frame, pyramid = self.he_frame, self._pyramid
        if pyramid is None:
            return _box(frame, self.he)
        low = np.array([pyramid.origin], np.float64)
        ends = np.concatenate([low, low + pyramid.extent])
        return tuple(np.asarray(end) for end in frame.to_world(ends))  # type: ignore[return-value]

    def fit(self) -> None:
        """Move so that what is shown fills the screen."""
        boxes = [_box(Frame.of_layer(self.ihc), self.ihc)] if self.look is not Look.HE else []
        if self.look is Look.HE:
            boxes = [_box(Frame.of_layer(self.he), self.he)]
        elif self.look is Look.BESIDE:
            boxes.append(self._picture_box())
        low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *((low + high) / 2))
        size = np.asarray(canvas_size_of(self.viewer), np.float64)
        camera.zoom = float(FILLED * (size / (high - low)).min())


def transforms_of(layers: Sequence[Any]) -> list[SlideTransform]:
    """The alignments that layers of a viewer show, newest last."""
    found = [la.metadata.get(TRANSFORM_KEY) for la in layers if VIEW_KEY in la.metadata]
    return [t for t in found if isinstance(t, SlideTransform)]


def _extent(layer: Any) -> tuple[float, float]:
    """Height and width of a slide layer in world units."""
    frame, full = Frame.of_layer(layer), levels_of(layer)[0]
    return full.shape[0] * frame.scale[0], full.shape[1] * frame.scale[1]


def _box(frame: Frame, layer: Any) -> tuple[Floats, Floats]:
    """Upper left and lower right, world y, x, of a slide layer's pixels in a frame."""
    full = levels_of(layer)[0]
    ends = np.array([(0.0, 0.0), (full.shape[1], full.shape[0])])
    low, high = frame.to_world(ends)
    return np.asarray(low), np.asarray(high)


def _placed(frame: Frame, pyramid: WarpedPyramid) -> Frame:
    """Where the pixels of a pyramid lie whose target has that frame."""
    options = frame.raster_options(pyramid.factor)
    shift = np.array(pyramid.origin[::-1]) * frame.scale
    y, x = (np.array(options["translate"]) + shift).tolist()
    return replace(frame, scale=options["scale"], translate=(y, x))


def _point(points: Floats | None) -> tuple[float, float] | None:
    return None if points is None else (float(points[0, 0]), float(points[0, 1]))
