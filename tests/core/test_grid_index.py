"""The grid index finds what a full comparison finds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.core.grid_index import GridIndex, inside
from napari_celldetr.core.regions import Region


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 300),
    st.sampled_from([7.0, 64.0, 512.0]),
    st.tuples(
        st.integers(-300, 1200), st.integers(-300, 1200), st.integers(1, 1500), st.integers(1, 900)
    ),
    st.integers(0, 2**32 - 1),
)
def test_every_point_inside_is_near(count: int, side: float, box: tuple, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-200, 1000, (count, 2)).astype(np.float32)
    region = Region(*box)
    near = GridIndex(points, side=side).near(region)
    assert len(np.unique(near)) == len(near)
    wanted = np.flatnonzero(inside(points, region))
    found = near[inside(points[near], region)]
    assert sorted(found.tolist()) == wanted.tolist()
    # Only squares that touch the region are looked at.
    far = points[near] + side * 1.001
    assert (far >= (region.x, region.y)).all()
    assert (points[near] - side * 1.001 <= (region.x1, region.y1)).all()


def test_nothing_in_an_index_without_points() -> None:
    assert len(GridIndex(np.zeros((0, 2))).near(Region(0, 0, 10, 10))) == 0
