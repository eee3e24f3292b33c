"""Fields that look stained: nuclei of haematoxylin on eosin, with known places and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_celldetr.slides.stain import EOSIN, HAEMATOXYLIN, stain_vectors
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.specs import DataSpec

NAMES = ("a", "b")


def he_field(
    seed: int,
    *,
    masks: bool = True,
    shape: tuple[int, int] = (150, 180),
    second: tuple[float, float, float] = EOSIN,
    first: tuple[float, float, float] = HAEMATOXYLIN,
    strength: float = 1.0,
    **changes,
) -> Field:
    """A field of discs of radius 6 on a grid of 30 px, moved by up to 4, and a strip of glass."""
    rng = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width] + 0.5
    ids = np.zeros(shape, np.int32)
    points = []
    for cy in range(15, height - 30, 30):
        for cx in range(15, width - 10, 30):
            px, py = np.array([cx, cy]) + rng.integers(-4, 5, 2)
            ids[(x - px) ** 2 + (y - py) ** 2 <= 36] = len(points) + 1
            points.append((px, py))
    blue = np.where(ids > 0, 0.75, 0.05) * rng.uniform(0.8, 1.1, shape)
    pink = np.where(ids > 0, 0.15, 0.45) * rng.uniform(0.7, 1.2, shape)
    tissue = y < height - 15
    amounts = strength * np.stack([blue, pink], axis=-1) * tissue[..., None]
    density = amounts @ stain_vectors(first, second)[:2]
    image = np.rint(240 * 10**-density).astype(np.uint8)
    n = len(points)
    settings = {"class_names": NAMES, "instances": ids if masks else None} | changes
    return Field(
        f"{seed}",
        "g",
        image,
        0.5,
        np.array(points, float),
        np.full((n, 2), 12.0 if masks else np.nan),
        rng.integers(0, 2, n),
        **settings,
    )


def pool(fields, *, weight: float = 1.0, restain: bool | str = False) -> Pool:
    """A pool of these fields."""
    return Pool(DataSpec("points", Path("made"), 0.5, weight, restain), tuple(fields))
