"""Results of runs on one slide: each under a name of its own, never written over.

A run is two files: a Parquet table, then a JSON file that says what it is and how it reads in
sha256. A table without its JSON was never finished. The newest run counts; a few older ones are
kept, and those that corrections speak of.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import AnnotationError, CellDETRError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.atomic import replacing, why
from napari_celldetr.pipeline.project_files import (
    inside,
    names_in,
    read_json,
    refused,
    unwritable,
    write_json,
)

SCHEMA = 1
KEEP = 5
MAX_CELLS, MAX_BYTES = 50_000_000, 8 * 2**30
_NAME = re.compile(r"\d{8}T\d{9}-[0-9a-f]{6}\.json")
_LONGEST_TEXT = 2**20


@dataclass(frozen=True, slots=True)
class RunAbout:
    """How a result came about.

    Attributes
    ----------
    model, weights : str
        Name and weights sha256; taken from the table's source where empty.
    config : str
        The job's settings as JSON.
    threshold : float or None
        That the person had chosen when it was saved.
    region : Region or None
        Level-0 px; None for the whole slide.
    report : str
        What became of the tiles, in words.
    time, name, cells
        When it was saved (UTC, ISO 8601), under which name, and how many cells; filled in by
        `RunStore.save`.
    """

    model: str = ""
    weights: str = ""
    config: str = "{}"
    threshold: float | None = None
    region: Region | None = None
    report: str = ""
    time: str = ""
    name: str = ""
    cells: int = 0


class RunStore:
    """The folder ``cells`` of one slide.

    `problems` collects what was left out because it is damaged, in words.
    """

    def __init__(self, root: Path, folder: Path, *, referred: Callable[[], set[str]]) -> None:
        self._root, self._folder, self._referred = root, folder, referred
        self._saving = threading.Lock()
        self.problems: list[str] = []

    def save(self, table: Detections, about: RunAbout, *, keep: int = KEEP) -> RunAbout:
        """Save a result under a new name; the same `about` with time and name filled in.

        It is read back before it counts. Then older runs are removed, as `_superseded` says.
        Raises `AnnotationError` when it cannot be written; then nothing has changed.
        """
        with self._saving:
            when = self._next_time()
            stamp = re.sub(r"[-:.]", "", when.split("+")[0])
            about = replace(
                about,
                model=about.model or table.source.model,
                weights=about.weights or table.source.weights_sha256,
                threshold=None if about.threshold is None else float(about.threshold),
                time=when,
                name=f"{stamp}-{secrets.token_hex(3)}",
                cells=len(table),
            )
            self._write(table, about)
            self._remove_old(keep)
        return about

    def runs(self) -> list[RunAbout]:
        """All finished runs, the newest first; damaged ones are left out and told."""
        return [run for run, _ in self._read_all()]

    def latest(self) -> tuple[Detections, RunAbout] | None:
        """The newest run that is whole, or None."""
        for about, said in self._read_all():
            try:
                return self._load(about, said), about
            except AnnotationError as error:
                self._tell(error)
        return None

    def load(self, name: str) -> tuple[Detections, RunAbout]:
        """One run by its name. `AnnotationError` when it is missing or damaged."""
        if not _NAME.fullmatch(f"{name}.json"):
            raise refused(name, "a name that no run has")
        about, said = self._read(f"{name}.json")
        return self._load(about, said), about

    # -- writing -------------------------------------------------------------------------

    def _next_time(self) -> str:
        """Now, but after every run there is, whatever the clock was then."""
        moment = datetime.now(UTC)
        for run, _ in self._read_all()[:1]:
            moment = max(moment, datetime.fromisoformat(run.time) + timedelta(milliseconds=1))
        return moment.isoformat(timespec="milliseconds")

    def _write(self, table: Detections, about: RunAbout) -> None:
        from napari_celldetr.pipeline.parquet import read_parquet, write_parquet

        path = inside(self._root, self._folder / f"{about.name}.parquet")
        said = asdict(about) | {
            "schema": SCHEMA,
            "region": about.region and [getattr(about.region, n) for n in _SIDES],
        }
        self._checked(path.name, said | {"bytes": 0})
        try:
            self._folder.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                write_parquet(table, temporary)
                if not _same(read_parquet(temporary), table):
                    raise refused(path.name, "other values than were written")
                said |= {"bytes": temporary.stat().st_size, "sha256": _sha256(temporary)}
        except OSError as error:
            raise unwritable(path.name, error) from error
        try:
            write_json(self._root, path.with_suffix(".json"), said)
        except AnnotationError:
            path.unlink(missing_ok=True)
            raise

    def _remove_old(self, keep: int) -> None:
        try:
            referred = self._referred()
        except AnnotationError as error:
            self._tell(error)  # Who knows what it would have named: nothing is removed.
            return
        for run in _superseded(self.runs(), referred, keep):
            try:
                for suffix in (".json", ".parquet"):  # Without its JSON a table does not count.
                    inside(self._root, self._folder / (run.name + suffix)).unlink(missing_ok=True)
            except OSError as error:
                self._tell(unwritable(run.name, error))

    # -- reading -------------------------------------------------------------------------

    def _read_all(self) -> list[tuple[RunAbout, dict[str, Any]]]:
        found = []
        for name in names_in(self._folder):
            if _NAME.fullmatch(name):
                try:
                    found.append(self._read(name))
                except AnnotationError as error:
                    self._tell(error)
        return sorted(found, key=lambda run: (run[0].time, run[0].name), reverse=True)

    def _read(self, name: str) -> tuple[RunAbout, dict[str, Any]]:
        said = read_json(self._root, self._folder / name)
        return self._checked(name, said), said

    @staticmethod
    def _checked(name: str, said: dict[str, Any]) -> RunAbout:
        try:
            return _about(name.rsplit(".", 1)[0], said)
        except (KeyError, TypeError, ValueError, OverflowError, CellDETRError) as error:
            raise refused(name, f"values that cannot be ({type(error).__name__})") from error

    def _load(self, about: RunAbout, said: dict[str, Any]) -> Detections:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from napari_celldetr.pipeline.parquet import read_parquet

        path = inside(self._root, self._folder / f"{about.name}.parquet")
        try:
            size = path.stat().st_size
            if size != said["bytes"] or size > MAX_BYTES:
                raise refused(path.name, f"{size:,} bytes")
            if _sha256(path) != said["sha256"]:
                raise refused(path.name, "changed bytes")
            shape = pq.read_metadata(path)
            unpacked = sum(shape.row_group(i).total_byte_size for i in range(shape.num_row_groups))
            if shape.num_rows != about.cells or unpacked > MAX_BYTES:
                raise refused(path.name, f"{shape.num_rows:,} rows, {unpacked:,} bytes unpacked")
            table = read_parquet(path)
        except OSError as error:
            raise refused(path.name, why(error)) from error
        except AnnotationError:
            raise
        except (pa.ArrowException, CellDETRError, KeyError, ValueError, TypeError) as error:
            raise refused(path.name, f"{type(error).__name__}: {str(error)[:100]}") from error
        return table

    def _tell(self, error: AnnotationError) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))


_SIDES = ("x", "y", "width", "height")


def _superseded(runs: list[RunAbout], referred: set[str], keep: int) -> list[RunAbout]:
    """Which runs (newest first) may go.

    The `keep` newest stay. An older one goes when no correction speaks of its weights. When one
    does, it goes only if a kept run has the same weights, settings and region: then that has the
    same claims. A correction holds its own claim besides, so nothing a person said hangs on it.
    """
    kept, gone = list(runs[: max(keep, 1)]), []
    for run in runs[max(keep, 1) :]:
        again = any(
            (run.weights, run.config, run.region) == (k.weights, k.config, k.region) for k in kept
        )
        if run.weights in referred and not again:
            kept.append(run)
        else:
            gone.append(run)
    return gone


def _about(name: str, said: dict[str, Any]) -> RunAbout:
    if said["schema"] != SCHEMA or not isinstance(said["bytes"], int):
        raise ValueError("schema")
    texts = {key: said[key] for key in ("model", "weights", "config", "report", "time")}
    if not all(isinstance(t, str) and len(t) <= _LONGEST_TEXT for t in texts.values()):
        raise ValueError("text")
    when = datetime.fromisoformat(texts["time"])
    if when.utcoffset() != timedelta(0) or when.year > 9000:
        raise ValueError("time")
    cells, threshold, region = said["cells"], said["threshold"], said["region"]
    if not isinstance(cells, int) or not 0 <= cells <= MAX_CELLS:
        raise ValueError("cells")
    return RunAbout(
        **texts,
        threshold=None if threshold is None else float(threshold),
        region=None if region is None else Region(*(int(side) for side in region)),
        name=name,
        cells=cells,
    )


def _same(one: Detections, other: Detections) -> bool:
    """Whether a table is what was written, text of any width included."""
    if set(one.columns) != set(other.columns) or one.class_names != other.class_names:
        return False
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (one.boxes, other.boxes),
        (one.scores, other.scores),
        (one.class_ids, other.class_ids),
    ]
    pairs += [(one.columns[name], other.columns[name]) for name in one.columns]
    if one.embeddings is not None and other.embeddings is not None:
        pairs.append((one.embeddings, other.embeddings))
    elif one.embeddings is not other.embeddings:
        return False
    return all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f") for a, b in pairs
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
