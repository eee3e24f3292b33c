"""The decision table as written: every boundary, mixed patterns, and nothing undefined."""

from fractions import Fraction

import numpy as np
import pytest

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2 import (
    SCORES,
    Minimum,
    Pattern,
    margins,
    score_counts,
    score_many,
    wilson_interval,
)

NONE, FAINT, COMPLETE, INTENSE, OPEN = Pattern


def counted(total=1000, **cells):
    """Counts of `total` cells; those not named are unstained."""
    named = {Pattern[name.upper()]: n for name, n in cells.items()}
    return {NONE: total - sum(named.values()), **named}


def by_the_table(counts):
    """The table of the guideline, row by row, in fractions; slow and independent."""
    total = sum(counts.values())
    share = {p: Fraction(counts.get(p, 0), total) for p in Pattern}
    tenth = Fraction(1, 10)

    def some(*patterns):
        cells = sum(counts.get(p, 0) for p in patterns)
        return Fraction(cells, total) >= Fraction(1, 100) and cells >= 10

    if share[INTENSE] > tenth:
        return "3+", True
    if share[COMPLETE] > tenth:
        return "2+", True
    if some(INTENSE, OPEN) or some(INTENSE, OPEN, COMPLETE):
        return "2+", False
    if share[FAINT] > tenth:
        return "1+", True
    return "0", True


@pytest.mark.parametrize(
    ("cells", "score", "branch"),
    [
        ({}, "0", "none_or_up_to_10"),
        ({"faint_incomplete": 100}, "0", "none_or_up_to_10"),
        ({"faint_incomplete": 101}, "1+", "faint_incomplete_over_10"),
        ({"complete_weak_moderate": 9}, "0", "none_or_up_to_10"),
        ({"complete_weak_moderate": 10}, "2+", "complete_weak_moderate_up_to_10"),
        ({"complete_weak_moderate": 100}, "2+", "complete_weak_moderate_up_to_10"),
        ({"complete_weak_moderate": 101}, "2+", "complete_weak_moderate_over_10"),
        ({"complete_intense": 9}, "0", "none_or_up_to_10"),
        ({"complete_intense": 10}, "2+", "unusual"),
        ({"complete_intense": 100}, "2+", "unusual"),
        ({"complete_intense": 101}, "3+", "complete_intense_over_10"),
        ({"strong_incomplete": 9}, "0", "none_or_up_to_10"),
        ({"strong_incomplete": 10}, "2+", "unusual"),
        ({"strong_incomplete": 1000}, "2+", "unusual"),
        ({"strong_incomplete": 5, "complete_intense": 5}, "2+", "unusual"),
        ({"strong_incomplete": 5, "complete_intense": 4}, "0", "none_or_up_to_10"),
        (
            {"complete_weak_moderate": 4, "complete_intense": 3, "strong_incomplete": 3},
            "2+",
            "complete_weak_moderate_up_to_10",
        ),
        ({"faint_incomplete": 900, "complete_intense": 9}, "1+", "faint_incomplete_over_10"),
        (
            {"complete_weak_moderate": 101, "complete_intense": 100},
            "2+",
            "complete_weak_moderate_over_10",
        ),
        (
            {"complete_weak_moderate": 899, "complete_intense": 101},
            "3+",
            "complete_intense_over_10",
        ),
        ({"faint_incomplete": 500, "strong_incomplete": 20}, "2+", "unusual"),
    ],
)
def test_every_boundary(cells, score, branch):
    result = score_counts(counted(**cells))
    assert (result.score, result.branch) == (score, branch)
    deciding = next(b for b in result.tree if b.key == branch)
    assert deciding.answer
    assert deciding.leads_to == score
    assert [b.key for b in result.tree if b.asked][-1] == branch
    assert result.needs_ish == (score == "2+")
    assert result.is_covered == (branch not in ("unusual", "complete_weak_moderate_up_to_10"))


def test_ten_per_cent_is_strict_at_every_size():
    for total in range(100, 320):
        for pattern, over in ((INTENSE, "3+"), (FAINT, "1+")):
            at = total // 10
            assert score_counts({NONE: total - at, pattern: at}).score != over
            more = at + 1
            assert score_counts({NONE: total - more, pattern: more}).score == over


def test_mixed_patterns_are_scored_by_the_table():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(4000):
        total = int(rng.integers(100, 3000))
        weights = rng.dirichlet(rng.choice([0.05, 0.3, 1.0], 5))
        counts = dict(zip(Pattern, map(int, rng.multinomial(total, weights)), strict=True))
        result = score_counts(counts)
        score, covered = by_the_table(counts)
        assert (result.score, result.is_covered) == (score, covered), counts
        seen.add((score, covered, result.branch))
    assert len(seen) == 6


def test_many_sets_are_scored_as_each_by_itself():
    rng = np.random.default_rng(1)
    weights = rng.dirichlet([2, 0.3, 0.1, 0.1, 0.1], 500)
    rows = np.stack([rng.multinomial(rng.integers(0, 600), w) for w in weights])
    for least in (Minimum(), Minimum(cells=10, any_cells=1)):
        alone = [score_counts(dict(zip(Pattern, r.tolist(), strict=True)), least) for r in rows]
        expected = [-1 if s.score is None else SCORES.index(s.score) for s in alone]
        assert score_many(rows, least).tolist() == expected
        assert set(expected) == {-1, 0, 1, 2, 3}


def test_one_false_cell_changes_nothing():
    for total in (100, 500, 5000):
        clean = {NONE: total}
        for pattern in list(Pattern)[1:]:
            assert score_counts({NONE: total - 1, pattern: 1}).score == score_counts(clean).score
    faint = {NONE: 300, FAINT: 200}
    for pattern in (COMPLETE, INTENSE, OPEN):
        assert score_counts({**faint, pattern: 1}).score == "1+"


def test_what_is_too_little_to_be_any_is_said():
    for cells in ({"complete_intense": 9}, {"faint_incomplete": 900, "strong_incomplete": 3}):
        said = " ".join(score_counts(counted(**cells)).notes)
        stronger = cells.get("complete_intense", 0) + cells.get("strong_incomplete", 0)
        assert f"{stronger} of 1000 cells" in said
        assert "disregarded" in said
    assert "disregarded" not in " ".join(score_counts(counted(faint_incomplete=50)).notes)


def test_few_cells_are_not_scored_but_shown():
    result = score_counts({INTENSE: 99})
    assert result.score is None
    assert "99" in result.reason
    assert "100" in result.reason
    assert result.tree[0].cells == 99
    assert score_counts({INTENSE: 99}, Minimum(cells=50)).score == "3+"
    assert score_counts({}).score is None


def test_borderline_is_said_when_the_interval_spans_ten_per_cent():
    assert score_counts({NONE: 885, INTENSE: 115}).is_borderline
    assert not score_counts({NONE: 600, INTENSE: 400}).is_borderline
    low, high = wilson_interval(115, 1000)
    assert low < 0.10 < high
    assert not score_counts({NONE: 1000}).is_borderline
    assert any("Borderline" in note for note in score_counts({NONE: 885, INTENSE: 115}).notes)


def test_a_branch_behind_the_deciding_one_makes_nothing_borderline():
    # A tenth is faint, but a score of 3+ does not ask for it.
    result = score_counts({INTENSE: 900, FAINT: 100})
    assert result.score == "3+"
    assert not result.is_borderline


@pytest.mark.parametrize("cells", [{NONE: -1}, {NONE: 2.5}, {"none": 100}])
def test_counts_that_are_none_are_refused(cells):
    with pytest.raises(DataError, match="cannot be scored"):
        score_counts(cells)


def test_margins_name_the_fewest_cells():
    lower, higher = margins(counted(complete_intense=101))
    assert higher is None
    assert (lower.score, lower.cells) == ("2+", 1)
    lower, higher = margins(counted(complete_intense=100))
    assert (higher.score, higher.cells, higher.pattern) == ("3+", 1, INTENSE)
    # Down to nine cells, which are not "any".
    assert (lower.score, lower.cells) == ("0", 91)
    lower, higher = margins(counted(faint_incomplete=95))
    assert lower is None
    assert (higher.score, higher.cells, higher.pattern) == ("1+", 6, FAINT)
    assert margins({NONE: 5}) == (None, None)


def test_margins_hold_for_random_mixtures():
    rng = np.random.default_rng(1)
    for _ in range(200):
        counts = dict(
            zip(Pattern, map(int, rng.multinomial(400, rng.dirichlet([0.4] * 5))), strict=True)
        )
        rank = SCORES.index(score_counts(counts).score)
        lower, higher = margins(counts)
        assert (lower is None) == (rank == 0)
        assert (higher is None) == (rank == 3)
        assert lower is None or SCORES.index(lower.score) < rank
        assert higher is None or SCORES.index(higher.score) > rank
