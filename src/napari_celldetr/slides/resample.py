"""Resampling that keeps geometry exact: output pixel i averages exactly what it covers.

Along each axis, output pixel i covers ``[start + i·step, start + (i+1)·step)`` in source pixels
(pixel 0 spans 0..1). Shrinking averages the covered area with fractional weights at both ends;
enlarging interpolates between pixel centres by cubic convolution (Keys 1981, a = −½), which keeps
edges that a linear one would blur. Both keep centroids where they were.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse

EXACT = 1e-6


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a resampling: `count` output pixels of `step` source pixels from `start` on."""

    start: float
    step: float
    count: int

    @property
    def source_range(self) -> tuple[int, int]:
        """First and one past the last source pixel that is needed."""
        end = self.start + self.step * self.count
        if self.step < 1 - EXACT:
            return int(np.floor(self.start - 0.5)) - 1, int(np.ceil(end + 0.5)) + 1
        return int(np.floor(self.start + EXACT)), int(np.ceil(end - EXACT))

    def part(self, first: int, count: int) -> Axis:
        """The axis of output pixels ``first .. first + count``."""
        return Axis(self.start + first * self.step, self.step, count)

    @property
    def whole_factor(self) -> int:
        """n when every output pixel is exactly n source pixels, else 0."""
        factor = round(self.step)
        exact = abs(self.step - factor) * self.count < EXACT * 10 and factor >= 1
        return factor if exact and abs(self.start - round(self.start)) < EXACT * 10 else 0

    def weights(self) -> sparse.csr_array:
        """Matrix (count, source pixels of `source_range`) float32, rows summing to 1."""
        low, high = self.source_range
        at = self.start + self.step * np.arange(self.count, dtype=np.float64)
        if self.step < 1 - EXACT:
            centre = at + self.step / 2 - 0.5
            left = np.floor(centre).astype(np.int64)
            index = left[:, None] + np.arange(-1, 3)
            share = _cubic(np.abs(centre[:, None] - index))
        else:
            first = np.floor(at + EXACT).astype(np.int64)
            index = first[:, None] + np.arange(int(np.ceil(self.step)) + 1)
            covered = np.minimum(at[:, None] + self.step, index + 1) - np.maximum(
                at[:, None], index
            )
            share = np.maximum(covered, 0)
        share /= share.sum(axis=1, keepdims=True)
        column = np.clip(index - low, 0, high - low - 1)
        rows = np.arange(0, index.size + 1, index.shape[1])
        shape = (self.count, high - low)
        return sparse.csr_array(
            (share.astype(np.float32).ravel(), column.ravel(), rows), shape=shape
        )


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    # Weight of a pixel at that distance, 0..2.
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance <= 1, near, far)


def resample(source: NDArray[np.uint8], x: Axis, y: Axis) -> NDArray[np.uint8]:
    """The picture (y.count, x.count, 3) uint8.

    `source` (H, W, 3) holds exactly the pixels of ``y.source_range`` × ``x.source_range``.
    """
    factors = (x.whole_factor, y.whole_factor)
    if factors == (1, 1):
        return source
    if all(factors):
        return np.array(Image.fromarray(source).reduce(factors))
    rows = _along_rows(source, y.weights())
    turned = _along_rows(np.ascontiguousarray(rows.transpose(1, 0, 2)), x.weights())
    # Cubic convolution overshoots at edges.
    np.clip(np.rint(turned, out=turned), 0, 255, out=turned)
    return turned.transpose(1, 0, 2).astype(np.uint8, order="C")


def _along_rows(
    picture: NDArray[np.uint8] | NDArray[np.float32], weights: sparse.csr_array
) -> NDArray[np.float32]:
    height, width, channels = picture.shape
    flat = picture.reshape(height, width * channels).astype(np.float32, copy=False)
    out: NDArray[np.float32] = (weights @ flat).reshape(weights.shape[0], width, channels)
    return out
