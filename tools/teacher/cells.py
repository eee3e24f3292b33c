"""Labelled cells with what a model says of them: found, matched with the truth, kept in a file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.head import offsets
from napari_celldetr.core.metrics.matching import match_points
from napari_celldetr.nets.registry import load_model
from napari_celldetr.training.datasets import resample
from napari_celldetr.training.evaluate import found_cells
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data


@dataclass(frozen=True, eq=False)
class Cells:
    """N found cells whose true class is known.

    Attributes
    ----------
    vectors : (N, D) float16
    word : (N, K) float32
        log of the model's class probabilities.
    truth : (N,) int64
        Ids of the data set's classes.
    group, field : (N,) str
        Patient (or slide) and field.
    xy : (N, 2) float32
        µm in the field.
    """

    vectors: NDArray[np.float16]
    word: NDArray[np.float32]
    truth: NDArray[np.int64]
    group: NDArray[np.str_]
    field: NDArray[np.str_]
    xy: NDArray[np.float32]

    def select(self, which: NDArray[Any]) -> Cells:
        """Some of them."""
        return Cells(*(getattr(self, f.name)[which] for f in fields(self)))

    def squares(self, side_um: float) -> NDArray[np.int64]:
        """Number (N,) of the square each lies in, of this side; none is of two fields."""
        place = np.floor(self.xy / side_um).astype(np.int64)
        _, number = np.unique(self.field, return_inverse=True)
        return np.asarray(number * 10**6 + place[:, 0] * 10**3 + place[:, 1], np.int64)


def find_cells(
    model: str,
    data: str,
    class_names: tuple[str, ...],
    *,
    split: str | None = None,
    radius_um: float = 3.0,
    cache: Path,
) -> Cells:
    """Cells that a model finds above its threshold and the truth has within `radius_um`."""
    if not cache.is_file():
        fields_ = load_fields(parse_data(data)[0], class_names=class_names, split=split)
        predictor = load_model(model, device="cpu", class_columns=True)
        parts = [_of_field(predictor, field, radius_um) for field in fields_]
        cache.parent.mkdir(parents=True, exist_ok=True)
        joined = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Cells)]
        names = [f.name for f in fields(Cells)]
        np.savez(cache, **dict(zip(names, joined, strict=True)))
    with np.load(cache, allow_pickle=False) as kept:
        return Cells(*(kept[f.name] for f in fields(Cells)))


def _of_field(predictor: Any, field: Any, radius_um: float) -> Cells:
    small = resample(field, predictor.card.mpp)
    found = found_cells(predictor, small).above(predictor.card.threshold)
    truth, row, _ = match_points(small.points, found.centres, radius_um / predictor.card.mpp)
    known = small.class_ids[truth] >= 0
    truth, row = truth[known], row[known]
    cells = found.select(row)
    assert cells.embeddings is not None
    return Cells(
        cells.embeddings,
        offsets(cells, cells.class_names),
        small.class_ids[truth].astype(np.int64),
        np.full(len(row), field.group),
        np.full(len(row), field.name),
        cells.centres * np.float32(predictor.card.mpp),
    )
