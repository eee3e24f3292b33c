"""The history of one slide's corrections as a table: who said what of which cell, and when.

The export of corrected cells holds what stands now; this holds how it came about, with what was
deleted, undone and redone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from napari_celldetr.core.annotations import STATUS_WORDS, Area, CellStates, Edit, Status
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.pipeline.cell_ids import as_text
from napari_celldetr.pipeline.csv_file import safe_text
from napari_celldetr.pipeline.journal import Entry, Journal

SUFFIX = ".history.csv"
_BOX = ("x0", "y0", "x1", "y1")
COLUMNS = (
    "entry", "time_utc", "author", "action", "what", "model", "weights_sha256", "cell", "area",
    *(f"{side}_{name}" for side in ("before", "after") for name in ("status", "class", *_BOX)),
    "before_outline", "after_outline",
)  # fmt: skip


def is_history(path: str | Path) -> bool:
    """Whether a path's suffix asks for the history."""
    return Path(path).name.lower().endswith(SUFFIX)


def rows_written(rows: int) -> str:
    """``1 row written``."""
    return f"{rows:,} row{'s' * (rows != 1)} written"


def history_job(journal: Path, target: Path) -> Job[int]:
    """Write the history of the journal at `journal` to `target`; returns the number of rows.

    A row per cell or area that an entry speaks of: ``entry`` counts from 1, ``action`` is
    ``edit``, ``undo`` or ``redo``, ``cell`` the id that exports have as well; boxes and outlines
    (``x y`` per corner, separated by ``;``) are in level-0 px. What was not there before, or is
    not any more, has the status ``absent``.

    Raises `AnnotationError` for a journal that cannot be read or is damaged anywhere, and
    `ExportError` when `target` cannot be written; an old file is then untouched.
    """
    with Journal.open(journal, author="", read_only=True) as said:
        if said.damage is not None:
            raise said.damage
        total, rows = len(said), 0
        try:
            with (
                replacing(target) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as file,
            ):
                file.write(",".join(COLUMNS) + "\n")
                for done, entry in enumerate(said.entries(), 1):
                    for line in _lines(entry, _edit_of(said, entry)):
                        file.write(line)
                        rows += 1
                    yield Progress(done, total, f"Writing {target.name}")
        except OSError as error:
            raise not_written(target.name, error) from error
    return rows


def _edit_of(journal: Journal, entry: Entry) -> Edit:
    if entry.target is None:
        return journal.edit(entry.seq)
    edit = journal.edit(entry.target)
    return edit.reversed() if entry.kind == "undo" else edit


def _lines(entry: Entry, edit: Edit) -> Iterator[str]:
    about = [str(entry.seq), entry.time, entry.author, entry.kind, entry.what]
    about += [entry.model, entry.weights]
    before, after = _states(edit.before, edit.class_names), _states(edit.after, edit.class_names)
    for cell, old, new in zip(as_text(edit.keys), before, after, strict=True):
        yield _line([*about, cell, "", *old, *new, "", ""])
    for change in edit.areas:
        was, now = _area(change.before), _area(change.after)
        none = [""] * len(_BOX)
        yield _line([*about, "", change.id, *was[:2], *none, *now[:2], *none, was[2], now[2]])


def _states(states: CellStates, names: tuple[str, ...]) -> Iterator[list[str]]:
    rows = zip(
        states.boxes.tolist(), states.class_ids.tolist(), states.status.tolist(), strict=True
    )
    for box, class_id, status in rows:
        if status == Status.ABSENT:
            yield ["absent", "", *([""] * len(_BOX))]
        else:
            name = names[class_id] if class_id >= 0 else "unknown"
            yield [STATUS_WORDS[Status(status)], name, *(f"{v:.2f}" for v in box)]


def _area(area: Area | None) -> tuple[str, str, str]:
    if area is None:
        return "absent", "", ""
    return area.kind, area.name, ";".join(f"{x:.2f} {y:.2f}" for x, y in area.polygon)


def _line(values: list[str]) -> str:
    return ",".join(safe_text(v) for v in values) + "\n"
