"""Real nuclei to draw membranes around: places, ellipses and kinds of annotated fields."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.slides.stain import H_E, haematoxylin_od
from napari_celldetr.training.datasets import load_instances_folder, load_points_folder
from napari_celldetr.training.fields import Field

Floats = NDArray[np.float32]

CARCINOMA, OTHER, UNSURE = 1, 0, -1
"""Kinds of nuclei: of cells that carry membranes, of others, and of which nobody said."""
REACH_UM = 6.5
"""How far from its point a nucleus can extend."""
HALF_AXES_UM = (1.6, 7.0)
"""Shortest and longest half axis of a nucleus."""
LARGE_UM2 = 25.0
SLENDER = 2.2
"""A nucleus of unknown kind that is as large and not as slender is taken for carcinoma's."""

VALIDATION_GROUPS = {"he_tnbc": ("07", "08"), "ihc_endonuke": ("9209df3f",)}
"""Held-out patients of the sets that come without a split."""
WEIGHTS = {"he_brca_m2c": 0.62, "he_tnbc": 0.3, "ihc_endonuke": 0.08}
"""How often a training field is of each set."""
_MPP = {"he_brca_m2c": 0.5, "he_tnbc": 0.25, "ihc_endonuke": 0.29}


@dataclass(frozen=True, eq=False)
class NucleiField:
    """One real field with N nuclei as ellipses; lengths in px of the field.

    Attributes
    ----------
    source, name, group : str
        Data set, file stem, patient.
    image : (H, W, 3) uint8
    mpp : float
    stained : bool
        Whether the image is haematoxylin and DAB already, not H&E.
    centres, axes : (N, 2)
        x, y with pixel 0 spanning 0..1; half axes, the longer one first.
    angle : (N,)
        Direction of the longer axis from x, radians.
    kinds : (N,) int8
        `CARCINOMA`, `OTHER` or `UNSURE`.
    """

    source: str
    name: str
    group: str
    image: NDArray[np.uint8]
    mpp: float
    stained: bool
    centres: Floats
    axes: Floats
    angle: Floats
    kinds: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.centres)


@lru_cache(maxsize=2)
def read_nuclei(root: str, split: str) -> tuple[NucleiField, ...]:
    """Fields of all sets below `root`, ``train`` or ``val``, patients disjoint.

    Raises `DataError` where a set is missing.
    """
    found = [_nuclei(field, name) for name in WEIGHTS for field in _read(Path(root), name, split)]
    return tuple(f for f in found if len(f))


def _read(root: Path, name: str, split: str) -> list[Field]:
    if split not in ("train", "val"):
        raise DataError(
            "There is no such part of the fields.",
            expected="train or val",
            found=repr(split),
            remedy="name one of them",
        )
    folder, mpp = root / name, _MPP[name]
    if name == "he_brca_m2c":
        kinds = ("lymphocyte", "tumour", "stromal")
        return load_points_folder(folder, mpp=mpp, class_names=kinds, split=split)
    if name == "he_tnbc":
        fields = load_instances_folder(folder, mpp=mpp)
    else:
        kinds = ("stroma", "epithelium", "other")
        fields = load_points_folder(folder, mpp=mpp, class_names=kinds)
    held = VALIDATION_GROUPS[name]
    return [f for f in fields if (f.group in held) == (split == "val")]


def _nuclei(field: Field, source: str) -> NucleiField:
    assert field.mpp is not None
    stained = source.startswith("ihc")
    regions = field.instances
    if regions is None:
        regions = outline_points(field.image, field.points, mpp=field.mpp, stained=stained)
    centres, axes, angle = fit_ellipses(regions, field.points)
    low, high = (um / field.mpp for um in HALF_AXES_UM)
    axes = np.clip(axes, low, high)
    return NucleiField(
        source,
        field.name,
        field.group,
        field.image,
        field.mpp,
        stained,
        centres,
        axes,
        angle,
        _kinds(field, axes * field.mpp),
    )


def _kinds(field: Field, axes_um: Floats) -> NDArray[np.int8]:
    names = [CARCINOMA if n in ("tumour", "epithelium") else OTHER for n in field.class_names]
    if not names:
        large = np.pi * axes_um.prod(axis=1) >= LARGE_UM2
        round_ = axes_um[:, 0] < SLENDER * axes_um[:, 1]
        return np.where(large & round_, CARCINOMA, UNSURE).astype(np.int8)
    kinds = np.array(names, np.int8)[np.maximum(field.class_ids, 0)]
    return np.where(field.class_ids < 0, UNSURE, kinds).astype(np.int8)


def outline_points(
    image: NDArray[np.uint8], points: Floats, *, mpp: float, stained: bool
) -> NDArray[np.int32]:
    """Dark pixels (H, W) nearest to each of N points, id i + 1 for point i, 0 elsewhere.

    Dark is half-way between what lies at the points and what lies between them.
    """
    from scipy import ndimage

    height, width = image.shape[:2]
    if not len(points):
        return np.zeros((height, width), np.int32)
    if stained:
        dark = -np.log10(np.maximum(image.astype(np.float32).mean(axis=2), 1) / 255)
    else:
        dark = haematoxylin_od(image, H_E)
    dark = ndimage.gaussian_filter(np.asarray(dark, np.float32), 0.4 / mpp)
    row = np.clip(points[:, 1].astype(int), 0, height - 1)
    column = np.clip(points[:, 0].astype(int), 0, width - 1)
    seeds = np.full((height, width), -1)
    seeds[row, column] = np.arange(len(points))
    far, (near_row, near_column) = ndimage.distance_transform_edt(seeds < 0, return_indices=True)
    near = seeds[near_row, near_column]
    own = ndimage.median_filter(dark, size=5)[row, column]
    free = far > REACH_UM / mpp
    between = float(np.median(dark[free])) if free.any() else 0.05
    nucleus = (dark >= ((own + between) / 2)[near]) | (far < HALF_AXES_UM[0] / mpp)
    return np.where(nucleus & ~free, near + 1, 0).astype(np.int32)


def fit_ellipses(regions: NDArray[np.integer], points: Floats) -> tuple[Floats, Floats, Floats]:
    """Centres (N, 2), half axes (N, 2) and angles (N,) with the moments of regions 1..N.

    A region without pixels is a dot at its point.
    """
    n = len(points)
    y, x = np.nonzero(regions)
    ids = regions[y, x] - 1
    count = np.bincount(ids, minlength=n)[:n]
    mass = np.maximum(count, 1)

    def mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(ids, values, minlength=n)[:n] / mass)

    cx, cy = mean(x + 0.5), mean(y + 0.5)
    dx, dy = x + 0.5 - cx[ids], y + 0.5 - cy[ids]
    xx, yy, xy = mean(dx * dx) + 1 / 12, mean(dy * dy) + 1 / 12, mean(dx * dy)
    spread = np.hypot((xx - yy) / 2, xy)
    middle = (xx + yy) / 2
    axes = 2 * np.sqrt(np.stack([middle + spread, np.maximum(middle - spread, 0)], axis=1))
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    centres = np.where(count[:, None] > 0, np.stack([cx, cy], axis=1), points)
    return tuple(np.asarray(a, np.float32) for a in (centres, axes, angle))  # type: ignore[return-value]
