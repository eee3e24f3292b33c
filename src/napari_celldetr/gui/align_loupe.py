"""A small picture of the other slide at the place under the mouse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QLabel, QWidget

CURSOR = QColor(255, 212, 0)
LOUPE_HEIGHT = 150
RGB = QImage.Format.Format_RGB888


class Loupe(QLabel):
    """The other slide at the place under the mouse, with its expected error as a ring."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFixedHeight(LOUPE_HEIGHT)
        self.setMinimumWidth(120)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setWordWrap(True)
        self.setToolTip("The other slide at the place under the mouse, as large as on the screen")
        self.show_nothing()

    @property
    def room(self) -> tuple[int, int]:
        """Width and height there is for a picture."""
        return max(self.width(), 1), LOUPE_HEIGHT

    def show_nothing(self) -> None:
        """There is nothing under the mouse."""
        self.setText("Move the mouse over the tissue.")

    def show_picture(self, rgb: NDArray[np.uint8], ring_px: float) -> None:
        """A picture (h, w, 3), its middle in a ring of that radius in px; none below 3."""
        height, width = rgb.shape[:2]
        image = QImage(np.ascontiguousarray(rgb).data, width, height, 3 * width, RGB)
        pixmap = QPixmap.fromImage(image)
        painter = QPainter(pixmap)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        x, y = width // 2, height // 2
        for color, thick in ((QColor(0, 0, 0), 4), (CURSOR, 2)):
            painter.setPen(QPen(color, thick))
            painter.drawPoint(x, y)
            if np.isfinite(ring_px) and ring_px >= 3:
                painter.drawEllipse(
                    x - round(ring_px), y - round(ring_px), *[round(2 * ring_px)] * 2
                )
        painter.end()
        self.setPixmap(pixmap)
