"""Guard set, queue, remaining error and changes: the small rules behind teaching."""

from __future__ import annotations

import numpy as np
import pytest

from napari_celldetr.core.changes import changes
from napari_celldetr.core.guard import guard_cells, squares_of
from napari_celldetr.core.next_cells import next_cells
from napari_celldetr.core.remaining import LEAST_ASKED, remaining_error


def keys(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, (n, 2)).astype(np.uint64)


def names(array: np.ndarray) -> list[tuple[int, int]]:
    return [(a, b) for a, b in array.tolist()]


# --- guard ----------------------------------------------------------------------------------


def test_squares_are_of_one_size_in_um_and_anchored() -> None:
    xy = np.array([[0, 0], [499, 499], [500, 0], [0, 500], [-1, 0], [1e6, 1e6]])
    at = squares_of(xy, (0.5, 0.5))
    assert at[0] == at[1]
    assert len(set(at.tolist())) == 5
    assert np.array_equal(squares_of(xy * 2, (0.25, 0.25)), at)
    assert np.array_equal(squares_of(xy, None), at)


def test_a_fifth_is_kept_aside_in_whole_squares() -> None:
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 300, 5000)
    guard = guard_cells(keys(5000), squares, rng.integers(0, 2, 5000))
    assert 0.12 < guard.mean() < 0.28
    for square in np.unique(squares):
        assert len(set(guard[squares == square].tolist())) == 1


def test_few_labels_are_parted_one_by_one() -> None:
    guard = guard_cells(keys(50), np.zeros(50, np.int64), np.zeros(50, int))
    assert 3 <= guard.sum() <= 20


def test_sides_do_not_depend_on_what_else_is_said() -> None:
    rng = np.random.default_rng(2)
    k, squares, ids = keys(1000), rng.integers(0, 200, 1000), rng.integers(0, 3, 1000)
    all_of_them = guard_cells(k, squares, ids)
    order = rng.permutation(1000)[:700]
    assert np.array_equal(guard_cells(k[order], squares[order], ids[order]), all_of_them[order])


def test_a_settled_side_stays() -> None:
    k = keys(200)
    ids = np.arange(200) % 2
    first = guard_cells(k[:50], np.zeros(50, np.int64), ids[:50])
    known = dict(zip(names(k[:50]), first.tolist(), strict=True))
    later = guard_cells(k, np.arange(200), ids, known=known)
    assert np.array_equal(later[:50], first)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_every_class_is_on_both_sides_where_it_can_be(n: int) -> None:
    ids = np.r_[np.zeros(300, int), np.ones(n, int), 2]
    squares = np.r_[np.arange(300) % 40, np.full(n, 77), 78]
    guard = guard_cells(keys(len(ids)), squares, ids)
    for class_id in (0, 1):
        assert len(set(guard[ids == class_id].tolist())) == 2
    assert not guard[ids == 2].any()


def test_cells_asked_at_random_are_kept_aside_unless_learned_from() -> None:
    k = keys(300)
    always = set(names(k[:40]))
    known = dict.fromkeys(names(k[:5]), False)
    guard = guard_cells(k, np.arange(300), np.arange(300) % 2, known=known, always=always)
    assert not guard[:5].any()
    assert guard[5:40].all()


# --- queue ----------------------------------------------------------------------------------


def cloud(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 5)).astype(np.float16)
    p = rng.dirichlet([0.5, 0.5, 0.5], n)
    return z, p, rng.integers(0, 60, n)


def margins(p: np.ndarray) -> np.ndarray:
    best = np.sort(p, axis=1)
    return best[:, -1] - best[:, -2]


def test_twenty_cells_of_which_some_are_random() -> None:
    z, p, squares = cloud()
    queue = next_cells(z, p, squares, taught=z[:30], seed=3)
    assert len(queue) == len(set(queue.rows.tolist())) == 20
    assert queue.random.sum() == 5
    asked = queue.rows[~queue.random]
    assert len(set(squares[asked].tolist())) == 15


def test_doubtful_cells_are_likelier() -> None:
    z, p, squares = cloud()
    queues = [next_cells(z, p, squares, taught=z[:30], seed=s) for s in range(20)]
    asked = np.concatenate([q.rows[~q.random] for q in queues])
    assert margins(p)[asked].mean() < 0.7 * margins(p).mean()
    early = np.concatenate(
        [(q := next_cells(z, p, squares, seed=s)).rows[~q.random] for s in range(20)]
    )
    assert abs(margins(p)[early].mean() - margins(p).mean()) < 0.08


def test_random_cells_are_drawn_from_all_alike() -> None:
    z, p, squares = cloud(60)
    drawn = np.concatenate(
        [(q := next_cells(z, p, squares, seed=s)).rows[q.random] for s in range(200)]
    )
    count = np.bincount(drawn, minlength=60)
    assert count.min() > 4
    assert count.max() < 40


def test_many_cells_are_drawn_from_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_celldetr.core.next_cells.POOL", 50)
    z, p, _ = cloud()
    queues = [next_cells(z, p, np.arange(400), taught=z[:60], seed=s) for s in range(20)]
    asked = np.concatenate([q.rows[~q.random] for q in queues])
    assert margins(p)[asked].mean() < 0.8 * margins(p).mean()


def test_what_is_like_a_taught_cell_waits() -> None:
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(200, 4)), rng.normal(size=(20, 4)) + 8
    z = np.concatenate((near, far))
    p = np.full((220, 2), 0.5)
    queue = next_cells(z, p, np.arange(220), taught=near, count=10, one_random_in=0)
    assert (queue.rows >= 200).mean() > 0.5


def test_closed_cells_and_cells_without_embedding_are_not_asked() -> None:
    z, p, squares = cloud(80)
    z[:30] = np.nan
    open_ = np.arange(80) >= 20
    queue = next_cells(z, p, squares, open_=open_, count=40)
    assert (queue.rows >= 20).all()
    assert (queue.rows[~queue.random] >= 30).all()


def test_fewer_cells_than_asked_for() -> None:
    z, p, squares = cloud(7)
    queue = next_cells(z, p, squares * 0)
    assert sorted(queue.rows.tolist()) == list(range(7))
    assert len(next_cells(z[:0], p[:0], squares[:0])) == 0


def test_one_class_alone_has_nothing_doubtful() -> None:
    z, _, squares = cloud(50)
    assert len(next_cells(z, np.ones((50, 1)), squares)) == 20


# --- remaining error ------------------------------------------------------------------------


def test_one_can_stop_only_when_the_worse_end_is_good_enough() -> None:
    assert not remaining_error(0, LEAST_ASKED - 1, limit=0.5).may_stop
    assert not remaining_error(1, 60, limit=0.05).may_stop
    assert remaining_error(0, 80, limit=0.05).may_stop
    assert remaining_error(1, 150, limit=0.05).may_stop
    assert "You can stop" in remaining_error(0, 80).sentence()
    assert "not shown" in remaining_error(4, 80).sentence()
    assert "7 more" in remaining_error(2, 43).sentence()
    nothing = remaining_error(0, 0)
    assert not nothing.may_stop
    assert "not known" in nothing.sentence()


# --- changes --------------------------------------------------------------------------------


def test_gained_lost_and_where() -> None:
    before, after = np.array([0, 0, 1, 1, 2, -1]), np.array([0, 1, 1, 2, 2, 0])
    found = changes(before, after, ("a", "b", "c"), squares=np.array([5, 5, 5, 9, 9, 9]))
    assert found.flipped == 3
    assert found.gained() == {"a": 1, "b": 1, "c": 1, "unknown": 0}
    assert found.lost() == {"a": 1, "b": 1, "c": 0, "unknown": 1}
    assert found.moves() == [("a", "b", 1), ("b", "c", 1), ("unknown", "a", 1)]
    assert found.changed.tolist() == [False, True, False, True, False, True]
    assert found.squares.tolist() == [5, 9]
    assert found.in_square.tolist() == [3, 3]
    assert found.changed_in_square.tolist() == [1, 2]
    assert "3 of 6 cells (50.0 %)" in found.sentence()
    was, now = found.counts()
    assert sum(was.values()) == sum(now.values()) == 6


def test_nothing_changed() -> None:
    found = changes(np.array([0, 1]), np.array([0, 1]), ("a", "b"))
    assert found.flipped == 0
    assert "unknown" not in found.gained()
    assert found.sentence() == "No class of 2 cells changed."
    assert changes(np.zeros(0, int), np.zeros(0, int), ("a",)).total == 0
