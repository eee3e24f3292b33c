"""A hand that never rests: makes random edits in a journal and says each one that is saved.

Run as a program it is what tests kill: ``killable_journal.py PATH``, then a line with a seed on
stdin. It answers ``open COUNT SEAL``, then ``SEQ SEAL`` after each entry. It imports little, so
that a hundred of them start in seconds.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from napari_celldetr.core.annotations import (
    Area,
    AreaChange,
    CellStates,
    Edit,
    Status,
    new_keys,
)
from napari_celldetr.pipeline.journal import Entry, Journal

NAMES = ("lymphocyte", "tumour", "stroma")
ACTIONS = ("add", "claim", "move", "relabel", "delete", "area", "undo", "redo")
CHANCES = (0.22, 0.12, 0.17, 0.17, 0.07, 0.05, 0.13, 0.07)
NOT_SHOWN = (Status.ABSENT, Status.CLAIMED)


def quick_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is one: a kill does not need a disk that syncs."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def states(boxes, classes, scores, status) -> CellStates:
    return CellStates(boxes, classes, scores, np.full(len(boxes), status, np.uint8))


class Hand:
    """Makes edits that fit what is there; it knows what the newest edits touched."""

    def __init__(self, journal: Journal, seed: int, *, reach: int = 30) -> None:
        self.journal = journal
        self.rng = np.random.default_rng(seed)
        self.cells: dict[tuple[int, int], CellStates] = {}
        self.areas: dict[str, Area] = {}
        for seq in journal.standing()[-reach:]:
            self.learn(journal.edit(seq))

    def learn(self, edit: Edit) -> None:
        for i, key in enumerate(edit.keys.tolist()):
            if edit.after.status[i] in NOT_SHOWN:
                self.cells.pop(tuple(key), None)
            else:
                self.cells[tuple(key)] = edit.after.select(slice(i, i + 1))
        for change in edit.areas:
            if change.after is None:
                self.areas.pop(change.id, None)
            else:
                self.areas[change.id] = change.after

    def act(self) -> Entry | None:
        """One random action; None when it was to undo or redo and there was nothing."""
        action = self.rng.choice(ACTIONS, p=CHANCES)
        if action == "undo":
            entry = self.journal.undo()
        elif action == "redo":
            entry = self.journal.redo()
        else:
            entry = self.journal.append(self.edit(action), model="m", weights="ab" * 32)
        if entry is not None:
            self.learn(entry.edit)
        return entry

    def edit(self, action: str) -> Edit:
        n = 40 if self.rng.random() < 0.01 else int(self.rng.integers(1, 4))
        if action == "area":
            return self.change_area()
        if action in ("add", "claim") or not self.cells:
            return self.add(n) if action == "add" else self.confirm(n)
        known = list(self.cells)
        picked = [known[i] for i in self.rng.permutation(len(known))[:n]]
        return self.change(action, picked)

    def boxes(self, n: int):
        low = self.rng.uniform(0, 1e5, (n, 2)).astype(np.float32)
        return np.concatenate((low, low + self.rng.uniform(4, 40, (n, 2))), axis=1)

    def classes(self, n: int):
        return self.rng.integers(-1, len(NAMES), n)

    def add(self, n: int) -> Edit:
        after = states(self.boxes(n), self.classes(n), np.ones(n), Status.ADDED)
        return Edit(f"add {n} cells", new_keys(n), CellStates.absent(n), after, NAMES)

    def confirm(self, n: int) -> Edit:
        boxes, scores = self.boxes(n), self.rng.random(n)
        before = states(boxes, self.classes(n), scores, Status.CLAIMED)
        after = states(boxes, before.class_ids, scores, Status.CONFIRMED)
        return Edit(f"confirm {n} cells", new_keys(n), before, after, NAMES)

    def change(self, action: str, keys: list[tuple[int, int]]) -> Edit:
        old = [self.cells[key] for key in keys]
        before = CellStates(
            *(
                np.concatenate([getattr(s, name) for s in old])
                for name in ("boxes", "class_ids", "scores", "status")
            )
        )
        boxes, classes, status = before.boxes, before.class_ids, Status.DELETED
        if action == "move":
            boxes, status = boxes + np.float32(2), Status.MOVED
        elif action == "relabel":
            classes, status = self.classes(len(keys)), Status.RECLASSED
        after = states(boxes, classes, before.scores, status)
        return Edit(f"{action} {len(keys)} cells", np.array(keys, np.uint64), before, after, NAMES)

    def change_area(self) -> Edit:
        corner = self.rng.uniform(0, 1e5, 2)
        turn = np.sort(self.rng.uniform(0, 2 * np.pi, 7))
        ring = corner + 500 * np.stack((np.cos(turn), np.sin(turn)), axis=1)
        new: Area | None = Area(tuple(map(tuple, ring.tolist())), name="f\u00fcr Ada")
        old = None
        name = os.urandom(4).hex()
        if self.areas and self.rng.random() < 0.5:
            name = str(self.rng.choice(list(self.areas)))
            old = self.areas[name]
            new = None if self.rng.random() < 0.5 else new
        none = CellStates.absent(0)
        return Edit(
            "change an area", np.zeros((0, 2)), none, none, NAMES, (AreaChange(name, old, new),)
        )


def main() -> None:
    seed = int(sys.stdin.readline())
    journal = Journal.open(Path(sys.argv[1]), author="child")
    last = next(journal.entries(newest_first=True), None)
    os.write(1, f"open {len(journal)} {last.seal if last else '-'}\n".encode())
    hand = Hand(journal, seed)
    while True:
        entry = hand.act()
        if entry is not None:
            os.write(1, f"{entry.seq} {entry.seal}\n".encode())


if __name__ == "__main__":
    main()
