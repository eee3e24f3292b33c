"""Random corrected cells, and the comparison that every format has to pass."""

from __future__ import annotations

import numpy as np

from napari_celldetr.core.annotations import SAID, Area, CorrectedCells, Status, new_keys
from napari_celldetr.core.detections import Detections, Source

CLASSES = ("alpha", 'be"ta, x', "γ\nδ", "=1+1")
AUTHORS = ("Ann", "'=Böb", '@"c", d', "-")
AREAS = {
    "first": Area(((1200.1, 2300.0), (5000.123456789, 2300.0), (3000.0, 7700.7)), "complete", "=A"),
    "3f0d4f6e-6f54-4a63-9d0e-0123456789ab": Area(
        ((2000.5, 3000.0), (2100.0, 3000.0), (2100.0, 3100.25), (2000.5, 3100.0)), "region", ""
    ),
}


def corrected(count: int, seed: int = 0, *, side: float = 99_000) -> CorrectedCells:
    """Cells of all classes and all status, some without measurements."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, side, (count, 2))
    cells = Detections(
        np.concatenate([low, low + rng.uniform(3, 60, (count, 2))], axis=1),
        rng.random(count),
        rng.integers(-1, len(CLASSES), count),
        CLASSES,
        None,
        {"dab_od_mean": np.where(rng.random(count) < 0.1, np.nan, rng.random(count))},
        Source("slide.svs", "a" * 64, (0.25, 0.25), "celldetr-ihc", "b" * 64, "{}", "0.1"),
    ).ordered()
    status = rng.choice([s for s in Status if s <= Status.ADDED], count).astype(np.uint8)
    authors = np.where(SAID[status], rng.choice(AUTHORS, count), "")
    return CorrectedCells(cells, new_keys(count), status, authors, dict(AREAS))


def assert_same(back: CorrectedCells, cells: CorrectedCells) -> None:
    """Counts, ids, places to 0.01 px, classes by name, status, authors and areas."""
    assert len(back) == len(cells)
    assert len(np.unique(back.ids, axis=0)) == len(cells)
    np.testing.assert_array_equal(back.ids, cells.ids)
    np.testing.assert_allclose(back.cells.boxes, cells.cells.boxes, rtol=0, atol=0.01)
    np.testing.assert_allclose(back.cells.scores, cells.cells.scores, rtol=0, atol=5.1e-5)
    np.testing.assert_array_equal(back.cells.class_labels, cells.cells.class_labels)
    np.testing.assert_array_equal(back.status, cells.status)
    np.testing.assert_array_equal(back.authors, cells.authors)
    assert dict(back.areas) == dict(cells.areas)
    measured = cells.cells.columns["dab_od_mean"]
    np.testing.assert_allclose(back.cells.columns["dab_od_mean"], measured, atol=6e-5)
