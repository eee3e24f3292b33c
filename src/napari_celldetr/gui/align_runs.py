"""Running *Align slides*: one alignment at a time, found or read from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job
from napari_celldetr.gui.align_job import Aligned, AlignRequest, align_job, load_job
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.align_words import LANDMARK_HELP, failure_words
from napari_celldetr.gui.panel import JobRunner, RunBar
from napari_celldetr.pipeline.register import RegistrationError


class AlignRuns(QObject):
    """Runs the jobs and shows them in a `RunBar`.

    `aligned` gets the view and its `Aligned`, `refused` an error that landmarks may mend; `ended`
    follows whichever way a run ends, and `said` is what there is to say of it.
    """

    began = Signal()
    aligned = Signal(object, object)
    refused = Signal()
    ended = Signal()

    def __init__(self, bar: RunBar, parent: QObject) -> None:
        super().__init__(parent)
        self.said = ""
        self._bar = bar
        self._view: AlignView | None = None
        self.runner = JobRunner(self)
        self.runner.progressed.connect(self._on_progress)
        self.runner.finished.connect(self._on_finished)
        self.runner.failed.connect(self.fail)
        self.runner.stopped.connect(self._on_stopped)

    @property
    def running(self) -> bool:
        """Whether a run has not yet ended."""
        return self.runner.running

    def align(self, view: AlignView, request: AlignRequest) -> None:
        """Find where the H&E lies on the IHC."""
        self._start(view, "Opening the slides…", lambda: align_job(request))

    def load(self, view: AlignView, request: AlignRequest, path: Path, physical: Any) -> None:
        """Take an alignment from a file; `physical` says what its lengths mean."""
        text = f"Reading {path.name}…"
        self._start(view, text, lambda: load_job(request, path, physical))

    def _start(self, view: AlignView, text: str, make_job: Callable[[], Job[Aligned]]) -> None:
        self._view, self.said = view, ""
        self.began.emit()
        self._bar.show_busy(text)
        self.runner.start(make_job)

    def cancel(self) -> None:
        """Stop; an earlier alignment stays."""
        if self.running:
            self._bar.show_stopping()
            self.runner.stop()

    def forget(self, view: AlignView) -> None:
        """A slide of this view is gone: what runs for it is stopped."""
        if view is self._view:
            self._view = None
            self.cancel()

    def let_go(self) -> None:
        """Stop, and tell no more."""
        self.runner.abandon()
        self._view = None

    def fail(self, error: CellDETRError) -> None:
        """A run ended with an error, or could not begin."""
        self._view = None
        show_error(str(error))
        self.said = failure_words(error)
        if isinstance(error, RegistrationError):
            self.said += f"\n{LANDMARK_HELP}"
            self.refused.emit()
        elif error.remedy:
            self.said += f" What to do: {error.remedy}."
        self.ended.emit()

    def _on_progress(self, step: Any) -> None:
        if self._bar.cancel_button.isEnabled():
            self._bar.show_progress(step)

    def _on_finished(self, aligned: Aligned) -> None:
        view, self._view = self._view, None
        if view is None:
            self._on_stopped()
            return
        self.said = "Aligned."
        self.aligned.emit(view, aligned)
        self.ended.emit()

    def _on_stopped(self) -> None:
        self._view = None
        self.said = "Cancelled. Nothing was changed."
        self.ended.emit()
