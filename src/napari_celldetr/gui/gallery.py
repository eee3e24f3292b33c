"""Pictures of single cells, side by side, cut from the slide in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QRect, QSize, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtGui import QColor, QImage, QPainter, QPen
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_celldetr.core.claims import Rows
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.panel import JobRunner

SIDE_PX = 56
GAP_PX = 4
AROUND = 2.5
"""Side of a picture, in sides of a usual nucleus."""
MOST = 10
"""Two rows in a dock of usual width: what can be done with the cells must fit under them."""
Color = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A picture (SIDE_PX, SIDE_PX, 3) of the cell in a row of the table."""

    row: int
    pixels: NDArray[np.uint8]


def sample_of(rows: Rows, count: int = MOST) -> Rows:
    """At most `count` of some rows, at even distances, so that the same ones come again."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def thumbnails_job(
    source: Any, rows: Rows, centres: NDArray[np.float32], side: float
) -> Job[list[Thumbnail]]:
    """Cut out squares of `side` level-0 px around `centres` (M, 2) of cells in `rows` (M,)."""
    found = []
    half = max(side / 2, 4.0)
    with source.open() as slide:
        for row, (x, y) in zip(rows.tolist(), centres.tolist(), strict=True):
            region = Region(round(x - half), round(y - half), round(2 * half), round(2 * half))
            found.append(Thumbnail(row, slide.render(region, SIDE_PX, SIDE_PX)))
            yield Progress(len(found), len(rows), "Cutting out cells…")
    return found


class Gallery(QWidget):
    """A grid of thumbnails with a frame in the class's colour; a click picks one.

    The newest request counts: what was asked for before is dropped.
    """

    picked = Signal(int)

    def __init__(self, parent: QWidget | None = None, *, least_rows: int = 2) -> None:
        super().__init__(parent)
        self._least_rows = least_rows
        self.thumbnails: list[Thumbnail] = []
        self._images: list[QImage] = []
        self._frames: dict[int, Color] = {}
        self._asked: tuple[int, ...] = ()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_cut)
        self.setMouseTracking(True)
        self.setToolTip("Click a cell to see it on the slide")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Minimum)

    def show_rows(
        self,
        source: Any,
        rows: Rows,
        centres: NDArray[np.float32],
        side: float,
        frames: dict[int, Color],
    ) -> None:
        """Show the cells in these rows, in this order; `frames` are their colours."""
        self._frames = frames
        wanted = tuple(rows.tolist())
        if wanted == self._asked:
            self.update()
            return
        self._asked = wanted
        if not len(rows):
            self.runner.abandon()
            self._on_cut([])
            return
        self.runner.start(lambda: thumbnails_job(source, rows, centres, side))

    def let_go(self) -> None:
        """Cut out no more."""
        self.runner.abandon()

    def _on_cut(self, found: list[Thumbnail]) -> None:
        self.thumbnails = found
        self._images = [
            QImage(t.pixels.tobytes(), SIDE_PX, SIDE_PX, 3 * SIDE_PX, QImage.Format.Format_RGB888)
            .copy()
            for t in found
        ]  # fmt: skip
        self.updateGeometry()
        self.update()

    # Where they lie ---------------------------------------------------------------------

    @property
    def _per_row(self) -> int:
        return max((self.width() + GAP_PX) // (SIDE_PX + GAP_PX), 1)

    def _place(self, number: int) -> QRect:
        row, column = divmod(number, self._per_row)
        step = SIDE_PX + GAP_PX
        return QRect(column * step, row * step, SIDE_PX, SIDE_PX)

    def hasHeightForWidth(self) -> bool:  # noqa: N802 - Qt's name
        """It is as high as its rows."""
        return True

    def heightForWidth(self, width: int) -> int:  # noqa: N802
        """Height of all rows in a dock of this width; there is always room for some."""
        per_row = max((width + GAP_PX) // (SIDE_PX + GAP_PX), 1)
        rows = max(-(-len(self.thumbnails) // per_row), self._least_rows)
        return rows * (SIDE_PX + GAP_PX)

    def sizeHint(self) -> QSize:  # noqa: N802
        """What the layout asks."""
        return QSize(5 * (SIDE_PX + GAP_PX), self.heightForWidth(max(self.width(), 300)))

    def minimumSizeHint(self) -> QSize:  # noqa: N802
        """Room for all rows."""
        return QSize(SIDE_PX, self.heightForWidth(max(self.width(), 300)))

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        """Draw them."""
        painter = QPainter(self)
        for number, (thumbnail, image) in enumerate(
            zip(self.thumbnails, self._images, strict=True)
        ):
            place = self._place(number)
            painter.drawImage(place, image)
            color = self._frames.get(thumbnail.row)
            if color is not None:
                painter.setPen(QPen(QColor(*color), 3))
                painter.drawRect(place.adjusted(1, 1, -2, -2))
        painter.end()

    def mousePressEvent(self, event: Any) -> None:  # noqa: N802
        """Pick the one under the mouse."""
        if event.button() == Qt.MouseButton.LeftButton:
            for number, thumbnail in enumerate(self.thumbnails):
                if self._place(number).contains(event.position().toPoint()):
                    self.picked.emit(thumbnail.row)
