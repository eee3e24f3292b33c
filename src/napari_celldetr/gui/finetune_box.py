"""*Fine-tune the detector*: where cells are missed or boxes wrong, a head is not enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFormLayout, QLineEdit, QVBoxLayout, QWidget

from napari_celldetr.core.annotations import Annotations, CorrectedCells
from napari_celldetr.core.config import describe
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.user_folders import new_model_folder
from napari_celldetr.gui.detect_job import SlideSource
from napari_celldetr.gui.panel import JobRunner, RunBar
from napari_celldetr.gui.parts import narrow_form, short_combo, stem_of, wrapped_label
from napari_celldetr.gui.session import SlideSession
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.training.finetune_config import FinetuneConfig

HINT = (
    "For missed cells and wrong boxes. Mark areas in which every cell is right as complete (Review "
    "cells, Area): there the detector also learns where no cell is. Takes minutes; the model it "
    "goes on from stays as it is."
)
WORDS = {"adapters": "With small new layers", "decoder": "What finds and names cells"}
DONE_TEXT = "Detect cells lists it as {}."


@dataclass(frozen=True, eq=False)
class FinetuneRequest:
    """What is learned from, as it stood when the button was pressed."""

    source: SlideSource
    cells: Callable[[], CorrectedCells]
    said: Annotations
    config: FinetuneConfig
    folder: Path
    author: str


def finetune_job(request: FinetuneRequest) -> Job[Any]:
    """Open the slide and fine-tune; a `FinetuneResult`."""
    from napari_celldetr.gui.own_llvm import import_triton_apart

    yield Progress(0, 0, "Loading the model…")
    import_triton_apart()
    from napari_celldetr.pipeline.finetune import finetune

    with request.source.open() as slide:
        return (
            yield from finetune(
                slide,
                request.cells(),
                request.config,
                output=request.folder,
                annotations=request.said,
                author=request.author,
            )
        )


class FinetuneBox(QWidget):
    """`made` names the folder of a new model."""

    made = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session: SlideSession | None = None
        self._build()
        self.runner = JobRunner(self)
        self.runner.finished.connect(self._on_done)
        self.runner.failed.connect(self._on_failed)
        self.runner.progressed.connect(self.bar.show_progress)
        self.runner.stopped.connect(
            lambda: self.bar.show_idle("Stopped: no model was written, and none was changed.")
        )

    def _build(self) -> None:
        tips = {s.name: s.info.help for s in describe(FinetuneConfig)}
        self.what = short_combo(tips["what"])
        for key, words in WORDS.items():
            self.what.addItem(words, key)
        self.name = QLineEdit()
        self.name.setToolTip("Name of the new model")
        self.bar = RunBar("Fine-tune the detector", words=_step_words)
        self.bar.run_button.setToolTip("Learn from the corrected tiles of this slide")
        self.bar.cancel_button.setToolTip("Stop; no model is written")
        self.bar.bar.setToolTip("Steps of learning")
        self.result = wrapped_label("", tooltip="Measured on tiles that were held aside")
        inner = QWidget()
        form: QFormLayout = narrow_form(inner)
        form.addRow("What learns", self.what)
        form.addRow("New model", self.name)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(wrapped_label(HINT))
        column.addWidget(inner)
        column.addWidget(self.bar)
        column.addWidget(self.result)
        self.result.setVisible(False)
        self.bar.run_clicked.connect(self.run)
        self.bar.cancel_clicked.connect(self._on_cancel)

    def meet(self, session: SlideSession) -> None:
        """Learn from a slide from now on."""
        self.session = session
        session.claims_changed.connect(self._propose_name)
        self._propose_name()

    def part(self) -> None:
        """A fine-tuning that runs is given up; it leaves nothing behind."""
        if self.session is not None:
            self.session.claims_changed.disconnect(self._propose_name)
        self.session = None
        self.runner.abandon()
        self.bar.show_idle("")

    def _propose_name(self) -> None:
        if self.session is not None and not self.runner.running:
            self.name.setText(f"{stem_of(self.session.model or 'celldetr-he')}-tuned")

    def run(self) -> None:
        """Fine-tune on the corrections as they stand now."""
        session = self.session
        if session is None or self.runner.running:
            return
        folder = new_model_folder(stem_of(self.name.text().strip() or "celldetr-tuned"))
        model = session.model or FinetuneConfig().model
        request = FinetuneRequest(
            source_of_layer(session.layer, mpp=session.frame.mpp),
            session.snapshot(),
            session.annotations_now(),
            FinetuneConfig(model=model, what=self.what.currentData()),
            folder,
            session.author,
        )
        self.result.setVisible(False)
        self.bar.show_busy("Loading the model…")
        self.runner.start(lambda: finetune_job(request))

    def _on_cancel(self) -> None:
        self.bar.show_stopping()
        self.runner.stop()

    def _on_done(self, result: Any) -> None:
        self.bar.show_idle(DONE_TEXT.format(result.card.title or result.card.name))
        self.result.setText(result.as_text())
        self.result.setVisible(True)
        self._propose_name()
        self.made.emit(result.folder)

    def _on_failed(self, error: CellDETRError) -> None:
        self.bar.show_idle(str(error))


def _step_words(step: Progress) -> str:
    left = ""
    if step.done and step.seconds > 0 and step.total > step.done:
        left = f" · about {step.seconds / step.done * (step.total - step.done):.0f} s left"
    return f"{step.message} · {step.done} of {step.total}{left}"
