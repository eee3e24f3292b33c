"""Pairs of places that a person says are the same on both slides."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.pipeline.import_transform import PAIR_COLUMNS, read_point_pairs

Side = Literal["he", "ihc"]
Point = tuple[float, float]
Pair = tuple[Point, Point]


@dataclass(frozen=True, slots=True)
class Landmark:
    """A place (x, y) in level-0 px of each slide; None where it was not yet clicked."""

    he: Point | None = None
    ihc: Point | None = None

    @property
    def whole(self) -> bool:
        """Whether it is known on both."""
        return self.he is not None and self.ihc is not None


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Landmarks in the order they were set; only the last one may be unfinished."""

    items: tuple[Landmark, ...] = ()

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> Landmarks:
        """Finished landmarks."""
        return cls(tuple(Landmark(he, ihc) for he, ihc in pairs))

    @property
    def wanted(self) -> Side | None:
        """The slide on which the unfinished one still has to be clicked; None without one."""
        if not self.items or self.items[-1].whole:
            return None
        return "ihc" if self.items[-1].ihc is None else "he"

    def clicked(self, side: Side, at: Point) -> Landmarks:
        """With a click: it finishes the last one, moves its only half, or begins another."""
        if self.wanted is None:
            return Landmarks((*self.items, _with(Landmark(), side, at)))
        return Landmarks((*self.items[:-1], _with(self.items[-1], side, at)))

    def without(self, indices: Sequence[int]) -> Landmarks:
        """Without some of them; the others move up."""
        return Landmarks(tuple(m for i, m in enumerate(self.items) if i not in set(indices)))

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The finished ones as ((x, y) on the H&E, (x, y) on the IHC), level-0 px."""
        return tuple((m.he, m.ihc) for m in self.items if m.he is not None and m.ihc is not None)

    def misses_um(self, transform: SlideTransform | None) -> NDArray[np.float64]:
        """How far (N,) the transform misses each landmark, in µm on the IHC slide.

        NaN without a transform, and for an unfinished one.
        """
        out = np.full(len(self.items), np.nan)
        whole = [i for i, m in enumerate(self.items) if m.whole]
        if transform is not None and whole:
            pairs = np.array(self.pairs)
            miss = (transform.forward(pairs[:, 0]) - pairs[:, 1]) * transform.ihc.mpp
            out[whole] = np.hypot(*miss.T)
        return out


def _with(mark: Landmark, side: Side, at: Point) -> Landmark:
    return replace(mark, he=at) if side == "he" else replace(mark, ihc=at)


def write_landmarks(landmarks: Landmarks, path: str | Path) -> int:
    """Write the finished ones as CSV in level-0 px; how many. `ExportError` if not possible."""
    pairs = landmarks.pairs
    try:
        with (
            replacing(Path(path)) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(PAIR_COLUMNS)
            for he, ihc in pairs:
                writer.writerow([f"{v:.3f}" for v in (*he, *ihc)])
    except OSError as error:
        raise not_written("The landmarks", error) from error
    return len(pairs)


def read_landmarks(path: str | Path) -> Landmarks:
    """The landmarks of a CSV with columns he_x, he_y, ihc_x, ihc_y. `TransformError` if none."""
    he, ihc = read_point_pairs(path)
    return Landmarks.of(
        ((float(a[0]), float(a[1])), (float(b[0]), float(b[1])))
        for a, b in zip(he, ihc, strict=True)
    )
