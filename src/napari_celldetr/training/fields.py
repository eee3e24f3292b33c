"""Field: one annotated image, whatever its labels tell; and the same field at another scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN
from napari_celldetr.core.errors import DataError
from napari_celldetr.slides.resample import Axis
from napari_celldetr.slides.resample import resample as slide_resample


@dataclass(frozen=True, eq=False)
class Field:
    """One annotated image.

    Attributes
    ----------
    name, group : str
        File stem; patient (or other unit that must not be divided between training and test).
    image : (H, W, 3) uint8 RGB
    mpp : float or None
        µm/px, None where unknown.
    points : (N, 2) float32
        Centres x, y in px, pixel 0 spanning 0..1.
    sizes : (N, 2) float32
        Box width and height in px; NaN where the extent is unknown.
    class_ids : (N,) int16
        Index into `class_names`, -1 for unknown.
    class_names : tuple of str
    complete : bool
        Whether a place without a point is background.
    instances : (H, W) int32 or None
        Instance map; id i + 1 is row i of `points`.
    composition : (K,) float32 or None
        Share of each class among the field's cells, where only that is known.
    valid : (H, W) bool or None
        False where the labels say nothing: neither cell nor background. None is True everywhere.
    tissue : str
        Organ or tissue, '' where it is not named.
    """

    name: str
    group: str
    image: NDArray[np.uint8]
    mpp: float | None
    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    class_names: tuple[str, ...] = ()
    complete: bool = True
    instances: NDArray[np.int32] | None = None
    composition: NDArray[np.float32] | None = None
    valid: NDArray[np.bool_] | None = None
    tissue: str = ""

    def __post_init__(self) -> None:
        n = len(self.points)
        object.__setattr__(self, "points", np.asarray(self.points, np.float32).reshape(n, 2))
        object.__setattr__(self, "sizes", np.asarray(self.sizes, np.float32).reshape(-1, 2))
        object.__setattr__(self, "class_ids", np.asarray(self.class_ids, np.int16))
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            self._refuse("the image", "uint8 (H, W, 3)", f"{self.image.dtype} {self.image.shape}")
        if self.sizes.shape != (n, 2) or self.class_ids.shape != (n,):
            self._refuse(
                "sizes or class_ids",
                f"one per point ({n})",
                f"{self.sizes.shape}, {self.class_ids.shape}",
            )
        if n and not UNKNOWN <= self.class_ids.min() <= self.class_ids.max() < len(
            self.class_names
        ):
            self._refuse(
                "class_ids",
                f"-1..{len(self.class_names) - 1}",
                f"{self.class_ids.min()}..{self.class_ids.max()}",
            )
        if self.mpp is not None and not (math.isfinite(self.mpp) and self.mpp > 0):
            self._refuse("mpp", "a positive number of µm/px, or None", repr(self.mpp))
        for what in ("instances", "valid"):
            found = getattr(self, what)
            if found is not None and found.shape != self.image.shape[:2]:
                self._refuse(what, f"height, width {self.image.shape[:2]}", str(found.shape))
        if self.composition is not None:
            self._check_composition()

    def _check_composition(self) -> None:
        shares = np.asarray(self.composition, np.float32)
        object.__setattr__(self, "composition", shares)
        fits = shares.shape == (len(self.class_names),)
        if not fits or not (shares >= 0).all() or abs(float(shares.sum()) - 1) > 1e-3:
            self._refuse(
                "composition",
                f"{len(self.class_names)} shares that add up to 1",
                np.array2string(shares, precision=4),
            )

    def _refuse(self, what: str, expected: str, found: str) -> None:
        raise DataError(
            f"Field {self.name!r}: {what} is wrong.",
            expected=expected,
            found=found,
            remedy="correct the annotation",
        )

    def __len__(self) -> int:
        return len(self.points)

    def known_at(self, points: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether places x, y (N, 2) in px lie in the image where the labels say something."""
        height, width = self.image.shape[:2]
        at = np.floor(np.asarray(points, np.float64).reshape(-1, 2))
        known = np.asarray(((at >= 0) & (at < [width, height])).all(axis=1))
        if self.valid is not None:
            column, row = at[known].astype(np.intp).T
            known[known] = self.valid[row, column]
        return known


# --- instance maps ---------------------------------------------------------------------------


def instance_boxes(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """xyxy boxes (N, 4) of ids 1..N, px with pixel 0 spanning 0..1, exact to the pixel edge."""
    from scipy import ndimage

    found = [s for s in ndimage.find_objects(instances) if s is not None]
    boxes = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    return np.array(boxes, np.float32).reshape(-1, 4)


_COUNTABLE = 2**20
"""Ids below are counted, which is far quicker than sorting all pixels."""


def compact_ids(pixels: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """The map with ids 1..n without gaps, and the n ids it had, ascending; 0 is background."""
    if pixels.size and pixels.max() < _COUNTABLE:
        counts = np.bincount(pixels.ravel().astype(np.int64, copy=False))
        counts[0] = 0
        ids = np.flatnonzero(counts)
    else:
        ids = np.unique(pixels[pixels != 0])
    return np.searchsorted(ids, pixels, side="right").astype(np.int32), ids


def box_rows(
    boxes: NDArray[np.float32], shape: tuple[int, ...], *, border_sizes: bool = False
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres and sizes (N, 2) of xyxy boxes (N, 4) in an image of `shape` (H, W, …).

    A box that touches the border belongs to a cut nucleus of unknown extent: its size is NaN,
    unless `border_sizes` keeps what is visible; its centre is that of the visible box.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    if not border_sizes:
        height, width = shape[:2]
        cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= [width, height]).any(axis=1)
        sizes[cut] = np.nan
    return ((boxes[:, :2] + boxes[:, 2:]) / 2).astype(np.float32), sizes.astype(np.float32)


# --- scale -----------------------------------------------------------------------------------


def resample(field: Field, mpp: float) -> Field:
    """The field at `mpp` µm/px: as slides are read.

    Points and sizes scale with the pixels that were really made, so they stay exact where a side
    does not divide. Instance map and valid area follow by nearest neighbour. Raises `DataError`
    when the field's own mpp is unknown.
    """
    if field.mpp is None or not (math.isfinite(mpp) and mpp > 0):
        raise DataError(
            f"Field {field.name!r} cannot be resampled.",
            expected="its own and a wished µm/px, both positive",
            found=f"{field.mpp} and {mpp}",
            remedy="give the data set's µm/px (or guess_mpp)",
        )
    height, width = field.image.shape[:2]
    ratio = field.mpp / mpp
    shape = max(1, round(height * ratio)), max(1, round(width * ratio))
    if shape == (height, width):
        return replace(field, mpp=mpp)
    scale = np.array([shape[1] / width, shape[0] / height], np.float32)
    return replace(
        field,
        image=_resize(field.image, shape),
        mpp=mpp,
        points=field.points * scale,
        sizes=field.sizes * scale,
        instances=None if field.instances is None else _nearest(field.instances, shape),
        valid=None if field.valid is None else _nearest(field.valid, shape),
    )


def _resize(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    # As slides are read: what is learned from is what will be seen.
    rows, columns = (
        Axis(0.0, old / new, new) for old, new in zip(image.shape[:2], shape, strict=True)
    )
    low, high = rows.source_range
    left, right = columns.source_range
    height, width = image.shape[:2]
    lacking = ((max(-low, 0), max(high - height, 0)), (max(-left, 0), max(right - width, 0)))
    window = image[max(low, 0) : high, max(left, 0) : right]
    padded = np.pad(window, (*lacking, (0, 0)), mode="edge")
    return slide_resample(padded, columns, rows)


def _nearest(values: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    rows = ((np.arange(shape[0]) + 0.5) * values.shape[0] / shape[0]).astype(np.intp)
    columns = ((np.arange(shape[1]) + 0.5) * values.shape[1] / shape[1]).astype(np.intp)
    return values[np.ix_(rows, columns)]


def guess_mpp(field: Field, *, diameter_um: float = 6.0) -> float | None:
    """µm/px at which the median nucleus would measure `diameter_um`; None without sizes.

    A heuristic for sets whose resolution is not known: the median labelled nucleus of a section,
    lymphocytes and cut ones included, measures 5 to 8 µm, so the guess may be a third off.
    """
    known = field.sizes[np.isfinite(field.sizes).all(axis=1)]
    if not len(known):
        return None
    return float(diameter_um / np.median(np.sqrt(known.prod(axis=1))))
