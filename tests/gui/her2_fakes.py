"""A small generated HER2 slide, measured once for all tests of the HER2 dock."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.her2 import Pattern
from napari_celldetr.core.progress import drain
from napari_celldetr.gui.her2_state import Her2State
from napari_celldetr.pipeline.her2.measure import Her2Cells, measure_cells
from napari_celldetr.pipeline.her2.membrane import Bands
from napari_celldetr.pipeline.her2.outline import Outlines
from napari_celldetr.pipeline.her2.reading import Her2Reading
from napari_celldetr.pipeline.her2.sparse_rows import SparseRows
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

MIX = {
    Pattern.COMPLETE_INTENSE: 0.2,
    Pattern.COMPLETE_WEAK_MODERATE: 0.2,
    Pattern.FAINT_INCOMPLETE: 0.2,
    Pattern.STRONG_INCOMPLETE: 0.1,
}
SIZE = (1200, 1200)


@lru_cache
def her2_slide():
    """The file and its truth: about 170 tumour cells."""
    path = Path(mkdtemp()) / "her2.ome.tif"
    return path, make_her2_slide(path, MIX, size=SIZE, seed=5)


@lru_cache
def her2_reading():
    """All its cells as read."""
    path, truth = her2_slide()
    with open_slide(path, probe=False) as slide:
        measured = drain(measure_cells(slide, truth.cells))
    return Her2Reading(measured, np.zeros(len(truth.cells), np.int8), 0.25)


def her2_state(**options):
    """A state of these cells that no other test changes."""
    return Her2State(her2_reading(), **options)


def nuclei(names=("negative", "positive")):
    """The cells as a model for nuclei would have claimed them."""
    cells = her2_slide()[1].cells
    n = len(cells)
    return Detections(cells.boxes, np.full(n, 0.9, np.float32), np.zeros(n, np.int16), names)


def many_times(reading, n):
    """At least `n` cells: these again and again, in the same places."""
    times = -(-n // len(reading))
    measured = reading.measured
    one = np.arange(len(reading))
    parts = [(one + k * len(one), measured.bands) for k in range(times)]
    rows = times * len(one)

    def many(array):
        return np.concatenate([array] * times)

    faced = SparseRows.assembled(
        [
            (at, replace(b.faced, values=np.where(b.faced.values < 0, -1, b.faced.values + at[0])))
            for at, b in parts
        ],
        rows,
    )
    outlines = Outlines(many(measured.outlines.centres), many(measured.outlines.radii))
    bands = Bands(
        outlines.radii,
        SparseRows.assembled([(at, b.lines) for at, b in parts], rows),
        many(measured.bands.level),
        faced,
        many(measured.bands.cytoplasm),
    )
    cells = Detections(
        many(measured.cells.boxes),
        np.ones(rows, np.float32),
        np.zeros(rows, np.int16),
        ("nucleus",),
    )
    return Her2Reading(
        Her2Cells(cells, outlines, bands, many(measured.specks), measured.mpp),
        np.zeros(rows, np.int8),
        reading.mpp,
    )
