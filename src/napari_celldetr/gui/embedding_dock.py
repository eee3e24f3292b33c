"""*Embedding*: see what the model sees, select by likeness, and teach it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog, QTabWidget, QVBoxLayout, QWidget

from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.gui.next_box import NextBox
from napari_celldetr.gui.panel import Dock, JobRunner
from napari_celldetr.gui.parts import SlideBox, keep_lines, stem_of, wrapped_label
from napari_celldetr.gui.plot_box import PlotBox
from napari_celldetr.gui.plot_cells import Embedded
from napari_celldetr.gui.plot_colors import CHANGE, CLASS
from napari_celldetr.gui.session import SlideSession, session_of
from napari_celldetr.gui.similar_box import SimilarBox
from napari_celldetr.gui.teach_box import TeachBox
from napari_celldetr.pipeline.lesson import Lesson

EMPTY_TEXT = (
    "No slide is open. Drag a slide file into the window, or use File › Open Sample › CellDETR, "
    "then find cells with Detect cells."
)
WIDTH = 380


class EmbeddingDock(Dock):
    """The dock widget: the plot, and under it what can be done with it."""

    def __init__(self, napari_viewer: Any, *, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.viewer = napari_viewer
        self.session: SlideSession | None = None
        self._build()
        self.sharer = JobRunner(self)
        self.sharer.finished.connect(self._on_shared)
        self.sharer.failed.connect(lambda error: show_error(str(error)))
        self.slide_box.chosen.connect(self._on_slide)
        self.plot.told.connect(self.tell)
        self.plot.around.connect(self.similar.show_around)
        for box in (self.similar, self.teach, self.next):
            box.told.connect(self.tell)
        self.similar.likely.connect(self.plot.show_likely)
        self.teach.changed.connect(self._on_taught)
        self.teach.share_asked.connect(self.ask_where)
        self.next.finished.connect(lambda: self.tabs.setCurrentWidget(self.teach))
        self.slide_box.list_slides()

    def _build(self) -> None:
        column = self.start_column("Embedding", width=WIDTH)
        self.slide_box = SlideBox(self.viewer, "The slide whose cells are shown")
        self.empty_label = wrapped_label(EMPTY_TEXT)
        self.body = QWidget()
        self.plot = PlotBox()
        self.message = wrapped_label("", tooltip="What happened last")
        keep_lines(self.message, 2)
        self.similar = SimilarBox(self._cells)
        self.teach, self.next = TeachBox(), NextBox()
        self.tabs = QTabWidget()
        for box, words in (
            (self.similar, "Selection"),
            (self.teach, "Teach"),
            (self.next, "Next"),
        ):
            self.tabs.addTab(box, words)
        inner = QVBoxLayout(self.body)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.addWidget(self.plot, 1)
        inner.addWidget(self.message)
        inner.addWidget(self.tabs)
        for widget in (self.slide_box, self.empty_label, self.body):
            column.addWidget(widget)
        self.finish_column(column)

    def _cells(self) -> Embedded | None:
        return None if self.plot.placed is None else self.plot.placed.cells

    def let_go(self) -> None:
        """Stop everything this dock started; corrections and lessons are on disk."""
        self.sharer.abandon()
        self.slide_box.let_go()
        self._join(None)
        self.plot.let_go()

    # Slides -----------------------------------------------------------------------------

    def _on_slide(self, layer: Any | None) -> None:
        self.slide_box.setVisible(self.slide_box.count() > 1)
        self._join(layer)

    def _join(self, layer: Any | None) -> None:
        now = None if layer is None else session_of(self.viewer, layer, self)
        old = self.session
        if old is not now:
            boxes = (self.plot, self.similar, self.teach, self.next)
            if old is not None:
                for box in boxes:
                    box.part()
                old.leave(self)
            self.session = now
            if now is not None:
                for box in boxes:
                    box.meet(now)
        self.empty_label.setVisible(now is None)
        self.body.setVisible(now is not None)

    # What happened ----------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Say what happened last."""
        self.message.setText(text)

    def _on_taught(self, rows: Any) -> None:
        session = self.session
        if session is None:
            return
        many = int(session.cells.kept[rows].sum())
        if session.lesson is None:
            self.plot.colour_by(CLASS)
            self.tell(f"The model as it came: {many:,} cells have their former class again.")
        else:
            self.plot.colour_by(CHANGE)
            self.tell(f"{many:,} cells have another class now. The plot shows where they lie.")

    # Sharing ----------------------------------------------------------------------------

    def ask_where(self, lesson: Lesson) -> None:
        """Ask for a folder, and write the lesson as a model there."""
        start = f"{stem_of(lesson.model)}-taught"
        path, _ = QFileDialog.getSaveFileName(self, "Save as model folder", start)
        if path:
            self.share(lesson, Path(path))

    def share(self, lesson: Lesson, folder: Path) -> None:
        """Write a lesson as a model folder in the background."""
        self.tell(f"Writing the model {folder.name}…")
        self.sharer.start(lambda: share_job(lesson, folder))

    def _on_shared(self, words: str) -> None:
        self.tell(words)


def share_job(lesson: Lesson, folder: Path) -> Job[str]:
    """A lesson as a model folder; what to say of it."""
    from napari_celldetr.gui.own_llvm import import_triton_apart
    from napari_celldetr.pipeline.share_lesson import share_lesson

    yield Progress(0, 0, "Writing the model…")
    import_triton_apart()
    card = share_lesson(lesson, lesson.model, folder)
    return f"Saved as model {card.name} in {folder}. Detect cells lists it from a models folder."
