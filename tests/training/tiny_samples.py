"""Samples anyone can learn: rings of four browns as pixel classes, and the brown of a patch."""

from __future__ import annotations

import numpy as np

BROWNS = ((200, 200, 230), (215, 190, 165), (175, 125, 80), (110, 65, 35))
"""Colour of the band of a cell of class 0, 1+, 2+, 3+."""
NAMES = "background,0,1+,2+,3+"
SIDE = 64


def rings(index: int, side: int = SIDE):
    """A pale picture of three cells with a band of their class, and the class of every pixel."""
    rng = np.random.default_rng([7, index])
    image = rng.normal(235, 4, (side, side, 3))
    truth = np.zeros((side, side), np.uint8)
    y, x = np.mgrid[:side, :side]
    for kind in rng.permutation(4)[:3]:
        cx, cy = rng.uniform(12, side - 12, 2)
        far = np.hypot(x - cx, y - cy)
        image[far < 6] = (120, 120, 190)
        band = (far >= 6) & (far < 11)
        image[band] = np.array(BROWNS[kind]) + rng.normal(0, 4, (int(band.sum()), 3))
        truth[band] = kind + 1
        truth[far < 6] = 0
    truth[:2] = 255
    return np.clip(image, 0, 255).astype(np.uint8), truth


def brown_patch(index: int, side: int = SIDE):
    """A patch with blots of one brown, and which it is."""
    rng = np.random.default_rng([8, index])
    kind = int(rng.integers(4))
    image = rng.normal(235, 4, (side, side, 3))
    y, x = np.mgrid[:side, :side]
    for _ in range(4):
        cx, cy = rng.uniform(8, side - 8, 2)
        image[np.hypot(x - cx, y - cy) < 9] = BROWNS[kind]
    return np.clip(image, 0, 255).astype(np.uint8), kind


class Listed:
    """The samples of a function from a number on, as a sequence."""

    def __init__(self, make, count: int, first: int = 100_000) -> None:
        self.make, self.count, self.first = make, count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        return self.make(self.first + index)


def blots(index: int, side: int = SIDE):
    """A pale picture with large blots of two browns, and the class of every pixel."""
    rng = np.random.default_rng([9, index])
    image = rng.normal(235, 4, (side, side, 3))
    truth = np.zeros((side, side), np.uint8)
    y, x = np.mgrid[:side, :side]
    for i in range(side * side // 1024):
        cx, cy = rng.uniform(0, side, 2)
        inside = np.hypot(x - cx, y - cy) < 10
        image[inside] = BROWNS[1 + 2 * (i % 2)]
        truth[inside] = 1 + i % 2
    return np.clip(image, 0, 255).astype(np.uint8), truth
