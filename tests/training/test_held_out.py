"""Held-out fields: storage, thresholds that never see their own fold, paired differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import PointField, point_scores
from napari_celldetr.training.held_out import (
    HeldOutField,
    above,
    best_threshold,
    fold_thresholds,
    load_held_out,
    paired_differences,
    save_held_out,
    scores_at,
    thresholded,
)


def field(
    name: str, fold: int, true: list[float], found: list[tuple[float, float]], cls: int = 0
) -> HeldOutField:
    """True cells at x, found cells at (x, score), all on one line and of one class."""
    cells = PointField(
        np.array([[x, 0.0] for x in true]).reshape(-1, 2),
        np.array([[x, 0.0] for x, _ in found]).reshape(-1, 2),
        np.full(len(true), cls),
        np.full(len(found), cls),
        name,
        np.array([s for _, s in found]),
    )
    return HeldOutField(name[0], fold, cells, np.full(len(found), 0.75, np.float32))


def test_stored_fields_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    fields = [
        field("a1", 1, [10, 50], [(11, 0.9), (80, 0.2)], cls=1),
        field("b1", 2, [], [(3, 0.5)]),
        field("c1", 2, [7], []),
    ]
    save_held_out(path, fields, weights="abc", names="a1,b1,c1")
    back = load_held_out(path, weights="abc", names="a1,b1,c1")
    assert back is not None
    for old, new in zip(fields, back, strict=True):
        assert (new.group, new.fold, new.cells.name) == (old.group, old.fold, old.cells.name)
        np.testing.assert_array_equal(new.cells.truth_xy, old.cells.truth_xy)
        np.testing.assert_array_equal(new.cells.found_xy, old.cells.found_xy)
        np.testing.assert_array_equal(new.scores, old.scores)
        np.testing.assert_array_equal(new.sure, old.sure)
        for mine, theirs in zip(new.cells.ids(), old.cells.ids(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_fields_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "found.npz"
    save_held_out(path, [field("a1", 1, [1], [(1, 0.5)])], weights="abc")
    assert load_held_out(path, weights="abd") is None
    assert load_held_out(tmp_path / "none.npz") is None
    assert load_held_out(path, names="a1") is None


def test_threshold_stands_where_f1_is_highest() -> None:
    # Two right cells at .9 and .6, wrong ones at .5 and .3: everything above .5 is best.
    one = field("a1", 1, [0, 100], [(0, 0.9), (100, 0.6), (300, 0.5), (400, 0.3)])
    best = best_threshold([one], 5.0)
    assert best == 0.6
    f1 = {t: point_scores([above(one, t)], 5.0).f1 for t in (0.9, 0.6, 0.5, 0.3)}
    assert f1[best] == max(f1.values()) == 1.0


def test_threshold_is_never_below_the_floor() -> None:
    # The cell at .02 is right, but scores this low are noise in any other field.
    one = field("a1", 1, [0, 100], [(0, 0.9), (100, 0.02)])
    assert best_threshold([one], 5.0) == 0.9


def test_threshold_is_chosen_on_other_folds() -> None:
    # Fold 1 alone would ask for a threshold above .8, fold 2 for one below .3.
    strict = field("a1", 1, [0], [(0, 0.9), (100, 0.8), (200, 0.7)])
    lenient = field("b1", 2, [0, 100, 200], [(0, 0.9), (100, 0.3), (200, 0.25)])
    alone = {k: best_threshold([f], 5.0) for k, f in ((1, strict), (2, lenient))}
    assert alone[1] > 0.8 > 0.25 >= alone[2]
    assert fold_thresholds([strict, lenient], 5.0) == {1: alone[2], 2: alone[1]}
    # A single fold has no others.
    assert fold_thresholds([strict], 5.0) == {1: alone[1]}


def test_scores_use_the_threshold_of_each_fold() -> None:
    fields = [
        field("a1", 1, [0, 50], [(0, 0.9), (50, 0.4)]),
        field("b1", 2, [0, 50], [(0, 0.9), (50, 0.4)]),
    ]
    kept = thresholded(fields, {1: 0.5, 2: 0.3})
    assert [len(f.found_xy) for f in kept] == [1, 2]
    scores = scores_at(fields, {1: 0.5, 2: 0.3}, [5.0, 8.0], ("x",), bootstrap=10)
    # 3 of 3 found are right, 3 of 4 true are found.
    assert scores[5.0].f1 == pytest.approx(6 / 7)
    assert scores[8.0].radius == 8.0


def test_no_cells_give_no_threshold() -> None:
    with pytest.raises(DataError, match="threshold"):
        best_threshold([field("a1", 1, [1], [])], 5.0)


def test_difference_of_two_methods_is_paired() -> None:
    # Ours finds everything everywhere, theirs half of it everywhere: the gap never varies.
    ours = [above(field(f"f{i}", 1, [0, 50], [(0, 0.9), (50, 0.9)]), 0.5) for i in range(6)]
    theirs = [above(field(f"f{i}", 1, [0, 50], [(0, 0.9)]), 0.5) for i in range(6)]
    gaps = paired_differences(ours, list(reversed(theirs)), 5.0, ("x",), times=50)
    assert [g.name for g in gaps] == ["detection", "x", "class mean"]
    for gap in gaps:
        # F1 1 against 2·1 / (2 + 1).
        assert gap.value == pytest.approx(1 / 3)
        assert gap.low == pytest.approx(gap.high) == pytest.approx(1 / 3)


def test_difference_equals_that_of_pooled_scores() -> None:
    rng = np.random.default_rng(0)

    def some(seed_shift: float) -> list[PointField]:
        out = []
        for i in range(5):
            true = np.column_stack((np.arange(20) * 30.0, np.zeros(20)))
            found = true[rng.random(20) > 0.3] + seed_shift
            out.append(
                PointField(true, found, np.arange(20) % 2, rng.integers(0, 2, len(found)), f"f{i}")
            )
        return out

    a, b = some(1.0), some(3.0)
    gaps = {g.name: g for g in paired_differences(a, b, 5.0, ("x", "y"), times=200)}
    sa, sb = (point_scores(s, 5.0, class_names=("x", "y")) for s in (a, b))
    assert gaps["detection"].value == pytest.approx(sa.f1 - sb.f1)
    assert gaps["class mean"].value == pytest.approx(sa.class_mean - sb.class_mean)
    assert gaps["x"].low <= gaps["x"].value <= gaps["x"].high


def test_methods_on_other_fields_are_not_compared() -> None:
    a = [above(field("a1", 1, [0], [(0, 0.9)]), 0.5)]
    b = [above(field("b1", 1, [0], [(0, 0.9)]), 0.5)]
    with pytest.raises(DataError, match="same fields"):
        paired_differences(a, b, 5.0, ())
