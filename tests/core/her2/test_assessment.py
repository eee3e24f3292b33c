"""Counting, gating and intervals of assessed cells, against hand-worked figures."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2 import (
    JudgedCells,
    Minimum,
    Pattern,
    assess,
    count_patterns,
    maximum_rule,
    score_counts,
)
from napari_celldetr.core.her2.assessment import UNCONFIRMED, patch_scores


def judged(counts: dict[Pattern, int], *, seed: int = 0, side: float = 4000.0) -> JudgedCells:
    """Cells with these patterns, evenly mixed over a square."""
    patterns = np.repeat([int(p) for p in counts], list(counts.values())).astype(np.int8)
    rng = np.random.default_rng(seed)
    rng.shuffle(patterns)
    n = len(patterns)
    centres = rng.uniform(0, side, (n, 2)).astype(np.float32)
    return JudgedCells(centres, patterns, np.full(n, 100, np.float32), np.zeros(n, np.int8), 0.25)


MIXED = {Pattern.NONE: 500, Pattern.FAINT_INCOMPLETE: 300, Pattern.COMPLETE_INTENSE: 200}


def test_shares_score_and_margins_of_a_mix() -> None:
    found = assess(judged(MIXED), tumour_confirmed=True)
    assert found.n_cells == 1000
    assert found.percent_cells == {"0": 50, "1+": 30, "2+": 0, "3+": 20}
    assert found.h_score == pytest.approx(30 + 60)
    assert found.score.score == "3+"
    assert found.maximum == "3+"
    # 3+ needs more than 100 of 1,000: 100 cells fewer and it is no longer.
    assert found.lower is not None
    assert found.lower.cells == 100
    assert found.higher is None
    assert found.cell_area_um2 == pytest.approx(100_000)


def test_area_is_weighed_by_the_size_of_cells() -> None:
    cells = judged({Pattern.NONE: 100, Pattern.COMPLETE_INTENSE: 100})
    areas = np.where(cells.patterns == Pattern.COMPLETE_INTENSE, 300, 100).astype(np.float32)
    bigger = JudgedCells(cells.centres, cells.patterns, areas, cells.excluded, cells.mpp)
    found = assess(bigger, tumour_confirmed=True, draws=0)
    assert found.percent_cells["3+"] == 50
    assert found.percent_area["3+"] == pytest.approx(75)
    assert sum(found.percent_area.values()) == pytest.approx(100)


def test_intervals_contain_the_share_and_patches_widen_them() -> None:
    even = assess(judged(MIXED), tumour_confirmed=True)
    cells = judged(MIXED)
    # The same cells, but all stained ones together in one corner.
    order = np.argsort(cells.patterns, kind="stable")
    places = cells.centres[np.argsort(cells.centres.sum(axis=1), kind="stable")]
    patterns = cells.patterns[order]
    patchy = assess(
        JudgedCells(places, patterns, cells.areas_um2, cells.excluded, cells.mpp),
        tumour_confirmed=True,
    )
    low, high = even.bootstrap["3+"]
    assert low < 20 < high
    assert even.wilson["3+"][0] < 20 < even.wilson["3+"][1]
    assert patchy.wilson == even.wilson
    assert patchy.bootstrap["3+"][1] - patchy.bootstrap["3+"][0] > 3 * (high - low)
    assert even.redrawn["3+"] == pytest.approx(1.0)
    assert sum(patchy.redrawn.values()) == pytest.approx(1.0)
    assert even.h_score_interval[0] < even.h_score < even.h_score_interval[1]


def test_excluded_cells_are_tallied_and_not_counted() -> None:
    cells = judged(MIXED)
    codes = np.zeros(len(cells), np.int8)
    codes[cells.patterns == Pattern.COMPLETE_INTENSE] = 2
    left_out = JudgedCells(cells.centres, cells.patterns, cells.areas_um2, codes, cells.mpp)
    found = assess(left_out, tumour_confirmed=True, draws=0)
    assert found.n_cells == 800
    assert found.n_excluded == {2: 200}
    assert found.score.score == "1+"


def test_only_cells_inside_are_meant() -> None:
    cells = judged(MIXED)
    inside = cells.patterns == Pattern.NONE
    found = assess(cells, inside, tumour_confirmed=True)
    assert found.n_cells == 500
    assert found.score.score == "0"
    assert found.h_score == 0


def test_without_confirmed_tumour_everything_but_the_score_is_there() -> None:
    found = assess(judged(MIXED), tumour_confirmed=False)
    assert found.score.score is None
    assert found.score.reason == UNCONFIRMED
    assert found.percent_cells["3+"] == 20
    assert found.h_score == pytest.approx(90)
    assert found.lower is None
    assert found.redrawn == {}
    assert found.score.notes == ()
    assert [b.cells for b in found.score.tree][:2] == [200, 0]


def test_a_refusal_comes_before_everything_else() -> None:
    few = judged({Pattern.COMPLETE_INTENSE: 20})
    found = assess(few, tumour_confirmed=False, refusal="the pixel size is not known")
    assert found.score.reason == "the pixel size is not known"
    assert "fewer than 100" in assess(few, tumour_confirmed=True).score.reason


def test_no_cells_at_all_have_no_figures() -> None:
    found = assess(judged({}), tumour_confirmed=True)
    assert found.n_cells == 0
    assert found.score.score is None
    assert all(math.isnan(v) for v in (*found.percent_cells.values(), found.h_score))
    assert found.maximum is None
    assert found.bootstrap == {}


def test_one_patch_decides_by_the_papers_rule_alone() -> None:
    rng = np.random.default_rng(3)
    places = rng.uniform(0, 2000, (3000, 2))
    patterns = np.zeros(3000, np.int8)
    patterns[(places < 112).all(axis=1)] = Pattern.COMPLETE_INTENSE
    scores = patch_scores(patterns, places)
    assert scores.count("3+") == 1
    assert maximum_rule(scores) == "3+"
    cells = JudgedCells(
        (places / 0.25).astype(np.float32), patterns, np.ones(3000, np.float32),
        np.zeros(3000, np.int8), 0.25,
    )  # fmt: skip
    found = assess(cells, tumour_confirmed=True, draws=0)
    assert found.maximum == "3+"
    assert found.score.score == "0"
    assert maximum_rule([None, "1+", "0"]) == "1+"
    assert maximum_rule([None]) is None


def test_patches_are_scored_by_the_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        weights = rng.dirichlet(rng.choice([0.05, 0.3, 1.0], 5))
        patterns = rng.choice(5, int(rng.integers(1, 60)), p=weights).astype(np.int8)
        least = Minimum(cells=10, any_cells=1, any_percent=1)
        slow = score_counts(count_patterns(patterns), least).score
        assert patch_scores(patterns, np.zeros((len(patterns), 2))) == [slow]


def test_a_handful_of_squares_is_not_drawn_again() -> None:
    found = assess(judged(MIXED, side=900), tumour_confirmed=True)
    assert found.bootstrap == {}
    assert found.redrawn == {}
    # 1,000 cells of 0, 1 and 3 with mean .9: deviation 1.1358, half width 100 · 1.96 · .0359.
    assert found.h_score_interval == pytest.approx((82.96, 97.04), abs=0.01)
    assert found.wilson["3+"][0] < 20


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="different length"):
        JudgedCells(
            np.zeros((2, 2), np.float32), np.zeros(3, np.int8), np.zeros(3, np.float32),
            np.zeros(3, np.int8), 0.25,
        )  # fmt: skip
