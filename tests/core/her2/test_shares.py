"""Intervals against published values and against drawing; shares and H-score by hand."""

import math

import numpy as np
import pytest

from napari_celldetr.core.her2 import (
    Pattern,
    TileCounts,
    count_patterns,
    h_score,
    score_shares,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("cells", "total", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, 17:857, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(cells, total, low, high):
    assert wilson_interval(cells, total) == pytest.approx((low, high), abs=1e-4)


def test_of_nothing_nothing_is_known():
    assert all(map(math.isnan, wilson_interval(0, 0)))
    assert math.isnan(h_score({}))
    assert all(map(math.isnan, score_shares({}).values()))


def test_shares_and_h_score():
    counts = count_patterns([0] * 50 + [1] * 20 + [2] * 15 + [3] * 10 + [4] * 5)
    assert counts[Pattern.STRONG_INCOMPLETE] == 5
    assert score_shares(counts) == {"0": 50, "1+": 20, "2+": 20, "3+": 10}
    assert h_score(counts) == pytest.approx(20 + 2 * 20 + 3 * 10)
    assert h_score({Pattern.COMPLETE_INTENSE: 7}) == 300


def test_cells_are_counted_where_they_lie():
    tiles = TileCounts.of([0, 3, 3, 1], [[1, 1], [99, 99], [101, 0], [-1, 5]], 100)
    assert tiles.counts.sum() == 4
    assert sorted(map(tuple, tiles.counts.tolist())) == [
        (0, 0, 0, 1, 0), (0, 1, 0, 0, 0), (1, 0, 0, 1, 0),
    ]  # fmt: skip


def test_patchy_staining_has_wider_intervals_than_wilson():
    patterns = np.repeat([0, 3], 500)
    rng = np.random.default_rng(0)
    patchy = np.repeat(np.arange(20), 50)[:, None] * [[100.0, 0.0]]
    spread = rng.uniform(0, 2000, (1000, 1)) * [[1.0, 0.0]]
    low, high = TileCounts.of(patterns, patchy, 100).share_interval(Pattern.COMPLETE_INTENSE)
    even = TileCounts.of(patterns, spread, 100).share_interval(Pattern.COMPLETE_INTENSE)
    wilson = wilson_interval(500, 1000)
    assert high - low > 4 * (wilson[1] - wilson[0])
    assert even[1] - even[0] < 1.6 * (wilson[1] - wilson[0])


def test_no_tiles_no_interval():
    none = TileCounts.of([], np.zeros((0, 2)), 100)
    assert all(map(math.isnan, none.share_interval(Pattern.NONE)))
