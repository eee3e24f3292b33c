"""A one-to-one map from patches of the H&E slide to patches of the IHC slide.

Both slides are cut into squares of equal side in µm. Each H&E patch with tissue gets the IHC
patch nearest to where the transform puts it, and no IHC patch is given twice: among all such
assignments the one with the least sum of squared distances. Patches in excluded areas get none.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.atomic import not_written, replacing

REACH = 1.5
"""How many patch sides a partner may lie from where the transform has it."""
LEAVE_OUT = 1e6
"""Cost of leaving a patch out: more than any number of detours."""

COLUMNS = (
    *("he_column", "he_row", "he_x", "he_y"),
    *("ihc_column", "ihc_row", "ihc_x", "ihc_y"),
    *("distance_um", "state"),
)

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PatchMap:
    """Pairs of patches.

    Attributes
    ----------
    side_um : float
    he, ihc : (N, 2)
        Column and row of the paired patches in either slide's grid; no row appears twice.
    distance_um : (N,)
        From where the transform puts the H&E patch's middle to the IHC patch's middle.
    excluded : (M, 2)
        H&E patches with tissue that have no partner: their error is too large, or unknown, or
        they fall off the IHC slide.
    crowded : (K, 2)
        H&E patches with tissue that found all patches within reach taken.
    """

    side_um: float
    he: Ints
    ihc: Ints
    distance_um: NDArray[np.float64]
    excluded: Ints
    crowded: Ints

    def partner(self) -> Mapping[tuple[int, int], tuple[int, int]]:
        """(column, row) on the H&E to (column, row) on the IHC."""
        keys, values = (map(tuple, side.tolist()) for side in (self.he, self.ihc))
        return dict(zip(keys, values, strict=True))


def patch_map(
    transform: SlideTransform, *, side_um: float, wanted: NDArray[Any] | None = None
) -> PatchMap:
    """Pair the patches of two slides.

    Parameters
    ----------
    transform : SlideTransform
        With an error map; without one all patches are taken to have tissue.
    side_um : float
        Side of a patch in µm, on both slides.
    wanted : (N, 2) ints, optional
        Column and row of the H&E patches to be paired; default: all with tissue.

    Raises `ConfigError` for a side that makes no patches.
    """
    for frame in (transform.he, transform.ihc):
        if not 0 < side_um <= min(frame.extent_um):
            raise ConfigError(
                "The slides cannot be cut into such patches.",
                expected=f"a side of more than 0 and at most {min(frame.extent_um):.0f} µm",
                found=f"{side_um} µm",
                remedy="choose another side",
            )
    he = _patches_with_tissue(transform, side_um) if wanted is None else np.asarray(wanted, int)
    middle = (he + 0.5) * side_um
    usable = transform.trusted(middle / transform.he.mpp)
    landed = transform.forward_um(middle) / side_um
    near = _near(landed[usable], _grid(transform.ihc.extent_um, side_um))
    reached = np.zeros(len(he), bool)
    reached[np.flatnonzero(usable)[np.unique(near[0])]] = True
    rows, cells, cost = near
    chosen = _assigned(rows, cells, cost)
    pairs = np.flatnonzero(chosen)
    paired = np.flatnonzero(usable)[rows[pairs]]
    columns = _grid(transform.ihc.extent_um, side_um)[0]
    ihc = np.stack([cells[pairs] % columns, cells[pairs] // columns], axis=1)
    left = reached.copy()
    left[paired] = False
    return PatchMap(
        side_um,
        he[paired],
        ihc.astype(np.int64),
        np.sqrt(cost[pairs]) * side_um,
        he[~reached],
        he[left],
    )


def _grid(extent_um: tuple[float, float], side_um: float) -> tuple[int, int]:
    """Columns and rows of whole patches."""
    return int(extent_um[0] / side_um + 1e-9), int(extent_um[1] / side_um + 1e-9)


def _patches_with_tissue(transform: SlideTransform, side_um: float) -> Ints:
    columns, rows = _grid(transform.he.extent_um, side_um)
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    errors = transform.error_map
    if errors is None:
        return grid
    cell = np.floor((grid + 0.5) * side_um / errors.spacing).astype(np.intp)
    x, y = np.minimum(cell, np.array(errors.tissue.shape[::-1]) - 1).T
    return np.asarray(grid[errors.tissue[y, x] > 0], np.int64)


def _near(
    landed: NDArray[np.float64], grid: tuple[int, int]
) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """Which patches lie within reach of each place: row, flat patch and squared distance."""
    base = np.floor(landed).astype(np.int64)
    steps = np.arange(-2, 3)
    rows, cells, costs = [], [], []
    for dx in steps:
        for dy in steps:
            at = base + np.array([dx, dy])
            cost = ((at + 0.5 - landed) ** 2).sum(axis=1)
            ok = ((at >= 0) & (at < grid)).all(axis=1) & (cost <= REACH**2)
            rows.append(np.flatnonzero(ok))
            cells.append(at[ok, 1] * grid[0] + at[ok, 0])
            costs.append(cost[ok])
    return np.concatenate(rows), np.concatenate(cells), np.concatenate(costs)


def _assigned(rows: Ints, cells: Ints, cost: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which candidate pairs (E,) the best assignment takes: most pairs first, then least cost.

    Every row may also be left out, at a cost that no detour reaches.
    """
    chosen = np.zeros(len(rows), bool)
    if not len(rows):
        return chosen
    row_ids, r = np.unique(rows, return_inverse=True)
    cell_ids, c = np.unique(cells, return_inverse=True)
    n, m = len(row_ids), len(cell_ids)
    # Columns beyond the patches are each row's own way out.
    entries = np.concatenate([cost + 1.0, np.full(n, LEAVE_OUT)])
    index = (np.concatenate([r, np.arange(n)]), np.concatenate([c, m + np.arange(n)]))
    matrix = sparse.csr_matrix((entries, index), shape=(n, m + n))
    left, right = min_weight_full_bipartite_matching(matrix)
    partner = np.full(n, -1)
    partner[left] = right
    return np.asarray(partner[r] == c, np.bool_)


def write_patch_map(pairs: PatchMap, transform: SlideTransform, path: str | Path) -> None:
    """Write a row per pair: grid places, corners in level-0 px, distance in µm; then the unpaired.

    The columns of an unpaired patch's partner are empty, and `state` says why. `ExportError` when
    the file cannot be written.
    """
    he_px, ihc_px = (pairs.side_um / np.array(f.mpp) for f in (transform.he, transform.ihc))
    rows = [
        [*he, *_corner(he, he_px), *ihc, *_corner(ihc, ihc_px), f"{apart:.2f}", "paired"]
        for he, ihc, apart in zip(
            pairs.he.tolist(), pairs.ihc.tolist(), pairs.distance_um.tolist(), strict=True
        )
    ]
    for state, left in (("excluded", pairs.excluded), ("crowded", pairs.crowded)):
        rows += [[*he, *_corner(he, he_px), "", "", "", "", "", state] for he in left.tolist()]
    try:
        with replacing(Path(path)) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(rows)
    except OSError as error:
        raise not_written("The patch map", error) from error


def _corner(place: list[int], side_px: NDArray[np.float64]) -> list[str]:
    return [f"{p * s:.1f}" for p, s in zip(place, side_px.tolist(), strict=True)]
