"""Changes of colour, in optical density along the stains' own axes.

Density is ``-log10(max(v, 1) / 255)``. A change of stain is one 3 × 3 matrix on it.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.stain import H_E


@cache
def _density_table() -> NDArray[np.float32]:
    """Optical density of the 256 grey levels."""
    return (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)


def density_planes(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density as planes (3, H, W)."""
    table = _density_table()
    planes = np.empty((3, *image.shape[:2]), np.float32)
    for k in range(3):
        np.take(table, np.ascontiguousarray(image[..., k]), mode="clip", out=planes[k])
    return planes


def mix_planes(planes: NDArray[np.float32], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Planes (K, H, W) times `matrix` (K, J), as rows: planes (J, H, W).

    Plain sums of planes, because a threaded matrix product of three columns costs more in waking
    threads than in work, most of all in loader processes that share the cores.
    """
    mixed = np.empty((matrix.shape[1], *planes.shape[1:]), np.float32)
    term = np.empty(planes.shape[1:], np.float32)
    for j, out in enumerate(mixed):
        np.multiply(planes[0], np.float32(matrix[0, j]), out=out)
        for k in range(1, len(planes)):
            np.multiply(planes[k], np.float32(matrix[k, j]), out=term)
            out += term
    return mixed


def planes_to_rgb(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of density planes, which are overwritten."""
    planes *= np.float32(-math.log(10))
    np.exp(planes, out=planes)
    planes *= np.float32(255)
    planes += np.float32(0.5)
    np.clip(planes, 0, 255, out=planes)
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for k in range(3):
        image[..., k] = planes[k]
    return image


def hed_jitter(
    image: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Change the amount of haematoxylin, eosin and the residual, each on its own.

    Every stain's density is multiplied by 1 ± `strength` and shifted by ± 0.15 · `strength`
    (which also tints the background a little), drawn uniformly.
    """
    factor = 1 + rng.uniform(-strength, strength, 3)
    shift = 0.15 * rng.uniform(-strength, strength, 3)
    matrix = (np.linalg.inv(H_E) * factor) @ H_E
    planes = mix_planes(density_planes(image), matrix)
    planes += (shift @ H_E).astype(np.float32)[:, None, None]
    return planes_to_rgb(planes)


def change_light(image: NDArray[np.uint8], gain: float, shift: float) -> NDArray[np.uint8]:
    """``128 + gain · (v - 128) + shift`` for every value."""
    table = np.clip(np.rint(128 + gain * (np.arange(256) - 128) + shift), 0, 255).astype(np.uint8)
    return np.take(table, image)
