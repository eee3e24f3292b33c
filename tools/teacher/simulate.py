"""A simulated teacher: the queue or chance picks cells, it labels them, the head is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cells import Cells
from numpy.typing import NDArray

from napari_celldetr.core.head import Head
from napari_celldetr.core.metrics.reliability import calibration_error
from napari_celldetr.core.next_cells import NOVELTY, next_cells
from napari_celldetr.pipeline.fit_head import Examples, calibrated, fit_head, strength_for

COUNTS = (25, 50, 100, 200, 400)
BATCH = 25
SQUARE_UM = 60.0
"""Side of the squares of which the queue asks one cell: fields are small pieces of slides."""
UNTOUCHED = 2_000


@dataclass(frozen=True)
class Task:
    """What a model does not know, and who teaches it.

    Attributes
    ----------
    name : str
    cells : Cells
        `word` by the K classes of the task; `truth` as well.
    class_names, model_classes : tuple of str
        All, and those that the model has.
    splits : sequence of (teach, guard)
        Groups whose cells are taught, and groups whose cells are judged.
    """

    name: str
    cells: Cells
    class_names: tuple[str, ...]
    model_classes: tuple[str, ...]
    splits: Sequence[tuple[tuple[str, ...], tuple[str, ...]]]


@dataclass(frozen=True)
class Result:
    """One teacher at one number of corrections."""

    split: int
    seed: int
    how: str
    count: int
    f1: float
    accuracy: float
    ece: float
    hits: NDArray[np.bool_]
    found: NDArray[np.int64]


def run(
    task: Task,
    *,
    how: str,
    seed: int,
    split: int,
    novelty: float = NOVELTY,
    most: int = 400,
    calibrate: bool = True,
) -> list[Result]:
    """Teach one task from 0 to `most` corrections; `how` is ``queue`` or ``random``."""
    teach, guard = task.splits[split]
    pool = task.cells.select(np.flatnonzero(np.isin(task.cells.group, teach)))
    kept = task.cells.select(np.flatnonzero(np.isin(task.cells.group, guard)))
    share = np.exp(kept.word) / np.exp(kept.word).sum(axis=1, keepdims=True)
    done = [_result(task, kept, share, split, seed, how, 0)]
    rng = np.random.default_rng([seed, split])
    squares = pool.squares(SQUARE_UM)
    chosen = np.zeros(0, np.int64)
    now = np.exp(pool.word)
    for count in range(BATCH, most + 1, BATCH):
        open_ = np.ones(len(pool.truth), bool)
        open_[chosen] = False
        if how == "random":
            more = rng.choice(np.flatnonzero(open_), BATCH, replace=False)
        else:
            more = next_cells(
                pool.vectors,
                now,
                squares,
                taught=pool.vectors[chosen],
                open_=open_,
                count=BATCH,
                one_random_in=0,
                novelty=novelty,
                seed=int(rng.integers(2**31)),
            ).rows
        chosen = np.concatenate((chosen, more))
        if how == "random" and count not in COUNTS:
            continue
        head = _taught(task, pool, chosen, rng, final=calibrate and count in COUNTS)
        if head is None:
            continue
        now = head.probabilities(pool.vectors, pool.word)
        if count in COUNTS:
            p = head.probabilities(kept.vectors, kept.word)
            done.append(_result(task, kept, p, split, seed, how, count))
    return done


def _taught(
    task: Task, pool: Cells, chosen: NDArray[np.int64], rng: np.random.Generator, *, final: bool
) -> Head | None:
    """The head of the cells chosen so far; None while all are of one class.

    Calibrated if `final`: what is asked next hardly depends on that.
    """
    labels = pool.truth[chosen]
    if len(np.unique(labels)) < 2:
        return None
    rest = np.setdiff1d(np.arange(len(pool.truth)), chosen)
    rest = np.sort(rng.choice(rest, min(UNTOUCHED, len(rest)), replace=False))
    examples = Examples(
        pool.vectors[chosen].astype(np.float32),
        pool.word[chosen],
        labels,
        task.class_names,
        task.model_classes,
        pool.vectors[rest].astype(np.float32),
        pool.word[rest],
    )
    strength = strength_for(examples)
    head = fit_head(examples, strength)
    if not final:
        return head
    groups = pool.squares(250.0)[chosen]
    if len(np.unique(groups)) < 5:
        groups = np.arange(len(chosen))
    return calibrated(head, examples, groups, strength=strength)


def _result(
    task: Task,
    kept: Cells,
    p: NDArray[np.floating],
    split: int,
    seed: int,
    how: str,
    count: int,
) -> Result:
    found = p.argmax(axis=1)
    hits = found == kept.truth
    sure = np.clip(p.max(axis=1), 0, 1)
    ece = calibration_error(sure, hits, binning="mass", bins=10).ece
    f1 = mean_f1(kept.truth, found, len(task.class_names))
    return Result(split, seed, how, count, f1, float(hits.mean()), ece, hits, found)


def mean_f1(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> float:
    """Mean F1 of the classes that are there."""
    told = []
    for i in range(classes):
        if (truth == i).any():
            both = (truth == i).sum() + (found == i).sum()
            told.append(2 * ((truth == i) & (found == i)).sum() / both)
    return float(np.mean(told))
