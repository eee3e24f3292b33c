"""The report of what the dock shows: the same measurements and tumour, as a page or JSON."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
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
from napari_celldetr.pipeline.her2.result import Her2Result, Rules, conclude
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.stain_kind import require_stain
from napari_celldetr.pipeline.her2.tumour_areas import IHC
from napari_celldetr.slides.slide import Slide

FILTERS = ("Page with pictures (*.html)", "JSON (*.json)")
REPORT_TEXT = "Report…"
USUAL_TIP = "Score, figures, pictures and settings as a page, or as JSON for programs"
NOT_WHOLE = "Cells were corrected since they were measured: press Measure HER2 first"


Shown = Her2State | Her2Result
"""What a dock shows: measured cells, or coverage without cells."""
Begin = Callable[[Slide], Her2Result]


@dataclass(frozen=True)
class ReportRequest:
    """What a report is of, as it stands at this moment.

    `begin` makes a result of the open slide, to which `reading` is added if there are cells.
    """

    source: SlideSource
    begin: Begin
    reading: Her2Reading | None
    corrections: Mapping[str, Any] | None
    path: Path


def request_of(session: SlideSession, shown: Shown, path: str | Path) -> ReportRequest:
    """The report of what a dock shows of a slide."""
    source = source_of_layer(session.layer, mpp=session.frame.mpp)
    target = Path(path)
    if isinstance(shown, Her2Result):
        return ReportRequest(source, lambda slide: replace(shown, slide=slide), None, None, target)
    corrections = corrections_of(session)
    return ReportRequest(source, begin_of(shown, source), shown.reading, corrections, target)


def begin_of(state: Her2State, source: Any) -> Begin:
    """What begins the report of measured cells, as they stand now."""
    model = state.reading.measured.cells.source.model or Her2Config().model
    config = replace(config_of(source), model=model)
    tumour, rules = state.tumour, Rules(state.cutoffs)
    stain, control = state.stain, state.control
    return lambda slide: Her2Result(
        slide,
        config,
        rules,
        tumour,
        stain,
        control=control,
        given=True,
        kinds=((IHC, require_stain(slide, "H-DAB")),),
    )


def config_of(source: Any) -> Her2Config:
    """Settings that say which pixel size a person gave."""
    return Her2Config(mpp=source.mpp if isinstance(source, FileSource) else None)


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
        done = request.begin(slide)
        if request.reading is not None:
            done = yield from _concluded(done, request.reading)
        write_report(done, request.path, corrections=request.corrections)
    return request.path


def _concluded(begun: Her2Result, reading: Her2Reading) -> Generator[Progress, None, Her2Result]:
    """The score, and what the networks say beside it."""
    done = conclude(begun, reading)
    import_triton_apart()
    asked = installed_networks(tumour=False, others=done.config.networks)
    if done.judged is None or not done.counted.any():
        return done
    outlines = reading.measured.outlines
    said = yield from ask_networks(
        done.slide, asked, done.tumour, outlines, done.judged, done.counted
    )
    return replace(done, asked=asked, networks=said)


class Reporter(QObject):
    """The button that writes the report in the background; `told` says how that goes."""

    told = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.button = QPushButton(REPORT_TEXT)
        self._parent = parent
        self._opens = self._can = False
        self._runner = JobRunner(self)
        self._runner.progressed.connect(lambda step: self.told.emit(step.message))
        self._runner.finished.connect(self._on_written)
        self._runner.failed.connect(self._on_failed)
        self.offer(None)

    @property
    def running(self) -> bool:
        """Whether a report is being written."""
        return self._runner.running

    def offer(self, shown: Shown | None, *, why_not: str = "") -> None:
        """Whether there can be a report now, and why not if not."""
        if isinstance(shown, Her2State) and not shown.is_whole:
            why_not = NOT_WHOLE
        self._can = shown is not None and not why_not
        self.button.setEnabled(self._can and not self.running)
        self.button.setToolTip(why_not or USUAL_TIP)

    def ask(self, session: SlideSession, shown: Shown) -> None:
        """Ask where to, write, and open a page in the browser."""
        name = f"{stem_of(session.layer.name)}-her2.html"
        path, _ = QFileDialog.getSaveFileName(self._parent, "Report", name, ";;".join(FILTERS))
        if path:
            self._opens = True
            self.write(session, shown, path)

    def write(self, session: SlideSession, shown: Shown, path: str | Path) -> None:
        """Write a report, ``.html`` or ``.json``."""
        if self.running:
            return
        request = request_of(session, shown, path)
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
        self.button.setEnabled(self._can)
        self.button.setText(REPORT_TEXT)
