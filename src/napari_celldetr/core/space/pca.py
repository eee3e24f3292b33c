"""Principal components of a million embeddings, from their covariance summed in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import EmbeddingError
from napari_celldetr.core.progress import Job, Progress, drain
from napari_celldetr.core.space.blocks import blocks, checked

_STEP = 1 << 16
"""Rows between two steps of a job: some 100 ms."""


@dataclass(frozen=True, eq=False)
class Pca:
    """Where the embeddings vary most.

    Attributes
    ----------
    mean : (D,) float32
    axes : (K, D) float32
        Of length one and at right angles, the one of the largest variance first; the largest
        entry of each is positive, so that two fits of the same data agree.
    variance : (K,) float64
        Along each axis.
    total : float
        Variance along all D axes together.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    variance: NDArray[np.float64]
    total: float

    @property
    def explained(self) -> NDArray[np.float64]:
        """Share (K,) of the total variance along each axis, 0..1."""
        return self.variance / self.total if self.total > 0 else np.zeros(len(self.variance))

    def project(self, vectors: NDArray[Any], *, whiten: bool = False) -> NDArray[np.float32]:
        """Positions (N, K) of embeddings (N, D) along the axes.

        `whiten` divides each by its standard deviation. Raises `EmbeddingError` for embeddings
        of another size.
        """
        return drain(self.projecting(vectors, whiten=whiten))

    def projecting(
        self, vectors: NDArray[Any], *, whiten: bool = False
    ) -> Job[NDArray[np.float32]]:
        """`project` as a job; `Progress` counts cells."""
        data = checked(vectors)
        if data.shape[1] != len(self.mean):
            raise EmbeddingError(
                "These embeddings are not of the kind that the projection was made for.",
                expected=f"{len(self.mean)} numbers a cell",
                found=f"{data.shape[1]}",
                remedy="make the projection anew from these embeddings",
            )
        scale = 1 / np.sqrt(np.maximum(self.variance, 1e-30)) if whiten else 1.0
        onto = np.ascontiguousarray((self.axes.astype(np.float64).T * scale).astype(np.float32))
        origin = (self.mean.astype(np.float64) @ onto).astype(np.float32)
        found = np.empty((len(data), len(self.axes)), np.float32)
        for where, block in blocks(data):
            np.matmul(block, onto, out=found[where])
            found[where] -= origin
            if _is_step(where):
                yield Progress(where.stop, len(data), "projecting")
        return found


def fit_pca(vectors: NDArray[Any], *, components: int = 2, sample: int | None = None) -> Pca:
    """Principal components of embeddings (N, D).

    Parameters
    ----------
    vectors : (N, D) floats
        Of any precision; never held as float32 as a whole.
    components : int
        K, at most D.
    sample : int, optional
        Use about so many rows, taken at even distances.

    Raises
    ------
    EmbeddingError
        Fewer than two cells, more components than numbers a cell, or numbers that are not finite.
    """
    return drain(fitting_pca(vectors, components=components, sample=sample))


def fitting_pca(
    vectors: NDArray[Any], *, components: int = 2, sample: int | None = None
) -> Job[Pca]:
    """`fit_pca` as a job; `Progress` counts cells."""
    data = checked(vectors)
    _refuse_too_little(data, components)
    if sample is not None and len(data) > max(sample, 2):
        data = data[:: len(data) // max(sample, 2)]
    rows, size = data.shape
    # From near the mean, where the sums of squares keep their digits.
    near = data[: 1 << 10].astype(np.float32).mean(axis=0)
    first, second = np.zeros(size), np.zeros((size, size))
    for where, block in blocks(data):
        block -= near
        first += block.sum(axis=0)
        second += block.T @ block
        if _is_step(where):
            yield Progress(where.stop, rows, "finding the main axes")
    apart = first / rows
    covariance = (second - rows * np.outer(apart, apart)) / (rows - 1)
    return _from_covariance((near + apart).astype(np.float32), covariance, components)


def _from_covariance(
    mean: NDArray[np.float32], covariance: NDArray[np.float64], components: int
) -> Pca:
    variance, axes = np.linalg.eigh(covariance)
    chosen = axes[:, ::-1][:, :components].T
    largest = np.abs(chosen).argmax(axis=1)
    signs = np.where(chosen[np.arange(components), largest] < 0, -1.0, 1.0)
    return Pca(
        mean,
        np.ascontiguousarray(chosen * signs[:, None], np.float32),
        np.maximum(variance[::-1][:components], 0),
        float(max(np.trace(covariance), 0)),
    )


def _refuse_too_little(data: NDArray[Any], components: int) -> None:
    if len(data) < 2:
        raise EmbeddingError(
            "A projection needs several cells.",
            expected="at least 2 cells",
            found=str(len(data)),
            remedy="detect cells first, or choose a larger part of the slide",
        )
    if not 1 <= components <= data.shape[1]:
        raise EmbeddingError(
            "The number of components is out of range.",
            expected=f"1..{data.shape[1]}",
            found=str(components),
            remedy="ask for fewer components",
        )


def _is_step(where: slice) -> bool:
    return where.start // _STEP != where.stop // _STEP
