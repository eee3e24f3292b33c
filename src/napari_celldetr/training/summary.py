"""What a training learns from, in a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from napari_celldetr.training.fields import Field
from napari_celldetr.training.pools import Pool


def what_is_trained_on(
    pools: Sequence[Pool], class_names: Sequence[str], validation: Sequence[Field] = ()
) -> str:
    """Fields, groups and cells that are trained and validated on, for people.

    `class_names` are the classes to be told apart; where there are several and no label has one,
    a line of warning follows.
    """
    fields = [f for p in pools for f in p.fields]
    names = class_names if len(class_names) > 1 else ()
    text = "Training on " + _counted(fields, names)
    if validation:
        text += "; validating on " + _counted(validation, ())
    typed = any((f.class_ids >= 0).any() or f.composition is not None for f in fields)
    if names and not typed:
        text += (
            ".\nwarning: no labelled cell has a class, so the model cannot learn to tell "
            f"{', '.join(names)} apart"
        )
    return text + "."


def _counted(fields: Iterable[Field], names: Sequence[str]) -> str:
    items = list(fields)
    text = (
        f"{_many(len(items), 'field')} of {_many(len({f.group for f in items}), 'group')}, "
        f"{_many(sum(len(f) for f in items), 'cell')}"
    )
    parts = []
    if names:
        ids = np.concatenate([f.class_ids for f in items]).astype(np.int64)
        counts = np.bincount(ids[ids >= 0], minlength=len(names))
        parts = [f"{name} {count:,}" for name, count in zip(names, counts, strict=True)]
        parts += [f"without class {(ids < 0).sum():,}"] if (ids < 0).any() else []
    mixed = sum(f.composition is not None for f in items)
    parts += [f"shares of classes alone on {_many(mixed, 'field')}"] if mixed else []
    return text + (f" ({', '.join(parts)})" if parts else "")


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
