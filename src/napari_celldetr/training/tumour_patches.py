"""H&E patches whose label is the share of tumour cells among the cells annotated in them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.datasets import load_points_folder, resample
from napari_celldetr.training.fields import Field

TISSUE = ("lymphocyte", "tumour", "stromal")
TUMOUR = TISSUE.index("tumour")
CLASSES = ("other", "tumour")
FIELDS_MPP = 0.5
"""µm/px of the fields of BRCA-M2C."""
PRIOR_CELLS = 4
"""Other cells that every patch counts besides its own: one with few cells is not tumour."""
TRIES = 12
"""Places among which the one nearest to the wished share is taken."""
BLANK = 0.03
"""Share of samples that show empty glass."""


class TumourPatches:
    """Sample i of random patches, all shares of tumour about equally often.

    Parameters
    ----------
    folder : path
        A folder of fields with points as `load_points_folder` reads them.
    split : str
        ``train`` or ``val``.
    side : int
        Px at `FIELDS_MPP`.
    seed : int
    zoom : (float, float)
        Limits of the random change of size.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        split: str = "train",
        side: int = 224,
        seed: int = 0,
        zoom: tuple[float, float] = (0.85, 1.18),
    ) -> None:
        self.folder, self.split, self.side = str(folder), split, side
        self.seed, self.zoom = seed, zoom

    def __call__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Image (S, S, 3) uint8 and the shares (2,) of `CLASSES`."""
        rng = np.random.default_rng([self.seed, index])
        if rng.random() < BLANK:
            return _glass(self.side, rng), np.array([1, 0], np.float32)
        fields, wish = read_fields(self.folder, self.split), rng.random()
        side = round(self.side * rng.uniform(*self.zoom))
        best: tuple[float, Field, int, int] | None = None
        for _ in range(TRIES):
            field = fields[int(rng.integers(len(fields)))]
            x, y = (int(rng.integers(max(n - side, 0) + 1)) for n in field.image.shape[1::-1])
            far = abs(tumour_share(field, x, y, side) - wish)
            if best is None or far < best[0]:
                best = far, field, x, y
        assert best is not None
        _, field, x, y = best
        share = tumour_share(field, x, y, side)
        return _cut(field, x, y, side, self.side), np.array([1 - share, share], np.float32)


def grid_patches(
    folder: str | Path, *, split: str = "val", side: int = 224, steps: int = 3
) -> list[tuple[NDArray[np.uint8], NDArray[np.float32], str]]:
    """Patches on `steps` × `steps` places of each field, their shares (2,), and their patient."""
    found = []
    for field in read_fields(str(folder), split):
        height, width = field.image.shape[:2]
        for y in np.linspace(0, height - side, steps).astype(int).tolist():
            for x in np.linspace(0, width - side, steps).astype(int).tolist():
                share = tumour_share(field, x, y, side)
                shares = np.array([1 - share, share], np.float32)
                found.append((_cut(field, x, y, side, side), shares, field.group))
    return found


def tumour_share(field: Field, x: int, y: int, side: int) -> float:
    """Tumour cells among those of a square of a field, `PRIOR_CELLS` others added."""
    inside = ((field.points >= (x, y)) & (field.points < (x + side, y + side))).all(axis=1)
    kinds = field.class_ids[inside]
    return float((kinds == TUMOUR).sum() / (len(kinds) + PRIOR_CELLS))


@lru_cache(maxsize=4)
def read_fields(folder: str, split: str) -> tuple[Field, ...]:
    """The fields of one split at `FIELDS_MPP`; `DataError` where there are none."""
    fields = load_points_folder(folder, mpp=FIELDS_MPP, class_names=TISSUE, split=split)
    if not fields:
        raise DataError(
            f"The folder {Path(folder).name!r} gives no fields of the split {split!r}.",
            expected="annotated H&E fields",
            found="none",
            remedy="check the folder and its split.csv",
        )
    return tuple(resample(f, FIELDS_MPP) for f in fields)


def _cut(field: Field, x: int, y: int, side: int, wanted: int) -> NDArray[np.uint8]:
    from PIL import Image

    square = field.image[y : y + side, x : x + side]
    if square.shape[:2] == (wanted, wanted):
        return np.ascontiguousarray(square)
    picture = Image.fromarray(np.ascontiguousarray(square))
    return np.array(picture.resize((wanted, wanted), Image.Resampling.BICUBIC))


def _glass(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    level = rng.uniform(225, 252) + rng.normal(0, 2, 3)
    noise = rng.normal(0, rng.uniform(0.5, 3), (side, side, 3))
    return np.clip(level + noise, 0, 255).astype(np.uint8)
