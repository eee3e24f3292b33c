"""What a patch classifier says of a slide: one row of probabilities for each square of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.predictor import PatchPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.slide import Slide

READ_PX = 1536
"""About how wide a piece is read at once."""
BATCH = 16
NOT_ASKED = -1
Wanted = Callable[[NDArray[np.float64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class PatchShares:
    """Probabilities of classes on a grid of squares that begins at the slide's corner.

    Attributes
    ----------
    class_names : tuple of str
    shares : (rows, columns, K)
        NaN where nobody asked, or the network had no answer.
    cell : (x, y)
        Sides of a square, level-0 px.
    """

    class_names: tuple[str, ...]
    shares: NDArray[np.float32]
    cell: tuple[float, float]

    @property
    def asked(self) -> NDArray[np.bool_]:
        """Squares (rows, columns) with an answer."""
        return np.asarray(np.isfinite(self.shares).all(axis=2), np.bool_)

    @property
    def classes(self) -> NDArray[np.int8]:
        """Likeliest class (rows, columns), `NOT_ASKED` where there is no answer."""
        known = np.where(self.asked[..., None], self.shares, 0)
        return np.where(self.asked, known.argmax(axis=2), NOT_ASKED).astype(np.int8)

    def counts(self) -> dict[str, int]:
        """Squares of each class."""
        tally = np.bincount(self.classes[self.asked], minlength=len(self.class_names))
        return {name: int(n) for name, n in zip(self.class_names, tally, strict=True)}


def read_patches(
    slide: Slide, predictor: PatchPredictor, wanted: Wanted, *, message: str
) -> Job[PatchShares]:
    """Ask a classifier about the squares of a slide that are wanted.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    predictor : PatchPredictor
    wanted : function
        Centres (N, 2) in level-0 px to which of them to ask about.
    message : str
        What the progress says.
    """
    names = tuple(str(name) for name in predictor.card.class_names)
    cell = np.array(predictor.patch_px * predictor.card.mpp) / np.array(slide.known_mpp())
    columns, rows = np.maximum(np.array(slide.size) // cell, 1).astype(int)
    shares = np.full((rows, columns, len(names)), np.nan, np.float32)
    places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1)
    asked = wanted(((places + 0.5) * cell).reshape(-1, 2)).reshape(rows, columns)
    step = max(1, READ_PX // predictor.patch_px)
    blocks = [
        (row, column)
        for row in range(0, rows, step)
        for column in range(0, columns, step)
        if asked[row : row + step, column : column + step].any()
    ]
    yield Progress(0, len(blocks), message)
    for done, (row, column) in enumerate(blocks, start=1):
        where = np.argwhere(asked[row : row + step, column : column + step])
        where += np.array([row, column])
        for some, patches in _patches(slide, predictor.patch_px, cell, where):
            shares[some[:, 0], some[:, 1]] = predictor.predict(patches)
            yield Progress(done - 1, len(blocks), message)
        yield Progress(done, len(blocks), message)
    return PatchShares(names, shares, (float(cell[0]), float(cell[1])))


def _patches(
    slide: Slide, side: int, cell: NDArray[Any], where: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Squares at (row, column) (N, 2) in batches, with their pixels (B, side, side, 3)."""
    first, last = where.min(axis=0), where.max(axis=0) + 1
    low = np.rint(first[::-1] * cell).astype(int)
    high = np.maximum(np.rint(last[::-1] * cell).astype(int), low + 1)
    shape = (last - first) * side
    region = Region.from_edges(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    picture = slide.render(region, int(shape[1]), int(shape[0]))
    for start in range(0, len(where), BATCH):
        some = where[start : start + BATCH]
        corners = (some - first) * side
        yield some, np.stack([picture[y : y + side, x : x + side] for y, x in corners])
