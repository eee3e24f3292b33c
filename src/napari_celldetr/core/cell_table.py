"""Every cell of a slide as it stands now: a model's claims, and what people said of them.

One table with a grid index behind everything that is drawn, counted or written. Claims come tile
by tile or as a merged result; edits change rows in place and are known by key, so that they hold
again when a later run replaces the claims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import (
    SAID,
    SHOWN,
    Annotations,
    Area,
    CellStates,
    CorrectedCells,
    Edit,
    Key,
    Said,
    Status,
)
from napari_celldetr.core.claims import Block, Claims, Columns, MakeKeys, Rows
from napari_celldetr.core.detections import (
    UNKNOWN,
    Detections,
    Source,
    canonical_order,
    class_counts,
)
from napari_celldetr.core.grid_index import inside
from napari_celldetr.core.predictor import PROBABILITY
from napari_celldetr.core.regions import Region
from napari_celldetr.core.taught import OF_CLASS, Teacher


class CellTable:
    """The cells of one slide.

    Parameters
    ----------
    class_names : sequence of str
        The model's classes. Classes that people added follow them.
    make_keys : callable
        A table of claims -> keys (N, 2) uint64, the same for the same cell of the same model.
    threshold : float
        Claims scored lower are kept back; what a person vouches for is always shown.
    """

    def __init__(
        self, class_names: Sequence[str], make_keys: MakeKeys, *, threshold: float = 0.5
    ) -> None:
        self.annotations = Annotations(class_names)
        self._make_keys = make_keys
        self._threshold = threshold
        self._rows = Columns()
        self._blocks: list[Block] = []
        self._loose: set[int] = set()
        self._loose_rows: Rows = np.zeros(0, np.int64)
        self._own: dict[Key, int] = {}
        self._own_keys: dict[int, Key] = {}
        self._covers: dict[Key, int] = {}
        self._teacher: Teacher | None = None

    # What there is ----------------------------------------------------------------------

    def __len__(self) -> int:
        return self._rows.size

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes: the model's, then those that people added."""
        return self.annotations.class_names

    @property
    def source(self) -> Source:
        """Where the claims came from."""
        return self._blocks[0].claims.table.source if self._blocks else Source()

    @property
    def boxes(self) -> NDArray[np.float32]:
        """Of every row ever, (N, 4); see `kept` for which count."""
        return self._rows.boxes[: self._rows.size]

    @property
    def centres(self) -> NDArray[np.float32]:
        """(N, 2) x, y."""
        return self._rows.centres[: self._rows.size]

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,)."""
        return self._rows.scores[: self._rows.size]

    @property
    def class_ids(self) -> NDArray[np.int16]:
        """(N,) ids of `class_names`."""
        return self._rows.class_ids[: self._rows.size]

    @property
    def status(self) -> NDArray[np.uint8]:
        """(N,) `Status`."""
        return self._rows.status[: self._rows.size]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(N,) which rows are cells as things stand."""
        return self._rows.kept[: self._rows.size]

    @property
    def threshold(self) -> float:
        """Score from which claims count."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._threshold = value
        self._judge(slice(0, self._rows.size))

    def _judge(self, which: Any) -> None:
        rows = self._rows
        status = rows.status[which]
        good = rows.scores[which] >= np.float32(self._threshold)
        rows.kept[which] = SHOWN[status] & (good | SAID[status])

    # Claims -----------------------------------------------------------------------------

    def add(self, table: Detections, *, within: Region | None = None) -> None:
        """Claims of one more tile; earlier claims `within` its core make room for them."""
        if within is not None:
            self._make_room(within)
        if not len(table):
            return
        claims, here = Claims(table), []
        if self.annotations.cells:
            claims.find_by_key(self._make_keys)
            assert claims.keys is not None
            here = [(a, b) for a, b in claims.keys.tolist() if (a, b) in self.annotations.cells]
            self._retire(here)
        self._take(claims)
        self._restate(here)

    def _make_room(self, region: Region) -> None:
        # Old claims go, whatever a person said of their like is said of the new ones.
        rows = np.concatenate(
            [np.zeros(0, np.int64), *(b.near(region) for b in self._blocks if b.meets(region))]
        )
        now = self._rows
        rows = rows[inside(now.centres[rows], region) & (now.status[rows] == Status.CLAIMED)]
        now.status[rows] = Status.REPLACED
        now.kept[rows] = False

    def _retire(self, keys: list[Key]) -> None:
        """Empty the rows that hold what was said of cells whose claims now come anew."""
        rows = self.rows_of(keys)
        rows = rows[rows >= 0]
        self._rows.status[rows] = Status.REPLACED
        self._rows.kept[rows] = False
        for key in keys:
            if (row := self._own.pop(key, None)) is not None:
                del self._own_keys[row]

    def replace(self, claims: Claims, *, covered: Mapping[Key, int] | None = None) -> None:
        """Other claims instead of all there are; what people said holds on.

        `covered` names, for keys that are not among the claims, the row that each stands for
        (`napari_celldetr.pipeline.reapply`).
        """
        self._rows = Columns()
        self._blocks, self._own, self._own_keys, self._covers = [], {}, {}, {}
        self._loose, self._loose_rows = set(), np.zeros(0, np.int64)
        self._take(claims)
        for key, row in (covered or {}).items():
            if key in self.annotations.cells:
                self._covers[key] = row
        self._restate(list(self.annotations.cells))

    def _take(self, claims: Claims) -> None:
        table, columns = claims.table, claims.columns
        ids = self.annotations.translate(table.class_names)
        same = all(ids[i] == i for i in range(len(table.class_names)))
        if columns is not None and same and not self._rows.size:
            # Made for this; taken over once, for edits change them.
            self._rows, claims.columns = columns, None
            where = slice(0, columns.size)
        else:
            where = self._rows.append(len(table))
            rows = self._rows
            rows.boxes[where] = table.boxes
            rows.centres[where] = table.centres
            rows.scores[where] = table.scores
            rows.class_ids[where] = _lookup(ids)[table.class_ids]
            rows.status[where] = Status.CLAIMED
        self._judge(where)
        if len(table):
            self._blocks.append(Block.of(where.start, claims))
            if self._teacher is not None:
                self._rows.class_ids[where] = self._classes_of(claims)

    # Lessons ----------------------------------------------------------------------------

    @property
    def teacher(self) -> Teacher | None:
        """The lesson that gives claims their classes; None for the model itself."""
        return self._teacher

    @property
    def claims(self) -> tuple[Claims, ...]:
        """What the claims came in. A job may let each be `taught_by` a lesson beforehand."""
        return tuple(block.claims for block in self._blocks)

    def teach(self, teacher: Teacher | None) -> Rows:
        """Let a lesson give every claim its class, or none; returns the rows (M,) that changed.

        What people said stays, and so do boxes, scores, keys and what is kept. Claims that come
        later get the lesson as well. The model's own classes stay with the claims: without a
        lesson the table is again what it was. Raises `DataError`, with nothing changed, when the
        lesson is of another model.
        """
        before = self.class_ids.copy()
        # All are taught before any is written: a lesson that does not fit leaves no half of it.
        for claims in self.claims:
            claims.taught_by(teacher)
        self._teacher = teacher
        now = self._rows
        for block in self._blocks:
            mine = slice(block.start, block.stop)
            theirs = _FROM_CLAIMS[now.status[mine]]
            now.class_ids[mine][theirs] = self._classes_of(block.claims)[theirs]
        return np.flatnonzero(self.class_ids != before)

    def model_classes(self, rows: Rows) -> NDArray[np.int16]:
        """What the model itself claims for rows (M,), whatever was taught or said since.

        -1 for cells that it never claimed.
        """
        classes = np.full(len(rows), UNKNOWN, np.int16)
        for mine, local, table in self.claims_behind(rows):
            ids = _lookup(self.annotations.translate(table.class_names))
            classes[mine] = ids[table.class_ids[local]]
        return classes

    def _classes_of(self, claims: Claims) -> NDArray[np.int16]:
        """Class ids of claims as things stand: the lesson's, or the model's own."""
        taught = claims.taught_by(self._teacher)
        told = claims.table if taught is None else taught
        return _lookup(self.annotations.translate(told.class_names))[told.class_ids]

    # Edits ------------------------------------------------------------------------------

    def apply(self, edit: Edit, *, author: str = "", back: bool = False) -> Rows:
        """Let an edit hold, or take one `back`; returns the rows it changed (N,)."""
        self.annotations.apply(edit, author=author, back=back)
        return self._restate([(int(a), int(b)) for a, b in edit.keys.tolist()])

    def load(self, annotations: Annotations) -> None:
        """Let all that people said earlier hold, e.g. from a journal; replaces what held."""
        names = self.annotations.class_names
        before = list(self.annotations.cells)
        self.annotations = Annotations(names)
        ids = self.annotations.translate(annotations.class_names)
        for key, said in annotations.cells.items():
            claim = said.claim
            self.annotations.cells[key] = Said(
                said.box,
                ids[said.class_id],
                said.score,
                said.status,
                said.author,
                None if claim is None else (claim[0], ids[claim[1]], claim[2]),
                said.earlier,
            )
        self.annotations.areas = dict(annotations.areas)
        self._restate([*before, *self.annotations.cells])

    def keys_of(self, rows: Rows) -> NDArray[np.uint64]:
        """Keys (N, 2) of rows."""
        keys = np.zeros((len(rows), 2), np.uint64)
        known = np.zeros(len(rows), bool)
        for block in self._blocks:
            mine = (rows >= block.start) & (rows < block.stop)
            if mine.any():
                block.claims.find_by_key(self._make_keys)
                assert block.claims.keys is not None
                keys[mine] = block.claims.keys[rows[mine] - block.start]
                known |= mine
        for i in np.flatnonzero(~known):
            keys[i] = self._own_keys[int(rows[i])]
        return keys

    def rows_of(self, keys: Sequence[Key]) -> Rows:
        """Row (N,) of each key; -1 for those that are nowhere in the table."""
        array = np.array(keys, np.uint64).reshape(-1, 2)
        rows = np.array([self._own.get(k, -1) for k in keys], np.int64)
        # What came last counts: an earlier claim of the same cell has made room.
        for block in reversed(self._blocks):
            open_ = np.flatnonzero(rows < 0)
            if not len(open_):
                break
            block.claims.find_by_key(self._make_keys)
            found = block.claims.rows_of(array[open_])
            rows[open_[found >= 0]] = found[found >= 0] + block.start
        return rows

    def claim_rows(self, keys: Sequence[Key]) -> Rows:
        """Row (N,) of the claim that each key is, or stands for in this run; -1 where none is."""
        rows = self.rows_of(keys)
        for i in np.flatnonzero(np.isin(rows, list(self._own_keys))).tolist():
            rows[i] = self._covers.get(keys[i], -1)
        return rows

    def _restate(self, keys: Sequence[Key]) -> Rows:
        """Make the rows of `keys` say what the annotations say."""
        if not keys:
            return np.zeros(0, np.int64)
        keys = list(dict.fromkeys(keys))
        rows = self.rows_of(keys)
        said = [self.annotations.cells.get(k) for k in keys]
        missing = [i for i, s in enumerate(said) if s is not None and rows[i] < 0]
        if missing:
            where = self._rows.append(len(missing))
            rows[missing] = np.arange(where.start, where.stop)
            for i in missing:
                self._own[keys[i]] = int(rows[i])
                self._own_keys[int(rows[i])] = keys[i]
        covers = [self._covers[k] for k in keys if k in self._covers]
        here = rows >= 0
        self._write(rows[here], [s for s, there in zip(said, here, strict=True) if there])
        changed = np.concatenate((rows[here], self._recover(keys, said, covers)))
        self._judge(changed)
        return changed

    def _write(self, rows: Rows, said: Sequence[Said | None]) -> None:
        now = self._rows
        told = np.array([s is not None for s in said], bool)
        cells = [s for s in said if s is not None]
        mine = rows[told]
        if len(mine):
            now.boxes[mine] = np.array([s.box for s in cells], np.float32)
            now.scores[mine] = np.array([s.score for s in cells], np.float32)
            now.class_ids[mine] = np.array([s.class_id for s in cells], np.int16)
            now.status[mine] = np.array([s.status for s in cells], np.uint8)
        self._forget(rows[~told])
        now.centres[rows] = (now.boxes[rows, :2] + now.boxes[rows, 2:]) / 2
        own = np.array([r in self._own_keys for r in rows.tolist()], bool)
        self._loose.update(rows[own | (now.status[rows] == Status.MOVED)].tolist())
        self._loose_rows = np.array(sorted(self._loose), np.int64)

    def _forget(self, rows: Rows) -> None:
        # Rows of which nothing is said any more: claims as they came, own cells gone.
        now = self._rows
        now.status[rows] = Status.ABSENT
        for block in self._blocks:
            mine = rows[(rows >= block.start) & (rows < block.stop)]
            if not len(mine):
                continue
            table, local = block.claims.table, mine - block.start
            now.boxes[mine] = table.boxes[local]
            now.scores[mine] = table.scores[local]
            now.class_ids[mine] = self._classes_of(block.claims)[local]
            now.status[mine] = Status.CLAIMED
        hidden = np.array(list(self._covers.values()), np.int64)
        now.status[rows[np.isin(rows, hidden)]] = Status.COVERED

    def _recover(
        self, keys: Sequence[Key], said: Sequence[Said | None], covers: Sequence[int]
    ) -> Rows:
        # Claims that stand behind a person's cell are hidden for as long as it says something.
        for key, one in zip(keys, said, strict=True):
            row = self._covers.get(key)
            if row is not None and self._rows.status[row] in (Status.CLAIMED, Status.COVERED):
                self._rows.status[row] = Status.CLAIMED if one is None else Status.COVERED
        return np.array(covers, np.int64)

    # Questions --------------------------------------------------------------------------

    def rows_in(self, region: Region) -> Rows:
        """Kept cells whose centre lies in `region`."""
        rows = self.rows_near(region)
        rows = rows[self._rows.kept[rows]]
        return rows[inside(self._rows.centres[rows], region)]

    def rows_near(self, region: Region) -> Rows:
        """Cells of any score whose centre lies in `region` or not far from it."""
        found = [b.near(region) for b in self._blocks if b.meets(region)]
        rows = np.concatenate(found) if found else np.zeros(0, np.int64)
        if len(self._loose_rows):
            settled = np.ones(self._rows.size, bool)
            settled[self._loose_rows] = False
            rows = np.concatenate((rows[settled[rows]], self._loose_rows))
        return rows[SHOWN[self._rows.status[rows]]]

    def deleted_in(self, region: Region) -> Rows:
        """Claims in `region` that a person deleted."""
        rows = np.flatnonzero(self.status == Status.DELETED)
        return rows[inside(self._rows.centres[rows], region)]

    def rows_within(self, area: Area) -> Rows:
        """Kept cells whose centre lies in a drawn area."""
        low, high = area.corners.min(axis=0), area.corners.max(axis=0)
        x0, y0 = np.floor(low).astype(int).tolist()
        x1, y1 = (np.floor(high) + 1).astype(int).tolist()
        rows = self.rows_in(Region.from_edges(x0, y0, x1, y1))
        return rows[area.contains(self._rows.centres[rows])]

    def nearest(self, xy: tuple[float, float], reach: float) -> int | None:
        """The kept cell at a place, or None.

        Of the cells whose box holds it, else of those whose centre is within `reach` px, the one
        with the nearest centre.
        """
        around = int(np.ceil(max(reach, 64.0)))
        x, y = xy
        rows = self.rows_in(Region(int(x) - around, int(y) - around, 2 * around, 2 * around))
        if not len(rows):
            return None
        boxes = self._rows.boxes[rows]
        apart = np.hypot(*(self._rows.centres[rows] - np.array(xy)).T)
        holds = (boxes[:, 0] <= x) & (boxes[:, 2] >= x) & (boxes[:, 1] <= y) & (boxes[:, 3] >= y)
        usable = np.flatnonzero(holds if holds.any() else apart <= reach)
        return int(rows[usable[np.argmin(apart[usable])]]) if len(usable) else None

    def counts(self, rows: Rows | None = None) -> dict[str, int]:
        """Kept cells per class, of the whole slide or of some rows; ``unknown`` last if any."""
        ids = self.class_ids[self.kept] if rows is None else self._rows.class_ids[rows]
        return class_counts(ids, self.class_names)

    def states(self, rows: Rows) -> CellStates:
        """What some rows are now."""
        now = self._rows
        return CellStates(now.boxes[rows], now.class_ids[rows], now.scores[rows], now.status[rows])

    def select(self, rows: Rows) -> Detections:
        """Some rows as a table, in that order, with the measurements and embeddings of claims.

        A person's own cells have NaN there, and so do measurements of a cell that was moved, and
        the model's certainty of a class that was changed. After a lesson the certainty is the
        lesson's. The model's probabilities of all classes stay with the claims: they are what
        lessons start from, and after one they would contradict the class.
        """
        now = self._rows
        columns, vectors = self._measured(rows)
        return Detections(
            now.boxes[rows],
            now.scores[rows],
            now.class_ids[rows],
            self.class_names,
            vectors,
            columns,
            self.source,
        )

    def measured(self) -> tuple[str, ...]:
        """Names of the measurements that all claims have."""
        tables = [b.claims.table for b in self._blocks]
        shared = tables[0].columns if tables else ()
        own = (n for n in shared if not n.startswith(PROBABILITY))
        return tuple(n for n in own if all(n in t.columns for t in tables))

    def measured_column(self, name: str, rows: Rows) -> NDArray[Any]:
        """One measurement of some rows, see `select`."""
        return self._columns_of(rows, (name,))[name]

    def _measured(self, rows: Rows) -> tuple[dict[str, NDArray[Any]], NDArray[np.float16] | None]:
        tables = [b.claims.table for b in self._blocks]
        vectors = None
        sizes = {None if t.embeddings is None else t.embeddings.shape[1] for t in tables}
        if len(sizes) == 1 and (size := sizes.pop()) is not None:
            vectors = np.full((len(rows), size), np.nan, np.float16)
            for mine, local, table in self.claims_behind(rows):
                assert table.embeddings is not None
                vectors[mine] = table.embeddings[local]
        return self._columns_of(rows, self.measured()), vectors

    def _columns_of(self, rows: Rows, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        first = self._blocks[0].claims.table if self._blocks else None
        columns = {n: _empty(first.columns[n].dtype, len(rows)) for n in names if first is not None}
        status = self._rows.status[rows]
        still = status != Status.MOVED
        still_of_class = still & (status != Status.RECLASSED)
        for block in self._blocks:
            mine = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            local, measured = rows[mine] - block.start, dict(block.claims.table.columns)
            taught = block.claims.taught_by(self._teacher)
            if taught is not None:
                measured[OF_CLASS] = taught.probability
            for name, column in columns.items():
                holds = (still_of_class if name == OF_CLASS else still)[mine]
                column[mine[holds]] = measured[name][local[holds]]
        return columns

    def claims_behind(self, rows: Rows) -> Iterator[tuple[Rows, Rows, Detections]]:
        """Per table of claims: which of `rows` are its claims, and which of its rows these are."""
        for block in self._blocks:
            mine = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            yield mine, rows[mine] - block.start, block.claims.table

    def copy(self) -> CellTable:
        """A table that later edits and claims do not change; what never changes is shared."""
        other = CellTable(self.class_names, self._make_keys, threshold=self._threshold)
        other.annotations.cells = self.annotations.cells.copy()
        other.annotations.areas = self.annotations.areas.copy()
        other._rows = self._rows.copy()
        other._blocks = list(self._blocks)
        other._loose, other._loose_rows = self._loose.copy(), self._loose_rows
        other._own, other._own_keys = self._own.copy(), self._own_keys.copy()
        other._covers = self._covers.copy()
        other._teacher = self._teacher
        return other

    def corrected(self) -> CorrectedCells:
        """All kept cells with ids, status and authors, in canonical order."""
        now = self._rows
        rows = np.flatnonzero(self.kept)
        order = canonical_order(now.boxes[rows], now.scores[rows], now.class_ids[rows])
        rows = rows[order]
        ids = self.keys_of(rows)
        authors = np.zeros(len(rows), f"U{max(map(len, self._authors()), default=1) or 1}")
        for i in np.flatnonzero(SAID[now.status[rows]]):
            authors[i] = self.annotations.cells[(int(ids[i, 0]), int(ids[i, 1]))].author
        return CorrectedCells(
            self.select(rows), ids, now.status[rows], authors, dict(self.annotations.areas)
        )

    def _authors(self) -> Iterator[str]:
        yield from {said.author for said in self.annotations.cells.values()}


_FROM_CLAIMS = np.isin(np.arange(len(Status)), (Status.CLAIMED, Status.COVERED, Status.REPLACED))
"""By status: whether a row says what the model claims, shown or not."""


def _lookup(ids: Mapping[int, int]) -> NDArray[np.int16]:
    """Class ids of another list of names as ours, by index; the last one is that of unknown."""
    return np.array([*(ids[i] for i in range(len(ids) - 1)), UNKNOWN], np.int16)


def _empty(dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    """Rows without a value: NaN, or an empty word where values are words."""
    if dtype.kind in "biuf":
        wide = dtype if dtype.kind == "f" else np.dtype(np.float32)
        return np.full(n, np.nan, wide)
    return np.zeros(n, dtype) if dtype.kind != "O" else np.full(n, "", object)
