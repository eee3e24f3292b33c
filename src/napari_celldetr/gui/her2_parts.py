"""Parts of the *HER2* dock: score, shares, tree. Each shows; none of them decides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import QRectF, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QPainter
from qtpy.QtWidgets import (
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.core.her2 import GUIDELINE, SCORES, Assessment, Branch
from napari_celldetr.gui.her2_words import (
    NO_SCORE,
    branch_words,
    doubts_of,
    next_step_of,
    percent_words,
    reason_of,
    remedy_of,
    sentence,
    share_words,
    title_of,
)
from napari_celldetr.gui.parts import swatch, wrapped_label
from napari_celldetr.pipeline.her2.palette import SCORE_COLORS
from napari_celldetr.pipeline.her2.tumour import Refusal

BAR_PX = 12
WHISKER = QColor(128, 128, 128)
SCOPE = f"{GUIDELINE[0].upper()}{GUIDELINE[1:]}. Research use only."
TITLE_STYLE = "font-size: 18pt; font-weight: bold;"


class ScoreBox(QFrame):
    """The score, large, with why and what is doubtful about it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.title = wrapped_label("", tooltip="By the guideline, in the tumour you confirmed")
        self.title.setStyleSheet(TITLE_STYLE)
        self.next_step = wrapped_label("", tooltip="What the guideline asks for")
        self.next_step.setStyleSheet("font-weight: bold;")
        self.reason = wrapped_label("", tooltip="Why this score, or why there is none")
        self.remarks = wrapped_label("", tooltip="What you changed that moves the score")
        self.remarks.setStyleSheet("font-weight: bold; color: #e0a030;")
        self.doubts = wrapped_label("", tooltip="How far the next scores are, and what is doubtful")
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 6, 6, 6)
        column.setSpacing(3)
        scope = wrapped_label(SCOPE, tooltip="Gastric cancer has other rules")
        scope.setStyleSheet("color: #9aa0a8;")
        labels = (self.title, self.next_step, self.reason, self.remarks, self.doubts, scope)
        for label in labels:
            column.addWidget(label)

    def show_score(
        self,
        found: Assessment,
        refusal: Refusal | None = None,
        *,
        remarks: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """What came out of the whole tumour, what a person changed, and what cannot be told."""
        if refusal is not None:
            self.show_refusal(refusal, notes=notes)
        else:
            doubts = [*doubts_of(found), *notes]
            self._show(title_of(found), next_step_of(found), reason_of(found), doubts)
        self.remarks.setText("\n".join(remarks))
        self.remarks.setVisible(bool(remarks))

    def show_refusal(self, refusal: Refusal, *, notes: Sequence[str] = ()) -> None:
        """Why there is no score, and what to do."""
        self._show(NO_SCORE, "", sentence(refusal.reason), [remedy_of(refusal), *notes])
        self.remarks.setVisible(False)

    def _show(self, title: str, step: str, reason: str, doubts: Sequence[str]) -> None:
        self.title.setText(title)
        self.next_step.setText(step)
        self.reason.setText(reason)
        self.doubts.setText("\n".join(doubts))
        self.next_step.setVisible(bool(step))
        self.doubts.setVisible(bool(doubts))


class PinnedScore(QLabel):
    """The score in one line above the dock, while `watched` is scrolled out of sight."""

    def __init__(self, watched: QWidget) -> None:
        super().__init__()
        self._watched = watched
        self.setWordWrap(True)
        self.setToolTip("The score of the whole tumour, while its box above is out of sight")
        self.setContentsMargins(8, 4, 8, 4)
        self.setStyleSheet("font-weight: bold; background: rgba(90, 143, 214, 60);")
        self.setVisible(False)

    def say(self, text: str) -> None:
        """Another score; '' for none."""
        self.setText(text)
        self.look()

    def look(self, _value: int = 0) -> None:
        """See whether the score's own box can be seen."""
        out_of_sight = self._watched.visibleRegion().isEmpty()
        self.setVisible(bool(self.text()) and out_of_sight)


class _Bar(QWidget):
    """A share of 100 as a bar with its interval, and the share of area as a line below it."""

    def __init__(self, color: tuple[int, int, int]) -> None:
        super().__init__()
        self._color = QColor(*color)
        self._share = self._area = math.nan
        self._interval = (math.nan, math.nan)
        self.setFixedHeight(BAR_PX + 6)
        self.setMinimumWidth(50)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_share(self, share: float, interval: tuple[float, float], area: float) -> None:
        """Percentages, 0 to 100; NaN for none."""
        self._share, self._interval, self._area = share, interval, area
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Bar, whisker, line."""
        painter = QPainter(self)
        wide = self.width() / 100
        painter.fillRect(QRectF(0, 0, self.width(), BAR_PX), QColor(128, 128, 128, 50))
        if not math.isnan(self._share):
            painter.fillRect(QRectF(0, 0, wide * self._share, BAR_PX), self._color)
            low, high = self._interval
            middle = BAR_PX / 2 - 1
            painter.fillRect(QRectF(wide * low, middle, wide * (high - low), 2), WHISKER)
            for end in (low, high):
                painter.fillRect(QRectF(wide * end - 1, middle - 3, 2, 8), WHISKER)
        if not math.isnan(self._area):
            line = QRectF(0, BAR_PX + 2, wide * self._area, 3)
            painter.fillRect(line, self._color.lighter(115))
        painter.end()


class ShareBars(QWidget):
    """Per cent of cells, with interval, and of area of each class."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setHorizontalSpacing(6)
        grid.setColumnStretch(1, 1)
        right = Qt.AlignmentFlag.AlignRight
        for column, text in ((2, "cells (95 %)"), (3, "area")):
            grid.addWidget(QLabel(text), 0, column, right)
        self._bars: dict[str, _Bar] = {}
        self._texts: dict[str, tuple[QLabel, QLabel]] = {}
        for row, score in enumerate(reversed(SCORES), 1):
            self._bars[score] = _Bar(SCORE_COLORS[score])
            self._texts[score] = (QLabel("–"), QLabel("–"))
            grid.addWidget(_named(score), row, 0)
            grid.addWidget(self._bars[score], row, 1)
            for column, label in enumerate(self._texts[score], 2):
                grid.addWidget(label, row, column, right)
        self.setToolTip(
            "Share of the counted cells with each class and its 95 % interval (bar and whisker), "
            "and share of their area (line below). 2+ are two kinds of cells: complete, weak to "
            "moderate, and incomplete, moderate to intense; the guideline asks about each apart"
        )

    def show_shares(self, found: Assessment) -> None:
        """Shares of a view, an area or the slide."""
        for score, bar in self._bars.items():
            interval = (found.bootstrap or found.wilson)[score]
            bar.show_share(found.percent_cells[score], interval, found.percent_area[score])
            for label, text in zip(self._texts[score], share_words(found, score), strict=True):
                label.setText(text)

    def show_area(self, percent: Mapping[str, float]) -> None:
        """Shares of area alone, where cells cannot be measured."""
        for score, bar in self._bars.items():
            bar.show_share(math.nan, (math.nan, math.nan), percent[score])
            for label, text in zip(
                self._texts[score], ("–", percent_words(percent[score])), strict=True
            ):
                label.setText(text)

    def texts(self, score: str) -> tuple[str, str]:
        """What stands beside a bar."""
        cells, area = self._texts[score]
        return cells.text(), area.text()


def _named(score: str) -> QWidget:
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(4)
    icon = QLabel()
    icon.setPixmap(swatch(SCORE_COLORS[score]).pixmap(12, 12))
    row.addWidget(icon)
    row.addWidget(QLabel(score))
    return box


class _BranchRow(QFrame):
    """One question of the tree with its counts; marked while its cells are lit.

    No button: Qt breaks no lines in one.
    """

    clicked = Signal(bool)

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.is_lit = False
        self.setObjectName("branch")
        self.setToolTip("Light up these cells on the slide; click again to see all")
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.question = wrapped_label("")
        self.counts, self.answer = QLabel(), QLabel()
        row = QHBoxLayout()
        row.addWidget(self.counts, 1)
        row.addWidget(self.answer)
        column = QVBoxLayout(self)
        column.setContentsMargins(6, 2, 6, 2)
        column.setSpacing(0)
        column.addWidget(self.question)
        column.addLayout(row)

    def click(self) -> None:
        """Light these cells, or no longer."""
        self.clicked.emit(not self.is_lit)

    def mouseReleaseEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """A click anywhere on it."""
        if self.rect().contains(event.position().toPoint()):
            self.click()

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        """Space and Enter, as on a button."""
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.click()
        else:
            super().keyPressEvent(event)

    def show_branch(self, branch: Branch, *, deciding: bool, lit: bool) -> None:
        """What the tree says."""
        mark, question, counts = branch_words(branch, deciding=deciding)
        self.is_lit = lit
        self.answer.setText("lit on the slide" if lit else mark)
        self.question.setText(question)
        self.counts.setText(counts)
        border = "#5a8fd6" if deciding else "rgba(128, 128, 128, 80)"
        ground = "rgba(90, 143, 214, 110)" if lit else "transparent"
        self.setStyleSheet(
            f"#branch {{ border: 1px solid {border}; border-radius: 3px; background: {ground}; }}"
            "#branch QLabel { background: transparent; }"
        )
        self.answer.setStyleSheet(f"font-weight: {'bold' if deciding else 'normal'};")


class TreeBox(QWidget):
    """The guideline's questions in order; a click lights the cells that one counts."""

    chosen = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self._rows: dict[str, _BranchRow] = {}

    def show_tree(self, tree: Sequence[Branch], deciding: str, *, lit: str = "") -> None:
        """Questions with counts; the one that decided is framed."""
        for branch in tree:
            row = self._rows.get(branch.key) or self._new(branch.key)
            row.show_branch(branch, deciding=branch.key == deciding, lit=branch.key == lit)

    def _new(self, key: str) -> _BranchRow:
        row = self._rows[key] = _BranchRow(key)
        row.clicked.connect(lambda on, k=key: self.chosen.emit(k if on else ""))
        self._column.addWidget(row)
        return row

    def row(self, key: str) -> _BranchRow:
        """The row of a branch."""
        return self._rows[key]
