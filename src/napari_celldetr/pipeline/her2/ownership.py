"""Whose a membrane line is where two cells meet: the cell's own, or its neighbour's alone.

One line is seen there, and how brown it is does not say whose it is. What both cells show beyond
does: how far each is stained elsewhere around its outline, where it faces nobody, and how alike
those lines are to this one. What they show there may in turn be others' lines, so all sides are
weighed again with the last round's answers. The weights were fitted on generated slides, whose
truth is known (`tools/fit_ownership.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.pipeline.her2.outline import NOBODY, Bools, Floats, Ints
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows

Rows = NDArray[np.int32]

ROUNDS = 6
FULL = np.float32(0.05)
"""From this stained share of an outline on its density is known."""
DENSITIES = (0.05, 2.0)
MOST_RATIO = 1.5
"""Logarithm of how much darker one line can be than another, for all it matters."""
QUANTITIES = 15
AT_ONCE, EVERY = 8192, 8
"""Sides weighed at once, and after how many times of that a step is told."""
ALL = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Sides:
    """Sides of N cells: what of an outline faces one neighbour, or nobody.

    Attributes
    ----------
    runs : SparseRows of (N, RAYS) int32
        Side of each direction, from each in which it is another.
    owner, other : (E,)
        Rows of the cell and of whom it faces there, or `NOBODY`.
    back : (E,)
        The neighbour's side that faces this one, or `NOBODY`.
    length : (E,)
        Share of the owner's outline.
    stained : (E,)
        Stained share of the owner's outline.
    dark : (E,)
        DAB optical density summed along the stained share.
    """

    runs: SparseRows
    owner: Rows
    other: Rows
    back: Rows
    length: Floats
    stained: Floats
    dark: Floats

    @property
    def bins(self) -> Rows:
        """Side (N, RAYS) of each direction."""
        return self.runs.held(self.runs.values, ALL)

    def along(self, values: Floats, rows: slice = ALL) -> Floats:
        """`values` (E,) of the sides in each direction (n, RAYS) of some cells."""
        return self.runs.held(values[self.runs.of_rows(rows)], rows)

    def per_cell(self, values: Floats) -> Floats:
        """Sums (N,) of the sides' `values` (E,)."""
        return np.bincount(self.owner, values, minlength=len(self.runs)).astype(np.float32)


class SidesSoFar:
    """Sides of N cells, which are read some rows at a time, one after another."""

    def __init__(self, faced: SparseRows) -> None:
        """`faced` (N, RAYS) has the row of the cell met from each direction in which it changes."""
        self._faced = faced
        self._known = 0
        self._keys = [np.zeros(0, np.int64)]
        self._runs = [np.zeros(0, np.int32)]
        self._sums = [np.zeros((3, 0), np.float32)]

    def add(self, rows: slice, arcs: Floats, stained: Bools, band: Floats) -> None:
        """The cells of `rows`; tables (n, RAYS) as of `own_shares`."""
        # Directions in a row that face the same are a run; a side may be two, around direction 0.
        starts = np.flatnonzero(self._faced.filled(rows))
        first, _, _ = rows.indices(len(self._faced))
        owner = first + starts // self._faced.columns
        key = owner * (len(self._faced) + 1) + self._faced.of_rows(rows) + 1
        keys, run = np.unique(key, return_inverse=True)
        whole = arcs / np.maximum(arcs.sum(axis=1, keepdims=True), 1e-6)
        lines = whole * stained

        def total(values: Floats) -> Floats:
            runs = np.add.reduceat(values.ravel(), starts)
            return np.bincount(run, runs, minlength=len(keys)).astype(np.float32)

        self._keys.append(keys)
        self._runs.append((run + self._known).astype(np.int32))
        self._sums.append(np.stack([total(whole), total(lines), total(lines * band)]))
        self._known += len(keys)

    def all_job(self) -> Job[Sides]:
        """The sides of all cells, each with the one that faces it."""
        # Cells come in order, and so do their sides: keys are sorted.
        keys, among = np.concatenate(self._keys), len(self._faced) + 1
        owner, other, back = np.zeros((3, len(keys)), np.int32)
        for done, part in enumerate(_parts(len(keys))):
            owner[part], other[part] = keys[part] // among, keys[part] % among - 1
            wanted = np.where(other[part] == NOBODY, -1, _turned(keys[part], among))
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            back[part] = np.where(keys[at] == wanted, at, NOBODY)
            if done % EVERY == 0:
                yield Progress(part.start, len(keys), "finding shared lines")
        runs = replace(self._faced, values=np.concatenate(self._runs))
        return Sides(runs, owner, other, back, *np.concatenate(self._sums, axis=1))


def _turned(keys: Ints, among: int) -> Ints:
    """Keys of the sides that face these."""
    return np.asarray((keys % among - 1) * among + keys // among + 1, np.int64)


def _parts(sides: int) -> list[slice]:
    return [slice(i, i + AT_ONCE) for i in range(0, sides, AT_ONCE)]


@dataclass(frozen=True, slots=True)
class Weights:
    """A layer of hidden units between the quantities of a side and the odds that it is own."""

    mean: Floats
    spread: Floats
    hidden: Floats
    hidden_bias: Floats
    out: Floats
    out_bias: Floats

    def odds(self, quantities: Floats) -> Floats:
        """Logarithm of the odds (E,) of `quantities` (E, `QUANTITIES`)."""
        scaled = (quantities - self.mean) / self.spread
        units = np.maximum(scaled @ self.hidden.T + self.hidden_bias, 0)
        return np.asarray(units @ self.out + self.out_bias, np.float32)


@cache
def fitted_weights() -> Weights:
    """The weights that come with the package."""
    text = files(__package__).joinpath("ownership.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return Weights(*(np.asarray(read[n], np.float32) for n in Weights.__dataclass_fields__))


def own_shares(neighbours: Ints, arcs: Floats, stained: Bools, band: Floats) -> Floats:
    """Chance (N, RAYS) that a stained direction's line is the cell's own; 1 where it faces nobody.

    Parameters
    ----------
    neighbours : (N, RAYS)
        Row of the cell faced, or `NOBODY`.
    arcs : (N, RAYS)
        Length of outline that each direction stands for.
    stained : (N, RAYS) bool
    band : (N, RAYS)
        DAB optical density of the outline.
    """
    sides = find_sides(neighbours, arcs, stained, band)
    return sides.along(drain(weigh_job(sides)))


def find_sides(neighbours: Ints, arcs: Floats, stained: Bools, band: Floats) -> Sides:
    """The sides of all cells; parameters as of `own_shares`."""
    found = SidesSoFar(SparseRows.of_runs(neighbours.astype(np.int32)))
    if len(neighbours):
        found.add(ALL, arcs, stained, band)
    return drain(found.all_job())


def weigh_job(sides: Sides) -> Job[Floats]:
    """Chance (E,) that the stained line of each side is its owner's; 1 where it faces nobody."""
    own = np.ones(len(sides.owner), np.float32)
    asked = np.flatnonzero((sides.other != NOBODY) & (sides.stained > 0))
    for done in range(ROUNDS):
        cells, answers = _Cells.of(sides, own), own.copy()
        for number, part in enumerate(_parts(len(asked))):
            some = asked[part]
            odds = fitted_weights().odds(_quantities(sides, own, some, cells))
            answers[some] = 1 / (1 + np.exp(-odds))
            if number % EVERY == 0:
                yield Progress(done, ROUNDS, "weighing shared lines")
        own = answers
    return own


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """What N cells show: stained, its darkness, and bare; stained alone; stained at all."""

    shown: Floats
    dark: Floats
    bare: Floats
    alone: Floats
    either: Floats

    @classmethod
    def of(cls, sides: Sides, own: Floats) -> Self:
        per_cell, nobody = sides.per_cell, sides.other == NOBODY
        return cls(
            per_cell(own * sides.stained),
            per_cell(own * sides.dark),
            per_cell(sides.length - sides.stained),
            per_cell(sides.stained * nobody),
            per_cell(sides.stained),
        )


def side_quantities(sides: Sides, own: Floats, asked: Ints) -> Floats:
    """What speaks for and against each of the sides `asked` (K,), as (K, `QUANTITIES`).

    `own` (E,) is the chance that a side's line is its owner's, as far as it is known.
    """
    return _quantities(sides, own, asked, _Cells.of(sides, own))


def _quantities(sides: Sides, own: Floats, asked: Ints, cells: _Cells) -> Floats:
    owner, other, back = sides.owner[asked], sides.other[asked], sides.back[asked]
    seen = (back != NOBODY).astype(np.float32)

    def beyond(cell: Rows, side: Rows | Ints, there: Floats | float) -> list[Floats]:
        """Stained, its darkness, and bare: of the whole outline but this side."""
        stained = sides.stained[side]
        here = (own[side] * stained, own[side] * sides.dark[side], sides.length[side] - stained)
        whole = (cells.shown, cells.dark, cells.bare)
        return [np.maximum(w[cell] - h * there, 0) for w, h in zip(whole, here, strict=True)]

    density = np.log(np.maximum(sides.dark[asked] / sides.stained[asked], DENSITIES[0]))
    mine, my_dark, my_bare = beyond(owner, asked, 1.0)
    theirs, their_dark, their_bare = beyond(other, back, seen)
    to_mine, to_theirs = (
        _ratio(density, of, along) for of, along in ((my_dark, mine), (their_dark, theirs))
    )
    columns = (
        *(mine, my_bare, theirs, their_bare),
        *(np.maximum(to_mine, 0), np.maximum(-to_mine, 0)),
        *(np.maximum(to_theirs, 0), np.maximum(-to_theirs, 0)),
        *(density, cells.alone[owner], cells.alone[other]),
        mine / (mine + my_bare + FULL),
        theirs / (theirs + their_bare + FULL),
        *(cells.either[owner], cells.either[other]),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _ratio(density: Floats, dark: Floats, along: Floats) -> Floats:
    """Logarithm of a line's density over that of other lines; towards 0 where there are few."""
    usual = np.log(np.clip(dark / np.maximum(along, 1e-4), *DENSITIES))
    known = np.clip(along / FULL, 0, 1)
    return np.asarray(np.clip(known * (density - usual), -MOST_RATIO, MOST_RATIO), np.float32)
