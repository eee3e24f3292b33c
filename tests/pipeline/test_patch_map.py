"""Patches are paired one to one, near where the transform has them, and never in excluded areas."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.transform import ErrorMap, SlideFrame, SlideTransform, identity_affine
from napari_celldetr.pipeline.patch_map import COLUMNS, patch_map, write_patch_map

HE = SlideFrame("he", "1", (4000, 3000), (0.5, 0.5))
IHC = SlideFrame("ihc", "2", (8400, 6400), (0.25, 0.25))
SIDE = 100.0


def turned(degrees: float, scale: float = 1.0) -> SlideTransform:
    angle = np.radians(degrees)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle, there = np.array([1000, 750]), np.array([1050, 800])
    return SlideTransform(HE, IHC, np.column_stack([matrix, there - matrix @ middle]))


def with_errors(transform: SlideTransform) -> SlideTransform:
    error = np.full((15, 20), 10.0)
    error[:, :5] = 500
    error[0, 6] = np.nan
    tissue = np.ones((15, 20))
    tissue[-1] = 0
    return replace(transform, error_map=ErrorMap((SIDE, SIDE), error, tissue), limit_um=50)


def rows(array: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(r) for r in array.tolist()]


def test_in_place_every_patch_keeps_its_place():
    transform = SlideTransform(HE, IHC, identity_affine())
    pairs = patch_map(transform, side_um=SIDE)
    assert np.array_equal(pairs.he, pairs.ihc)
    assert len(pairs.he) == 20 * 15
    assert not pairs.distance_um.any()
    assert not len(pairs.excluded)


@pytest.mark.parametrize("degrees", [7, 33, 45, 181])
@pytest.mark.parametrize("scale", [0.95, 1.0, 1.05])
def test_no_patch_is_given_twice(degrees, scale):
    transform = with_errors(turned(degrees, scale))
    pairs = patch_map(transform, side_um=SIDE)
    assert len(set(rows(pairs.he))) == len(pairs.he) == len(set(rows(pairs.ihc)))
    everything = rows(pairs.he) + rows(pairs.excluded) + rows(pairs.crowded)
    assert len(everything) == len(set(everything)) == 20 * 14
    assert (pairs.ihc >= 0).all()
    assert (pairs.ihc < (21, 16)).all()
    assert len(pairs.crowded) <= 0.12 * len(pairs.he)
    landed = transform.forward_um((pairs.he + 0.5) * SIDE)
    apart = np.hypot(*(landed - (pairs.ihc + 0.5) * SIDE).T)
    assert np.allclose(apart, pairs.distance_um)
    assert apart.max() <= 1.5 * SIDE


def test_excluded_areas_have_no_partners():
    pairs = patch_map(with_errors(turned(0)), side_um=SIDE)
    assert (pairs.he[:, 0] >= 5).all()
    assert (6, 0) in rows(pairs.excluded)
    assert (pairs.he[:, 1] < 14).all()
    assert pairs.partner()[7, 3] == tuple(pairs.ihc[rows(pairs.he).index((7, 3))])


def test_the_sum_of_squared_distances_is_least():
    transform = turned(20)
    wanted = np.array([(x, y) for x in range(6, 12) for y in range(5, 10)])
    pairs = patch_map(transform, side_um=SIDE, wanted=wanted)
    landed = transform.forward_um((wanted + 0.5) * SIDE) / SIDE
    grid = np.array([(x, y) for x in range(21) for y in range(16)])
    cost = ((landed[:, None] - grid - 0.5) ** 2).sum(axis=2)
    best = cost[linear_sum_assignment(cost)].sum()
    assert len(pairs.he) == len(wanted)
    assert (pairs.distance_um**2).sum() / SIDE**2 == pytest.approx(best)


@pytest.mark.parametrize("side", [0, -5, float("nan"), 1e6])
def test_impossible_sides_are_refused(side):
    with pytest.raises(ConfigError, match="patches"):
        patch_map(turned(0), side_um=side)


def test_the_table_names_every_patch(tmp_path):
    transform = with_errors(turned(12))
    pairs = patch_map(transform, side_um=SIDE)
    write_patch_map(pairs, transform, tmp_path / "map.csv")
    with (tmp_path / "map.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert tuple(table[0]) == COLUMNS
    states = [row["state"] for row in table]
    assert states.count("paired") == len(pairs.he)
    assert states.count("excluded") == len(pairs.excluded)
    first = table[0]
    assert float(first["he_x"]) == float(first["he_column"]) * 200
    assert float(first["ihc_y"]) == float(first["ihc_row"]) * 400
