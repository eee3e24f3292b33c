"""Pieces of stained membrane that were taken for nuclei: small, and brown without blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.pipeline.her2.outline import Bools, Floats, ellipse_radii, sample

LARGEST_UM = 6.0
"""Mean side of the box. Pieces of membrane are rarely larger; nuclei rarely smaller, and blue."""
BROWNNESS = 2.0
"""DAB over haematoxylin: on generated slides 2 to 14 in a piece of membrane, up to .5 in nuclei."""
LEAST_BLUE = 0.02
WITHIN = (0.1, 0.3, 0.5, 0.7)
"""Where a box is looked at, as shares of the way from its centre to its rim."""


def find_specks(boxes: NDArray[Any], amounts: Floats, *, mpp: float) -> Bools:
    """Which of N boxes (N, 4), in px of `amounts`, hold no nucleus but a piece of membrane.

    Parameters
    ----------
    boxes : (N, 4)
        xyxy.
    amounts : (H, W, 2)
        Optical density of haematoxylin and DAB.
    mpp : float
        µm per px.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    found = np.zeros(len(boxes), bool)
    small = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).mean(axis=1) * mpp <= LARGEST_UM)
    if not len(small):
        return found
    centres = np.asarray((boxes[small, :2] + boxes[small, 2:]) / 2, np.float32)
    rim = ellipse_radii(boxes[small])
    blue, brown = (_mean(amounts[..., k], centres, rim) for k in (0, 1))
    dark = brown >= Cutoffs().weak
    found[small] = dark & (brown >= BROWNNESS * np.maximum(blue, LEAST_BLUE))
    return found


def _mean(image: Floats, centres: Floats, rim: Floats) -> Floats:
    parts = [sample(image, centres, rim * np.float32(share)) for share in WITHIN]
    return np.asarray(np.mean(parts, axis=(0, 2)), np.float32)
