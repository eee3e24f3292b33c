"""Fine-tuning a detector on the corrections of a slide: a job that leaves a new model folder.

The folder appears whole, at the end, or not at all. The model it goes on from stays as it is.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.annotations import Annotations, CorrectedCells
from napari_celldetr.core.config import check
from napari_celldetr.core.errors import ConfigError, JobError, ModelError
from napari_celldetr.core.metrics import PointScores
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.registry import (
    choose_device,
    find_model,
    load_network,
    refuse_other_task,
    save_model,
)
from napari_celldetr.nets.running import is_out_of_memory
from napari_celldetr.pipeline.atomic import why
from napari_celldetr.pipeline.atomic_folder import replacing_folder
from napari_celldetr.pipeline.corrections import check_corrections
from napari_celldetr.pipeline.finetune_card import Teaching, finished_card
from napari_celldetr.pipeline.finetune_lessons import prepare
from napari_celldetr.pipeline.her2.stain_kind import guess_stain
from napari_celldetr.slides.slide import Slide
from napari_celldetr.training.finetune import GUARD_CELLS, Tuned, no_memory, tune
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.finetune_tiles import (
    Taught,
)
from napari_celldetr.training.rehearsal import KEY, NAME


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """A finished fine-tuning.

    Attributes
    ----------
    folder : Path
        The new model.
    card : ModelCard
    before, after : PointScores or None
        On the squares held aside; None where nothing could be held aside.
    corrections, tiles, guard_tiles : int
    step, steps : int
        The step that is kept, and how many were done.
    seconds : float
    notes : tuple of str
        What a person should know, a sentence each.
    """

    folder: Path
    card: ModelCard
    before: PointScores | None
    after: PointScores | None
    corrections: int
    tiles: int
    guard_tiles: int
    step: int
    steps: int
    seconds: float
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """The result for people."""
        lines = [
            f"{self.corrections} corrections on {self.tiles + self.guard_tiles} tiles, "
            f"{self.guard_tiles} of them held aside; {self.steps} steps in {self.seconds:.0f} s, "
            f"step {self.step} is kept."
        ]
        if self.before is not None and self.after is not None:
            lines += ["On the tiles held aside, detection F1 within 3 µm [95 % interval]:"]
            lines += [f"  {word} {_f1(s)}" for word, s in self._both()]
        return "\n".join([*lines, *self.notes, RESEARCH_USE])

    def _both(self) -> list[tuple[str, PointScores]]:
        assert self.before is not None
        assert self.after is not None
        return [("before", self.before), ("after ", self.after)]


def _f1(scores: PointScores) -> str:
    low, high = scores.intervals["detection"]
    text = f"{scores.f1:.3f} [{low:.3f}, {high:.3f}]"
    return text + (f", class mean {scores.class_mean:.3f}" if scores.classes else "")


def finetune(
    slide: Slide,
    corrections: CorrectedCells,
    config: FinetuneConfig,
    *,
    output: Path,
    annotations: Annotations | None = None,
    author: str = "",
) -> Job[FinetuneResult]:
    """Teach a detector what people corrected on a slide; leaves the new model in `output`.

    Parameters
    ----------
    slide : Slide
    corrections : CorrectedCells
        Cells as they stand, level-0 px. Untouched claims count where an area is complete.
    config : FinetuneConfig
    output : Path
        A folder that does not exist yet; its name is the model's.
    annotations : Annotations, optional
        All that was said: from here deleted cells are known.
    author : str
        Who teaches, for the card; else the authors of the corrections.

    Yields `Progress` of reading, of looking and then per half step, with loss and guard figure as
    `message`. Closing the job leaves nothing behind.

    Raises
    ------
    AnnotationError, ConfigError, ModelError, SlideError
        Before anything is learned, where corrections, settings, model or slide do not fit.
    JobError
        Too little memory, no better than before, or a disk that refuses.
    """
    check(config)
    _refuse_existing(output)
    taught = Taught.of(corrections, annotations)
    check_corrections(slide, corrections, taught)
    model, parent = _parent(config)
    _check_stain(slide, parent, config)
    device = choose_device(config.device)
    with _enough_memory(device):
        ready = yield from prepare(slide, taught, model, parent, config, device)
        tuned = yield from tune(ready.model, ready.card, ready.lessons, config, device=device)
    teaching = Teaching(slide, ready.taught, ready.parted, parent, config, author)
    card = finished_card(ready.card, output.name, teaching, tuned)
    yield Progress(tuned.steps, tuned.steps, "writing the model", seconds=tuned.seconds)
    card = _written(output, tuned.model, card, find_model(config.model))
    return FinetuneResult(
        output,
        card,
        tuned.before,
        tuned.after,
        taught.corrections,
        len(ready.parted.taught),
        len(ready.parted.guard),
        tuned.step,
        tuned.steps,
        tuned.seconds,
        (*ready.notes, *_about(tuned)),
    )


@contextlib.contextmanager
def _enough_memory(device: str) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(device) from error


# --- before anything is learned --------------------------------------------------------------


def _refuse_existing(output: Path) -> None:
    if output.exists():
        raise ConfigError(
            f"There is something at {output.name!r} already.",
            expected="a folder that does not exist yet",
            found="one that does",
            remedy="choose another name; models are never overwritten",
        )


def _parent(config: FinetuneConfig) -> tuple[CellDETR, ModelCard]:
    model, card = load_network(config.model)
    refuse_other_task(card, "detect")
    if not isinstance(model, CellDETR) or not card.training.get("detects", True):
        raise ModelError(
            f"Model {card.name!r} cannot be fine-tuned.",
            expected="a CellDETR that detects cells",
            found=type(model).__name__
            if card.training.get("detects", True)
            else "a pretrained one",
            remedy="choose another model",
        )
    return model, card


def _check_stain(slide: Slide, parent: ModelCard, config: FinetuneConfig) -> None:
    found = guess_stain(slide)
    if config.other_stain or found.kind in ("unknown", parent.stain):
        return
    raise ConfigError(
        f"The corrections are of another stain than model {parent.name!r} was made for.",
        expected=parent.stain,
        found=f"{found.kind} ({found.why})",
        remedy=f"go on from a model for {found.kind}, or say that another stain is meant "
        "(--other-stain)",
    )


# --- what comes out --------------------------------------------------------------------------


def _about(tuned: Tuned) -> list[str]:
    if tuned.before is None:
        return []
    held = tuned.before.detection.n_truth
    if held < GUARD_CELLS:
        return [f"Only {held} cells were held aside: their figures say little."]
    return []


def _written(output: Path, model: CellDETR, card: ModelCard, old: Path) -> ModelCard:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(output) as folder:
            if KEY in card.training and (old / NAME).is_file():
                # The backbone is the same: the sample serves the new model as well.
                shutil.copyfile(old / NAME, folder / NAME)
            return save_model(folder, model, card)
    except OSError as error:
        raise JobError(
            "The model cannot be written.",
            expected="a writable folder with free space",
            found=why(error),
            remedy="choose another folder or free some space; the old model is unharmed",
        ) from error
