"""Many points take the place of the few they are nearest to: a layout of landmarks for all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job, Progress, drain

NEIGHBOURS = 5
ANCHORS = 128
PER_ANCHOR = 150
NEAR_ANCHORS = 12
"""Landmarks of so many anchors are looked at, some 2,000 of 20,000: the nearest are nearly always
among them."""
_PAIRS = 1 << 22


def place(
    points: NDArray[Any],
    landmarks: NDArray[Any],
    positions: NDArray[Any],
    *,
    neighbours: int = NEIGHBOURS,
) -> NDArray[np.float32]:
    """Positions (N, P) of points (N, K): the weighted mean of the nearest landmarks'.

    Parameters
    ----------
    points : (N, K)
    landmarks : (L, K)
        In the same space as the points.
    positions : (L, P)
        Where the landmarks were laid.
    neighbours : int
        How many have a say; nearer ones weigh more (1 / distance²). A point that is a landmark
        comes to lie where that lies.

    Raises
    ------
    EmbeddingError
        There are no landmarks, or shapes do not fit.
    """
    return drain(placing(points, landmarks, positions, neighbours=neighbours))


def placing(
    points: NDArray[Any],
    landmarks: NDArray[Any],
    positions: NDArray[Any],
    *,
    neighbours: int = NEIGHBOURS,
) -> Job[NDArray[np.float32]]:
    """`place` as a job; `Progress` counts points."""
    spots, marks = np.asarray(points, np.float32), np.asarray(landmarks, np.float32)
    laid = np.asarray(positions, np.float32)
    _refuse_misfits(spots, marks, laid)
    k = min(neighbours, len(marks))
    anchors = marks[:: max(len(marks) // ANCHORS, PER_ANCHOR)]
    groups = _members((yield from _nearest_one(marks, anchors)), len(anchors))
    near = np.argsort(_squares(anchors, anchors), axis=1, kind="stable")[:, :NEAR_ANCHORS]
    found, done = np.empty((len(spots), laid.shape[1]), np.float32), 0
    cells = _members((yield from _nearest_one(spots, anchors)), len(anchors))
    for number, rows in enumerate(cells):
        among = np.concatenate([groups[i] for i in near[number]])
        if len(among) < k:
            among = np.arange(len(marks))
        height = max(_PAIRS // len(among), 1)
        for start in range(0, len(rows), height):
            some = rows[start : start + height]
            found[some] = _mean_of_nearest(spots[some], marks[among], laid[among], k)
            done += len(some)
            yield Progress(done, len(spots), "placing cells")
    return found


def _mean_of_nearest(
    spots: NDArray[np.float32], marks: NDArray[np.float32], laid: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    apart = _squares(spots, marks)
    which = np.argpartition(apart, k - 1, axis=1)[:, :k]
    # Anew from the differences: the fast form leaves a rest where a point is a landmark.
    exact = np.square(spots[:, None] - marks[which]).sum(axis=2, dtype=np.float64)
    weight = 1 / np.maximum(exact, 1e-12 * np.maximum(exact.max(axis=1, keepdims=True), 1e-12))
    weight /= weight.sum(axis=1, keepdims=True)
    return np.einsum("nk,nkp->np", weight, laid[which]).astype(np.float32)


def _nearest_one(
    spots: NDArray[np.float32], anchors: NDArray[np.float32]
) -> Job[NDArray[np.int64]]:
    found = np.empty(len(spots), np.int64)
    height = max(_PAIRS // len(anchors), 1)
    for start in range(0, len(spots), height):
        some = spots[start : start + height]
        found[start : start + height] = _squares(some, anchors).argmin(axis=1)
        yield Progress(0, len(spots), "placing cells")
    return found


def _members(which: NDArray[np.int64], groups: int) -> list[NDArray[np.int64]]:
    order = np.argsort(which, kind="stable")
    return np.split(order, np.searchsorted(which[order], np.arange(1, groups)))


def _squares(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared distances, but for a part that depends on the row alone."""
    return np.einsum("nk,nk->n", other, other) - 2 * (one @ other.T)


def _refuse_misfits(
    spots: NDArray[np.float32], marks: NDArray[np.float32], laid: NDArray[np.float32]
) -> None:
    flat = spots.ndim == marks.ndim == laid.ndim == 2
    if flat and len(marks) and len(marks) == len(laid) and spots.shape[1] == marks.shape[1]:
        return
    raise EmbeddingError(
        "These landmarks do not fit the cells.",
        expected="landmarks of the same size as the cells, each with a position",
        found=f"cells {spots.shape}, landmarks {marks.shape}, positions {laid.shape}",
        remedy="make the projection again",
    )
