"""From membrane measurements to the guideline's patterns."""

import numpy as np
import pytest

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.core.her2 import CELL_CLASSES, Cutoffs, Pattern, cell_scores, classify_cells

CUT = Cutoffs(weak=0.1, moderate=0.3, intense=0.6, complete=0.8, trace=0.1)


@pytest.mark.parametrize(
    ("intensity", "completeness", "pattern"),
    [
        (0.0, 0.0, Pattern.NONE),
        (0.09, 1.0, Pattern.NONE),
        (0.5, 0.05, Pattern.NONE),
        (0.1, 0.1, Pattern.FAINT_INCOMPLETE),
        (0.29, 0.79, Pattern.FAINT_INCOMPLETE),
        (0.1, 0.8, Pattern.COMPLETE_WEAK_MODERATE),
        (0.59, 1.0, Pattern.COMPLETE_WEAK_MODERATE),
        (0.6, 0.8, Pattern.COMPLETE_INTENSE),
        (0.3, 0.79, Pattern.STRONG_INCOMPLETE),
        (2.0, 0.5, Pattern.STRONG_INCOMPLETE),
    ],
)
def test_each_side_of_each_cut_off(intensity, completeness, pattern):
    assert classify_cells([intensity], [completeness], CUT)[0] == pattern


def test_a_cell_s_class_is_a_her2_score():
    classes = [CELL_CLASSES[i] for i in cell_scores(list(Pattern))]
    assert classes == [
        "HER2 cell: 0", "HER2 cell: 1+", "HER2 cell: 2+", "HER2 cell: 3+", "HER2 cell: 2+",
    ]  # fmt: skip


def test_more_stain_or_more_outline_never_lowers_a_cell():
    grid = np.linspace(0, 1, 41)
    intensity, completeness = (a.ravel() for a in np.meshgrid(grid, grid, indexing="ij"))
    scores = cell_scores(classify_cells(intensity, completeness, CUT)).reshape(41, 41)
    assert (np.diff(scores.astype(int), axis=0) >= 0).all()
    assert (np.diff(scores.astype(int), axis=1) >= 0).all()


@pytest.mark.parametrize(
    "values", [{"weak": 0.4}, {"intense": 0.2}, {"complete": 0.1}, {"weak": -1.0}]
)
def test_cut_offs_out_of_order_are_refused(values):
    with pytest.raises(ConfigError):
        Cutoffs(**values)


@pytest.mark.parametrize(("a", "b"), [([0.1], [0.1, 0.2]), ([np.nan], [0.5]), ([0.5], [np.inf])])
def test_measurements_that_are_none_are_refused(a, b):
    with pytest.raises(DataError, match="cannot be classified"):
        classify_cells(a, b, CUT)


@pytest.mark.parametrize("codes", [[5], [-1], [[0]], [0.5]])
def test_codes_that_are_none_are_refused(codes):
    with pytest.raises(DataError, match="not membrane patterns"):
        cell_scores(codes)
