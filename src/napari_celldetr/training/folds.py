"""Dividing fields between training and test so that no patient, or no site, is on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.fields import Field

_BARCODE = re.compile(r"TCGA-([A-Z0-9]{2})(?![A-Z0-9])")


def split(
    fields: Iterable[Field],
    by: str | Callable[[Field], str] = "group",
    *,
    hold_out: Iterable[str],
) -> tuple[list[Field], list[Field]]:
    """Fields to train on, and fields held out whose group (or other attribute) is named.

    Raises `DataError` for a name that no field has and when either side would be empty.
    """
    items = list(fields)
    key: Callable[[Field], str] = by if callable(by) else lambda f: str(getattr(f, by))
    wanted = set(hold_out)
    present = {key(f) for f in items}
    held = [f for f in items if key(f) in wanted]
    kept = [f for f in items if key(f) not in wanted]
    if wanted - present or not held or not kept:
        raise DataError(
            "The fields cannot be divided like that.",
            expected="names out of "
            + ", ".join(sorted(present)[:20])
            + ", and some left on each side",
            found=", ".join(sorted(wanted)) or "no names",
            remedy="name other groups to hold out",
        )
    return kept, held


def site_of(name: str) -> str | None:
    """Tissue source site of a TCGA barcode: the two characters after ``TCGA-``; None without one.

    The barcode may stand anywhere in `name` (a file's stem, a patient).
    """
    found = _BARCODE.search(name)
    return found.group(1) if found else None


def group_folds(
    fields: Iterable[Field], k: int, by: Literal["group", "site"] = "group", seed: int = 0
) -> list[set[str]]:
    """`k` disjoint sets of group names to hold out in turn, with about as many cells in each.

    No group is divided; with ``by="site"`` all groups of a site (`site_of` the group, or else of
    its fields' names) stay together. The largest units go first, in an order that `seed` varies
    (each counts up to a third more or less), to the fold with the fewest cells so far. A field
    counts as its cells and one more, so that fields without points are spread too.

    Raises `DataError` for fewer units than folds, and by site for names without a barcode.
    """
    weights: dict[str, int] = defaultdict(int)
    members: dict[str, set[str]] = defaultdict(set)
    unnamed = set()
    for field in fields:
        unit: str | None = field.group
        if by == "site":
            unit = site_of(field.group) or site_of(field.name)
        if unit is None:
            unnamed.add(field.group)
            continue
        weights[unit] += len(field) + 1
        members[unit].add(field.group)
    _check_units(members, unnamed, k, by)
    units = sorted(weights)
    chance = np.random.default_rng(seed)
    rank = {u: weights[u] * chance.uniform(0.67, 1.33) for u in units}
    folds: list[set[str]] = [set() for _ in range(k)]
    loads = [0] * k
    for unit in sorted(units, key=lambda u: -rank[u]):
        lightest = loads.index(min(loads))
        folds[lightest] |= members[unit]
        loads[lightest] += weights[unit]
    return folds


def _check_units(members: dict[str, set[str]], unnamed: set[str], k: int, by: str) -> None:
    if unnamed:
        raise DataError(
            "Some groups have no site.",
            expected="TCGA barcodes in the names of groups or images",
            found=", ".join(sorted(unnamed)[:5]),
            remedy="make folds by group",
        )
    groups = [g for names in members.values() for g in names]
    if k < 2 or len(members) < k or len(groups) != len(set(groups)):
        raise DataError(
            f"The fields cannot be divided into {k} folds by {by}.",
            expected=f"at least 2 folds and as many {by}s, each group in one of them",
            found=f"{len(members)} {by}s",
            remedy="ask for fewer folds",
        )
