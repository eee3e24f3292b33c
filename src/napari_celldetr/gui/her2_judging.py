"""Judging anew after a choice: at once where that is quick, else beside the window.

Of many cells the old verdict stands, and can be looked at, until the new one is there.
"""

from __future__ import annotations

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.her2 import Assessment
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.gui.her2_verdict import Verdict, intervals_job
from napari_celldetr.gui.panel import JobRunner
from napari_celldetr.gui.parts import single_shot

AT_ONCE = 12_000
"""So many cells are judged within 50 ms: a person sees no delay."""
SETTLE_MS = 400
"""Intervals by drawing follow once choices rest this long."""


class Judging(QObject):
    """Lets verdicts stand: `judged` is sent with each, `drawn` when its intervals are there."""

    judged = Signal()
    drawn = Signal()

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._state: Her2State | None = None
        self._judge, self._draw = JobRunner(self), JobRunner(self)
        self._judge.finished.connect(self._on_judged)
        self._draw.finished.connect(self._on_drawn)
        for runner in (self._judge, self._draw):
            runner.failed.connect(self._on_failed)
        self._settle = single_shot(self, SETTLE_MS, self._intervals)

    @property
    def busy(self) -> bool:
        """Whether what stands is not yet what was chosen."""
        return self._judge.running

    def follow(self, state: Her2State | None) -> None:
        """Judge these cells from now on."""
        self.abandon()
        self._state = state

    def abandon(self) -> None:
        """Stop, and tell no more."""
        self._settle.stop()
        self._judge.abandon()
        self._draw.abandon()

    def ask(self) -> None:
        """Judge what is chosen now; an older question that is not answered yet is dropped."""
        state = self._state
        if state is None:
            return
        self.abandon()
        if state.is_settled or len(state.reading) <= AT_ONCE:
            state.settle()
            self._tell()
        else:
            self._judge.start(state.asking())

    def _on_judged(self, verdict: Verdict) -> None:
        if self._state is not None:
            self._state.take(verdict)
            self._tell()

    def _tell(self) -> None:
        self.judged.emit()
        self._settle.start()

    def _intervals(self) -> None:
        state = self._state
        if state is None:
            return
        verdict = state.verdict
        if len(state.reading) <= AT_ONCE:
            state.of_slide()
            self.drawn.emit()
        else:
            self._draw.start(lambda: intervals_job(verdict))

    def _on_drawn(self, found: Assessment) -> None:
        if self._state is not None:
            self._state.take_intervals(found)
            self.drawn.emit()

    def _on_failed(self, error: CellDETRError) -> None:
        show_error(str(error))
