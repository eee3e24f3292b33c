"""Two slides in one viewer: beside each other, laid over each other, and what one knows of both.

The slides' own layers are shown or hidden, never changed. What is drawn (the H&E as it lies on the
IHC, what is left out, the cursor's place on the other slide, landmarks) are layers of our own.
No Qt here: the dock decides what is shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Image
from numpy.typing import NDArray

from napari_celldetr.gui.align_job import Aligned
from napari_celldetr.gui.align_places import NEEDS_TRANSFORM, TRANSFORM_KEY, Here, Look, PairPlaces
from napari_celldetr.gui.align_signs import Signs
from napari_celldetr.gui.align_veil import VeilLayer
from napari_celldetr.gui.around import around
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import camera_of, canvas_size_of
from napari_celldetr.gui.own_layers import OwnLayers
from napari_celldetr.gui.sources import VIEW_KEY, levels_of
from napari_celldetr.gui.warp_masks import WHOLE, Checker, Mask, Swipe
from napari_celldetr.gui.warped import WarpedPyramid
from napari_celldetr.gui.warped_level import Later
from napari_celldetr.pipeline.warp import Mover

LEFT_KEY = "celldetr_align_view"
"""In the metadata of an H&E's layer: the `AlignView` that a closed dock left, to go on with."""
FILLED = 0.95

Bytes = NDArray[np.uint8]


class AlignView(PairPlaces):
    """What a viewer shows of a pair of slide layers.

    `viewer` needs ``add_layer``, ``layers`` and a camera. Layers that the user removes are let go
    and come back with the next look. `later` makes what the H&E's picture lacks; `redraw` shows
    it. Without one the window waits for it.
    """

    def __init__(
        self,
        viewer: Any,
        he: Any,
        ihc: Any,
        aligned: Aligned | None = None,
        *,
        later: Later | None = None,
    ) -> None:
        super().__init__(he, ihc, aligned)
        self.viewer = viewer
        self.opacity, self.seam, self.cell_um = 0.5, 0.5, 500.0
        self._eyes: tuple[bool, bool] | None = None
        self._own = OwnLayers(viewer)
        self._signs = Signs(self, self._own)
        self._veil = VeilLayer(self, self._own)
        self._later = later
        self._picture: Any = None

    @property
    def picture(self) -> Any | None:
        """The layer with the H&E as it lies on, or beside, the IHC."""
        return self._picture

    # Looks ------------------------------------------------------------------------------

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
        self._veil.show(above=(self.he, self.ihc, self._picture))
        self.show_marks(self.marks)
        self.show_cursor(None)

    def take(self, aligned: Aligned | None) -> None:
        """Show another alignment of the same pair, or none."""
        self.aligned = aligned
        self._remove_picture()
        self._veil.remove()
        if self.is_shown:
            self.show(self.look)

    def hide(self) -> None:
        """Take everything of ours away; the slides are shown as they were."""
        self._signs.remove()
        self._veil.remove()
        self._remove_picture()
        eyes, self._eyes = self._eyes, None
        for layer, eye in zip((self.he, self.ihc), eyes or (), strict=False):
            if self._own.there(layer):
                layer.visible = eye
        self.look = Look.PLAIN

    def leave(self) -> None:
        """Leave a finished alignment in the viewer, laid on the IHC; take the rest away."""
        if self.transform is not None:
            self.he.metadata[LEFT_KEY] = self
        if self.transform is None or not self.is_shown:
            self.hide()
        else:
            self.show(Look.BLEND)
            self._signs.remove()
        # Nobody is there any more to show what comes later.
        self.use(None)

    def use(self, later: Later | None) -> None:
        """Let somebody else make what the H&E's picture lacks."""
        self._later = later
        if self.pyramid is not None:
            self.pyramid.later = later

    # The picture ------------------------------------------------------------------------

    def _show_picture(self) -> None:
        # A picture of the H&E alone is its own layer.
        if self.look is Look.HE:
            if self._own.there(self._picture):
                self._picture.visible = False
            return
        if self.pyramid is None and self.aligned is not None:
            made = WarpedPyramid(levels_of(self.he), Mover(self.aligned.transform))
            self.pyramid = self.aligned.pyramid or made
            self.pyramid.later = self._later
        if not self._own.there(self._picture):
            self._picture = self._new_picture()
            self._own.add(self._picture, above=(self.he, self.ihc))
        self._fit_picture(self._picture)

    def _fit_picture(self, layer: Any) -> None:
        """Where it lies and what of it is seen. Each of these draws: what is so is left alone."""
        placed, mask = self.placed, self._mask()
        if tuple(layer.translate) != tuple(placed.translate):
            layer.translate = placed.translate
        layer.name = self._picture_name()
        layer.opacity = self.opacity if self.look is Look.BLEND else 1.0
        layer.visible = True
        if self.pyramid is not None and self.pyramid.mask != mask:
            self.pyramid.mask = mask
            self.redraw()

    def redraw(self) -> None:
        """Show what of the H&E's picture was made in the meantime."""
        if self._own.there(self._picture):
            self._picture.refresh(thumbnail=False, highlight=False, extent=False)

    def _picture_name(self) -> str:
        # What it shows comes first: the layer list cuts long names at their end.
        return f"H&E {'beside' if self.look is Look.BESIDE else 'on'} IHC · {self.he.name}"

    def _new_picture(self) -> Any:
        metadata: dict[str, Any] = {VIEW_KEY: self.he.name}
        if self.pyramid is None:
            levels, frame = levels_of(self.he), self.he_frame
        else:
            levels, frame = self.pyramid.levels, self.placed
            metadata[TRANSFORM_KEY] = self.transform
        multiscale = self.pyramid is not None or len(levels) > 1
        return Image(
            levels if multiscale else levels[0],
            multiscale=multiscale,
            metadata=metadata,
            rgb=True,
            interpolation2d="linear",
            **frame.layer_options(),
        )

    def _remove_picture(self) -> None:
        self._own.remove(self._picture)
        if self.pyramid is not None:
            self.pyramid.forget()
        self._picture = self.pyramid = None

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

    def other_slide(self, here: Here, size: tuple[int, int]) -> Bytes | None:
        """The other slide around a place, (h, w, 3) for a `size` (w, h), at the screen's zoom.

        Over the H&E that is the IHC, elsewhere the H&E, turned as the IHC lies. None without one.
        """
        if self.pyramid is None or here.ihc is None or self.look is Look.PLAIN:
            return None
        frame = Frame.of_layer(self.ihc)
        step = 1 / (camera_of(self.viewer).zoom * frame.scale[1])
        if here.sides == ("he",):
            return around(levels_of(self.ihc), here.ihc, step, size)
        x, y = (v - o for v, o in zip(here.ihc, self.pyramid.origin, strict=True))
        return around(self.pyramid.unmasked, (x, y), step, size, width=self.pyramid.extent[0])

    # What is left out -------------------------------------------------------------------

    def set_limit(self, limit_um: float) -> None:
        """Another limit of the error; acts at once."""
        if self.aligned is None or self.aligned.transform.limit_um == limit_um:
            return
        transform = replace(self.aligned.transform, limit_um=limit_um)
        self.aligned = replace(self.aligned, transform=transform)
        if self._own.there(self._picture) and TRANSFORM_KEY in self._picture.metadata:
            self._picture.metadata[TRANSFORM_KEY] = transform
        self._veil.follow_limit()

    # Cursor, landmarks, camera ----------------------------------------------------------

    @property
    def marks(self) -> Landmarks:
        """The landmarks of the pair."""
        return self._signs.marks

    def show_cursor(self, here: Here | None) -> None:
        """Show a place on the other slide, in a ring as wide as its expected error."""
        self._signs.show_cursor(here)

    def show_marks(self, marks: Landmarks, *, shown: bool | None = None) -> None:
        """Show landmarks with their numbers on both slides; not `shown`, they are only kept."""
        self._signs.show_marks(marks, shown=shown)

    def look_at(self, number: int) -> None:
        """Move to a landmark, by its place in the list."""
        mark = self.marks.items[number]
        at = [] if mark.he is None else [self.world_of_he(np.array([mark.he]))[0]]
        at += [] if mark.ihc is None else [self.world_of_ihc(np.array([mark.ihc]))[0]]
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *np.mean(at, axis=0))

    def follow_camera(self) -> None:
        """Keep the seam where it is on the screen, and landmarks as large as they are."""
        if self.is_shown and self.look is Look.SWIPE:
            self._show_picture()
        self._signs.follow_zoom()

    def fit(self) -> None:
        """Move so that what is shown fills the screen."""
        low, high = self.box()
        camera = camera_of(self.viewer)
        camera.center = (*camera.center[:-2], *((low + high) / 2))
        size = np.asarray(canvas_size_of(self.viewer), np.float64)
        camera.zoom = float(FILLED * (size / (high - low)).min())
