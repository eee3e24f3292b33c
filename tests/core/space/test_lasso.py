"""The lasso finds exactly the points that a comparison with every edge finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space import lasso
from napari_celldetr.core.space.lasso import inside_box, inside_polygon


def slow(points: NDArray, polygon: NDArray) -> NDArray[np.bool_]:
    """Even-odd, edge after edge."""
    x, y = points.astype(np.float64).T
    found = np.zeros(len(points), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            found ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return found


@pytest.fixture
def no_short_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasso, "_FEW", 0)


@pytest.mark.usefixtures("no_short_cut")
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    vertices=st.integers(3, 60),
    size=st.sampled_from([1e-3, 1.0, 700.0]),
    far=st.sampled_from([0.0, -3.0, 2e5]),
    aligned=st.booleans(),
)
def test_as_every_edge_says(
    seed: int, vertices: int, size: float, far: float, aligned: bool, kind: type
) -> None:
    rng = np.random.default_rng(seed)
    polygon = rng.uniform(-1, 1, (vertices, 2))
    points = rng.uniform(-1.5, 1.5, (3000, 2))
    if aligned:  # vertices, level and upright edges exactly at points
        polygon, points = np.round(polygon * 4) / 4, np.round(points * 4) / 4
    polygon, points = polygon * size + far, (points * size + far).astype(kind)
    assert (inside_polygon(points, polygon) == slow(points, polygon)).all()


@pytest.mark.usefixtures("no_short_cut")
def test_a_hand_drawn_line_among_many_points() -> None:
    rng = np.random.default_rng(1)
    points = rng.standard_normal((40_000, 2)).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 700, endpoint=False)
    radius = 1 + 0.3 * np.sin(7 * angle) + 0.02 * rng.standard_normal(700)
    polygon = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
    found = inside_polygon(points, polygon)
    assert (found == slow(points, polygon)).all()
    assert 0.2 < found.mean() < 0.6


@pytest.mark.usefixtures("no_short_cut")
def test_most_points_are_not_compared_with_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    usual = lasso._Edges.right_of

    def counting(self, x, y, which):  # type: ignore[no-untyped-def]
        seen.append(x.size)
        return usual(self, x, y, which)

    monkeypatch.setattr(lasso._Edges, "right_of", counting)
    points = np.random.default_rng(0).uniform(-1, 1, (100_000, 2)).astype(np.float32)
    angle = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    inside_polygon(points, 0.7 * np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert sum(seen) < 0.05 * len(points)


@pytest.mark.parametrize("few", [0, 1 << 20])
def test_points_that_are_no_numbers_lie_outside(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasso, "_FEW", few)
    odd = [np.nan, np.inf, -np.inf, 3e38, 0.5]
    points = np.array([(x, y) for x in odd for y in odd], np.float32)
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    assert np.flatnonzero(inside_polygon(points, square)).tolist() == [24]


@pytest.mark.usefixtures("no_short_cut")
@pytest.mark.parametrize(
    "line",
    [[], [(0, 0)], [(0, 0), (1, 1)], [(0, 0), (1, 0), (2, 0)], [(1, 1)] * 5, [(0, 0), (0, 9)] * 2],
)
def test_a_line_without_area_encloses_nothing(line: list) -> None:
    points = np.random.default_rng(0).uniform(-1, 2, (500, 2)).astype(np.float32)
    assert not inside_polygon(points, np.array(line, float).reshape(-1, 2)).any()


def test_no_points() -> None:
    assert inside_polygon(np.zeros((0, 2)), np.eye(3)[:, :2]).shape == (0,)


def test_whole_numbers_and_halves_are_points_too() -> None:
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    for kind in (np.int64, np.float16):
        assert inside_polygon(np.array([(0, 0), (2, 0)], kind), square).tolist() == [True, False]


@pytest.mark.parametrize(
    ("points", "line"),
    [
        (np.zeros((3, 3)), np.zeros((4, 2))),
        (np.zeros((3, 2)), np.full((4, 2), np.nan)),
        (np.zeros((3, 2)), np.full((4, 2), 1e300)),
        (np.zeros(4), np.zeros((4, 2))),
    ],
)
def test_what_is_no_selection_is_refused(points: NDArray, line: NDArray) -> None:
    with pytest.raises(EmbeddingError, match="selection cannot be made"):
        inside_polygon(points, line)


def test_a_box_includes_its_edges_whichever_way_it_was_drawn() -> None:
    points = np.array([(0, 0), (1, 2), (1.01, 1), (0.5, np.nan)])
    for box in [(0, 0, 1, 2), (1, 2, 0, 0), (1, 0, 0, 2)]:
        assert inside_box(points, box).tolist() == [True, True, False, False]
