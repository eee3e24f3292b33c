"""Teach: corrections become a lesson, in the background and with a verdict on what it is worth.

`gather → guard set → fit → temperature → verdict → every claim`
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import SAID, Key, Said
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.changes import Changes, changes
from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError, JobError
from napari_celldetr.core.guard import guard_cells, squares_of
from napari_celldetr.core.head import Head
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.remaining import LIMIT, Remaining, remaining_error
from napari_celldetr.pipeline.blas import one_blas_thread
from napari_celldetr.pipeline.fit_head import (
    Examples,
    Strength,
    calibrated,
    fit_head,
    strength_for,
)
from napari_celldetr.pipeline.gather import Ask, Labels, gather
from napari_celldetr.pipeline.journal import now
from napari_celldetr.pipeline.lesson import Color, Lesson, Verdict
from napari_celldetr.pipeline.verdict import judge

T = TypeVar("T")

_WAIT_S = 0.2
_STEPS = 5
MOSTLY_WRONG = 0.9
"""Share of labels that contradict the model above which a person only ever told what is wrong."""


@dataclass(frozen=True)
class TeachSettings:
    """What else a lesson needs to know.

    Attributes
    ----------
    author : str
    colors : mapping of class name to (r, g, b)
    mpp : (x, y) or None
        Level-0 µm/px.
    audited : set of keys
        Cells that were asked about at random; they are always kept aside.
    ask : callable or None
        See `napari_celldetr.pipeline.gather.Ask`.
    strength : Strength or None
        Chosen from the labels unless given.
    """

    author: str = ""
    colors: Mapping[str, Color] = field(default_factory=dict)
    mpp: tuple[float, float] | None = None
    audited: Set[Key] = frozenset()
    ask: Ask | None = None
    strength: Strength | None = None


def teach(
    table: CellTable, settings: TeachSettings | None = None, *, parent: Lesson | None = None
) -> Job[Lesson]:
    """Fit a head on all that people said of a slide's classes.

    Parameters
    ----------
    table : CellTable
        A copy (`CellTable.copy`): it is read in the job's thread. Its claims are taught before
        the job ends, so that ``teach(lesson.head)`` of the table it was copied from is quick.
    settings : TeachSettings
    parent : Lesson, optional
        The lesson that holds now. Cells stay on the side of the guard set that they are on.

    Yields
    ------
    Progress
        At every step, and at least every 250 ms.

    Returns
    -------
    Lesson
        Not saved yet (`napari_celldetr.pipeline.lessons.LessonStore.save`).

    Raises
    ------
    DataError
        Too few labels, one class only, no embeddings, or embeddings of another model.
    JobError
        There is not enough memory.
    """
    with one_blas_thread():
        return (yield from _taught(table, settings or TeachSettings(), parent))


def _taught(
    table: CellTable, how: TeachSettings, parent: Lesson | None
) -> Generator[Progress, None, Lesson]:
    started = time.perf_counter()

    def step(done: int, message: str) -> Progress:
        return Progress(done, _STEPS, message, seconds=time.perf_counter() - started)

    yield step(0, "Gathering the corrections…")
    labels = yield from _meanwhile(
        lambda: gather(table, mpp=how.mpp, ask=how.ask), step(0, "Gathering the corrections…")
    )
    told, known = _earlier(table, labels, parent)
    guard = guard_cells(
        labels.keys, labels.squares, labels.examples.labels, known=known, always=how.audited
    )
    told += _doubts(labels, guard)
    learned = np.flatnonzero(~guard)
    examples = labels.examples.select(learned)
    _refuse_one_sided(examples)
    strength = how.strength or strength_for(examples)
    yield step(1, "Learning…")
    head = yield from _meanwhile(lambda: fit_head(examples, strength), step(1, "Learning…"))
    yield step(2, "Calibrating…")
    head = yield from _meanwhile(
        lambda: calibrated(
            head, examples, calibration_groups(labels.squares[learned]), strength=strength
        ),
        step(2, "Calibrating…"),
    )
    yield step(3, "Comparing with what held before…")
    verdict = verdict_of(head, labels, guard, parent if _same_model(table, parent) else None)
    lesson = _lesson(table, labels, guard, head, verdict, strength, how, parent, told)
    yield step(4, "Naming every cell anew…")
    for claims in table.claims:
        yield from _meanwhile(
            lambda claims=claims: claims.taught_by(head),  # type: ignore[misc]
            step(4, "Naming every cell anew…"),
        )
    yield step(5, verdict.sentence())
    return lesson


def verdict_of(
    head: Head, labels: Labels, guard: NDArray[np.bool_], parent: Lesson | None = None
) -> Verdict:
    """What the head is worth on the guard set, beside the model and the lesson before."""
    examples = labels.examples.select(np.flatnonzero(guard))
    before = None
    if parent is not None and parent.head is not None:
        before = _on_classes(parent.head, examples)
    return judge(
        examples.labels,
        labels.squares[guard],
        examples.class_names,
        model=np.exp(examples.word) / np.exp(examples.word).sum(axis=1, keepdims=True),
        after=head.probabilities(examples.vectors, examples.word),
        before=before,
    )


def what_changes(
    table: CellTable, lesson: Lesson | None, *, mpp: tuple[float, float] | None = None
) -> tuple[Changes, NDArray[np.int64]]:
    """What a lesson (or none) would change of the kept cells, and their rows.

    Compares with the lesson that holds in the table. Nothing is changed.
    """
    return _between(table, table.copy(), lesson, mpp)


def what_differs(
    table: CellTable,
    first: Lesson | None,
    second: Lesson | None,
    *,
    mpp: tuple[float, float] | None = None,
) -> tuple[Changes, NDArray[np.int64]]:
    """Which kept cells two lessons class differently, and the rows that were compared."""
    before = table.copy()
    before.teach(None if first is None else first.head)
    return _between(before, before.copy(), second, mpp)


def _between(
    before: CellTable, after: CellTable, lesson: Lesson | None, mpp: tuple[float, float] | None
) -> tuple[Changes, NDArray[np.int64]]:
    after.teach(None if lesson is None else lesson.head)
    rows = np.flatnonzero(before.kept)
    where = squares_of(before.centres[rows], mpp)
    found = changes(before.class_ids[rows], after.class_ids[rows], after.class_names, squares=where)
    return found, rows


def still_wrong(table: CellTable, audited: Set[Key], *, limit: float = LIMIT) -> Remaining:
    """How many classes are wrong now, by the cells that were drawn at random and answered.

    A cell is wrong where the model, or the lesson that holds, gives it another class than the
    person did; one that a person deleted is left out.
    """
    cells = table.annotations.cells
    keys = [k for k in sorted(audited) if k in cells and _has_class(cells[k])]
    rows = table.claim_rows(keys)
    usable = [(k, row) for k, row in zip(keys, rows.tolist(), strict=True) if row >= 0]
    now = claimed_classes(table, np.array([row for _, row in usable], np.int64))
    said = np.array([cells[k].class_id for k, _ in usable], np.int64)
    return remaining_error(int((now != said).sum()), len(said), limit=limit)


def _has_class(said: Said) -> bool:
    return said.class_id != UNKNOWN and bool(SAID[said.status])


def claimed_classes(table: CellTable, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the lesson that holds, or the model, says of claims in rows (M,), touched or not."""
    classes = table.model_classes(rows).astype(np.int64)
    if table.teacher is None:
        return classes
    ids = table.annotations.translate(table.teacher.class_names)
    for claims, (mine, local, _) in zip(table.claims, table.claims_behind(rows), strict=True):
        taught = claims.taught_by(table.teacher)
        assert taught is not None
        classes[mine] = [ids[int(i)] for i in taught.class_ids[local]]
    return classes


def _meanwhile(work: Callable[[], T], step: Progress) -> Generator[Progress, None, T]:
    """Do what takes a while in a thread of its own, so that the job can be stopped meanwhile."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="celldetr-teach")
    try:
        future = pool.submit(work)
        while not wait([future], timeout=_WAIT_S).done:
            yield step
        return future.result()
    except MemoryError as error:
        raise JobError(
            "There is not enough memory to teach.",
            expected="room for the labels and the cells of the slide",
            found=str(error)[:200] or "none left",
            remedy="close other programs or slides; what held before still holds",
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _earlier(
    table: CellTable, labels: Labels, parent: Lesson | None
) -> tuple[list[str], dict[Key, bool]]:
    """What to tell of the lesson before, and the sides of its cells."""
    if parent is None:
        return labels.warnings(), {}
    told = labels.warnings()
    lost = [n for n in parent.class_names if n not in labels.examples.class_names]
    if lost:
        names = ", ".join(lost)
        told.append(f"No label of {names} is left: the class is not taught any more.")
    if not _same_model(table, parent):
        told.append("The lesson before was of another model; only its guard set is kept.")
    return told, parent.sides()


def _same_model(table: CellTable, parent: Lesson | None) -> bool:
    """Whether the lesson before reads the embeddings that these cells have."""
    return parent is not None and parent.weights == table.source.weights_sha256


def _doubts(labels: Labels, guard: NDArray[np.bool_]) -> list[str]:
    told, examples = [], labels.examples
    if not guard.any():
        told.append("No label could be kept aside, so nobody will know whether it helped.")
    own = examples.labels < len(examples.model_classes)
    said = examples.word.argmax(axis=1)
    if own.all() and (said != examples.labels).mean() > MOSTLY_WRONG:
        told.append(
            "Nearly all labels contradict the model. Confirm some cells that are right as well: "
            "what is kept aside says nothing of them, and the lesson may turn them wrong."
        )
    few = [
        n
        for i, n in enumerate(examples.class_names)
        if 0 < (examples.labels[~guard] == i).sum() < _FEW
    ]
    if few:
        told.append(f"Of {', '.join(few)} there are fewer than {_FEW} labels to learn from.")
    return told


_FEW = 5


def _refuse_one_sided(examples: Examples) -> None:
    if len(np.unique(examples.labels)) < 2:
        raise DataError(
            "There is too little to learn from.",
            expected="labels of at least two classes beside those that are kept aside",
            found=f"{len(examples.labels)} labels of one class",
            remedy="confirm or correct some more cells of another class",
        )


def calibration_groups(squares: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is not divided for calibration: squares (N,), or cells where squares are few."""
    return squares if len(np.unique(squares)) >= _FEW else np.arange(len(squares))


def _on_classes(head: Head, examples: Examples) -> NDArray[np.float32]:
    """Probabilities (N, K) of an earlier head, by the classes of `examples`."""
    p = np.zeros((len(examples.labels), len(examples.class_names)), np.float32)
    shared = [n for n in head.class_names if n in examples.class_names]
    own = examples.word[:, : len(examples.model_classes)]
    extra = len(head.class_names) - len(examples.model_classes)
    word = np.column_stack((own, np.full((len(own), extra), np.log(1e-3), np.float32)))
    theirs = head.probabilities(examples.vectors, word)
    for name in shared:
        p[:, examples.class_names.index(name)] = theirs[:, head.class_names.index(name)]
    return p


def _lesson(
    table: CellTable,
    labels: Labels,
    guard: NDArray[np.bool_],
    head: Head,
    verdict: Verdict,
    strength: Strength,
    how: TeachSettings,
    parent: Lesson | None,
    told: list[str],
) -> Lesson:
    asked = np.flatnonzero(labels.asked)
    grey: Color = (128, 128, 128)
    return Lesson(
        model=table.source.model,
        weights=table.source.weights_sha256,
        class_names=head.class_names,
        class_colors={n: how.colors.get(n, grey) for n in head.class_names},
        keys=labels.keys,
        labels=labels.examples.labels.astype(np.int16),
        guard=guard,
        squares=labels.squares,
        untouched=labels.untouched,
        head=head,
        verdict=verdict,
        parent="" if parent is None else parent.id,
        slide=table.source.slide_id,
        author=how.author,
        time=now(),
        warnings=tuple(told),
        strength=strength,
        added=asked,
        added_vectors=labels.examples.vectors[asked].astype(np.float32),
        added_word=labels.examples.word[asked].astype(np.float32),
    ).sealed()
