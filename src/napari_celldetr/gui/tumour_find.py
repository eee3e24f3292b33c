"""Tumour that a network finds in the H&E: its button, its maps and its outlines in the viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.layers import Image
from napari.utils.colormaps import Colormap, ensure_colormap
from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Progress, drain
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.carry import layer_of_outlines
from napari_celldetr.gui.layers import HALF, Frame
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.panel import JobRunner, RunBar
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.gui.tumour_job import (
    MESSAGE,
    Heat,
    Load,
    TumourFound,
    TumourRequest,
    carried_outlines,
    is_installed,
    load_installed,
    tumour_job,
)
from napari_celldetr.pipeline.her2.settings import TUMOUR_MODEL
from napari_celldetr.pipeline.her2.tumour import NETWORK

MAP_KEY = "celldetr_tumour_map"
"""In the metadata of a map: ``he`` or ``ihc``, the slide on which it lies."""
FIND_TEXT = "Find tumour in the H&&E"
TOOLTIP = (
    "A small network, trained on 74 fields of breast cancer, marks where it sees tumour. It cannot "
    "tell invasive from in-situ carcinoma. Look at what it found before you rely on it"
)
ZONES_NAME = "Tumour found by a network"
NOTHING = "The network finds no tumour on the H&E slide."
OPACITY = 0.5
CLEAR_BELOW = 0.5
"""Probability from which on the map is as dense as it gets."""


def find_words(step: Progress) -> str:
    """``Looking for tumour in the H&E… (part 3 of 12)``."""
    return f"{MESSAGE}… (part {min(step.done + 1, step.total)} of {step.total})"


class TumourBox(RunBar):
    """The button, Cancel, progress, and what came of it."""

    def __init__(self) -> None:
        super().__init__(FIND_TEXT, words=find_words)
        self.load: Load = load_installed
        self.installed = is_installed
        self.run_button.setToolTip(TOOLTIP)
        self.cancel_button.setToolTip("Stop. Nothing is added then")
        self.bar.setToolTip("Share of the tissue that was looked at")
        self.finder = TumourFinder(self)
        self._can = False
        self.cancel_clicked.connect(self._on_cancel)
        self.finder.progressed.connect(self._on_step)
        self.finder.told.connect(self._on_told)

    def offer(self, *, aligned: bool) -> None:
        """Whether there is an alignment to carry with."""
        self._can = aligned
        if not self.finder.running:
            self._show("")

    def press(self, view: AlignView) -> None:
        """Begin, with the alignment of this pair."""
        if not self.finder.running:
            self.show_busy("Loading the network…")
            self.finder.start(view, self.load)

    def stop(self) -> None:
        """Stop without a word: the alignment is another one now."""
        if self.finder.running:
            self.finder.abandon()
            self._show("")

    def _show(self, text: str) -> None:
        there = self.installed()
        missing = "" if there or not self._can else f"The network {TUMOUR_MODEL} is not installed."
        self.show_idle(text or missing, can_run=self._can and there)

    def _on_cancel(self) -> None:
        self.show_stopping()
        self.finder.stop()

    def _on_step(self, step: Progress) -> None:
        if self.cancel_button.isEnabled():
            self.show_progress(step)

    def _on_told(self, text: str) -> None:
        self._show(text)


class TumourFinder(QObject):
    """Runs the search and adds what it found to the viewer; `told` is how it ended."""

    progressed = Signal(object)
    told = Signal(str)
    added = Signal(object)
    """Layers are about to be added to this view."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._view: AlignView | None = None
        self._transform: SlideTransform | None = None
        self._runner = JobRunner(self)
        self._runner.progressed.connect(self.progressed)
        self._runner.finished.connect(self._on_found)
        self._runner.failed.connect(self._on_failed)
        self._runner.stopped.connect(lambda: self.told.emit("Cancelled. Nothing was added."))

    @property
    def running(self) -> bool:
        """Whether the network is being asked."""
        return self._runner.running

    def start(self, view: AlignView, load: Load) -> None:
        """Ask about the H&E of an aligned pair."""
        transform = view.transform
        if transform is None:
            return
        source = source_of_layer(view.he, mpp=Frame.of_layer(view.he).mpp)
        self._view, self._transform = view, transform
        request = TumourRequest(source, transform, load)
        self._runner.start(lambda: tumour_job(request))

    def stop(self) -> None:
        """Ask no further."""
        self._runner.stop()

    def abandon(self) -> None:
        """Stop, and tell no more."""
        self._runner.abandon()
        self._view = None

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self.told.emit(f"{error.message} {error.remedy or ''}".strip())

    def _on_found(self, found: TumourFound) -> None:
        view, self._view = self._view, None
        if view is None or view.transform is None or not _in_viewer(view):
            self.told.emit("Nothing was added: there is no alignment any more.")
            return
        outlines = found.outlines
        if view.transform is not self._transform:
            # The limit was changed in the meantime.
            outlines = drain(carried_outlines(found.answers, view.transform))
        self.added.emit(view)
        add_map(view, found.on_he, "he")
        add_map(view, found.on_ihc, "ihc")
        if not outlines:
            self.told.emit(NOTHING)
            return
        layer = layer_of_outlines(
            outlines,
            view.transform,
            frame=Frame.of_layer(view.ihc),
            name=ZONES_NAME,
            zoom=camera_of(view.viewer).zoom,
            source=NETWORK,
        )
        view.viewer.add_layer(layer)
        self.told.emit(found_words(len(outlines), sum(o.excluded for o in outlines)))


def found_words(count: int, excluded: int) -> str:
    """What was added, and what is left to the person."""
    areas = "1 area" if count == 1 else f"{count} areas"
    out = f"; {excluded} where the slides are not aligned well enough, grey" if excluded else ""
    return (
        f"{areas} found by the network, no person drew them{out}. Look at them before you rely on "
        "them; they count for HER2 only when you choose the layer there. The map on the H&E is "
        "under Show: H&E as scanned."
    )


def add_map(view: AlignView, heat: Heat, side: str) -> Any:
    """A map of probabilities on one of the slides, in place of an earlier one."""
    slide = view.he if side == "he" else view.ihc
    _remove(view, side)
    layer = Image(
        heat.share,
        name=map_name(view, side),
        rgb=False,
        colormap=heat_colors(),
        contrast_limits=(0.0, 1.0),
        opacity=OPACITY,
        blending="translucent",
        interpolation2d="nearest",
        metadata={MAP_KEY: side},
        visible=_is_seen(side, view),
        **cell_options(Frame.of_layer(slide), heat.cell),
    )
    view.viewer.add_layer(layer)
    return layer


def show_maps(view: AlignView) -> None:
    """Each map where its slide is shown: elsewhere it would lie in the wrong place."""
    for side in ("he", "ihc"):
        layer = _map_of(view, side)
        if layer is not None:
            layer.visible = _is_seen(side, view)


def forget_map(view: AlignView) -> None:
    """Take the map on the IHC away: another alignment would lay it elsewhere."""
    _remove(view, "ihc")


def map_name(view: AlignView, side: str) -> str:
    """What the map on one of the slides is called."""
    return f"Tumour map · {view.he.name}" if side == "he" else f"Tumour map · on {view.ihc.name}"


def _map_of(view: AlignView, side: str) -> Any | None:
    name, layers = map_name(view, side), view.viewer.layers
    return layers[name] if name in layers and MAP_KEY in layers[name].metadata else None


def _remove(view: AlignView, side: str) -> None:
    layer = _map_of(view, side)
    if layer is not None:
        view.viewer.layers.remove(layer)


def _in_viewer(view: AlignView) -> bool:
    return view.he in view.viewer.layers and view.ihc in view.viewer.layers


def _is_seen(side: str, view: AlignView) -> bool:
    if view.look is Look.PLAIN:
        return False
    return (side == "he") == (view.look is Look.HE)


def heat_colors() -> Colormap:
    """Inferno, clear where the probability is 0."""
    colors = np.array(ensure_colormap("inferno").colors, np.float32)
    colors[:, 3] = np.minimum(np.linspace(0, 1 / CLEAR_BELOW, len(colors)), 1)
    return Colormap(colors, name="celldetr tumour")


def cell_options(frame: Frame, cell: tuple[float, float]) -> dict[str, Any]:
    """Where an image lies whose pixels are `cell` (x, y) level-0 px and begin at the corner."""
    sides = cell[::-1]
    return {
        **frame.layer_options(),
        "scale": tuple(s * c for s, c in zip(frame.scale, sides, strict=True)),
        "translate": tuple(
            t + (c / 2 - HALF) * s
            for t, c, s in zip(frame.translate, sides, frame.scale, strict=True)
        ),
    }
