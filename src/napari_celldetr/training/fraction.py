"""A share of the labelled fields: the same for a seed, nested, spread over the groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from napari_celldetr.training.datasets import Field
from napari_celldetr.training.pools import Pool


def take_fraction(pools: Sequence[Pool], fraction: float, *, seed: int) -> list[Pool]:
    """The pools with `fraction` (0..1] of each one's labelled fields, at least one.

    With one seed, every larger share holds all fields of every smaller one, and any share takes
    about as much of each group. Fields without a single point stay: they cost nobody's work.
    """
    if fraction >= 1:
        return list(pools)
    return [_part(pool, fraction, np.random.default_rng([seed, i])) for i, pool in enumerate(pools)]


def _part(pool: Pool, fraction: float, rng: np.random.Generator) -> Pool:
    labelled = [i for i, f in enumerate(pool.fields) if len(f)]
    order = spread([pool.fields[i].group for i in labelled], rng)
    count = max(1, round(fraction * len(labelled)))
    taken = {labelled[i] for i in order[:count]}
    kept: list[Field] = [f for i, f in enumerate(pool.fields) if i in taken or not len(f)]
    return replace(pool, fields=tuple(kept))


def spread(groups: Sequence[str], rng: np.random.Generator) -> list[int]:
    """An order of items in which every beginning holds about the same share of each group.

    Within its group an item's place is drawn; the groups take turns, larger ones more often.
    """
    members: dict[str, list[int]] = {}
    for item in rng.permutation(len(groups)):
        members.setdefault(groups[item], []).append(int(item))
    place = np.zeros(len(groups))
    for name in sorted(members):
        items = members[name]
        place[items] = (np.arange(len(items)) + rng.random()) / len(items)
    return [int(i) for i in np.argsort(place, kind="stable")]
