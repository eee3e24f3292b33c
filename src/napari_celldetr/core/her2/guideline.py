"""The ASCO/CAP rule for HER2 IHC in breast cancer as a tree whose every branch shows its counts.

Wolff et al., Arch Pathol Lab Med 2018, 142:1364; affirmed 2023. Percentages are compared as
whole numbers, so "more than 10 %" is strict: 10 of 100 cells are not more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.config import Field, check
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2.patterns import SCORES, Pattern
from napari_celldetr.core.her2.shares import wilson_interval

GUIDELINE = "ASCO/CAP 2018, affirmed 2023; breast only"
BORDER = 0.10
Counts = dict[Pattern, int]

NONE, FAINT = Pattern.NONE, Pattern.FAINT_INCOMPLETE
COMPLETE, INTENSE = Pattern.COMPLETE_WEAK_MODERATE, Pattern.COMPLETE_INTENSE
OPEN = Pattern.STRONG_INCOMPLETE


@dataclass(frozen=True, slots=True)
class Minimum:
    """How many cells it takes: for a score at all, and for "any cells" of a pattern.

    The guideline gives neither number. Without the second a single false cell would make a
    slide 2+.
    """

    cells: Annotated[int, Field("Fewest tumour cells", "Fewer are not scored", ge=1)] = 100
    any_cells: Annotated[
        int, Field("'Any' from cells", "Fewer cells of a pattern are disregarded", ge=1)
    ] = 10
    any_percent: Annotated[
        int, Field("'Any' from per cent", "Both are needed", ge=0, le=10, unit="%")
    ] = 1

    def __post_init__(self) -> None:
        check(self)

    def is_any(self, cells: int, total: int) -> bool:
        """Whether a pattern counts as present."""
        return (cells >= self.any_cells) & (100 * cells >= self.any_percent * total)


@dataclass(frozen=True, slots=True)
class Branch:
    """One question of the tree, its counts and its answer.

    Attributes
    ----------
    key : str
    question : str
    patterns : tuple of Pattern
        The cells that are counted: what a click on the branch lights up.
    cells, total : int
    interval : (float, float)
        Wilson's 95 % interval of ``cells / total``, 0 to 1.
    answer : bool
    leads_to : str
        Score if the answer is yes.
    asked : bool
        Whether the tree came to this question; it stops at the first yes.
    """

    key: str
    question: str
    patterns: tuple[Pattern, ...]
    cells: int
    total: int
    interval: tuple[float, float]
    answer: bool
    leads_to: str
    asked: bool


@dataclass(frozen=True, slots=True)
class Score:
    """What the rule says of a set of tumour cells.

    Attributes
    ----------
    score : str or None
        '0', '1+', '2+' or '3+'; None when it must not be given, with `reason`.
    reason : str
        Why: the pattern that decided, or what is missing.
    branch : str
        Key of the branch that decided, '' without a score.
    tree : tuple of Branch
    is_covered : bool
        False where the guideline does not name the pattern, and 2+ stands for "equivocal".
    is_borderline : bool
        Whether the interval of a percentage that is compared with 10 % spans it.
    notes : tuple of str
        What a reader should know besides: "in situ hybridisation is needed", and the like.
    counts : dict
        Cells by pattern.
    """

    score: str | None
    reason: str
    branch: str
    tree: tuple[Branch, ...]
    is_covered: bool
    is_borderline: bool
    notes: tuple[str, ...]
    counts: Counts

    @property
    def needs_ish(self) -> bool:
        """2+ is equivocal: in situ hybridisation decides."""
        return self.score == "2+"


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    question: str
    patterns: tuple[Pattern, ...]
    leads_to: str
    because: str
    holds: Callable[[Counts, int, Minimum], bool]
    is_covered: bool = True
    at_border: bool = True


def _over(pattern: Pattern) -> Callable[[Counts, int, Minimum], bool]:
    return lambda counts, total, _: 10 * counts[pattern] > total


def _any(*patterns: Pattern) -> Callable[[Counts, int, Minimum], bool]:
    # Together: nine cells of each of three patterns are not nothing.
    return lambda counts, total, least: least.is_any(sum(counts[p] for p in patterns), total)


RULES = (
    _Rule(
        "complete_intense_over_10",
        "Complete, intense membrane staining in more than 10 % of tumour cells?",
        (INTENSE,),
        "3+",
        "complete, intense membrane staining in more than 10 %",
        _over(INTENSE),
    ),
    _Rule(
        "complete_weak_moderate_over_10",
        "Complete, weak to moderate membrane staining in more than 10 %?",
        (COMPLETE,),
        "2+",
        "complete, weak to moderate membrane staining in more than 10 %",
        _over(COMPLETE),
    ),
    _Rule(
        "unusual",
        "Any complete intense staining (10 % or less), or any moderate to intense staining that "
        "is incomplete?",
        (INTENSE, OPEN),
        "2+",
        "an unusual pattern: complete intense staining in 10 % or less, or moderate to intense "
        "staining that is incomplete",
        _any(INTENSE, OPEN),
        is_covered=False,
        at_border=False,
    ),
    _Rule(
        "complete_weak_moderate_up_to_10",
        "Any complete, weak to moderate staining (10 % or less), with what is stronger?",
        (COMPLETE, INTENSE, OPEN),
        "2+",
        "complete, weak to moderate staining in 10 % or less is not covered by the guideline",
        _any(COMPLETE, INTENSE, OPEN),
        is_covered=False,
        at_border=False,
    ),
    _Rule(
        "faint_incomplete_over_10",
        "Incomplete, faint membrane staining in more than 10 %?",
        (FAINT,),
        "1+",
        "incomplete, faint membrane staining in more than 10 %",
        _over(FAINT),
    ),
    _Rule(
        "none_or_up_to_10",
        "No staining, or incomplete and faint in 10 % or less?",
        (NONE, FAINT),
        "0",
        "no staining, or incomplete and faint in 10 % or less",
        lambda *_: True,
        at_border=False,
    ),
)


def score_counts(counts: Counts, minimum: Minimum | None = None) -> Score:
    """Apply the rule to the cells counted in invasive tumour.

    Parameters
    ----------
    counts : dict of Pattern to int
        Patterns that are not named have no cells.
    minimum : Minimum, optional

    Raises
    ------
    DataError
        A count that is negative or not a whole number.
    """
    least = minimum or Minimum()
    whole = _checked(counts)
    total = sum(whole.values())
    answers = [rule.holds(whole, total, least) for rule in RULES]
    decided = answers.index(True)
    tree = tuple(
        _branch(rule, whole, total, answer, asked=i <= decided)
        for i, (rule, answer) in enumerate(zip(RULES, answers, strict=True))
    )
    if total < least.cells:
        few = f"{total} tumour cells are measured, and fewer than {least.cells} are not scored"
        return Score(None, few, "", tree, False, False, (), whole)
    rule = RULES[decided]
    border = any(_spans_border(b) for b, r in zip(tree, RULES, strict=True) if r.at_border)
    return Score(
        rule.leads_to, rule.because, rule.key, tree, rule.is_covered, border,
        _notes(rule, whole, total, border), whole,
    )  # fmt: skip


def score_many(counts: NDArray[np.integer], minimum: Minimum | None = None) -> NDArray[np.int8]:
    """The same rule on many sets of cells: indices (T,) into `SCORES`, -1 with too few cells.

    Parameters
    ----------
    counts : (T, 5)
        Cells by pattern, in the order of `Pattern`.
    minimum : Minimum, optional
    """
    least = minimum or Minimum()
    columns: Any = {p: counts[:, p] for p in Pattern}
    total: Any = counts.sum(axis=1)
    *asked, last = RULES
    answers = [np.asarray(rule.holds(columns, total, least)) for rule in asked]
    leads = [SCORES.index(rule.leads_to) for rule in asked]
    found = np.select(answers, leads, SCORES.index(last.leads_to))
    return np.where(total >= least.cells, found, -1).astype(np.int8)


def _checked(counts: Counts) -> Counts:
    whole = {p: counts.get(p, 0) for p in Pattern}
    known = set(counts) <= set(Pattern)
    if not known or any(n != int(n) or n < 0 for n in whole.values()):
        raise DataError(
            "These counts of cells cannot be scored.",
            expected="a whole number, 0 or more, for patterns of membrane staining",
            found=repr(counts),
            remedy="count the classified cells",
        )
    return {p: int(n) for p, n in whole.items()}


def _branch(rule: _Rule, counts: Counts, total: int, answer: bool, *, asked: bool) -> Branch:
    cells = sum(counts[p] for p in rule.patterns)
    interval = wilson_interval(cells, total)
    return Branch(
        rule.key, rule.question, rule.patterns, cells, total, interval, answer, rule.leads_to,
        asked,
    )  # fmt: skip


def _spans_border(branch: Branch) -> bool:
    # What lies behind the branch that decided cannot change the score.
    return branch.asked and branch.interval[0] <= BORDER <= branch.interval[1]


def _notes(rule: _Rule, counts: Counts, total: int, border: bool) -> tuple[str, ...]:
    notes = []
    if rule.leads_to == "2+":
        notes.append("Equivocal: in situ hybridisation (ISH) is needed.")
    if not rule.is_covered:
        notes.append("Not covered by the guideline: to be reviewed by a pathologist.")
    if border:
        notes.append("Borderline: the 95 % interval of a deciding percentage includes 10 %.")
    if rule.leads_to == "0" and counts[FAINT]:
        notes.append("Score 0 with faint, incomplete staining in 10 % or less of the cells.")
    strong = counts[COMPLETE] + counts[INTENSE] + counts[OPEN]
    if rule.leads_to in ("0", "1+") and strong:
        notes.append(
            f"{strong} of {total} cells with complete or with moderate to intense staining are "
            "disregarded: too few to count as any."
        )
    return tuple(notes)


@dataclass(frozen=True, slots=True)
class Margin:
    """How far the next score is: `cells` would have to look like `pattern` instead."""

    score: str
    cells: int
    pattern: Pattern


def margins(counts: Counts, minimum: Minimum | None = None) -> tuple[Margin | None, Margin | None]:
    """How many cells must look otherwise for a (lower, higher) score; None where none is.

    Lower: the most strongly stained cells become unstained, as when their staining is not of the
    membrane. Higher: the least stained cells take on one other pattern, the one that needs the
    fewest.
    """
    least = minimum or Minimum()
    now = score_counts(counts, least)
    if now.score is None:
        return None, None
    rank = SCORES.index(now.score)
    higher = [_margin(now.counts, least, rank, target) for target in list(Pattern)[1:]]
    reached = [m for m in higher if m is not None]
    best = min(reached, key=lambda m: m.cells, default=None)
    return _margin(now.counts, least, rank, NONE), best


# From the least to the most stained, as `margins` takes cells away.
_ORDER = (NONE, FAINT, COMPLETE, OPEN, INTENSE)


def _margin(counts: Counts, least: Minimum, rank: int, target: Pattern) -> Margin | None:
    """Fewest cells that must become `target` for a score on the far side of `rank`."""
    order = _ORDER[::-1] if target is NONE else _ORDER
    sign = -1 if target is NONE else 1

    def after(cells: int) -> str:
        score = score_counts(_moved(counts, order, target, cells), least).score
        assert score is not None
        return score

    def passed(cells: int) -> bool:
        return sign * (SCORES.index(after(cells)) - rank) > 0

    low, high = 0, sum(n for p, n in counts.items() if p is not target)
    if not passed(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passed(middle) else (middle, high)
    return Margin(after(high), high, target)


def _moved(counts: Counts, order: tuple[Pattern, ...], target: Pattern, cells: int) -> Counts:
    moved, left = dict(counts), cells
    for pattern in order:
        if pattern is not target:
            taken = min(left, moved[pattern])
            moved[pattern] -= taken
            moved[target] += taken
            left -= taken
    return moved
