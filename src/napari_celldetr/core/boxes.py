"""Box formats, overlap and suppression, on numpy arrays of xyxy boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def centres(boxes: Floats) -> Floats:
    """Centres (N, 2) as x, y of xyxy boxes (N, 4)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def areas(boxes: Floats) -> Floats:
    """Areas (N,) of xyxy boxes (N, 4)."""
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def to_cxcywh(boxes: Floats) -> Floats:
    """xyxy (N, 4) to centre x, centre y, width, height (N, 4)."""
    return np.concatenate([centres(boxes), boxes[:, 2:] - boxes[:, :2]], axis=1)


def to_xyxy(boxes: Floats) -> Floats:
    """Centre x, centre y, width, height (N, 4) to xyxy (N, 4)."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def paired_iou(a: Floats, b: Floats) -> Floats:
    """Intersection over union (N,) of boxes a[i] with b[i]; 0 where both are empty."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, 2:], b[:, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=1)
    union = areas(a) + areas(b) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """Intersection over union (N, M) of every box of `a` with every box of `b`."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=2)
    union = areas(a)[:, None] + areas(b)[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
