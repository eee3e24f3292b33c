"""What every dock of this package is made of: a frame, its jobs, and Run / Cancel / progress."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QDockWidget,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.parts import wrapped_label
from napari_celldetr.gui.worker import Done, Failed, JobThread, Message, Step, Stopped

POLL_MS = 30
SLICE_S = 0.02
"""How long one poll may hand out messages before the GUI gets its turn."""


class JobRunner(QObject):
    """Runs one job at a time and tells, in the GUI thread, what became of it.

    Messages are asked for by a timer, so a runner that is gone is never called. Starting a new
    run drops the old thread with all it still had to say: a stale run cannot paint over it.
    `run` counts the runs.
    """

    progressed = Signal(object)
    finished = Signal(object)
    failed = Signal(object)
    stopped = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.run = 0
        self._thread: JobThread | None = None
        self._discard: Callable[[Any], None] | None = None
        # A dying QObject may call neither its own methods nor its children's: a plain list may.
        last: list[JobThread] = []
        self._last = last
        self.destroyed.connect(partial(_stop_each, last))
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def running(self) -> bool:
        """Whether a run has not yet told how it ended."""
        return self._thread is not None

    def start(
        self, make_job: Callable[[], Job[Any]], *, discard: Callable[[Any], None] | None = None
    ) -> int:
        """Run a job in a thread of its own; returns the number of the run.

        `discard` gets a result that nobody will hear of, because the run was abandoned.
        """
        self.abandon()
        self.run += 1
        self._discard = discard
        self._thread = JobThread(make_job, discard=discard)
        self._last[:] = [self._thread]
        self._thread.start()
        self._timer.start()
        return self.run

    def stop(self) -> None:
        """Ask the run to stop; `stopped` follows."""
        if self._thread is not None:
            self._thread.stop()

    def abandon(self) -> None:
        """Stop the run and hear no more of it."""
        thread, self._thread = self._thread, None
        self._timer.stop()
        if thread is None:
            return
        thread.stop()
        while (message := thread.take()) is not None:
            if isinstance(message, Done) and self._discard is not None:
                self._discard(message.result)

    def _poll(self) -> None:
        until = time.perf_counter() + SLICE_S
        run = self.run
        while self._thread is not None and self.run == run and time.perf_counter() < until:
            message = self._thread.take()
            if message is None:
                return
            self._tell(message)

    def _tell(self, message: Message) -> None:
        if isinstance(message, Step):
            self.progressed.emit(message.progress)
            return
        self._thread = None
        self._timer.stop()
        if isinstance(message, Done):
            self.finished.emit(message.result)
        elif isinstance(message, Failed):
            self.failed.emit(message.error)
        elif isinstance(message, Stopped):
            self.stopped.emit()


def _stop_each(threads: list[JobThread], *_: object) -> None:
    for thread in threads:
        thread.stop()


class _WindowWatch(QObject):
    """Shuts the docks of a window down when it is closed, before Qt destroys them.

    Qt tells only the window itself, which may still decide to stay.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self.docks: weakref.WeakSet[Dock] = weakref.WeakSet()
        window.installEventFilter(self)

    @classmethod
    def of(cls, window: QWidget) -> _WindowWatch:
        """The one watch of a window."""
        known = window.findChild(cls, options=Qt.FindChildOption.FindDirectChildrenOnly)
        return cls(window) if known is None else known

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """Let the window answer a request to close; if it agrees, shut the docks down."""
        if event.type() != QEvent.Type.Close or watched is not self.parent():
            return False
        watched.event(event)
        if event.isAccepted():
            for dock in list(self.docks):
                dock.shut_down()
        return True


class _Scroll(QScrollArea):
    """Scrolls up and down alone: it is never narrower than what is in it and the bar beside."""

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """See when the content wants another width."""
        if event.type() == QEvent.Type.LayoutRequest and watched is self.widget():
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Room for the content's width."""
        hint, inner = super().minimumSizeHint(), self.widget()
        if inner is None:
            return hint
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(inner.minimumSizeHint().width() + bar, hint.height())


class Dock(QWidget):
    """A dock's inner widget: `shut_down` is called once, when it is closed or taken out.

    Closing a dock in napari only takes its inner widget out of it and destroys the frame; closing
    the window tells neither.
    """

    is_wide = False
    """Whether it lies along the window's lower edge, not beside the slide."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._was_docked = self._is_shut = self._is_behind = self._told_to_hide = False
        # What is in it scrolls, so it takes all the height there is. A dock that did not would get
        # a stretch from napari, which looks through the layout's items to place it: Python may
        # then delete an item once more than Qt does, when the closed dock is collected.
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

    def shut_down(self) -> None:
        """Stop everything this dock started and stop listening to the viewer; once."""
        if not self._is_shut:
            self._is_shut = True
            self.let_go()

    def let_go(self) -> None:
        """What a dock has to stop and to disconnect."""

    def start_column(self, title: str, *, width: int = 300) -> QVBoxLayout:
        """The column a dock is built in; `finish_column` puts it into the dock."""
        self.setMinimumWidth(width)
        self.setWindowTitle(title)
        # Owned by the dock: a widget that nobody holds would take its layout along.
        column = QVBoxLayout(QWidget(self))
        column.setContentsMargins(8, 8, 8, 8)
        column.setSpacing(6)
        return column

    def finish_column(self, column: QVBoxLayout) -> None:
        """End a column with what every dock says, and fill the dock with it."""
        column.addStretch(1)
        column.addWidget(wrapped_label(RESEARCH_USE))
        inner = column.parentWidget()
        assert inner is not None
        self.fill(inner)

    def fill(self, inner: QWidget) -> None:
        """Fill the dock with `inner`, which scrolls up and down where the window is low."""
        area = _Scroll()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        outer.addWidget(area)
        self.scroll_bar = area.verticalScrollBar()

    def pin(self, widget: QWidget) -> None:
        """Put a widget above what scrolls; `fill` the dock first."""
        outer = self.layout()
        assert isinstance(outer, QVBoxLayout)
        outer.insertWidget(0, widget)

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """The window is closed."""
        self.shut_down()
        super().closeEvent(event)

    def event(self, event: Any) -> bool:
        """See when the widget is put into a dock, and when it is taken out for good."""
        if event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
                # Its frame is put into the window only afterwards.
                QTimer.singleShot(0, self, self._watch_window)
            elif self._was_docked:
                self.shut_down()
        elif event.type() == QEvent.Type.Show:
            self._told_to_hide = False
            self._watch_window()
            if not event.spontaneous():
                QTimer.singleShot(0, self, self._come_to_front)
        return bool(super().event(event))

    def _come_to_front(self) -> None:
        """A dock that was asked for must not open behind another one's tab."""
        frame = _frame_of(self)
        if frame is not None and not self._is_shut:
            frame.raise_()

    def _on_seen(self, seen: bool) -> None:
        frame = _frame_of(self)
        if frame is None or self._is_shut:
            return
        if not seen and frame.isHidden() and self._is_behind:
            # Menus hide a dock that is there already. Whoever chose it behind another one's tab
            # wanted to see it.
            QTimer.singleShot(0, frame, self._come_back)
        self._is_behind = not seen and not frame.isHidden()

    def _on_told(self, shown: bool) -> None:
        self._told_to_hide = not shown

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:  # noqa: N802 - Qt's name
        """See whether the frame is being closed."""
        if event.type() == QEvent.Type.Close:
            self._told_to_hide = True
        return False

    def _come_back(self) -> None:
        frame = _frame_of(self)
        if frame is not None and not self._told_to_hide and not self._is_shut:
            frame.show()

    def _watch_window(self) -> None:
        frame = _frame_of(self)
        # A floating frame is a window of its own, but not the one whose closing ends the dock.
        above = None if frame is None else frame.parentWidget()
        window = self.window() if above is None else above.window()
        if window is self or self._is_shut:
            return
        watch = _WindowWatch.of(window)
        if self not in watch.docks:
            if isinstance(window, QMainWindow):
                self._share_place(window, list(watch.docks))
            watch.docks.add(self)
            if frame is not None:
                frame.visibilityChanged.connect(self._on_seen)
                frame.toggleViewAction().triggered.connect(self._on_told)
                frame.installEventFilter(self)

    def _share_place(self, window: QMainWindow, others: list[Dock]) -> None:
        """Be a tab beside another dock at the same side: two below each other are too low."""
        own = _frame_of(self)
        if own is None or self.is_wide:
            return
        for other in others:
            frame = _frame_of(other)
            if frame is None or other.is_wide or frame.isFloating() or own.isFloating():
                continue
            if window.dockWidgetArea(frame) == window.dockWidgetArea(own):
                window.tabifyDockWidget(frame, own)
                own.raise_()
                return


def _frame_of(dock: Dock) -> QDockWidget | None:
    parent = dock.parentWidget()
    while parent is not None and not isinstance(parent, QDockWidget):
        parent = parent.parentWidget()
    return parent


class RunBar(QWidget):
    """Run, Cancel, a progress bar and one line that says what is going on, in `words`."""

    run_clicked = Signal()
    cancel_clicked = Signal()

    def __init__(
        self,
        run_text: str,
        parent: QWidget | None = None,
        *,
        words: Callable[[Progress], str] | None = None,
    ) -> None:
        super().__init__(parent)
        self._words = words or progress_words
        self.run_button = QPushButton(run_text)
        self.run_button.setToolTip("Start. What is on the screen is analysed first")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("Stop now. Finished tiles are kept and used again next time")
        self.bar = QProgressBar()
        self.bar.setToolTip("Share of the tiles that are done")
        self.bar.setTextVisible(True)
        self.status = wrapped_label("")
        self.run_button.clicked.connect(self.run_clicked)
        self.cancel_button.clicked.connect(self.cancel_clicked)
        buttons = QHBoxLayout()
        buttons.addWidget(self.run_button, 2)
        buttons.addWidget(self.cancel_button, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.bar)
        layout.addWidget(self.status)
        self.show_idle("")

    def show_idle(self, text: str, *, can_run: bool = True) -> None:
        """Nothing is running; `text` says how the last run ended or what is missing."""
        self.run_button.setEnabled(can_run)
        self.cancel_button.setEnabled(False)
        self.cancel_button.setText("Cancel")
        self.bar.setVisible(False)
        self._say(text)

    def show_busy(self, text: str) -> None:
        """Something runs whose length is not known."""
        self.run_button.setEnabled(False)
        self.cancel_button.setEnabled(True)
        self.bar.setVisible(True)
        self.bar.setRange(0, 0)
        self._say(text)

    def show_stopping(self) -> None:
        """Cancel was pressed."""
        self.cancel_button.setEnabled(False)
        self.cancel_button.setText("Stopping…")
        self._say("Stopping…")

    def show_progress(self, step: Progress) -> None:
        """A step of the running job."""
        if not step.total:
            self.bar.setRange(0, 0)
            self._say(step.message)
            return
        self.bar.setRange(0, step.total)
        self.bar.setValue(step.done)
        self._say(self._words(step))

    def _say(self, text: str) -> None:
        self.status.setText(text)
        self.status.setVisible(bool(text))


def progress_words(step: Progress) -> str:
    """``3 of 12 tiles · 1,204 cells · 310 cells/s · about 40 s left``."""
    words = [f"{step.done} of {step.total} tiles"]
    if step.cells:
        words.append(f"{step.cells:,} cells")
        if step.seconds > 0:
            words.append(f"{step.cells / step.seconds:,.0f} cells/s")
    left = step.seconds_left
    if left is not None and step.done < step.total:
        words.append(f"{time_words(left)} left")
    elif not step.done and step.message:
        words.append(step.message)
    return " · ".join(words)


def time_words(seconds: float) -> str:
    """A duration the way people say it."""
    if seconds < 1.5:
        return "about 1 s"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
