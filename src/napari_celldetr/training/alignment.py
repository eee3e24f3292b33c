"""An H&E picture laid over a spatial experiment: the affine between them, and how well it fits.

Xenium Explorer exports a 3 × 3 matrix as CSV (``*_he_imagealignment.csv``). It maps a pixel
(x, y, 1) of the H&E picture to a pixel of the Xenium morphology (DAPI) image, whose pixels
measure 0.2125 µm. A cell at (x, y) µm therefore lies, on the H&E, at
``inverse(matrix) @ (x / 0.2125, y / 0.2125, 1)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.regions import Region
from napari_celldetr.training.label_files import data_error
from napari_celldetr.training.slide_fields import slide_mpp

if TYPE_CHECKING:
    from napari_celldetr.slides.slide import Slide

XENIUM_UM = 0.2125
MOST_STRETCH = 1.2
"""Ratio of the affine's scales; sections shrink a few per cent, unequally."""
SCALE_SLACK = 0.15
"""The scale may differ from the slide's own µm/px by this share."""

WINDOW_UM = 300.0
WINDOWS = 6
REACH_UM = 20.0
STEP_UM = 2.0
AWAY_UM = 10.0
OFF_UM = 3.0
FEWEST_NUCLEI = 20


@dataclass(frozen=True, eq=False)
class Alignment:
    """An affine from H&E level-0 px (x, y, 1) to Xenium px of `pixel_um` µm.

    Raises `DataError` when it is no affine, cannot be inverted, stretches one direction more
    than `MOST_STRETCH` times another, or makes an H&E pixel smaller than 0.05 or larger than
    5 µm. Mirroring is allowed.
    """

    matrix: NDArray[np.float64]
    pixel_um: float = XENIUM_UM

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, np.float64)
        object.__setattr__(self, "matrix", matrix)
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            self._refuse("nine finite numbers, three lines of three", str(matrix.shape))
        if np.abs(matrix[2] - [0, 0, 1]).max() > 1e-6:
            self._refuse("0, 0, 1 in the last line", ", ".join(f"{v:g}" for v in matrix[2]))
        large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
        if small <= 0 or large / small > MOST_STRETCH:
            self._refuse(
                f"scales that differ at most {MOST_STRETCH:g} times", f"{large:g} and {small:g}"
            )
        if not 0.05 <= self.scale_um <= 5:
            self._refuse("H&E pixels of 0.05 to 5 µm", f"{self.scale_um:g} µm")

    def _refuse(self, expected: str, found: str) -> None:
        raise data_error(
            "The alignment of H&E and cells is impossible.",
            expected,
            found,
            "export the matrix again, from H&E px to Xenium px",
        )

    @property
    def scale_um(self) -> float:
        """µm per H&E pixel that the affine means."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:2, :2])))) * self.pixel_um

    def to_um(self, pixels: NDArray[np.floating]) -> NDArray[np.float64]:
        """µm in the experiment (N, 2) of H&E level-0 px (N, 2)."""
        return (pixels @ self.matrix[:2, :2].T + self.matrix[:2, 2]) * self.pixel_um

    def to_pixels(self, um: NDArray[np.floating]) -> NDArray[np.float64]:
        """H&E level-0 px (N, 2) of µm in the experiment (N, 2)."""
        inverse = np.linalg.inv(self.matrix[:2, :2])
        return (um / self.pixel_um - self.matrix[:2, 2]) @ inverse.T

    def check_scale(self, slide: Slide) -> None:
        """Raises `DataError` when the affine's scale is not that of the slide."""
        said, meant = slide_mpp(slide), self.scale_um
        if abs(np.log(meant / said)) <= np.log1p(SCALE_SLACK):
            return
        turned = self.pixel_um**2 / meant
        swapped = abs(np.log(turned / said)) <= np.log1p(SCALE_SLACK)
        raise data_error(
            f"The alignment does not fit the slide {slide.name!r}.",
            f"H&E pixels of about {said:.4g} µm, as the slide says",
            f"{meant:.4g} µm",
            "the matrix runs the other way: invert it"
            if swapped
            else "check the matrix, and the slide's µm/px",
        )


def read_alignment(path: str | Path, *, pixel_um: float = XENIUM_UM) -> Alignment:
    """The affine of a CSV file of three lines of three numbers. Raises `DataError`."""
    path = Path(path)
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        matrix = np.array([[float(v) for v in line.split(",")] for line in lines])
    except (OSError, ValueError) as error:
        raise DataError(
            f"The alignment {path.name!r} cannot be read.",
            expected="a CSV file of three lines of three numbers",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            remedy="export it again from Xenium Explorer",
        ) from error
    return Alignment(matrix, pixel_um)


# --- does it fit? ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AlignmentCheck:
    """Haematoxylin where the nuclei should be, against haematoxylin elsewhere.

    Attributes
    ----------
    at_nuclei : float
        Mean optical density of haematoxylin at the centres.
    elsewhere, spread : float
        Mean and standard deviation of the same when all centres are shifted together by 10 to
        20 µm.
    shift_um : (x, y)
        Shift of the centres, up to 20 µm, under which they lie darkest; H&E directions.
    nuclei : int
        Centres that were looked at; under `FEWEST_NUCLEI` nothing can be said.
    """

    at_nuclei: float
    elsewhere: float
    spread: float
    shift_um: tuple[float, float]
    nuclei: int

    @property
    def looks_off(self) -> bool:
        """Whether the centres are no darker than elsewhere, or would be darker shifted."""
        if self.nuclei < FEWEST_NUCLEI:
            return False
        faint = self.at_nuclei - self.elsewhere < 3 * self.spread
        return faint or float(np.hypot(*self.shift_um)) > OFF_UM

    def as_text(self) -> str:
        """The check for people."""
        x, y = self.shift_um
        return (
            f"haematoxylin at {self.nuclei} nuclei {self.at_nuclei:.3f} OD, shifted away "
            f"{self.elsewhere:.3f} ± {self.spread:.3f}; darkest with a shift of "
            f"{x:+.0f}, {y:+.0f} µm"
        )


def check_alignment(slide: Slide, points: NDArray[np.floating]) -> AlignmentCheck:
    """Compare the haematoxylin under nuclei (N, 2), level-0 px, with that under shifted ones.

    Looks at the `WINDOWS` windows with the most nuclei, at 1 µm/px.
    """
    mpp = slide_mpp(slide)
    shifts = np.arange(-REACH_UM, REACH_UM + STEP_UM / 2, STEP_UM)
    grid = np.stack(np.meshgrid(shifts, shifts), axis=-1).reshape(-1, 2)
    totals, count = np.zeros(len(grid)), 0
    for rows, corner in _windows(np.asarray(points, np.float64), WINDOW_UM / mpp):
        density, origin = _haematoxylin(slide, corner, mpp)
        places = (points[rows] - origin) * mpp
        totals += _sums(density, places, grid)
        count += len(rows)
    if not count:
        return AlignmentCheck(np.nan, np.nan, np.nan, (0.0, 0.0), 0)
    means = totals / count
    away = np.hypot(*grid.T) >= AWAY_UM
    best = grid[int(means.argmax())]
    return AlignmentCheck(
        float(means[(grid == 0).all(axis=1)][0]),
        float(means[away].mean()),
        float(means[away].std()),
        (float(best[0]), float(best[1])),
        count,
    )


def _windows(
    points: NDArray[np.float64], side: float
) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Rows and corners of the fullest cells of a grid."""
    bins, place, counts = np.unique(
        np.floor(points / side).astype(np.int64), axis=0, return_inverse=True, return_counts=True
    )
    place = place.reshape(-1)
    fullest = np.argsort(-counts, kind="stable")[:WINDOWS]
    return [(np.flatnonzero(place == i), bins[i] * side) for i in fullest]


def _haematoxylin(
    slide: Slide, corner: NDArray[np.float64], mpp: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Haematoxylin over 3 µm at 1 µm/px around a window, and the level-0 px of its corner."""
    from scipy import ndimage

    from napari_celldetr.slides.stain import haematoxylin_od

    low = np.floor(corner - (REACH_UM + 2) / mpp).astype(int)
    side = int(np.ceil((WINDOW_UM + 2 * REACH_UM + 4) / mpp))
    picture = slide.read(Region(int(low[0]), int(low[1]), side, side), 1.0)
    density = ndimage.uniform_filter(haematoxylin_od(picture), 3)
    return np.asarray(density, np.float32), low.astype(np.float64)


def _sums(
    density: NDArray[np.float32], places: NDArray[np.float64], shifts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of the density under all places (N, 2), px, for every shift (S, 2)."""
    limit = np.array(density.shape[::-1]) - 1
    sums = np.empty(len(shifts))
    for i, shift in enumerate(shifts):
        column, row = np.clip(np.floor(places + shift), 0, limit).astype(np.intp).T
        sums[i] = density[row, column].sum(dtype=np.float64)
    return sums
