"""Replay: a lesson fitted again from the labels it holds must give the very same head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.head import Head
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.pipeline.fit_head import Examples, calibrated, fit_head
from napari_celldetr.pipeline.gather import of_claims
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.teach import calibration_groups


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether the head came out the very same, and the largest difference of any number."""

    same: bool
    difference: float


def replay(table: CellTable, lesson: Lesson) -> Job[Replay]:
    """Fit a lesson again, from its labels and the embeddings in `table`.

    Another processor or library may round otherwise: then `difference` says how much.

    Raises `DataError` when the lesson has no head, or its cells are not in the table.
    """
    if lesson.head is None:
        raise _cannot("a lesson with a head", lesson.kind)
    yield Progress(0, 2, "Gathering what it was taught…")
    examples = _examples(table, lesson)
    learned = np.flatnonzero(~lesson.guard)
    part = examples.select(learned)
    yield Progress(1, 2, "Learning…")
    head = fit_head(part, lesson.strength)
    groups = calibration_groups(lesson.squares[learned])
    head = calibrated(head, part, groups, strength=lesson.strength)
    yield Progress(2, 2)
    return Replay(head.digest() == lesson.head.digest(), _apart(head, lesson.head))


def _examples(table: CellTable, lesson: Lesson) -> Examples:
    assert lesson.head is not None
    names = lesson.class_names
    vectors, word = _of_keys(table, lesson.keys, names)
    if len(lesson.added):
        vectors[lesson.added] = lesson.added_vectors
        word[lesson.added] = lesson.added_word
    rest, rest_word = _of_keys(table, lesson.untouched, names)
    missing = int(np.isnan(vectors).any(axis=1).sum() + np.isnan(rest).any(axis=1).sum())
    if missing:
        raise _cannot("the cells that it was taught on", f"{missing} of them missing")
    return Examples(
        vectors,
        word,
        lesson.labels.astype(np.int64),
        names,
        lesson.head.model_classes,
        rest,
        rest_word,
    )


def _of_keys(
    table: CellTable, keys: NDArray[np.uint64], names: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows = table.claim_rows([(a, b) for a, b in keys.tolist()])
    vectors, word, _ = of_claims(table, rows, names)
    return vectors, word


def _apart(one: Head, other: Head) -> float:
    mine, theirs = one.arrays(), other.arrays()
    if mine["weight"].shape != theirs["weight"].shape:
        return float("inf")
    return max(float(np.abs(mine[name] - theirs[name]).max()) for name in mine)


def _cannot(expected: str, found: str) -> DataError:
    return DataError(
        "This lesson cannot be fitted again.",
        expected=expected,
        found=found,
        remedy="open the run that it was taught on",
    )
