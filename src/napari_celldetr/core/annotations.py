"""What a person said of cells: edits that can be written down, taken back and applied again.

A cell is known by its key, the two 64-bit halves of its UUID. A model's claim keeps its key for
as long as the same model finds the same box; a cell that a person added has a random one. An
`Edit` says what some cells were and what they are now, so its opposite is itself turned round,
and the present state is all edits applied in order.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import AnnotationError

Key = tuple[int, int]


class Status(IntEnum):
    """What is known of a cell. The order is that of the stored numbers."""

    CLAIMED = 0
    """The model's claim; nobody touched it."""
    CONFIRMED = 1
    RECLASSED = 2
    """Its class was changed."""
    MOVED = 3
    """Its box was changed, perhaps its class as well."""
    ADDED = 4
    DELETED = 5
    """A person says that there is no cell."""
    ABSENT = 6
    """Not there: what an added cell was before."""
    COVERED = 7
    """A claim that a person's cell from an earlier run stands for."""
    REPLACED = 8
    """A claim whose place a later tile has looked at."""


STATUS_WORDS = {
    Status.CLAIMED: "claimed",
    Status.CONFIRMED: "confirmed",
    Status.RECLASSED: "class changed",
    Status.MOVED: "moved",
    Status.ADDED: "added",
    Status.DELETED: "deleted",
}
"""How files and tables say it."""
SHOWN = np.array([s <= Status.ADDED for s in Status])
"""By status: whether there is a cell to show and count."""
SAID = np.array([Status.CONFIRMED <= s <= Status.ADDED for s in Status])
"""By status: whether a person vouches for the cell, whatever its score."""


@dataclass(frozen=True, eq=False)
class CellStates:
    """What some cells are at a moment.

    Attributes
    ----------
    boxes : (N, 4) float32
        xyxy in level-0 px.
    class_ids : (N,) int16
        -1 for a type that is not known.
    scores : (N,) float32
        The model's; 1 for added cells.
    status : (N,) uint8
        `Status`.
    """

    boxes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    scores: NDArray[np.float32]
    status: NDArray[np.uint8]

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(self.status))
        kinds = (
            ("boxes", (n, 4), np.float32),
            ("class_ids", (n,), np.int16),
            ("scores", (n,), np.float32),
            ("status", (n,), np.uint8),
        )
        for name, shape, dtype in kinds:
            array = np.array(getattr(self, name), dtype).reshape(shape)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        there = self.status != Status.ABSENT
        boxes = self.boxes[there]
        if n and self.status.max() > Status.REPLACED:
            raise _refused("a status that does not exist", "one of Status")
        if not np.isfinite(boxes).all() or not np.isfinite(self.scores[there]).all():
            raise _refused("boxes or scores that are not finite", "finite level-0 px")
        if len(boxes) and (boxes[:, 2:] <= boxes[:, :2]).any():
            raise _refused("boxes without area", "x0 < x1 and y0 < y1")

    @classmethod
    def absent(cls, n: int) -> CellStates:
        """What `n` cells were before they were added."""
        return cls(
            np.zeros((n, 4), np.float32),
            np.full(n, UNKNOWN, np.int16),
            np.zeros(n, np.float32),
            np.full(n, Status.ABSENT, np.uint8),
        )

    def __len__(self) -> int:
        return len(self.status)

    def select(self, which: Any) -> CellStates:
        """Some rows."""
        return CellStates(
            self.boxes[which], self.class_ids[which], self.scores[which], self.status[which]
        )


@dataclass(frozen=True)
class Area:
    """An area a person drew: `polygon` of at least three (x, y) in level-0 px, not closed.

    In a ``complete`` area a person vouches for every cell, so its empty places are true negatives;
    a ``region`` is one of interest only.
    """

    polygon: tuple[tuple[float, float], ...]
    kind: Literal["complete", "region"] = "complete"
    name: str = ""

    def __post_init__(self) -> None:
        corners = np.asarray(self.polygon, np.float64)
        if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3:
            raise _refused(f"{len(corners)} corners", "an outline of three corners at least")
        if not np.isfinite(corners).all():
            raise _refused("corners that are not finite", "level-0 px")
        object.__setattr__(self, "polygon", tuple((float(x), float(y)) for x, y in corners))
        if self.area_px <= 0:
            raise _refused("an outline without area", "an area")

    @property
    def corners(self) -> NDArray[np.float64]:
        """(M, 2) x, y."""
        return np.asarray(self.polygon, np.float64)

    @property
    def crosses_itself(self) -> bool:
        """Whether two sides that are no neighbours meet: then its area is not what it holds."""
        a = self.corners
        b = np.roll(a, -1, axis=0)
        n = len(a)
        i, j = np.triu_indices(n, 2)
        apart = (j - i) != n - 1
        i, j = i[apart], j[apart]

        def side(p: NDArray[Any], q: NDArray[Any], r: NDArray[Any]) -> NDArray[Any]:
            return (q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (
                r[:, 0] - p[:, 0]
            )

        between = side(a[i], b[i], a[j]) * side(a[i], b[i], b[j]) < 0
        around = side(a[j], b[j], a[i]) * side(a[j], b[j], b[i]) < 0
        return bool((between & around).any())

    @property
    def area_px(self) -> float:
        """Level-0 px² inside (shoelace formula)."""
        x, y = self.corners.T
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)

    def contains(self, xy: NDArray[Any]) -> NDArray[np.bool_]:
        """Which points (N, 2) lie inside, by the even-odd rule."""
        points = np.asarray(xy, np.float64).reshape(-1, 2)
        corners = self.corners
        low, high = corners.min(axis=0), corners.max(axis=0)
        near = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
        inside = np.zeros(len(points), bool)
        px, py = points[near].T
        odd = np.zeros(len(near), bool)
        for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if ay == by:
                continue
            crosses = (ay > py) != (by > py)
            odd ^= crosses & (px < (bx - ax) * (py - ay) / (by - ay) + ax)
        inside[near] = odd
        return inside


@dataclass(frozen=True)
class AreaChange:
    """One area before and after; None where there is none."""

    id: str
    before: Area | None
    after: Area | None


@dataclass(frozen=True, eq=False)
class Edit:
    """One thing a person did: cells and areas as they were and as they are now.

    Attributes
    ----------
    what : str
        In a person's words, e.g. ``relabel 12 cells as tumour``.
    keys : (N, 2) uint64
        No key comes twice.
    before, after : CellStates
        N rows each.
    class_names : tuple of str
        What class ids mean.
    areas : tuple of AreaChange
    """

    what: str
    keys: NDArray[np.uint64]
    before: CellStates
    after: CellStates
    class_names: tuple[str, ...]
    areas: tuple[AreaChange, ...] = ()

    def __post_init__(self) -> None:
        keys = np.array(self.keys, np.uint64).reshape(-1, 2)
        keys.flags.writeable = False
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "class_names", tuple(self.class_names))
        n = len(keys)
        if len(self.before) != n or len(self.after) != n:
            raise _refused(f"{n} keys, {len(self.before)} and {len(self.after)} states", "as many")
        # A set: sorting rows would be most of what a small edit costs.
        if len({*map(tuple, keys.tolist())}) < n:
            raise _refused("a cell that comes twice", "each cell once")
        status = np.concatenate((self.before.status, self.after.status))
        if n and status.max() > Status.ABSENT:
            raise _refused("a claim that another one stands for", "cells that are there")
        ids = np.concatenate((self.before.class_ids, self.after.class_ids))
        if len(ids) and (ids.min() < UNKNOWN or ids.max() >= len(self.class_names)):
            raise _refused(
                f"class ids {ids.min()}..{ids.max()}", f"{len(self.class_names)} classes"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def reversed(self) -> Edit:
        """The edit that takes this one back."""
        turned = tuple(AreaChange(a.id, a.after, a.before) for a in self.areas)
        return replace(self, before=self.after, after=self.before, areas=turned)


def new_keys(n: int) -> NDArray[np.uint64]:
    """Random keys (N, 2): version-4 UUIDs."""
    keys = np.frombuffer(secrets.token_bytes(16 * n), np.uint64).reshape(n, 2).copy()
    keys[:, 0] = (keys[:, 0] & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x4000)
    keys[:, 1] = (keys[:, 1] & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(1 << 63)
    return keys


@dataclass(frozen=True, slots=True)
class Said:
    """What stands for one touched cell.

    `claim` is the model's claim as it was when a person first touched it: (box, class id, score);
    None for an added cell. `box`, `class_id`, `score` and `status` are what holds now, `author`
    who said it, and `earlier` who had spoken before, the last one last.
    """

    box: tuple[float, float, float, float]
    class_id: int
    score: float
    status: Status
    author: str
    claim: tuple[tuple[float, float, float, float], int, float] | None
    earlier: tuple[str, ...] = ()


class Annotations:
    """All that people said of a slide: touched cells by key, and areas by id.

    Class ids refer to `class_names`, which grow when an edit brings a new name.
    """

    def __init__(self, class_names: Sequence[str] = ()) -> None:
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.cells: dict[Key, Said] = {}
        self.areas: dict[str, Area] = {}

    def __len__(self) -> int:
        return len(self.cells)

    def apply(self, edit: Edit, *, author: str = "", back: bool = False) -> None:
        """Let an edit hold; one that leaves a cell as the model claimed it forgets the cell.

        With `back` it takes an edit back: what stands then is said by who had said it before.
        """
        ids = self.translate(edit.class_names)
        before, after = edit.before, edit.after
        # Plain lists: a loop over numpy scalars takes five times as long.
        rows = zip(
            edit.keys.tolist(),
            before.boxes.tolist(),
            before.class_ids.tolist(),
            before.scores.tolist(),
            before.status.tolist(),
            after.boxes.tolist(),
            after.class_ids.tolist(),
            after.scores.tolist(),
            after.status.tolist(),
            strict=True,
        )
        for key, old_box, old_class, old_score, old_status, box, class_id, score, status in rows:
            name = (key[0], key[1])
            if status in (Status.CLAIMED, Status.ABSENT):
                self.cells.pop(name, None)
                continue
            known = self.cells.get(name)
            speaker = author
            earlier: tuple[str, ...] = ()
            if known is not None and back:
                speaker = known.earlier[-1] if known.earlier else author
                earlier = known.earlier[:-1]
            elif known is not None:
                earlier = (*known.earlier, known.author)
            if known is not None:
                claim = known.claim
            elif old_status == Status.ABSENT:
                claim = None
            else:
                claim = (tuple(old_box), ids[old_class], old_score)
            self.cells[name] = Said(
                tuple(box), ids[class_id], score, Status(status), speaker, claim, earlier
            )
        for change in edit.areas:
            if change.after is None:
                self.areas.pop(change.id, None)
            else:
                self.areas[change.id] = change.after

    def translate(self, names: Sequence[str]) -> dict[int, int]:
        """Class ids of another list of names as ids of ours, -1 included; new names are added."""
        self.class_names = (*self.class_names, *(n for n in names if n not in self.class_names))
        own = {name: i for i, name in enumerate(self.class_names)}
        return {UNKNOWN: UNKNOWN, **{i: own[name] for i, name in enumerate(names)}}

    def states(self) -> tuple[NDArray[np.uint64], CellStates]:
        """Keys (N, 2) in order, and what holds for them."""
        keys = sorted(self.cells)
        said = [self.cells[k] for k in keys]
        return (
            np.array(keys, np.uint64).reshape(-1, 2),
            CellStates(
                np.array([s.box for s in said], np.float32).reshape(-1, 4),
                np.array([s.class_id for s in said], np.int16),
                np.array([s.score for s in said], np.float32),
                np.array([s.status for s in said], np.uint8),
            ),
        )

    def digest(self) -> str:
        """sha256 of everything that holds, independent of the way it came about."""
        sha = hashlib.sha256()
        for key in sorted(self.cells):
            said = self.cells[key]
            name = self.class_names[said.class_id] if said.class_id >= 0 else None
            sha.update(repr((key, said.box, name, said.score, int(said.status))).encode())
        for key_text in sorted(self.areas):
            area = self.areas[key_text]
            sha.update(json.dumps([key_text, area.polygon, area.kind, area.name]).encode())
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class CorrectedCells:
    """Cells as they stand after corrections, ready for a file.

    Attributes
    ----------
    cells : Detections
        N cells, level-0 px, canonical order. Measurements of cells that a person added or moved
        are NaN where they were not made again.
    ids : (N, 2) uint64
        Halves of each cell's UUID; a cell keeps its own through every correction.
    status : (N,) uint8
        `Status`.
    authors : (N,) str
        Who said it; empty for claims.
    areas : mapping of str to Area
    """

    cells: Detections
    ids: NDArray[np.uint64]
    status: NDArray[np.uint8]
    authors: NDArray[np.str_]
    areas: Mapping[str, Area] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells)

    def words(self) -> Iterator[str]:
        """Status of every cell as `STATUS_WORDS` has it."""
        return (STATUS_WORDS[Status(int(s))] for s in self.status)


def _refused(found: str, expected: str) -> AnnotationError:
    return AnnotationError(
        "This cannot be an annotation.",
        expected=expected,
        found=found,
        remedy="draw it again, or check where it comes from",
    )
