"""*Teach*: learn from the corrections, see what that changed and whether it helped, go back."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QAbstractItemView,
    QGridLayout,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.annotations import SAID
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.gui.finetune_box import FinetuneBox
from napari_celldetr.gui.panel import JobRunner, RunBar
from napari_celldetr.gui.parts import Fold, wrapped_label
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.teach_jobs import Learned, compare_job, go_back_job, learn_job
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.teach import TeachSettings

ID = Qt.ItemDataRole.UserRole
FEWEST = 10
EMPTY_TEXT = (
    "Correct some cells first: give wrong ones their class and confirm right ones, here, in Review "
    "cells or under Next. From ten on the model can learn from them."
)


class TeachBox(QWidget):
    """Learning, its verdict, and all lessons.

    Signals
    -------
    told(text)
        Something to say to the person.
    changed(rows)
        A lesson holds, or holds no longer: these cells have another class now.
    share_asked(lesson)
        A lesson is to become a model folder.
    """

    told = Signal(str)
    changed = Signal(object)
    share_asked = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: SlideSession | None = None
        self._known: dict[str, Lesson] = {}
        self._build()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_learned)
        self.runner.failed.connect(self._on_failed)
        self.runner.stopped.connect(lambda: self._show("Stopped; nothing has changed."))
        self.runner.progressed.connect(self.bar.show_progress)
        self.comparer = JobRunner(self)
        self.comparer.finished.connect(self._on_compared)
        self.comparer.failed.connect(self._on_failed)

    def _build(self) -> None:
        self.labels = wrapped_label(EMPTY_TEXT)
        self.bar = RunBar("Learn from my corrections", words=lambda step: step.message)
        self.bar.run_button.setToolTip(
            "The classes of all cells of the slide follow what you said; some of your "
            "corrections are kept aside to see whether it helped"
        )
        self.bar.cancel_button.setToolTip("Stop; nothing changes")
        self.bar.bar.setToolTip("Steps of learning")
        self.verdict = wrapped_label("", tooltip="Measured on corrections that were kept aside")
        self.change = wrapped_label("", tooltip="What the last step changed")
        self.list = QListWidget()
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.list.setToolTip("Every lesson of this slide; the bold one holds")
        self.list.setMaximumHeight(130)
        self.heading = wrapped_label("Lessons of this slide:")
        self.use_button = QPushButton("Use this one")
        self.use_button.setToolTip("Go back to this lesson, or to the model as it came")
        self.compare_button = QPushButton("Compare")
        self.compare_button.setToolTip("Select the cells that it would class otherwise than now")
        self.select_button = QPushButton("Select what changed")
        self.select_button.setToolTip("The cells that the last step gave another class")
        self.share_button = QPushButton("Save as model…")
        self.share_button.setToolTip("A model folder for Detect cells, here or elsewhere")
        grid = QGridLayout()
        for i, button in enumerate(
            (self.use_button, self.compare_button, self.select_button, self.share_button)
        ):
            grid.addWidget(button, i // 2, i % 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(4, 6, 4, 4)
        for widget in (self.labels, self.bar, self.verdict, self.change, self.heading, self.list):
            column.addWidget(widget)
        column.addLayout(grid)
        self.tuning = FinetuneBox()
        column.addWidget(Fold("Fine-tune the detector", self.tuning))
        column.addStretch(1)
        self.bar.run_clicked.connect(self.learn)
        self.bar.cancel_clicked.connect(self._on_cancel)
        self.use_button.clicked.connect(self._on_use)
        self.compare_button.clicked.connect(self._on_compare)
        self.select_button.clicked.connect(self._on_select)
        self.share_button.clicked.connect(self._on_share)
        self.list.itemSelectionChanged.connect(self._show_buttons)
        self._rows = np.zeros(0, np.int64)
        self._list_lessons()

    # A slide comes and goes -------------------------------------------------------------

    def meet(self, session: SlideSession) -> None:
        """Teach on a slide from now on."""
        self.session = session
        for signal, call in self._signals(session):
            signal.connect(call)
        self.tuning.meet(session)
        self._on_opened()

    def part(self) -> None:
        """Teach no more; a lesson that is being learned is given up."""
        if self.session is not None:
            for signal, call in self._signals(self.session):
                signal.disconnect(call)
        self.session = None
        self.tuning.part()
        self.runner.abandon()
        self.comparer.abandon()
        self._rows = np.zeros(0, np.int64)
        self.verdict.setText("")
        self.change.setText("")

    def _signals(self, session: SlideSession) -> list[tuple[Any, Any]]:
        return [
            (session.opened, self._on_opened),
            (session.journal_changed, self._show),
            (session.claims_changed, self._on_claims),
            (session.lesson_changed, self._on_lesson),
        ]

    def _on_opened(self) -> None:
        self._list_lessons()
        self._show_verdict()
        self._show()

    def _on_claims(self) -> None:
        # Rows of other claims are other cells.
        self._rows = np.zeros(0, np.int64)
        self.change.setText("")
        self.comparer.abandon()
        if self.runner.running:
            self.runner.abandon()
            self.told.emit("The cells changed while learning; it was stopped. Learn again.")
        self._show_verdict()
        self._show()

    def _on_lesson(self) -> None:
        self._list_lessons()
        self._show_verdict()
        self._show()

    # Learning ---------------------------------------------------------------------------

    def learn(self) -> None:
        """Learn from everything that was said of this slide so far."""
        session = self.session
        if session is None or self.runner.running:
            return
        store, table = session.lessons, session.cells.copy()
        how = TeachSettings(
            author=session.author,
            colors=dict(session.color_names),
            mpp=session.cells.source.mpp or session.frame.mpp,
            audited=store.asked() if store is not None else frozenset(),
        )
        parent, size = session.lesson, session.size
        self.bar.show_busy("Learning…")
        self.runner.start(lambda: learn_job(table, how, store, parent=parent, size=size))

    def _on_cancel(self) -> None:
        self.bar.show_stopping()
        self.runner.stop()

    def _on_learned(self, learned: Learned) -> None:
        session = self.session
        if session is None:
            return
        try:
            self._rows = session.use_lesson(learned.lesson, learned.raster)
        except CellDETRError as error:
            self._on_failed(error)
            return
        self.change.setText(learned.changes.sentence())
        told = () if learned.lesson is None else learned.lesson.warnings
        self._show("\n".join(told))
        self.changed.emit(self._rows)

    def _on_failed(self, error: CellDETRError) -> None:
        self._show(str(error))

    # Versions ---------------------------------------------------------------------------

    def use(self, lesson_id: str) -> None:
        """Let an earlier lesson hold again; the model as it came with an empty id."""
        session = self.session
        if session is None or self.runner.running:
            return
        table, store, size = session.cells.copy(), session.lessons, session.size
        mpp = session.cells.source.mpp or session.frame.mpp
        lesson = self._known.get(lesson_id)
        self.bar.show_busy("Going back…")
        self.runner.start(lambda: go_back_job(table, store, lesson, mpp=mpp, size=size))

    def _chosen(self) -> str | None:
        items = self.list.selectedItems()
        return None if not items else str(items[0].data(ID))

    def _on_use(self) -> None:
        chosen = self._chosen()
        if chosen is not None:
            self.use(chosen)

    def _on_compare(self) -> None:
        session, chosen = self.session, self._chosen()
        if session is None or chosen is None:
            return
        table, now, other = session.cells.copy(), session.lesson, self._known.get(chosen)
        mpp = session.cells.source.mpp or session.frame.mpp
        self.comparer.start(lambda: compare_job(table, now, other, mpp=mpp))

    def _on_compared(self, found: Any) -> None:
        compared, self._rows = found
        self.change.setText(f"With the chosen one: {compared.sentence()}")
        self._show_buttons()
        self._on_select()

    def _on_select(self) -> None:
        if self.session is not None:
            self.session.select(self._rows[self.session.cells.kept[self._rows]])

    def _on_share(self) -> None:
        lesson = self._known.get(self._chosen() or "")
        if lesson is not None:
            self.share_asked.emit(lesson)

    def _list_lessons(self) -> None:
        session, store = self.session, None if self.session is None else self.session.lessons
        found = [] if store is None else store.lessons()
        holding = "" if session is None or session.lesson is None else session.lesson.id
        self._known = {lesson.id: lesson for lesson in found}
        self.list.clear()
        entries = [("", "The model as it came"), *((x.id, _entry(x)) for x in reversed(found))]
        for key, words in entries:
            item = QListWidgetItem(words)
            item.setData(ID, key)
            font = item.font()
            font.setBold(key == holding)
            item.setFont(font)
            if key in self._known:
                item.setToolTip(_details(self._known[key]))
            self.list.addItem(item)
        for widget in (self.list, self.heading):
            widget.setVisible(bool(found))
        for button in (self.use_button, self.compare_button, self.share_button):
            button.setVisible(bool(found))
        self._show_buttons()

    def _show_buttons(self) -> None:
        session, chosen = self.session, self._chosen()
        holding = "" if session is None or session.lesson is None else session.lesson.id
        other = chosen is not None and chosen != holding
        self.use_button.setEnabled(other)
        self.compare_button.setEnabled(other)
        self.share_button.setEnabled(bool(chosen))
        self.select_button.setVisible(bool(len(self._rows)))

    # Words ------------------------------------------------------------------------------

    def _show(self, text: str = "") -> None:
        session = self.session
        if session is None or self.runner.running:
            return
        said = int(SAID[session.cells.status].sum())
        enough = said >= FEWEST and not session.read_only
        self.labels.setText(_labels_words(session, said) if said else EMPTY_TEXT)
        self.bar.show_idle(text, can_run=enough)
        self._show_buttons()

    def _show_verdict(self) -> None:
        lesson = None if self.session is None else self.session.lesson
        verdict = None if lesson is None else lesson.verdict
        self.verdict.setText("" if verdict is None else verdict.sentence())
        self.verdict.setVisible(verdict is not None)


def _labels_words(session: SlideSession, said: int) -> str:
    words = "1 cell" if said == 1 else f"{said:,} cells"
    text = f"You have vouched for {words} on this slide."
    if session.read_only:
        return f"{text} Nothing can be taught here: {session.read_only}."
    if said < FEWEST:
        return f"{text} {FEWEST - said} more, and the model can learn from them."
    return text


def _entry(lesson: Lesson) -> str:
    taught = int((~lesson.guard).sum())
    words = f"{lesson.time[:10]} {lesson.time[11:16]} · {lesson.author} · {taught} labels"
    if lesson.verdict is None or not lesson.verdict.after.cells:
        return words
    return f"{words} · {100 * lesson.verdict.after.accuracy.value:.0f} % right"


def _details(lesson: Lesson) -> str:
    parts = [lesson.sentence()]
    if lesson.verdict is not None:
        parts.append(lesson.verdict.sentence())
    return "\n".join((*parts, *lesson.warnings, f"Lesson {lesson.id[:12]}"))
