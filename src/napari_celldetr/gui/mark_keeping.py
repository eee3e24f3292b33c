"""Landmarks that outlast the window: each pair's are kept in the project as they are set. No Qt."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from napari_celldetr.gui.landmarks import Landmarks, read_landmarks, write_landmarks
from napari_celldetr.gui.layers import SLIDE_KEY
from napari_celldetr.gui.sources import levels_of
from napari_celldetr.pipeline.project import Project, default_folder

FOLDER = "landmarks"
SAMPLED_PX = 256
"""Rows and columns, at most, of the pixels by which a slide without a file is known again."""


def place_of(he: Any, ihc: Any) -> Path:
    """The file of a pair of slide layers, in the project; it need not be there."""
    name = hashlib.sha256(f"{_known_by(he)}\n{_known_by(ihc)}".encode()).hexdigest()
    return default_folder() / FOLDER / f"{name[:32]}.csv"


def keep(marks: Landmarks, place: Path) -> None:
    """Keep the finished landmarks, or nothing where there are none.

    `ExportError` if that is not possible, `AnnotationError` without a project to keep them in.
    """
    if marks.pairs:
        Project.open(place.parent.parent)
        place.parent.mkdir(exist_ok=True)
        write_landmarks(marks, place)
    else:
        place.unlink(missing_ok=True)


def kept(place: Path) -> Landmarks:
    """What was kept; `TransformError` where that cannot be read."""
    return read_landmarks(place) if place.is_file() else Landmarks()


def _known_by(layer: Any) -> str:
    """What a slide layer is known by: its file's name and size, or some of its pixels."""
    levels = levels_of(layer)
    path = layer.metadata.get(SLIDE_KEY)
    if path is not None and Path(path).is_file():
        return f"{Path(path).name} {Path(path).stat().st_size} {tuple(levels[0].shape)}"
    rows, columns = (max(1, -(-n // SAMPLED_PX)) for n in levels[-1].shape[:2])
    sample = np.ascontiguousarray(np.asarray(levels[-1][::rows, ::columns]))
    return f"{tuple(levels[0].shape)} {hashlib.sha256(sample.tobytes()).hexdigest()}"
