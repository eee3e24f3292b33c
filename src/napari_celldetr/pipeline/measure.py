"""Measurements of each cell: size in µm, and stain from the tile's pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ModelError
from napari_celldetr.slides.stain import H_DAB, optical_density

DAB, HEMATOXYLIN, DAB_SHARE = "dab_od_mean", "hematoxylin_od_mean", "dab_share"
LEAST_STAIN = 0.05
"""Optical density of both stains together below which a cell has too little of either to share."""
DIAMETER, AREA = "diameter_um", "area_um2"

_PIXELS_AT_ONCE = 1_000_000


def size_columns(boxes: NDArray[Any], mpp: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
    """``diameter_um`` (geometric mean of the sides) and ``area_um2`` (ellipse in the box), (N,)."""
    width = (boxes[:, 2] - boxes[:, 0]) * mpp[0]
    height = (boxes[:, 3] - boxes[:, 1]) * mpp[1]
    return {
        DIAMETER: np.sqrt(width * height).astype(np.float32),
        AREA: (np.pi / 4 * width * height).astype(np.float32),
    }


def stain_columns(tile: NDArray[np.uint8], boxes: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    """Mean H-DAB optical densities (N,) in the ellipse of each box, and DAB's share of the two.

    The share, 0..1, does not change where a scanner shows all densities weaker or stronger; one
    region scanned twice had densities half as high in one file as in the other.

    Parameters
    ----------
    tile : (H, W, 3) uint8 RGB
    boxes : (N, 4)
        xyxy in tile px. Only pixels inside the tile count; a cell without any gets 0.
    """
    boxes = np.asarray(boxes, np.float64)
    means = np.zeros((2, len(boxes)), np.float32)
    matrix = np.linalg.inv(H_DAB)[:, :2].astype(np.float32)
    for members, rows, columns, weight in _ellipses(boxes, tile.shape[:2]):
        density = np.einsum("nhwc,nhw->nc", optical_density(tile[rows, columns]), weight) @ matrix
        means[:, members] = (density / np.maximum(weight.sum(axis=(1, 2)), 1)[:, None]).T
    stain = np.maximum(means, 0)
    share = stain[1] / np.maximum(stain.sum(axis=0), LEAST_STAIN)
    return {HEMATOXYLIN: means[0], DAB: means[1], DAB_SHARE: share}


def _ellipses(
    boxes: NDArray[Any], size: tuple[int, int]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.float32]]]:
    """Cells in groups of like size: members (n,), rows and columns and weights (n, k, k).

    A weight is 1 where the pixel's centre lies in the ellipse of the box and in the tile.
    """
    low = np.floor(boxes[:, :2]).astype(np.int64)
    side = np.maximum(np.ceil(boxes[:, 2:]).astype(np.int64) - low, 1).max(axis=1, initial=1)
    bucket = -(-side // 8) * 8
    for k in np.unique(bucket):
        same = np.flatnonzero(bucket == k)
        for members in np.array_split(same, max(1, -(-len(same) * int(k) ** 2 // _PIXELS_AT_ONCE))):
            yield members, *_ellipse_group(boxes[members], low[members], int(k), size)


def _ellipse_group(
    boxes: NDArray[Any], low: NDArray[np.int64], k: int, size: tuple[int, int]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    steps = np.arange(k)
    columns, rows = low[:, :1] + steps, low[:, 1:] + steps
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, 0.5)
    dx = ((columns + 0.5 - centre[:, :1]) / half[:, :1]) ** 2
    dy = ((rows + 0.5 - centre[:, 1:]) / half[:, 1:]) ** 2
    dx[(columns < 0) | (columns >= size[1])] = np.inf
    dy[(rows < 0) | (rows >= size[0])] = np.inf
    weight = (dy[:, :, None] + dx[:, None, :] <= 1).astype(np.float32)
    rows, columns = np.clip(rows, 0, size[0] - 1), np.clip(columns, 0, size[1] - 1)
    return rows[:, :, None], columns[:, None, :], weight


def apply_class_rule(cells: Detections, rule: dict[str, Any]) -> Detections:
    """Class 1 where the measured column reaches the rule's threshold, else class 0.

    Raises `ModelError` when the rule names a measurement there is none of.
    """
    name = rule.get("measure", "")
    if name not in cells.columns or "threshold" not in rule or len(cells.class_names) < 2:
        raise ModelError(
            "The model's class rule cannot be applied.",
            expected=f"a threshold on one of {', '.join(sorted(cells.columns))} and two classes",
            found=str(rule)[:200],
            remedy="correct class_rule in the model's card.json",
        )
    positive = cells.columns[name] >= np.float32(rule["threshold"])
    return replace(cells, class_ids=positive.astype(np.int16))
