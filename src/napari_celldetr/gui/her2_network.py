"""What the pixel network says beside the measurement: its map, and how far the two disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_error
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QPushButton, QVBoxLayout, QWidget

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.her2 import SCORES
from napari_celldetr.core.predictor import PixelPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.her2_layers import MAP_OPACITY, map_colors
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.layers import Frame
from napari_celldetr.gui.overlay import _same_selection
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import single_shot, wrapped_label
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.her2.outline import Outlines
from napari_celldetr.pipeline.her2.pixel_agreement import PixelAgreement, PixelStep, compare_pixels
from napari_celldetr.pipeline.her2.settings import PIXEL_MODEL
from napari_celldetr.pipeline.her2.zones import Zone

Load = Callable[[], PixelPredictor]
MOST_PIXELS = 400_000_000
"""A larger slide's map is kept at every second pixel, or fewer."""
REPAINT_MS = 300
COARSEST = 1024
ASK_TEXT = "Ask the pixel network"
ABOUT = (
    "A network that was trained on generated slides names the class of every pixel. It has no say "
    "in the score."
)


def load_installed() -> PixelPredictor:
    """The installed model."""
    from napari_celldetr.gui.own_llvm import import_triton_apart
    from napari_celldetr.nets.registry import load_pixel_predictor

    import_triton_apart()
    return load_pixel_predictor(PIXEL_MODEL)


def is_installed() -> bool:
    """Whether there is such a model."""
    from napari_celldetr.nets.registry import model_places

    return PIXEL_MODEL in model_places()


class NetworkMap:
    """Classes of pixels, 0 where the network was not asked; `step` level-0 px a pixel."""

    def __init__(self, size: tuple[int, int], step: float) -> None:
        self.step = step
        while size[0] * size[1] / self.step**2 > MOST_PIXELS:
            self.step *= 2
        # Memory is taken where something is written.
        shape = (int(np.ceil(size[1] / self.step)), int(np.ceil(size[0] / self.step)))
        self.pixels: NDArray[np.uint8] = np.zeros(shape, np.uint8)

    def paint(self, core: Region, classes: NDArray[np.uint8]) -> None:
        """Put the classes (height, width) of a region in."""
        x0, y0, x1, y1 = (round(v / self.step) for v in (core.x, core.y, core.x1, core.y1))
        y1, x1 = min(y1, self.pixels.shape[0]), min(x1, self.pixels.shape[1])
        top, left = max(y0, 0), max(x0, 0)
        if y1 <= top or x1 <= left:
            return
        rows = ((np.arange(top, y1) + 0.5) * self.step - core.y) / core.height * classes.shape[0]
        columns = ((np.arange(left, x1) + 0.5) * self.step - core.x) / core.width
        columns = columns * classes.shape[1]
        y = np.clip(rows.astype(int), 0, classes.shape[0] - 1)
        x = np.clip(columns.astype(int), 0, classes.shape[1] - 1)
        found = classes[np.ix_(y, x)]
        self.pixels[top:y1, left:x1] = np.where(found <= len(SCORES), found, 0)

    def levels(self) -> list[NDArray[np.uint8]]:
        """The map at every factor of two; views, so that what is painted shows on all."""
        count = max(1, int(np.ceil(np.log2(max(self.pixels.shape) / COARSEST))) + 1)
        return [self.pixels[:: 2**k, :: 2**k] for k in range(count)]


@dataclass(frozen=True)
class NetworkRequest:
    """What the network is asked about: the cells that count, in the tumour."""

    source: SlideSource
    load: Load
    outlines: Outlines
    scores: NDArray[np.int8]
    counted: NDArray[np.bool_]
    zones: tuple[Zone, ...]
    first: tuple[float, float] | None = None


def network_job(request: NetworkRequest) -> Job[PixelAgreement]:
    """Ask about every tile with cells; a `PixelStep` for each."""
    yield Progress(0, 0, "Loading the network…")
    predictor = request.load()
    with request.source.open() as slide:
        found = yield from compare_pixels(
            slide,
            predictor,
            request.outlines,
            request.scores,
            request.counted,
            request.zones,
            first=request.first,
        )
    return found


def agreement_words(found: PixelAgreement) -> str:
    """How far the network and the measurement disagree."""
    shares = ", ".join(f"{s} {p:.0f} %" for s, p in reversed(found.percent_area.items()))
    return (
        f"The network says otherwise of the staining of {100 * found.disagreement:.1f} % of the "
        f"pixels of measured cells. Its own coverage: {shares}."
    )


class NetworkBox(QWidget):
    """The button that asks the network, and what came of it; the map grows as tiles arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.load: Load = load_installed
        self.words = wrapped_label(ABOUT, tooltip="The network and the measurement are separate")
        self.button = QPushButton(ASK_TEXT)
        self.button.setToolTip("Near what is on the screen first; its map comes tile by tile")
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(self.words)
        column.addWidget(self.button)
        self.runs = NetworkRuns(self)
        self.runs.told.connect(self.words.setText)
        self.runs.running_changed.connect(self._on_running)

    def press(self, session: SlideSession, state: Her2State) -> None:
        """Ask, or stop asking."""
        if self.runs.running:
            self.runs.stop()
        else:
            self.runs.start(session, state, self.load)

    def _on_running(self, running: bool) -> None:
        self.button.setText("Stop" if running else ASK_TEXT)


class NetworkRuns(QObject):
    """Runs the question and paints the answers."""

    told = Signal(str)
    running_changed = Signal(bool)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.map: NetworkMap | None = None
        self._layer: Any = None
        self._session: SlideSession | None = None
        self._runner = JobRunner(self)
        self._runner.progressed.connect(self._on_step)
        self._runner.finished.connect(self._on_done)
        self._runner.failed.connect(self._on_failed)
        self._runner.stopped.connect(lambda: self._end("Stopped."))
        self._repaint = single_shot(self, REPAINT_MS, self._paint)

    @property
    def running(self) -> bool:
        """Whether the network is being asked."""
        return self._runner.running

    def start(self, session: SlideSession, state: Her2State, load: Load) -> None:
        """Ask about the cells that count now."""
        view, judged = session.view(), state.judged
        request = NetworkRequest(
            source_of_layer(session.layer, mpp=session.frame.mpp),
            load,
            state.reading.measured.outlines,
            judged.scores,
            state.verdict.counted,
            state.tumour.zones,
            None if view is None else view.centre,
        )
        self._session, self.map, self._layer = session, None, None
        self.told.emit("Loading the network…")
        self._runner.start(lambda: network_job(request))
        self.running_changed.emit(True)

    def stop(self) -> None:
        """Ask no further."""
        self._runner.stop()

    def abandon(self) -> None:
        """Stop, and tell no more."""
        self._runner.abandon()
        self._repaint.stop()
        self._session = None
        self.running_changed.emit(False)

    def _on_step(self, step: Progress) -> None:
        if isinstance(step, PixelStep) and step.core is not None and step.classes is not None:
            self._show(step.core, step.classes)
            self.told.emit(f"{step.done} of {step.total} tiles")

    def _show(self, core: Region, classes: NDArray[np.uint8]) -> None:
        session = self._session
        if session is None:
            return
        if self.map is None:
            self.map = NetworkMap(session.size, core.width / classes.shape[1])
            self._add(session, self.map)
        self.map.paint(core, classes)
        if not self._repaint.isActive():
            self._repaint.start()

    def _add(self, session: SlideSession, found: NetworkMap) -> None:
        name = f"HER2 network · {session.layer.name}"
        viewer, frame = session.viewer, Frame.of_layer(session.layer)
        if name in viewer.layers:
            viewer.layers.remove(viewer.layers[name])
        levels = found.levels()
        several = len(levels) > 1
        self._layer = Labels(
            levels if several else levels[0],
            multiscale=several,
            name=name,
            colormap=DirectLabelColormap(color_dict=map_colors()),
            opacity=MAP_OPACITY,
            **frame.raster_options(found.step),
        )
        with _same_selection(viewer):
            viewer.add_layer(self._layer)
            self._layer.editable = False

    def _paint(self) -> None:
        session, layer = self._session, self._layer
        if session is not None and layer is not None and layer in session.viewer.layers:
            layer.refresh(thumbnail=False)

    def _on_done(self, found: PixelAgreement) -> None:
        self._paint()
        self._end(agreement_words(found))

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
        self._end(error.message)

    def _end(self, text: str) -> None:
        self.told.emit(text)
        self.running_changed.emit(False)
