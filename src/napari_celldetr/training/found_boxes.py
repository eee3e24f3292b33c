"""Boxes of cells that a detector finds in unlabelled fields, kept so that they are found once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import JobError
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.registry import load_model
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.evaluate import found_cells
from napari_celldetr.training.pools import Pool

NAME = "boxes.npz"
SAVE_S = 30.0
"""Seconds after which what has been found is saved, at least."""


def find_boxes(
    pools: Sequence[Pool], model: str, *, device: str, mpp: float, cache: Path
) -> Job[list[Pool]]:
    """The pools with the detector's cells in place of any labels, at `mpp` µm/px.

    Cells scored below the model's threshold are left out. What is found is kept in the folder
    `cache` by field and model, and found again only where pixels, scale or model changed; one
    `Progress` per field.

    Raises `ModelError` when the model cannot be used, `JobError` when nothing can be saved.
    """
    predictor = load_model(model, device=device)
    kept = _read(cache / NAME)
    total = sum(len(p.fields) for p in pools)
    started = saved = time.monotonic()
    new, done, made = 0, 0, []
    for pool in pools:
        fields = []
        for field in pool.fields:
            small = resample(field, mpp)
            key = _key(small, predictor)
            if key not in kept:
                kept[key] = _find(predictor, field, small)
                new += 1
            fields.append(_labelled(small, kept[key]))
            done += 1
            if new and (done == total or time.monotonic() - saved > SAVE_S):
                _write(cache, kept)
                new, saved = 0, time.monotonic()
            seconds = time.monotonic() - started
            yield Progress(done, total, f"finding cells, field {done}", seconds=seconds)
        made.append(replace(pool, fields=tuple(fields)))
    return made


def _key(field: Field, predictor: Predictor) -> str:
    what = [predictor.card.weights_sha256, predictor.card.threshold, field.image.shape]
    sha = hashlib.sha256(json.dumps(what).encode())
    sha.update(np.ascontiguousarray(field.image).data)
    return sha.hexdigest()


def _find(predictor: Predictor, field: Field, wanted: Field) -> NDArray[np.float32]:
    """Boxes x0 y0 x1 y1 (N, 4) in px of `wanted`, the same field at another scale."""
    seen = resample(field, predictor.card.mpp)
    found = found_cells(predictor, seen).above(predictor.card.threshold)
    height, width = wanted.image.shape[:2]
    ratio = np.array([width / seen.image.shape[1], height / seen.image.shape[0]] * 2)
    return np.asarray(found.boxes * ratio, np.float32).reshape(-1, 4)


def _labelled(field: Field, boxes: NDArray[np.float32]) -> Field:
    centres = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
    height, width = field.image.shape[:2]
    inside = ((centres >= 0) & (centres < [width, height])).all(1)
    return replace(
        field,
        points=centres[inside],
        sizes=(boxes[:, 2:] - boxes[:, :2])[inside],
        class_ids=np.full(int(inside.sum()), -1, np.int16),
        class_names=(),
        instances=None,
        composition=None,
        complete=True,
    )


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise JobError(
            f"The boxes kept in {path.name} cannot be read.",
            expected="the file that an earlier run wrote",
            found=f"{type(error).__name__}: {str(error)[:120]}",
            remedy="delete it: the boxes are found anew",
        ) from error


def _write(folder: Path, boxes: dict[str, NDArray[np.float32]]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / (NAME + ".part")
        with temporary.open("wb") as file:
            np.savez(file, **boxes)  # type: ignore[arg-type]
        temporary.replace(folder / NAME)
    except OSError as error:
        raise JobError(
            "The boxes that were found cannot be saved.",
            expected=f"a folder to write into: {folder}",
            found=error.strerror or type(error).__name__,
            remedy="choose another one with --output, or make room",
        ) from error
