"""What a person taught: labels of cells with their embeddings, and what cannot be used of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Key, Said, Status
from napari_celldetr.core.boxes import paired_iou
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import CellDETRError, DataError
from napari_celldetr.core.guard import squares_of
from napari_celldetr.core.head import offsets
from napari_celldetr.pipeline.fit_head import Examples
from napari_celldetr.pipeline.reapply import reach_px

Ask = Callable[[NDArray[Any]], Detections]
"""What the model sees at points (N, 2), level-0 px: `napari_celldetr.pipeline.ask.Asker.ask`."""

LEAST = 10
"""Labels below which nothing is learned."""
UNTOUCHED = 2_000
"""Cells nobody touched that are rehearsed."""
LEAST_OVERLAP = 0.3
"""A moved box that overlaps the claimed one less is another cell than its embedding's."""
ALIKE = 0.05
"""Standardised embeddings nearer than this, as a share of the usual distance, are the same cell."""
_TAUGHT_BY = (Status.CONFIRMED, Status.RECLASSED, Status.MOVED, Status.ADDED)
NO_EMBEDDING = "without an embedding: added by hand where the model was not asked"
NO_CLASS = "of unknown class"
NOT_HERE = "not among the cells of this run"
TWICE = "contradicting each other"
MOVED_AWAY = "moved to where another cell may be"


@dataclass(frozen=True, eq=False)
class Labels:
    """N usable labels, sorted by key.

    Attributes
    ----------
    keys : (N, 2) uint64
    examples : Examples
    squares : (N,) int64
        Where they lie.
    untouched : (M, 2) uint64
        Keys of the cells to rehearse.
    asked : (N,) bool
        Whose embedding is no claim's: the model was asked.
    left_out : mapping of str to int
        Why labels were not used, and how many.
    alike : int
        Pairs of nearly the same embedding and another label.
    """

    keys: NDArray[np.uint64]
    examples: Examples
    squares: NDArray[np.int64]
    untouched: NDArray[np.uint64]
    asked: NDArray[np.bool_]
    left_out: Mapping[str, int] = field(default_factory=dict)
    alike: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    def warnings(self) -> list[str]:
        """What a person should know of the labels, in words."""
        told = [f"{n:,} labels were left out: {why}." for why, n in self.left_out.items()]
        if self.alike:
            pairs = "1 pair" if self.alike == 1 else f"{self.alike:,} pairs"
            told.append(
                f"{pairs} of labelled cells look the same to the model and differ in label."
            )
        return told


def gather(
    table: CellTable, *, mpp: tuple[float, float] | None = None, ask: Ask | None = None
) -> Labels:
    """All that people said of classes on a slide, as far as the model can learn from it.

    Parameters
    ----------
    table : CellTable
        Claims and corrections.
    mpp : (x, y)
        Level-0 µm/px.
    ask : callable, optional
        For the embeddings of cells that were added by hand.

    Raises
    ------
    DataError
        When there are no embeddings, fewer than `LEAST` labels, or one class only.
    """
    model_classes = _checked_claims(table)
    cells = {k: s for k, s in table.annotations.cells.items() if s.status in _TAUGHT_BY}
    gone: Counter[str] = Counter()
    keys = _of_known_class(table, cells, gone)
    rows = table.claim_rows(keys)
    vectors, word, own = of_claims(table, rows, table.class_names)
    _drop_moved(table, keys, rows, cells, vectors, gone)
    asked = _ask_for_added(keys, cells, vectors, word, ask, reach_px(mpp[0] if mpp else None), own)
    good = np.asarray(np.isfinite(vectors).all(axis=1), np.bool_)
    _tell_missing(keys, cells, good, gone)
    labels = np.array([cells[k].class_id for k in keys], np.int64)
    good &= ~_contradicting(rows, labels, gone)
    which = np.flatnonzero(good)
    names = _class_names(table, model_classes, labels[which])
    to_name = {table.class_names.index(n): i for i, n in enumerate(names)}
    order = [table.class_names.index(n) for n in names]
    rest = _untouched(table, rows)
    rest_vectors, rest_word, _ = of_claims(table, rest, names)
    examples = Examples(
        vectors[which],
        word[which][:, order],
        np.array([to_name[int(i)] for i in labels[which]], np.int64),
        names,
        model_classes,
        rest_vectors,
        rest_word,
    )
    boxes = np.array([cells[keys[i]].box for i in which], np.float64).reshape(-1, 4)
    found = Labels(
        np.array([keys[i] for i in which], np.uint64).reshape(-1, 2),
        examples,
        squares_of((boxes[:, :2] + boxes[:, 2:]) / 2, mpp),
        table.keys_of(rest),
        asked[which],
        {why: n for why, n in gone.items() if n},
        _alike(examples),
    )
    _refuse_too_little(found)
    return found


def _checked_claims(table: CellTable) -> tuple[str, ...]:
    """The model's classes. `DataError` where there is nothing to learn from."""
    tables = [claims.table for claims in table.claims]
    sizes = {None if t.embeddings is None else t.embeddings.shape[1] for t in tables}
    names = {t.class_names for t in tables}
    if not tables:
        raise _nothing("cells that a model found", "none", "find cells first")
    if sizes == {None}:
        raise _nothing(
            "cells stored with their embeddings",
            "cells without",
            "find them anew in the viewer: runs store embeddings",
        )
    if len(sizes) > 1 or len(names) > 1:
        raise _nothing(
            "cells of one model", f"{max(len(sizes), len(names))} models", "find them anew with one"
        )
    return names.pop()


def _of_known_class(table: CellTable, cells: Mapping[Key, Said], gone: Counter[str]) -> list[Key]:
    known = sorted(k for k, said in cells.items() if said.class_id != UNKNOWN)
    gone[NO_CLASS] = len(cells) - len(known)
    return known


def of_claims(
    table: CellTable, rows: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[str, ...]]:
    """Embeddings (N, D) and the model's word (N, K) of rows; NaN where no claim is."""
    first = table.claims[0].table
    assert first.embeddings is not None
    vectors = np.full((len(rows), first.embeddings.shape[1]), np.nan, np.float32)
    word = np.zeros((len(rows), len(names)), np.float32)
    for mine, local, claims in table.claims_behind(rows):
        assert claims.embeddings is not None
        vectors[mine] = claims.embeddings[local]
        word[mine] = offsets(claims, names, local)
    return vectors, word, tuple(names)


def _drop_moved(
    table: CellTable,
    keys: Sequence[Key],
    rows: NDArray[np.int64],
    cells: Mapping[Key, Said],
    vectors: NDArray[np.float32],
    gone: Counter[str],
) -> None:
    moved = np.array([cells[k].status == Status.MOVED for k in keys], bool) & (rows >= 0)
    at = np.flatnonzero(moved)
    if not len(at):
        return
    now = np.array([cells[keys[i]].box for i in at.tolist()], np.float64)
    claimed = np.empty_like(now)
    for mine, local, claims in table.claims_behind(rows[at]):
        claimed[mine] = claims.boxes[local]
    away = at[paired_iou(now, claimed) < LEAST_OVERLAP]
    vectors[away] = np.nan
    gone[MOVED_AWAY] = len(away)


def _ask_for_added(
    keys: Sequence[Key],
    cells: Mapping[Key, Said],
    vectors: NDArray[np.float32],
    word: NDArray[np.float32],
    ask: Ask | None,
    reach: float,
    names: Sequence[str],
) -> NDArray[np.bool_]:
    """Fill in what the model sees where cells were added; which (N,) were filled in."""
    added = np.array([cells[k].status == Status.ADDED for k in keys], bool)
    open_ = np.flatnonzero(added & np.isnan(vectors).any(axis=1))
    asked = np.zeros(len(keys), bool)
    if ask is None or not len(open_):
        return asked
    boxes = np.array([cells[keys[i]].box for i in open_.tolist()], np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    found = ask(centres)
    fits = found.embeddings is not None and found.embeddings.shape[1] == vectors.shape[1]
    if not fits or found.embeddings is None:
        return asked
    # What it sees may be the neighbour.
    near = np.hypot(*(found.centres - centres).T) <= reach
    vectors[open_[near]] = found.embeddings[near]
    word[open_[near]] = offsets(found, names, np.flatnonzero(near))
    asked[open_[near]] = True
    return asked


def _tell_missing(
    keys: Sequence[Key], cells: Mapping[Key, Said], good: NDArray[np.bool_], gone: Counter[str]
) -> None:
    for i in np.flatnonzero(~good).tolist():
        status = cells[keys[i]].status
        if status == Status.ADDED:
            gone[NO_EMBEDDING] += 1
        elif status != Status.MOVED:
            gone[NOT_HERE] += 1
    moved = sum(cells[keys[i]].status == Status.MOVED for i in np.flatnonzero(~good).tolist())
    gone[NOT_HERE] += moved - gone[MOVED_AWAY]


def _contradicting(
    rows: NDArray[np.int64], labels: NDArray[np.int64], gone: Counter[str]
) -> NDArray[np.bool_]:
    """Labels (N,) of one and the same claim that are not the same; such say nothing."""
    wrong = np.zeros(len(rows), bool)
    order = np.argsort(rows, kind="stable")
    edges = np.flatnonzero(np.diff(rows[order], prepend=-2, append=-2))
    for start, stop in pairwise(edges.tolist()):
        mine = order[start:stop]
        if rows[mine[0]] >= 0 and len(np.unique(labels[mine])) > 1:
            wrong[mine] = True
    gone[TWICE] = int(wrong.sum())
    return wrong


def _class_names(
    table: CellTable, model_classes: tuple[str, ...], labels: NDArray[np.int64]
) -> tuple[str, ...]:
    used = {table.class_names[i] for i in np.unique(labels)}
    new = (n for n in table.class_names if n in used and n not in model_classes)
    return (*model_classes, *new)


def _untouched(table: CellTable, labelled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of some claims nobody touched, the same for the same table."""
    free = table.kept & (table.status == Status.CLAIMED)
    free[labelled[labelled >= 0]] = False
    rows = np.flatnonzero(free)
    if len(rows) > UNTOUCHED:
        rows = np.sort(np.random.default_rng(0).choice(rows, UNTOUCHED, replace=False))
    vectors, _, _ = of_claims(table, rows, ())
    return np.asarray(rows[np.isfinite(vectors).all(axis=1)], np.int64)


def _alike(examples: Examples) -> int:
    """Pairs of nearly the same embedding with different labels."""
    if len(examples.labels) < 2:
        return 0
    from scipy.spatial import cKDTree

    z = (examples.vectors - examples.vectors.mean(axis=0)) / (examples.vectors.std(axis=0) + 1e-6)
    # In many dimensions standardised vectors lie about √(2 D) apart. One direction at random
    # leaves few candidates, and no pair that near is lost in it.
    reach = ALIKE * np.sqrt(2 * z.shape[1])
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(z.shape[1], 8)))[0]
    pairs = cKDTree(z @ directions).query_pairs(reach, output_type="ndarray")
    pairs = pairs[examples.labels[pairs[:, 0]] != examples.labels[pairs[:, 1]]]
    apart = np.sqrt(((z[pairs[:, 0]] - z[pairs[:, 1]]) ** 2).sum(axis=1))
    return int((apart < reach).sum())


def _refuse_too_little(found: Labels) -> None:
    left = sum(found.left_out.values())
    n, classes = len(found), np.unique(found.examples.labels)
    if n < LEAST:
        raise _nothing(
            f"at least {LEAST} labels of at least two classes",
            f"{n} that can be used" + (f", {left} that cannot" if left else ""),
            "confirm or correct some more cells",
        )
    if len(classes) < 2:
        raise _nothing(
            "labels of at least two classes",
            f"{n} labels, all {found.examples.class_names[classes[0]]}",
            "also confirm or correct cells of another class: there must be a difference to learn",
        )


def _nothing(expected: str, found: str, remedy: str) -> CellDETRError:
    return DataError(
        "There is too little to learn from.", expected=expected, found=found, remedy=remedy
    )
