"""Edits and journals for tests."""

import sqlite3

import numpy as np
from killable_journal import states

from napari_celldetr.core.annotations import CellStates, Edit, Status, new_keys
from napari_celldetr.pipeline.journal import Journal


def relabel(n=1, *, seed=0, names=("a", "b")):
    """Claims of class 0 that become class 1."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 2**64, (n, 2), np.uint64)
    low = rng.uniform(0, 1e5, (n, 2)).astype(np.float32)
    boxes, scores = np.concatenate((low, low + 9), axis=1), rng.random(n)
    before = states(boxes, np.zeros(n), scores, Status.CLAIMED)
    after = states(boxes, np.ones(n), scores, Status.RECLASSED)
    return Edit(f"relabel {n} cells", keys, before, after, names)


def add(n=1, what="add"):
    box = np.tile([[1, 2, 5, 6]], (n, 1))
    after = states(box, np.zeros(n), np.ones(n), Status.ADDED)
    return Edit(what, new_keys(n), CellStates.absent(n), after, ("a", "b"))


def same(one, other):
    return (
        one.what == other.what
        and np.array_equal(one.keys, other.keys)
        and one.class_names == other.class_names
        and one.areas == other.areas
        and all(
            getattr(getattr(one, side), name).tobytes()
            == getattr(getattr(other, side), name).tobytes()
            for side in ("before", "after")
            for name in ("boxes", "class_ids", "scores", "status")
        )
    )


def filled(path, n=5):
    """A journal of `n` adds by ada, closed."""
    with Journal.open(path, author="ada") as journal:
        for i in range(n):
            journal.append(add(what=f"step {i + 1}"), model="m", weights="f" * 64)
    return path


def tampered(path, *statements):
    """Change entries behind the triggers' back; the triggers are put back."""
    db = sqlite3.connect(path, isolation_level=None)
    rules = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
    for name in rules:
        db.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        db.execute(statement)
    for sql in rules.values():
        db.execute(sql)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
