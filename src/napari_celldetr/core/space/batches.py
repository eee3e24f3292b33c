"""How far slides lie apart among the embeddings, class by class, against the spread within one.

Stain and scanner move embeddings as well as biology does. In each class, an equal sample of each
slide is looked at: whose neighbours are from the same slide more often than chance would have it?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.space.blocks import not_numbers

NEIGHBOURS = 30
PER_SLIDE = 500
FEWEST = 20
"""Of one class on a slide; slides with fewer are left out for that class."""
_MOST = 6000


@dataclass(frozen=True, slots=True)
class Mixing:
    """How slides mix in one class.

    Attributes
    ----------
    class_name : str
    slides : tuple of str
        Those with enough cells of the class.
    cells : int
        Looked at, the same number of each slide.
    same : float
        Share of a cell's nearest neighbours that are of its own slide, 0..1.
    chance : float
        What `same` would be if slides mixed perfectly.
    effective : float
        Number of slides among a cell's neighbours (inverse Simpson index, LISI), from 1 to that
        of `slides`.
    explained : float
        Share of the variance that lies between the slides' means, less what chance gives, 0..1.
    """

    class_name: str
    slides: tuple[str, ...]
    cells: int
    same: float
    chance: float
    effective: float
    explained: float

    @property
    def apart(self) -> float:
        """0 where slides mix as by chance, 1 where no cell has a neighbour of another slide."""
        return max((self.same - self.chance) / (1 - self.chance), 0.0)


def slide_mixing(
    tables: Sequence[tuple[str, NDArray[Any], NDArray[np.integer]]],
    class_names: Sequence[str],
    *,
    neighbours: int = NEIGHBOURS,
    per_slide: int = PER_SLIDE,
    seed: int = 0,
) -> list[Mixing]:
    """How well several slides mix, for all cells together and for each class.

    Parameters
    ----------
    tables
        For each slide its name, embeddings (N, D) and class ids (N,).
    class_names
        In the order of the ids.
    neighbours, per_slide, seed
        Nearest cells that are looked at; cells drawn of each slide and class; the draw.

    Returns
    -------
    list of Mixing
        First ``all`` classes together, then those classes that at least two slides have enough
        cells of. Empty when no two slides have.

    Raises
    ------
    EmbeddingError
        Slides whose embeddings differ in size, or are not numbers.
    """
    sizes = {vectors.shape[1] for _, vectors, _ in tables}
    if len(sizes) > 1:
        raise EmbeddingError(
            "These slides cannot be compared.",
            expected="embeddings of one model",
            found=f"{' and '.join(str(s) for s in sorted(sizes))} numbers a cell",
            remedy="embed all slides with the same model",
        )
    rng = np.random.default_rng(seed)
    found = []
    for name, class_id in [("all", None), *((n, i) for i, n in enumerate(class_names))]:
        rows = [
            np.arange(len(ids)) if class_id is None else np.flatnonzero(ids == class_id)
            for _, _, ids in tables
        ]
        use = [i for i, r in enumerate(rows) if len(r) >= FEWEST]
        if len(use) < 2:
            continue
        each = min(per_slide, max(_MOST // len(use), FEWEST), *(len(rows[i]) for i in use))
        drawn = [tables[i][1][np.sort(rng.permutation(rows[i])[:each])] for i in use]
        cells = np.concatenate(drawn).astype(np.float32)
        slides = tuple(tables[i][0] for i in use)
        found.append(_mixing(name, slides, cells, each, neighbours))
    return found


def _mixing(
    name: str, slides: tuple[str, ...], cells: NDArray[np.float32], each: int, neighbours: int
) -> Mixing:
    if not np.isfinite(cells).all():
        raise not_numbers()
    total, count = len(cells), len(slides)
    owner = np.repeat(np.arange(count), each)
    # Fewer neighbours than cells of one slide, or nobody could lie apart.
    near = _nearest(cells, max(min(neighbours, each - 1), 1))
    shares = np.stack([(owner[near] == slide).mean(axis=1) for slide in range(count)], axis=1)
    return Mixing(
        class_name=name,
        slides=slides,
        cells=total,
        same=float(shares[np.arange(total), owner].mean()),
        chance=(each - 1) / (total - 1),
        effective=float((1 / np.square(shares).sum(axis=1)).mean()),
        explained=_explained(cells.reshape(count, each, -1)),
    )


def _nearest(cells: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The `k` nearest others (N, k) of each cell."""
    centred = cells - cells.mean(axis=0)
    apart = np.einsum("nd,nd->n", centred, centred) - 2 * (centred @ centred.T)
    np.fill_diagonal(apart, np.inf)
    return np.argpartition(apart, k - 1, axis=1)[:, :k]


def _explained(by_slide: NDArray[np.float32]) -> float:
    """Share of variance between slides (S, n, D), adjusted for what chance gives (ε²)."""
    slides, each, _ = by_slide.shape
    means = by_slide.mean(axis=1, dtype=np.float64)
    within = float(np.square(by_slide - means[:, None]).sum())
    between = each * float(np.square(means - means.mean(axis=0)).sum())
    if within + between == 0:
        return 0.0
    expected = (slides - 1) * within / (slides * (each - 1))
    return max((between - expected) / (within + between), 0.0)
