"""What a lesson makes of a model's claims: other classes for the same cells, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import DataError

OF_CLASS = "class_probability"
"""The measurement that says how sure the model was of the class that it claimed."""


@dataclass(frozen=True, eq=False)
class Taught:
    """Classes of N claims after a lesson.

    Attributes
    ----------
    class_names : tuple of str
        The model's classes, then those that the lesson added.
    class_ids : (N,) int16
        Ids of `class_names`; -1 where the model did not know either.
    probability : (N,) float32
        Of that class.
    """

    class_names: tuple[str, ...]
    class_ids: NDArray[np.int16]
    probability: NDArray[np.float32]

    def __post_init__(self) -> None:
        ids = np.ascontiguousarray(self.class_ids, np.int16)
        sure = np.ascontiguousarray(self.probability, np.float32)
        good = ids.ndim == 1 and ids.shape == sure.shape
        if good and len(ids):
            good = bool(ids.min() >= UNKNOWN and ids.max() < len(self.class_names))
        if not good:
            raise DataError(
                "A lesson gave classes that do not fit.",
                expected=f"one of {len(self.class_names)} classes and a probability for each cell",
                found=f"{ids.shape} ids, {sure.shape} probabilities",
                remedy="teach it again",
            )
        object.__setattr__(self, "class_ids", ids)
        object.__setattr__(self, "probability", sure)

    def __len__(self) -> int:
        return len(self.class_ids)

    def on(self, cells: Detections) -> Detections:
        """The claims with the lesson's classes; boxes, scores and vectors stay as they were."""
        return replace(
            cells,
            class_ids=self.class_ids,
            class_names=self.class_names,
            columns={**cells.columns, OF_CLASS: self.probability},
        )


class Teacher(Protocol):
    """Whatever gives claims other classes, e.g. `napari_celldetr.core.head.Head`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """All classes that it may give."""
        ...

    def teach(self, cells: Detections) -> Taught:
        """Classes of claims, row by row; `DataError` for claims of another model."""
        ...
