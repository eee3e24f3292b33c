"""Cells at seams: none lost, none doubled, whatever the order and the jitter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.boxes import iou_matrix
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.merge import merge, seam_doubles
from napari_celldetr.core.regions import Region, TileGrid

GRID = TileGrid(core=100, halo=20)
SLACK = 4.0


def table(centres, side=12.0, scores=None, **columns):
    centres = np.asarray(centres, float).reshape(-1, 2)
    half = np.broadcast_to(np.asarray(side, float).reshape(-1, 1) / 2, (len(centres), 1))
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    scores = np.full(len(centres), 0.8) if scores is None else np.asarray(scores)
    return Detections(boxes, scores, np.zeros(len(centres)), ("cell",), None, columns)


def seen_by(tile, centres, *, jitter=0.0, rng=None, side=12.0):
    """What one tile reports: every cell with its centre in the read, each moved a little."""
    read = tile.read
    inside = (centres >= (read.x, read.y)).all(1) & (centres < (read.x1, read.y1)).all(1)
    rows = np.flatnonzero(inside)
    moved = centres[rows] + (rng.uniform(-jitter, jitter, (len(rows), 2)) if jitter else 0)
    scores = 0.5 + 0.4 * (rng.random(len(rows)) if rng is not None else 0)
    return table(moved, side, np.broadcast_to(scores, len(rows)), which=rows)


def plan(size=400):
    return GRID.plan(Region(0, 0, size, size))


def spaced(size=400, pitch=20):
    line = np.arange(pitch / 2, size, pitch)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


@pytest.mark.parametrize("shift", [-5, -4, -1, -0.01, 0, 0.01, 1, 4, 5])
def test_a_cell_on_every_seam_and_corner_comes_once(shift):
    seams = np.arange(100, 400, 100) + shift
    mids = np.arange(50, 400, 100)
    centres = np.concatenate(
        [
            np.stack(np.meshgrid(a, b), -1).reshape(-1, 2)
            for a, b in ((seams, mids), (mids, seams), (seams, seams))
        ]
    )
    merged = merge([(t, seen_by(t, centres)) for t in plan()], slack_px=SLACK)
    assert sorted(merged.columns["which"]) == list(range(len(centres)))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), jitter=st.floats(0, 1.9), pitch=st.integers(14, 30))
def test_no_cell_is_lost_or_doubled_under_jitter(seed, jitter, pitch):
    rng = np.random.default_rng(seed)
    centres = spaced(pitch=pitch) + rng.uniform(0, 1, 2)
    seen = [(t, seen_by(t, centres, jitter=jitter, rng=rng)) for t in plan(420)]
    merged = merge(seen, slack_px=SLACK)
    owned = ((centres >= 0) & (centres < 500)).all(1)
    assert sorted(merged.columns["which"]) == list(np.flatnonzero(owned))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_tiles_and_of_rows_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 400, (600, 2))
    seen = [(t, seen_by(t, centres, jitter=2, rng=rng)) for t in plan()]
    shuffled = [
        (t, d.select(rng.permutation(len(d)))) for t, d in (seen[i] for i in rng.permutation(16))
    ]
    assert merge(seen, slack_px=SLACK) == merge(shuffled, slack_px=SLACK)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0.5, 0.9))
def test_thresholding_before_equals_thresholding_after(seed, threshold):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 400, (800, 2))
    seen = [(t, seen_by(t, centres, jitter=2, rng=rng)) for t in plan()]
    before = merge([(t, d.above(threshold)) for t, d in seen], slack_px=SLACK)
    assert before == merge(seen, slack_px=SLACK).above(threshold)


def test_doubles_inside_one_tile_stay():
    tile = GRID.tile(0, 0)
    pair = table([(98, 50), (98.5, 50)])
    assert len(merge([(tile, pair)], slack_px=SLACK)) == 2


def test_neighbours_away_from_the_seam_are_never_touched():
    left, right = GRID.tile(0, 0), GRID.tile(0, 1)
    merged = merge(
        [(left, table([(85, 50), (87, 50)])), (right, table([(115, 50)]))], slack_px=SLACK
    )
    assert len(merged) == 3


def test_the_better_scored_double_stays():
    left, right = GRID.tile(0, 0), GRID.tile(0, 1)
    merged = merge(
        [(left, table([(99, 50)], scores=[0.6])), (right, table([(101, 50)], scores=[0.7]))],
        slack_px=SLACK,
    )
    assert merged.scores.tolist() == pytest.approx([0.7])


def test_a_cell_whose_two_boxes_disagree_in_size_is_still_one():
    left, right = GRID.tile(0, 0), GRID.tile(0, 1)
    merged = merge(
        [(left, table([(100, 50)], side=8)), (right, table([(101, 50)], side=24))], slack_px=SLACK
    )
    assert len(merged) == 1


def test_one_giant_box_does_not_swallow_small_ones():
    left, right = GRID.tile(0, 0), GRID.tile(0, 1)
    small = [(100, float(y)) for y in range(6, 96, 14)]
    merged = merge(
        [(left, table([(99, 52)], side=90)), (right, table(small, side=10))], slack_px=SLACK
    )
    assert len(merged) == 1 + len(small)


def slow_doubles(boxes, scores, tile_of, slack, iou=0.3):
    """The rule written out: best first, each claims its like in other tiles."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    overlap = iou_matrix(boxes, boxes)
    dropped, kept = np.zeros(len(boxes), bool), []
    for i in order:
        gaps = [np.hypot(*(centres[i].astype(float) - centres[k])) for k in kept]
        dropped[i] = any(
            tile_of[i] != tile_of[k] and (overlap[i, k] >= iou or gap <= slack / 2)
            for k, gap in zip(kept, gaps, strict=True)
        )
        if not dropped[i]:
            kept.append(i)
    return dropped


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(5, 200), largest=st.floats(1, 120))
def test_fast_suppression_equals_the_rule_written_out(seed, spread, largest):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 120))
    centres = rng.uniform(-spread, spread, (count, 2))
    half = rng.uniform(0, largest / 2, (count, 2))
    boxes = np.concatenate([centres - half, centres + half], 1).astype(np.float32)
    scores = rng.choice([0.3, 0.5, 0.7, 0.9], count).astype(np.float32)
    tile_of = np.sort(rng.integers(0, 4, count))
    fast = seam_doubles(boxes, scores, tile_of, slack_px=SLACK)
    np.testing.assert_array_equal(fast, slow_doubles(boxes, scores, tile_of, SLACK))


def test_embeddings_and_columns_travel_with_their_cells():
    rng = np.random.default_rng(0)
    centres = spaced()
    seen = []
    for tile in plan():
        cells = seen_by(tile, centres, jitter=1, rng=rng)
        vectors = np.stack([cells.columns["which"] % 50, cells.columns["which"] // 50], 1)
        seen.append(
            (
                tile,
                Detections(
                    cells.boxes,
                    cells.scores,
                    cells.class_ids,
                    cells.class_names,
                    vectors,
                    cells.columns,
                ),
            )
        )
    merged = merge(seen, slack_px=SLACK)
    which = merged.columns["which"]
    np.testing.assert_array_equal(merged.embeddings, np.stack([which % 50, which // 50], 1))
    np.testing.assert_allclose(merged.centres, centres[which], atol=1.01)


def test_nothing_merges_to_nothing():
    assert len(merge([], slack_px=SLACK)) == 0
    empty = Detections.empty(("a", "b"))
    assert merge([(GRID.tile(0, 0), empty)], slack_px=SLACK).class_names == ("a", "b")


def test_a_tile_given_twice_and_mixed_classes_are_refused():
    tile, one = GRID.tile(0, 0), table([(50, 50)])
    with pytest.raises(CellDETRError, match="twice"):
        merge([(tile, one), (tile, one)], slack_px=SLACK)
    other = Detections(one.boxes, one.scores, one.class_ids, ("another",))
    with pytest.raises(CellDETRError, match="classes"):
        merge([(tile, one), (GRID.tile(0, 1), other.moved((1, 1), (100, 0)))], slack_px=SLACK)


def test_without_slack_a_centre_on_the_seam_has_one_owner():
    left, right = GRID.tile(0, 0), GRID.tile(0, 1)
    both = table([(100, 50)])
    assert len(merge([(left, both), (right, both)], slack_px=0)) == 1
