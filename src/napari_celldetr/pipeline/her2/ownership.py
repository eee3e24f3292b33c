"""Whose a membrane line is where two cells meet: the cell's own, or its neighbour's alone.

One line is seen there, and how brown it is does not say whose it is. What both cells show beyond
does: how far each is stained elsewhere around its outline, where it faces nobody, and how alike
those lines are to this one. What they show there may in turn be others' lines, so all sides are
weighed again with the last round's answers. The weights were fitted on generated slides, whose
truth is known (`tools/fit_ownership.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from napari_celldetr.pipeline.her2.outline import NOBODY, Bools, Floats, Ints

ROUNDS = 6
FULL = np.float32(0.05)
"""From this stained share of an outline on its density is known."""
DENSITIES = (0.05, 2.0)
MOST_RATIO = 1.5
"""Logarithm of how much darker one line can be than another, for all it matters."""
QUANTITIES = 15


@dataclass(frozen=True, slots=True)
class Sides:
    """Sides of N cells: what of an outline faces one neighbour, or nobody.

    Attributes
    ----------
    bins : (N, RAYS)
        Side of each direction.
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

    bins: Ints
    owner: Ints
    other: Ints
    back: Ints
    length: Floats
    stained: Floats
    dark: Floats

    def per_cell(self, values: Floats) -> Floats:
        """Sums (N,) of the sides' `values` (E,)."""
        return np.bincount(self.owner, values, minlength=len(self.bins)).astype(np.float32)


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
    own = np.ones(len(sides.owner), np.float32)
    asked = np.flatnonzero((sides.other != NOBODY) & (sides.stained > 0))
    for _ in range(ROUNDS):
        odds = fitted_weights().odds(side_quantities(sides, own, asked))
        own[asked] = 1 / (1 + np.exp(-odds))
    return np.asarray(own[sides.bins], np.float32)


def find_sides(neighbours: Ints, arcs: Floats, stained: Bools, band: Floats) -> Sides:
    """The sides of all cells; parameters as of `own_shares`."""
    n, rays = neighbours.shape
    if not n:
        none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return Sides(neighbours, none, none, none, nothing, nothing, nothing)
    # Directions in a row that face the same are a run; a side may be two, around direction 0.
    change = np.ones((n, rays), bool)
    change[:, 1:] = neighbours[:, 1:] != neighbours[:, :-1]
    starts = np.flatnonzero(change)
    facing = neighbours.ravel()[starts]
    keys, run = np.unique(starts // rays * (n + 1) + facing + 1, return_inverse=True)
    owner, other = keys // (n + 1), keys % (n + 1) - 1
    back_key = np.where(other == NOBODY, -1, other * (n + 1) + owner + 1)
    back = np.minimum(np.searchsorted(keys, back_key), len(keys) - 1)
    whole = arcs / np.maximum(arcs.sum(axis=1, keepdims=True), 1e-6)

    def total(values: Floats) -> Floats:
        runs = np.add.reduceat(values.ravel(), starts)
        return np.bincount(run, runs, minlength=len(keys)).astype(np.float32)

    return Sides(
        np.repeat(run, np.diff(starts, append=n * rays)).reshape(n, rays),
        owner,
        other,
        np.where(keys[back] == back_key, back, NOBODY),
        total(whole),
        total(whole * stained),
        total(whole * stained * band),
    )


def side_quantities(sides: Sides, own: Floats, asked: Ints) -> Floats:
    """What speaks for and against each of the sides `asked` (K,), as (K, `QUANTITIES`).

    `own` (E,) is the chance that a side's line is its owner's, as far as it is known.
    """
    nobody = sides.other == NOBODY
    shown, dark = own * sides.stained, own * sides.dark
    bare = sides.length - sides.stained
    cells = [sides.per_cell(v) for v in (shown, dark, bare)]
    alone = sides.per_cell(sides.stained * nobody)
    either = sides.per_cell(sides.stained)
    owner, other, back = sides.owner[asked], sides.other[asked], sides.back[asked]
    seen = (back != NOBODY).astype(np.float32)

    def beyond(cell: Ints, side: Ints, there: Floats | float) -> list[Floats]:
        """Stained, its darkness, and bare: of the whole outline but this side."""
        here = zip(cells, (shown, dark, bare), strict=True)
        return [np.maximum(all_[cell] - part[side] * there, 0) for all_, part in here]

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
        *(density, alone[owner], alone[other]),
        mine / (mine + my_bare + FULL),
        theirs / (theirs + their_bare + FULL),
        *(either[owner], either[other]),
    )
    return np.stack(columns, axis=1).astype(np.float32)


def _ratio(density: Floats, dark: Floats, along: Floats) -> Floats:
    """Logarithm of a line's density over that of other lines; towards 0 where there are few."""
    usual = np.log(np.clip(dark / np.maximum(along, 1e-4), *DENSITIES))
    known = np.clip(along / FULL, 0, 1)
    return np.asarray(np.clip(known * (density - usual), -MOST_RATIO, MOST_RATIO), np.float32)
