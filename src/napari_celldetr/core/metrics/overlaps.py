"""How the objects of two instance maps overlap: counted once, for every mask metric.

An instance map (H, W) holds whole numbers, 0 for background; ids need not be without gaps and
objects need not be connected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError

Ids = NDArray[np.int64]


def as_instances(instances: Any, what: str) -> Ids:
    """An instance map as int64 (H, W); `DataError` for anything else."""
    array = np.asarray(instances)
    if array.ndim != 2 or array.dtype.kind not in "iub" or (array.size and array.min() < 0):
        raise DataError(
            f"The {what} instance map cannot be scored.",
            expected="whole numbers of shape (H, W), 0 for background",
            found=f"{array.dtype} {array.shape}",
            remedy="give one id per object",
        )
    return array.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Objects of a true and a found map, and the pairs that share pixels.

    Attributes
    ----------
    truth_ids, found_ids : (N,), (M,) ascending
        Ids that occur.
    truth_area, found_area : (N,), (M,)
        px.
    truth, found : (P,)
        Rows of the objects of each pair that shares pixels.
    shared : (P,)
        px in common.
    """

    truth_ids: Ids
    found_ids: Ids
    truth_area: Ids
    found_area: Ids
    truth: Ids
    found: Ids
    shared: Ids

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair (P,)."""
        union = self.truth_area[self.truth] + self.found_area[self.found] - self.shared
        return self.shared / union


def overlaps(truth: Any, found: Any) -> Overlaps:
    """Count the pixels that objects of two instance maps (H, W) have in common.

    One sort of the labelled pixels, whatever the number of objects.

    Raises
    ------
    DataError
        Something that is not an instance map, or maps of two sizes.
    """
    a, b = as_instances(truth, "true"), as_instances(found, "found")
    if a.shape != b.shape:
        raise DataError(
            "The instance maps do not lie on each other.",
            expected=f"shape {a.shape}, as the truth",
            found=str(b.shape),
            remedy="give both at the same pixel size",
        )
    labelled = (a > 0) | (b > 0)
    truth_ids, row = np.unique(a[labelled], return_inverse=True)
    found_ids, column = np.unique(b[labelled], return_inverse=True)
    pairs, shared = np.unique(row * len(found_ids) + column, return_counts=True)
    rows, columns = np.divmod(pairs, max(len(found_ids), 1))
    truth_area = np.bincount(rows, shared, len(truth_ids)).astype(np.int64)
    found_area = np.bincount(columns, shared, len(found_ids)).astype(np.int64)
    # Row 0 is the background where the other map has an object.
    skip_a, skip_b = int(0 in truth_ids[:1]), int(0 in found_ids[:1])
    both = (rows >= skip_a) & (columns >= skip_b)
    return Overlaps(
        truth_ids[skip_a:],
        found_ids[skip_b:],
        truth_area[skip_a:],
        found_area[skip_b:],
        rows[both] - skip_a,
        columns[both] - skip_b,
        shared[both].astype(np.int64),
    )
