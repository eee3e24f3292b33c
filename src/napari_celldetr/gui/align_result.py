"""What an alignment is like, and how it is looked at: sentences, limit, looks, mouse, loupe."""

from __future__ import annotations

import numpy as np
from qtpy.QtWidgets import QDoubleSpinBox, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from napari_celldetr.gui.align_look_box import LookBox, cell_share, cell_um
from napari_celldetr.gui.align_loupe import Loupe
from napari_celldetr.gui.align_places import Here, Look
from napari_celldetr.gui.align_view import AlignView
from napari_celldetr.gui.align_words import error_words, left_out_words, result_words
from napari_celldetr.gui.overlay import camera_of
from napari_celldetr.gui.parts import Fold, keep_lines, wrapped_label
from napari_celldetr.pipeline.register import RegisterConfig


class ResultBox(QWidget):
    """Shows what is known of a view; nothing in it decides."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.result_label = wrapped_label("", tooltip="What the alignment is like")
        self.limit_spin = _limit_spin()
        self.limit_row = QWidget()
        row = QHBoxLayout(self.limit_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(QLabel("Leave out if worse than"), 1)
        row.addWidget(self.limit_spin)
        self.share_label = wrapped_label("", tooltip="Of the H&E's tissue")
        self.look_box = LookBox()
        self.here_label = wrapped_label("", tooltip="The place under the mouse")
        keep_lines(self.here_label, 1)
        self.loupe = Loupe()
        self.loupe_fold = Fold("Other slide under the mouse", self.loupe)
        for widget in (
            self.result_label,
            self.limit_row,
            self.share_label,
            self.look_box,
            self.here_label,
            self.loupe_fold,
        ):
            column.addWidget(widget)

    def show_view(self, view: AlignView | None) -> None:
        """All that depends on the pair and its alignment."""
        transform = None if view is None else view.transform
        self.setVisible(view is not None)
        self.result_label.setVisible(transform is not None)
        self.result_label.setText("" if transform is None else result_words(transform))
        self.limit_row.setVisible(transform is not None and transform.error_map is not None)
        self.share_label.setVisible(transform is not None)
        if transform is not None:
            self.limit_spin.blockSignals(True)
            self.limit_spin.setValue(transform.limit_um)
            self.limit_spin.blockSignals(False)
            self.share_label.setText(left_out_words(transform))
            width = transform.ihc.extent_um[0]
            self.look_box.set_share(Look.CHECKER, cell_share(width / 12))
        self.look_box.show_ready(transform is not None)
        self.loupe_fold.setVisible(transform is not None)
        self.look_box.choose(Look.PLAIN if view is None else view.look)

    def compare(self, view: AlignView) -> None:
        """Show the slides as the sliders say."""
        view.compare(
            opacity=self.look_box.share(Look.BLEND),
            seam=self.look_box.share(Look.SWIPE),
            cell_um=cell_um(self.look_box.share(Look.CHECKER)),
        )

    def show_nowhere(self) -> None:
        """Nothing is under the mouse."""
        self.here_label.setText("")
        self.loupe.show_nothing()

    def show_here(self, view: AlignView, pointer: tuple[float, ...]) -> None:
        """What is known of the place under the mouse, world (…, y, x)."""
        here = view.here(np.array(pointer[-2:]))
        view.show_cursor(here)
        self.here_label.setText(error_words(here.error_um, trusted=here.trusted))
        if self.loupe.isVisible():
            self._show_loupe(view, here)

    def _show_loupe(self, view: AlignView, here: Here) -> None:
        picture = view.other_slide(here, self.loupe.room)
        if picture is None:
            self.loupe.show_nothing()
        else:
            # µm are world units here: a slide without a pixel size cannot be aligned.
            zoom = camera_of(view.viewer).zoom
            self.loupe.show_picture(picture, (here.error_um or 0.0) * zoom)


def _limit_spin() -> QDoubleSpinBox:
    spin = QDoubleSpinBox()
    spin.setRange(1.0, 2000.0)
    spin.setDecimals(0)
    spin.setSingleStep(5.0)
    spin.setSuffix(" µm")
    spin.setValue(RegisterConfig().limit_um)
    spin.setToolTip(
        "Tissue whose expected error is larger, or not known, is grey and never carried over"
    )
    return spin
