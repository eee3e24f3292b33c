"""Slides that were made alike mix; a slide that was moved lies apart, in the class that moved."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space.batches import FEWEST, slide_mixing

NAMES = ("lymphocyte", "tumour")


def slide(seed: int, *, cells: int = 400, moved: float = 0.0) -> tuple[NDArray, NDArray]:
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, 2, cells)
    vectors = rng.standard_normal((cells, 8)) + 6 * ids[:, None]
    vectors[ids == 1] += moved
    return vectors.astype(np.float16), ids


def slides(*moved: float) -> list[tuple[str, NDArray, NDArray]]:
    return [(f"slide {i}", *slide(i, moved=m)) for i, m in enumerate(moved)]


def test_slides_made_alike_mix() -> None:
    for found in slide_mixing(slides(0, 0, 0), NAMES):
        assert found.slides == ("slide 0", "slide 1", "slide 2")
        assert found.apart < 0.06
        assert found.explained < 0.02
        assert found.effective > 2.4


def test_only_the_class_that_moved_lies_apart() -> None:
    every, lymphocyte, tumour = slide_mixing(slides(0, 4), NAMES)
    assert [every.class_name, lymphocyte.class_name, tumour.class_name] == ["all", *NAMES]
    assert lymphocyte.apart < 0.1
    assert tumour.apart > 0.95
    assert tumour.effective < 1.05
    assert tumour.explained > 0.6
    assert lymphocyte.apart < every.apart < tumour.apart


def test_a_large_slide_weighs_no_more_than_a_small_one() -> None:
    large = ("large", *slide(7, cells=5000))
    found = slide_mixing([large, ("small", *slide(8, cells=300))], NAMES)
    assert all(m.apart < 0.1 for m in found)
    assert all(m.cells % 2 == 0 for m in found)


def test_a_class_that_one_slide_alone_has_is_left_out() -> None:
    vectors, ids = slide(0)
    other = np.where(ids == 1, 0, ids)
    found = slide_mixing([("a", vectors, ids), ("b", vectors, other)], NAMES)
    assert [m.class_name for m in found] == ["all", "lymphocyte"]
    few = [("a", vectors, ids), ("b", vectors[: FEWEST - 1], ids[: FEWEST - 1])]
    assert slide_mixing(few, NAMES) == []
    assert slide_mixing([], NAMES) == []


def test_cells_that_are_all_the_same_do_not_lie_apart() -> None:
    same = np.ones((50, 3), np.float16)
    found = slide_mixing([(n, same, np.zeros(50, int)) for n in "ab"], NAMES)
    assert [m.explained for m in found] == [0, 0]


def test_embeddings_of_two_models_are_not_compared() -> None:
    tables = [
        ("a", np.zeros((30, 4)), np.zeros(30, int)),
        ("b", np.zeros((30, 5)), np.zeros(30, int)),
    ]
    with pytest.raises(EmbeddingError, match="4 and 5 numbers"):
        slide_mixing(tables, NAMES)


def test_embeddings_that_are_not_numbers_are_refused() -> None:
    bad = np.full((30, 4), np.nan)
    with pytest.raises(EmbeddingError, match="not numbers"):
        slide_mixing([(n, bad, np.zeros(30, int)) for n in "ab"], NAMES)
