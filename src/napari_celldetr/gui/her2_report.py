"""The report of what the dock shows: the same measurements and tumour, as a page or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, QUrl, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog, QPushButton, QWidget

from napari_celldetr.core.annotations import STATUS_WORDS, Status
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.own_llvm import import_triton_apart
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import stem_of
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import FileSource, source_of_layer
from napari_celldetr.pipeline.her2.networks import ask_networks, installed_networks
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.report import write_report
from napari_celldetr.pipeline.her2.result import Control, Her2Result, Rules, conclude
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.stain_kind import require_stain
from napari_celldetr.pipeline.her2.tumour_areas import IHC, Tumour

FILTERS = ("Page with pictures (*.html)", "JSON (*.json)")
REPORT_TEXT = "Report…"
NOT_WHOLE = "Cells were corrected since they were measured: press Measure HER2 first"


@dataclass(frozen=True)
class ReportRequest:
    """What a report is of, as it stands at this moment."""

    source: SlideSource
    reading: Her2Reading
    stain: SlideStain
    control: Control | None
    tumour: Tumour
    rules: Rules
    config: Her2Config
    corrections: Mapping[str, Any]
    path: Path


def request_of(session: SlideSession, state: Her2State, path: str | Path) -> ReportRequest:
    """The report of what a dock shows of a slide."""
    source = source_of_layer(session.layer, mpp=session.frame.mpp)
    given = source.mpp if isinstance(source, FileSource) else None
    model = state.reading.measured.cells.source.model or Her2Config().model
    return ReportRequest(
        source,
        state.reading,
        state.stain,
        state.control,
        state.tumour,
        Rules(state.cutoffs),
        Her2Config(model=model, mpp=given),
        corrections_of(session),
        Path(path),
    )


def corrections_of(session: SlideSession) -> dict[str, Any]:
    """How many cells people said what of, and what identifies all that they said."""
    found, times = np.unique(session.cells.status, return_counts=True)
    counts = {
        STATUS_WORDS[Status(int(s))]: int(n)
        for s, n in zip(found, times, strict=True)
        if Status(int(s)) in STATUS_WORDS and s != Status.CLAIMED
    }
    return {**counts, "digest": session.cells.annotations.digest()}


def report_job(request: ReportRequest) -> Job[Path]:
    """Conclude, ask the networks that are installed, write; where the report was written."""
    yield Progress(0, 0, "Writing the report…")
    with request.source.open() as slide:
        start = Her2Result(
            slide,
            request.config,
            request.rules,
            request.tumour,
            request.stain,
            control=request.control,
            given=True,
            kinds=((IHC, require_stain(slide, "H-DAB")),),
        )
        done = conclude(start, request.reading)
        import_triton_apart()
        asked = installed_networks(tumour=False, others=request.config.networks)
        if done.judged is not None and done.counted.any():
            outlines = request.reading.measured.outlines
            said = yield from ask_networks(
                slide, asked, request.tumour, outlines, done.judged, done.counted
            )
            done = replace(done, asked=asked, networks=said)
        write_report(done, request.path, corrections=request.corrections)
    return request.path


class Reporter(QObject):
    """The button that writes the report in the background; `told` says how that goes."""

    told = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.button = QPushButton(REPORT_TEXT)
        self._parent = parent
        self._opens = False
        self._runner = JobRunner(self)
        self._runner.progressed.connect(lambda step: self.told.emit(step.message))
        self._runner.finished.connect(self._on_written)
        self._runner.failed.connect(self._on_failed)
        self.offer(None)

    @property
    def running(self) -> bool:
        """Whether a report is being written."""
        return self._runner.running

    def offer(self, state: Her2State | None) -> None:
        """Whether there can be a report now, and why not if not."""
        whole = state is not None and state.is_whole
        self.button.setEnabled(whole and not self.running)
        usual = "Score, figures, pictures and settings as a page, or as JSON for programs"
        self.button.setToolTip(usual if whole or state is None else NOT_WHOLE)

    def ask(self, session: SlideSession, state: Her2State) -> None:
        """Ask where to, write, and open a page in the browser."""
        name = f"{stem_of(session.layer.name)}-her2.html"
        path, _ = QFileDialog.getSaveFileName(self._parent, "Report", name, ";;".join(FILTERS))
        if path:
            self._opens = True
            self.write(session, state, path)

    def write(self, session: SlideSession, state: Her2State, path: str | Path) -> None:
        """Write a report, ``.html`` or ``.json``."""
        if self.running:
            return
        request = request_of(session, state, path)
        self.button.setEnabled(False)
        self.button.setText("Writing…")
        self._runner.start(lambda: report_job(request))

    def abandon(self) -> None:
        """Stop writing."""
        self._runner.abandon()
        self._end()

    def _on_written(self, path: Path) -> None:
        opens = self._opens and path.suffix.lower() != ".json"
        self._end()
        text = f"{path.name} is written. Folder: {path.absolute().parent}"
        show_info(text)
        self.told.emit(text)
        if opens:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.absolute())))

    def _on_failed(self, error: CellDETRError) -> None:
        self._end()
        show_error(str(error))
        self.told.emit(error.message)

    def _end(self) -> None:
        self._opens = False
        self.button.setEnabled(True)
        self.button.setText(REPORT_TEXT)
