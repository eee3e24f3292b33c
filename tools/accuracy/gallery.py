"""Pages of pictures: fields from best to worst, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pictures import around, best_median_worst, field_score, panel, sheet
from PIL import Image

from napari_celldetr.core.metrics import PointField, match_points

SHOWN_MPP = 0.5
"""Fields are shown at this µm/px, the finest that all have."""


@dataclass(frozen=True)
class Judged:
    """A field's picture, its true and found cells in px of the picture, and how sure each was.

    `radius` is the largest distance of a match, in px of the picture.
    """

    image: NDArray[np.uint8]
    cells: PointField
    sure: NDArray[np.floating]
    radius: float

    @classmethod
    def of(
        cls,
        image: NDArray[np.uint8],
        mpp: float,
        cells: PointField,
        cells_mpp: float,
        sure: NDArray[np.floating],
        radius_um: float,
    ) -> Judged:
        """From a picture and cells of different µm/px."""
        size = tuple(round(s * mpp / SHOWN_MPP) for s in image.shape[1::-1])
        small = Image.fromarray(image)
        if size != small.size:
            small = small.resize(size, Image.Resampling.BOX)
        factor = cells_mpp / SHOWN_MPP
        moved = replace(cells, truth_xy=cells.truth_xy * factor, found_xy=cells.found_xy * factor)
        return cls(np.asarray(small), moved, sure, radius_um / SHOWN_MPP)

    def panel(self) -> Image.Image:
        """The field with every true and found cell drawn."""
        return panel(self.image, self.cells, self.radius)


def draw_twelve(
    fields: Sequence[Judged], class_names: Sequence[str], path: Path
) -> list[dict[str, Any]]:
    """The best, middle and worst four fields on one page; returns their figures."""
    values = [field_score(f.cells, f.radius, class_names) for f in fields]
    panels, rows = [], []
    for word, i in best_median_worst(values, 4):
        name = fields[i].cells.name
        panels.append((f"{word}: {name[:23]}, mean of F1 {values[i]:.2f}", fields[i].panel()))
        rows.append({"name": name, "word": word, "mean_f1": values[i]})
    sheet(panels, 4, class_names, path)
    return rows


def draw_failures(
    fields: Sequence[Judged], class_names: Sequence[str], path: Path, each: int = 8
) -> dict[str, int]:
    """The surest errors on one page; returns how many there are of a kind.

    A row each: cells found where nothing is annotated, best scored first; annotated cells that
    were missed, drawn at random; cells of a wrong class, surest first. One per field, unless there
    are fewer fields than places.
    """
    rng = np.random.default_rng(0)
    kinds = ["nothing annotated", "missed", *(["wrong class"] if len(class_names) > 1 else [])]
    errors: dict[str, list[tuple[float, NDArray[Any], Judged]]] = {kind: [] for kind in kinds}
    for field in fields:
        for kind, sure, xy in _errors(field):
            if kind in errors:
                errors[kind].append((rng.random() if kind == "missed" else sure, xy, field))
    most = -(-each // max(len(fields), 1))
    panels, drawn = [], {}
    for kind, rows in errors.items():
        seen: dict[str, int] = {}
        for sure, xy, field in sorted(rows, key=lambda row: -row[0]):
            name = field.cells.name
            if seen.get(name, 0) == most or sum(seen.values()) == each:
                continue
            seen[name] = seen.get(name, 0) + 1
            if name not in drawn:
                drawn[name] = field.panel()
            title = kind if kind == "missed" else f"{kind}, {sure:.2f}"
            panels.append((title, around(drawn[name], xy)))
    sheet(panels, each, class_names, path)
    return {kind: len(rows) for kind, rows in errors.items()}


def _errors(field: Judged) -> Iterator[tuple[str, float, NDArray[Any]]]:
    """Errors of a field: kind, how sure the model was (0 for a miss), and where."""
    cells = field.cells
    true_ids, found_ids = cells.ids()
    true, found, _ = match_points(cells.truth_xy, cells.found_xy, field.radius)
    scores = np.ones(len(cells.found_xy)) if cells.scores is None else cells.scores
    for i in np.setdiff1d(np.arange(len(cells.found_xy)), found):
        yield "nothing annotated", float(scores[i]), cells.found_xy[i]
    for i in np.setdiff1d(np.arange(len(cells.truth_xy)), true):
        yield "missed", 0.0, cells.truth_xy[i]
    wrong = (true_ids[true] >= 0) & (true_ids[true] != found_ids[found])
    for i in found[wrong]:
        yield "wrong class", float(field.sure[i]), cells.found_xy[i]
