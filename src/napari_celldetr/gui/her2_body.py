"""What the *HER2* dock is made of, from top to bottom; it shows, and decides nothing."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from napari_celldetr.gui.her2_control import ControlBox
from napari_celldetr.gui.her2_cutoffs import CutoffBox
from napari_celldetr.gui.her2_layers import Show
from napari_celldetr.gui.her2_network import NetworkBox, is_installed
from napari_celldetr.gui.her2_parts import PinnedScore, ScoreBox, ShareBars, TreeBox
from napari_celldetr.gui.her2_report import Reporter
from napari_celldetr.gui.her2_words import covered_words
from napari_celldetr.gui.panel import RunBar
from napari_celldetr.gui.parts import (
    Fold,
    keep_lines,
    narrow_form,
    short_combo,
    wrapped_label,
)
from napari_celldetr.pipeline.her2.caveats import stain_doubts
from napari_celldetr.pipeline.her2.result import Her2Result

VIEWPORT, TUMOUR_AREAS, WHOLE = "viewport", "tumour", "whole"
SCREEN, TUMOUR = "screen", "tumour"
MAX_MPP = 2.0
LABEL_PX = 64
LIT_TEXT = "Only the {cells:,} cells of one question are in colour."


class Her2Body(QWidget):
    """All that belongs to a slide: measuring, score, figures, colours, tree, cut-offs, report."""

    def __init__(self) -> None:
        super().__init__()
        self.has_network = is_installed()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self._build_run())
        column.addWidget(self._build_results())

    def _build_run(self) -> QWidget:
        box, above, below = QWidget(), QWidget(), QWidget()
        first, second = narrow_form(above), narrow_form(below)
        self.mpp_spin = QDoubleSpinBox()
        self.mpp_spin.setDecimals(4)
        self.mpp_spin.setSingleStep(0.01)
        self.mpp_spin.setRange(0.0, MAX_MPP)
        self.mpp_spin.setSpecialValueText("please enter")
        self.mpp_spin.setSuffix(" µm/px")
        self.mpp_spin.setToolTip("How wide one pixel is. 0.25 is usual for a 40× scan")
        self.mpp_label = QLabel("Pixel size")
        self.where = short_combo("Which part of the slide is measured; cells found are used again")
        for key, words in (
            (VIEWPORT, "What is on the screen"),
            (TUMOUR_AREAS, "The drawn tumour"),
            (WHOLE, "Whole slide"),
        ):
            self.where.addItem(words, key)
        buttons = self._build_tumour()
        labels = (self.mpp_label, QLabel("Tumour"), QLabel("Measure"))
        for label in labels:
            label.setMinimumWidth(LABEL_PX)
        first.addRow(self.mpp_label, self.mpp_spin)
        first.addRow(labels[1], self.tumour_box)
        second.addRow(labels[2], self.where)
        self.run_bar = RunBar("Measure HER2")
        # A form keeps the old height of a label whose text becomes longer, so none is in one.
        column = QVBoxLayout(box)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(above)
        column.addLayout(buttons)
        for widget in (self.guide_label, below, self.run_bar):
            column.addWidget(widget)
        return box

    def _build_results(self) -> QWidget:
        self.results = QWidget()
        column = QVBoxLayout(self.results)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        self.score_box = ScoreBox()
        self.pinned = PinnedScore(self.score_box.title)
        column.addWidget(self.score_box)
        self.scope_row = self._build_scope()
        column.addWidget(self.scope_row)
        self.bars = ShareBars()
        column.addWidget(self.bars)
        self.scope_label = wrapped_label("", tooltip="What is counted here, and what is left out")
        column.addWidget(self.scope_label)
        self.cell_label = wrapped_label("", tooltip="The cell under the mouse, or the clicked one")
        keep_lines(self.cell_label, 3)
        column.addWidget(self.cell_label)
        self.show_row = self._build_show()
        column.addWidget(self.show_row)
        self.lit_row = self._build_lit()
        column.addWidget(self.lit_row)
        self.tree = TreeBox()
        self.tree_fold = Fold("How the score comes about", self.tree)
        column.addWidget(self.tree_fold)
        self.cutoffs = CutoffBox()
        self.cutoff_fold = Fold("Cut-offs", self.cutoffs)
        column.addWidget(self.cutoff_fold)
        self.control = ControlBox()
        self.control_fold = Fold("Stain and control", self.control)
        column.addWidget(self.control_fold)
        self.network = NetworkBox()
        self.network_fold = Fold("Pixel network", self.network)
        column.addWidget(self.network_fold)
        self.reporter = Reporter(self)
        self.report_button = self.reporter.button
        column.addWidget(self.report_button)
        self._of_cells = (
            self.scope_row,
            self.cell_label,
            self.show_row,
            self.tree_fold,
            self.cutoff_fold,
            self.control_fold,
        )
        self.results.setVisible(False)
        return self.results

    def _build_tumour(self) -> QHBoxLayout:
        self.tumour_box = short_combo(
            "Where the invasive tumour is: the score counts these cells alone"
        )
        self.draw_button = QPushButton("Draw tumour…")
        self.draw_button.setToolTip("Then click round the tumour; double click or Esc ends it")
        self.cut_out_button = QPushButton("Cut out of it…")
        self.cut_out_button.setToolTip(
            "Then click round what lies in the tumour and is none: in situ, necrosis, artefacts"
        )
        self.save_button = QPushButton("Save…")
        self.save_button.setToolTip(
            "Save the outlines as GeoJSON, for QuPath and for celldetr her2 --regions"
        )
        self.save_button.setEnabled(False)
        self.guide_label = wrapped_label("", tooltip="What to do on the slide now")
        self.guide_label.setStyleSheet("font-weight: bold;")
        self.guide_label.setVisible(False)
        row = QHBoxLayout()
        row.setSpacing(3)
        for button in (self.draw_button, self.cut_out_button, self.save_button):
            row.addWidget(button)
        return row

    def _build_scope(self) -> QWidget:
        self.scope = short_combo("What the figures below are of")
        self.scope.addItem("What is on the screen", SCREEN)
        self.scope.addItem("All of the tumour", TUMOUR)
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Count in"))
        row.addWidget(self.scope, 1)
        return box

    def _build_lit(self) -> QWidget:
        self.lit_label = wrapped_label("")
        self.all_button = QPushButton("Show all")
        self.all_button.setToolTip("All cells in their colours again, as with a second click")
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.lit_label, 1)
        row.addWidget(self.all_button)
        box.setVisible(False)
        return box

    def show_lit(self, cells: int | None) -> None:
        """Say that the cells of one question alone are shown; None: all are."""
        self.lit_row.setVisible(cells is not None)
        self.lit_label.setText(LIT_TEXT.format(cells=cells or 0))

    def show_guide(self, text: str) -> None:
        """Say what to do on the slide now, '' for nothing."""
        self.guide_label.setText(text)
        self.guide_label.setVisible(bool(text))

    def _build_show(self) -> QWidget:
        self.show_box = short_combo(
            "How measured cells are drawn on the slide. Hold H, with the slide in front, to see "
            "it without them"
        )
        for show, words in (
            (Show.AUTO, "Outlines or map"),
            (Show.OUTLINES, "Outlines"),
            (Show.MAP, "Map"),
            (Show.NOTHING, "Nothing"),
        ):
            self.show_box.addItem(words, show)
        self.nuclei_tick = QCheckBox("Nuclei")
        self.nuclei_tick.setToolTip("Show the nuclei that were found, too")
        box = QWidget()
        row = QHBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Show"))
        row.addWidget(self.show_box, 1)
        row.addWidget(self.nuclei_tick)
        return box

    def show_slide(self, *, missing_mpp: bool) -> None:
        """Another slide is chosen; of some the pixel size is not known."""
        for widget in (self.mpp_label, self.mpp_spin):
            widget.setVisible(missing_mpp)

    def show_cells(self, shown: bool) -> None:
        """Show or hide what there is of measured cells alone."""
        for widget in self._of_cells:
            widget.setVisible(shown)
        self.network_fold.setVisible(shown and self.has_network)
        if not shown:
            self.show_lit(None)

    def show_covered(self, found: Her2Result) -> None:
        """Coverage by pixels, and why there is no more."""
        self.results.setVisible(True)
        self.show_cells(False)
        if found.coverage is None or found.refusal is None:
            return
        self.score_box.show_refusal(found.refusal)
        self.bars.show_area(found.coverage.percent)
        self.scope_label.setText("\n".join([covered_words(found), *stain_doubts(found.kinds)]))
        self.reporter.offer(found)

    def offer_scopes(self, scopes: list[tuple[str, str]]) -> None:
        """What figures can be asked for: key and words of each; the chosen one stays if it can."""
        now = self.scope.currentData()
        self.scope.blockSignals(True)
        self.scope.clear()
        for key, words in scopes:
            self.scope.addItem(words, key)
        self.scope.setCurrentIndex(max(self.scope.findData(now), 0))
        self.scope.blockSignals(False)
