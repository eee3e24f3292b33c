"""Edits of cells and areas: applied, taken back, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.annotations import (
    Annotations,
    Area,
    AreaChange,
    CellStates,
    Edit,
    Status,
    new_keys,
)
from napari_celldetr.core.errors import AnnotationError

NAMES = ("lymphocyte", "tumour")


def states(*rows: tuple[float, int, int]) -> CellStates:
    """Cells of 10 px at x, of a class, with a status."""
    return CellStates(
        np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32),
        np.array([c for _, c, _ in rows], np.int16),
        np.full(len(rows), 0.5, np.float32),
        np.array([s for _, _, s in rows], np.uint8),
    )


def edit(key: int, before: CellStates, after: CellStates, names: Any = NAMES) -> Edit:
    keys = np.array([[key + i, 7] for i in range(len(before))], np.uint64)
    return Edit("test", keys, before, after, names)


SQUARE = Area(((0, 0), (10, 0), (10, 10), (0, 10)), name="a")


def test_an_edit_holds_and_keeps_what_the_model_had_claimed() -> None:
    said = Annotations(NAMES)
    said.apply(edit(1, states((5, 0, Status.CLAIMED)), states((5, 1, Status.RECLASSED))))
    moved = edit(1, states((5, 1, Status.RECLASSED)), states((8, 1, Status.MOVED)))
    said.apply(moved, author="ada")
    cell = said.cells[(1, 7)]
    assert cell.box == (8, 0, 18, 10)
    assert (cell.class_id, cell.status, cell.author) == (1, Status.MOVED, "ada")
    # The claim is that of the first touch, not of the edit before.
    assert cell.claim == ((5, 0, 15, 10), 0, 0.5)


def test_an_added_cell_was_never_claimed() -> None:
    said = Annotations(NAMES)
    said.apply(edit(1, CellStates.absent(1), states((5, 0, Status.ADDED))))
    assert said.cells[(1, 7)].claim is None


def test_taking_all_back_leaves_nothing() -> None:
    said = Annotations(NAMES)
    start = said.digest()
    edits = [
        edit(1, CellStates.absent(2), states((5, 0, Status.ADDED), (50, 1, Status.ADDED))),
        edit(1, states((5, 0, Status.ADDED)), states((5, 0, Status.DELETED))),
        edit(9, states((90, 0, Status.CLAIMED)), states((90, 1, Status.RECLASSED))),
        Edit("area", np.zeros((0, 2)), states(), states(), NAMES, (AreaChange("x", None, SQUARE),)),
    ]
    digests = [start]
    for one in edits:
        said.apply(one)
        digests.append(said.digest())
    assert len(set(digests)) == len(digests)
    for one, expected in zip(reversed(edits), reversed(digests[:-1]), strict=True):
        said.apply(one.reversed())
        assert said.digest() == expected
    assert not said.cells
    assert not said.areas


def test_class_ids_of_another_model_are_translated_by_name() -> None:
    said = Annotations(NAMES)
    said.apply(edit(1, states((5, 1, 0)), states((5, 0, Status.RECLASSED)), ("stroma", "tumour")))
    cell = said.cells[(1, 7)]
    assert said.class_names == ("lymphocyte", "tumour", "stroma")
    assert said.class_names[cell.class_id] == "stroma"
    assert cell.claim is not None
    assert said.class_names[cell.claim[1]] == "tumour"


def test_digest_does_not_depend_on_the_way_there() -> None:
    one, other = Annotations(NAMES), Annotations(NAMES[::-1])
    a = edit(1, states((5, 0, 0)), states((5, 1, Status.RECLASSED)))
    b = edit(2, states((50, 0, 0)), states((50, 0, Status.DELETED)))
    for said, order in ((one, (a, b)), (other, (b, a))):
        for e in order:
            said.apply(e)
    assert one.digest() == other.digest()
    keys, now = one.states()
    assert keys.tolist() == [[1, 7], [2, 7]]
    assert now.status.tolist() == [Status.RECLASSED, Status.DELETED]


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: states((math.nan, 0, 0)), "not finite"),
        (lambda: CellStates(np.array([[5, 5, 5, 9]]), [0], [1], [0]), "without area"),
        (lambda: states((0, 0, 9)), "status that does not exist"),
        (lambda: edit(1, states((0, 0, 0)), states((0, 2, 2))), "class ids"),
        (lambda: edit(1, states((0, 0, 0)), states()), "1 keys"),
        (
            lambda: Edit("", np.ones((2, 2)), CellStates.absent(2), CellStates.absent(2), ()),
            "comes twice",
        ),
        (lambda: Area(((0, 0), (1, 1))), "2 corners"),
        (lambda: Area(((0, 0), (1, 1), (2, 2))), "without area"),
        (lambda: Area(((0, 0), (1, math.inf), (2, 2))), "not finite"),
    ],
)
def test_what_cannot_be_an_annotation_is_refused(make: Any, found: str) -> None:
    with pytest.raises(AnnotationError, match=found):
        make()


def test_new_keys_are_version_4_uuids_and_differ() -> None:
    keys = new_keys(1000)
    assert len(np.unique(keys, axis=0)) == 1000
    assert set(((keys[:, 0] >> np.uint64(12)) & np.uint64(0xF)).tolist()) == {4}
    assert set((keys[:, 1] >> np.uint64(62)).tolist()) == {2}


CORNER = st.tuples(st.integers(-20, 20), st.integers(-20, 20))


@settings(max_examples=150, deadline=None)
@given(st.lists(CORNER, min_size=3, max_size=8, unique=True), st.lists(CORNER, max_size=30))
def test_points_inside_an_area_agree_with_scikit_image(corners: Any, points: Any) -> None:
    from skimage.measure import points_in_poly

    x, y = np.array(corners, float).T
    if abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) == 0:
        return
    # Off the integer grid, so that no point lies on an edge or a corner.
    shift = np.array([0.5031, 0.2817])
    xy = np.array(points, float).reshape(-1, 2) + shift
    found = Area(tuple(corners)).contains(xy)
    assert found.tolist() == points_in_poly(xy, np.array(corners, float)).tolist()


def test_what_stands_after_undo_is_said_by_who_had_said_it() -> None:
    said = Annotations(NAMES)
    first = edit(1, states((5, 0, 0)), states((5, 1, Status.RECLASSED)))
    second = edit(1, states((5, 1, Status.RECLASSED)), states((5, 1, Status.DELETED)))
    said.apply(first, author="ada")
    said.apply(second, author="bo")
    assert said.cells[(1, 7)].author == "bo"
    said.apply(second.reversed(), author="bo", back=True)
    assert said.cells[(1, 7)].author == "ada"
    said.apply(first.reversed(), author="bo", back=True)
    assert not said.cells


def test_a_line_that_crosses_itself() -> None:
    assert Area(((0, 0), (10, 10), (10, 0), (0, 12))).crosses_itself
    assert not SQUARE.crosses_itself
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    ring = np.column_stack((np.cos(angle), np.sin(angle) * 2)) * 50
    assert not Area(tuple(map(tuple, ring))).crosses_itself


def test_area_of_a_square() -> None:
    assert SQUARE.area_px == 100
