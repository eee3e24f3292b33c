"""What the measured cells of a slide, a region or a view amount to: shares, score, and doubts.

Counting is apart from measuring: with other cut-offs or another region the same cells are
assessed anew: a million of them in about 0.2 s of processor time, 0.5 s with intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2.guideline import (
    Counts,
    Margin,
    Minimum,
    Score,
    margins,
    score_counts,
    score_many,
)
from napari_celldetr.core.her2.patterns import SCORES, Pattern, cell_scores, check_patterns
from napari_celldetr.core.her2.shares import (
    Z95,
    TileCounts,
    count_patterns,
    h_score,
    score_shares,
    wilson_interval,
)
from napari_celldetr.core.metrics.bootstrap import percentile_interval

TILE_UM = 250.0
"""Side of the squares that are drawn again for intervals."""
PATCH_UM = 112.0
"""Side of the patches of the paper's rule: 224 px at 0.5 µm/px."""
FEWEST_TILES = 10
"""With fewer squares, drawing them again says nothing: the intervals would be too narrow."""
PATCH_CELLS = 10
"""A patch with fewer cells has no score of its own."""
DRAWS = 1000
UNCONFIRMED = (
    "no invasive tumour is confirmed: draw it, carry it over from the H&E slide, or say that all "
    "that was measured is tumour"
)
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class JudgedCells:
    """N cells of a slide and what each of them is.

    Attributes
    ----------
    centres : (N, 2)
        x, y in level-0 px.
    patterns : (N,) int8
        Codes of `Pattern`.
    areas_um2 : (N,)
        Area of the whole cell.
    excluded : (N,) int8
        0 where the cell counts, else why not: codes of `Exclusion`.
    mpp : float
        µm per level-0 px.
    """

    centres: NDArray[np.float32]
    patterns: NDArray[np.int8]
    areas_um2: NDArray[np.float32]
    excluded: NDArray[np.int8]
    mpp: float

    def __post_init__(self) -> None:
        n = len(check_patterns(self.patterns))
        lengths = (len(self.centres), len(self.areas_um2), len(self.excluded))
        if any(length != n for length in lengths):
            raise DataError(
                "Judged cells have columns of different length.",
                expected=f"{n} centres, areas and exclusions",
                found=" / ".join(map(str, lengths)),
                remedy="judge the cells again",
            )

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def scores(self) -> NDArray[np.int8]:
        """Index (N,) into `SCORES` of each cell."""
        return cell_scores(self.patterns)


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a set of cells amounts to; percentages are 0 to 100, NaN of no cells.

    Attributes
    ----------
    n_cells : int
        Cells that count.
    n_excluded : dict of int to int
        Cells left out, by code of `Exclusion`.
    counts : dict of Pattern to int
    percent_cells : dict of score to float
    percent_area : dict of score to float
        Per cent of the area of all cells that count: coverage. The four make 100.
    cell_area_um2 : float
        Area of the cells that count.
    h_score : float
        0 to 300.
    wilson : dict of score to (low, high)
        95 % intervals of `percent_cells` as if cells were drawn one by one.
    bootstrap : dict of score to (low, high)
        The same by drawing squares of the slide again; wider where staining is patchy. Empty
        if nothing was drawn, or there are fewer than `FEWEST_TILES` squares.
    h_score_interval : (low, high)
        By drawing squares, or as if cells were drawn one by one where there is no `bootstrap`.
    redrawn : dict of score to float
        In what share (0 to 1) of the drawings the rule gives each score.
    score : Score
        The guideline's, with its tree; its `score` is None with `reason` where none is given.
    lower, higher : Margin or None
        How far the next scores are.
    maximum : str or None
        The highest score of any patch: the paper's rule, no guideline's. None without a score.
    tumour_confirmed : bool
    """

    n_cells: int
    n_excluded: dict[int, int]
    counts: Counts
    percent_cells: dict[str, float]
    percent_area: dict[str, float]
    cell_area_um2: float
    h_score: float
    wilson: dict[str, Interval]
    bootstrap: dict[str, Interval]
    h_score_interval: Interval
    redrawn: dict[str, float]
    score: Score
    lower: Margin | None
    higher: Margin | None
    maximum: str | None
    tumour_confirmed: bool


def assess(
    cells: JudgedCells,
    inside: NDArray[np.bool_] | None = None,
    *,
    tumour_confirmed: bool,
    minimum: Minimum | None = None,
    refusal: str = "",
    draws: int = DRAWS,
) -> Assessment:
    """Count cells, apply the guideline, and say how sure the figures are.

    Parameters
    ----------
    cells : JudgedCells
    inside : (N,) bool, optional
        Which of them are meant: the tumour, a region, the view.
    tumour_confirmed : bool
        Whether a person said that these cells are invasive tumour. Without it there is no score.
    minimum : Minimum, optional
    refusal : str
        Why the slide must not be scored; '' if it may.
    draws : int
        Drawings for the bootstrap; 0 leaves it out, for figures that follow the view.
    """
    least = minimum or Minimum()
    meant = np.ones(len(cells), bool) if inside is None else np.asarray(inside, bool)
    which = meant & (cells.excluded == 0)
    patterns = cells.patterns[which]
    counts = count_patterns(patterns)
    score = _gated(score_counts(counts, least), tumour_confirmed, refusal)
    lower, higher = margins(counts, least) if score.score else (None, None)
    area = np.bincount(cells.scores[which], cells.areas_um2[which], len(SCORES)).astype(float)
    # Squares and patches take longer than all else: only where they are asked for.
    places = cells.centres[which] * cells.mpp if draws or score.score else cells.centres[:0]
    drawn = _drawn(patterns, places, draws)
    return Assessment(
        n_cells=len(patterns),
        n_excluded=_tally(cells.excluded[meant]),
        counts=counts,
        percent_cells=score_shares(counts),
        percent_area=_percent(area),
        cell_area_um2=float(area.sum()),
        h_score=h_score(counts),
        wilson=_wilson(counts),
        bootstrap=_intervals(drawn),
        h_score_interval=_h_interval(drawn, counts),
        redrawn=_redrawn(drawn, least) if score.score else {},
        score=score,
        lower=lower,
        higher=higher,
        maximum=maximum_rule(patch_scores(patterns, places)) if score.score else None,
        tumour_confirmed=tumour_confirmed,
    )


def maximum_rule(scores: Sequence[str | None]) -> str | None:
    """The highest score of any patch; None of none.

    The paper's rule for a slide (arXiv 2512.22335, equation 8: the maximum over patches). One
    patch decides, so it is shown beside the guideline's score and never in place of it.
    """
    known = [SCORES.index(s) for s in scores if s is not None]
    return SCORES[max(known)] if known else None


def patch_scores(patterns: NDArray[Any], places_um: NDArray[Any]) -> list[str | None]:
    """The guideline's score of each patch of `PATCH_UM` on its own; None with too few cells."""
    patches = TileCounts.of(patterns, places_um, PATCH_UM).counts
    least = Minimum(cells=PATCH_CELLS, any_cells=1, any_percent=1)
    return [SCORES[k] if k >= 0 else None for k in score_many(patches, least)]


def _gated(score: Score, confirmed: bool, refusal: str) -> Score:
    """The score, or none with the reason why it must not be given."""
    if score.score is None and not refusal and confirmed:
        return score
    reason = refusal or ("" if confirmed else UNCONFIRMED)
    if not reason:
        return score
    return replace(score, score=None, reason=reason, branch="", notes=(), is_borderline=False)


def _tally(excluded: NDArray[np.int8]) -> dict[int, int]:
    codes, times = np.unique(excluded[excluded != 0], return_counts=True)
    return {int(code): int(n) for code, n in zip(codes, times, strict=True)}


def _percent(parts: NDArray[np.float64]) -> dict[str, float]:
    whole = parts.sum()
    return {
        s: 100 * float(p) / float(whole) if whole else math.nan
        for s, p in zip(SCORES, parts, strict=True)
    }


def _by_score(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells by score (…, 4) from cells by pattern (…, 5)."""
    of = cell_scores(np.arange(len(Pattern)))
    return np.stack([counts[..., of == k].sum(axis=-1) for k in range(len(SCORES))], axis=-1)


def _wilson(counts: Counts) -> dict[str, Interval]:
    cells = _by_score(np.array([counts[p] for p in Pattern]))
    found = [wilson_interval(int(n), int(cells.sum())) for n in cells]
    return {s: (100 * low, 100 * high) for s, (low, high) in zip(SCORES, found, strict=True)}


def _drawn(patterns: NDArray[Any], places_um: NDArray[Any], draws: int) -> NDArray[np.int64]:
    """Cells by pattern of each drawing that has any (D, 5)."""
    nothing = np.zeros((0, len(Pattern)), np.int64)
    if not draws:
        return nothing
    tiles = TileCounts.of(patterns, places_um, TILE_UM)
    if len(tiles.counts) < FEWEST_TILES:
        return nothing
    drawn = tiles.drawn(draws)
    return drawn[drawn.sum(axis=1) > 0]


def _intervals(drawn: NDArray[np.int64]) -> dict[str, Interval]:
    if not len(drawn):
        return {}
    shares = 100 * _by_score(drawn) / drawn.sum(axis=1, keepdims=True)
    return {s: percentile_interval(shares[:, k]) for k, s in enumerate(SCORES)}


def _h_interval(drawn: NDArray[np.int64], counts: Counts) -> Interval:
    """By the drawings, or without them as if cells were drawn one by one."""
    if len(drawn):
        weighted = _by_score(drawn) @ np.arange(len(SCORES))
        return percentile_interval(100 * weighted / drawn.sum(axis=1))
    cells = _by_score(np.array([counts[p] for p in Pattern]))
    total = int(cells.sum())
    if not total:
        return math.nan, math.nan
    weights = np.arange(len(SCORES))
    mean = float(cells @ weights) / total
    spread = float(cells @ (weights - mean) ** 2) / total
    half = Z95 * math.sqrt(spread / total)
    return max(0.0, 100 * (mean - half)), min(300.0, 100 * (mean + half))


def _redrawn(drawn: NDArray[np.int64], least: Minimum) -> dict[str, float]:
    """Share of the drawings with each score; a drawing with too few cells has none."""
    if not len(drawn):
        return {}
    scores = score_many(drawn, least)
    return {s: float((scores == k).mean()) for k, s in enumerate(SCORES)}
