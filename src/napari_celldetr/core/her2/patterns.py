"""What membrane staining a cell has: the five patterns the guideline's rules speak of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_celldetr.core.config import Field, check
from napari_celldetr.core.errors import ConfigError, DataError

Codes = NDArray[np.int8]


class Pattern(IntEnum):
    """Membrane staining of one cell. `STRONG_INCOMPLETE` is what the guideline leaves open."""

    NONE = 0
    FAINT_INCOMPLETE = 1
    COMPLETE_WEAK_MODERATE = 2
    COMPLETE_INTENSE = 3
    STRONG_INCOMPLETE = 4

    @property
    def words(self) -> str:
        """The pattern in the guideline's words."""
        return _WORDS[self]


_WORDS = {
    Pattern.NONE: "no membrane staining",
    Pattern.FAINT_INCOMPLETE: "incomplete, faint",
    Pattern.COMPLETE_WEAK_MODERATE: "complete, weak to moderate",
    Pattern.COMPLETE_INTENSE: "complete, intense",
    Pattern.STRONG_INCOMPLETE: "incomplete, moderate to intense",
}

SCORES = ("0", "1+", "2+", "3+")
CELL_CLASSES = tuple(f"HER2 cell: {score}" for score in SCORES)
_SCORE_OF = np.array([0, 1, 2, 3, 2], np.int8)


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """Where one kind of membrane staining ends and the next begins.

    The guideline gives words, not numbers: these are this package's own, calibrated on generated
    images and printed with every score. Densities are DAB optical density, −log10.
    """

    weak: Annotated[
        float, Field("Weak from", "A membrane with less DAB is unstained", ge=0.02, le=2, unit="OD")
    ] = 0.12
    moderate: Annotated[float, Field("Moderate from", "Less is weak", ge=0.02, le=3, unit="OD")] = (
        0.30
    )
    intense: Annotated[
        float, Field("Intense from", "Less is moderate", ge=0.02, le=4, unit="OD")
    ] = 0.60
    complete: Annotated[
        float,
        Field("Complete from", "Stained share of a cell's outline", ge=0.05, le=1),
    ] = 0.8
    trace: Annotated[
        float,
        Field(
            "Stained from",
            "A cell with a smaller stained share of its outline counts as unstained",
            ge=0,
            le=1,
            advanced=True,
        ),
    ] = 0.15

    def __post_init__(self) -> None:
        check(self)
        if not (self.weak < self.moderate < self.intense and self.trace < self.complete):
            raise ConfigError(
                "The cut-offs of membrane staining are out of order.",
                expected="weak < moderate < intense, and stained < complete",
                found=f"{self.weak:g}, {self.moderate:g}, {self.intense:g} OD; "
                f"{self.trace:g}, {self.complete:g}",
                remedy="raise or lower them until they are in order",
            )


def classify_cells(intensity: ArrayLike, completeness: ArrayLike, cutoffs: Cutoffs) -> Codes:
    """Pattern of each cell (N,) as codes of `Pattern`.

    Parameters
    ----------
    intensity : (N,)
        DAB optical density of the stained part of the membrane.
    completeness : (N,)
        Stained share of the outline, 0 to 1.

    Raises
    ------
    DataError
        The columns differ in length or hold values that are not numbers.
    """
    density = np.asarray(intensity, np.float64)
    share = np.asarray(completeness, np.float64)
    if density.shape != share.shape or not (np.isfinite(density) & np.isfinite(share)).all():
        raise DataError(
            "Membrane measurements cannot be classified.",
            expected="a finite intensity and completeness for every cell",
            found=f"{density.shape} intensities and {share.shape} completenesses, of which "
            f"{(~np.isfinite(density)).sum()} and {(~np.isfinite(share)).sum()} are not finite",
            remedy="measure the cells again",
        )
    stained = (density >= cutoffs.weak) & (share >= cutoffs.trace) & (share > 0)
    complete = share >= cutoffs.complete
    codes = np.full(density.shape, Pattern.NONE, np.int8)
    codes[stained & ~complete] = Pattern.FAINT_INCOMPLETE
    codes[stained & ~complete & (density >= cutoffs.moderate)] = Pattern.STRONG_INCOMPLETE
    codes[stained & complete] = Pattern.COMPLETE_WEAK_MODERATE
    codes[stained & complete & (density >= cutoffs.intense)] = Pattern.COMPLETE_INTENSE
    return codes


def cell_scores(patterns: ArrayLike) -> Codes:
    """Index into `SCORES` and `CELL_CLASSES` of each cell (N,), from its pattern.

    Incomplete membranes of moderate or intense staining are 2+: what the guideline does not
    cover "should be considered IHC 2+ equivocal".
    """
    return _SCORE_OF[check_patterns(patterns)]


def check_patterns(patterns: ArrayLike) -> Codes:
    """The codes (N,) if each is one of `Pattern`, else `DataError`."""
    codes = np.asarray(patterns)
    if codes.ndim != 1 or (len(codes) and not np.isin(codes, [int(p) for p in Pattern]).all()):
        raise DataError(
            "These are not membrane patterns.",
            expected="one whole number from 0 to 4 for each cell",
            found=f"{codes.dtype} of shape {codes.shape}",
            remedy="classify the cells first",
        )
    return codes.astype(np.int8)
