"""What a run found, in figures and words a pathologist reads: counts, shares, density, gaps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClassRow:
    """One line of the table: `share` 0..1, `per_mm2` None when the pixel size is not known."""

    name: str
    count: int
    share: float
    per_mm2: float | None


def class_rows(counts: Mapping[str, int], *, area_mm2: float | None) -> list[ClassRow]:
    """One row a class, then the total when there is more than one."""
    total = sum(counts.values())
    rows = [_row(name, n, total, area_mm2) for name, n in counts.items()]
    return [*rows, _row("all cells", total, total, area_mm2)] if len(rows) != 1 else rows


def _row(name: str, count: int, total: int, area_mm2: float | None) -> ClassRow:
    share = count / total if total else 0.0
    return ClassRow(name, count, share, count / area_mm2 if area_mm2 else None)


def area_mm2(px: float, mpp: tuple[float, float] | None) -> float | None:
    """mm² of a number of level-0 px², None when the pixel size is not known."""
    return None if mpp is None or px <= 0 else px * mpp[0] * mpp[1] / 1e6


def area_words(mm2: float) -> str:
    """``1.23 mm²``, with three figures that mean something at any size."""
    return f"{mm2:,.0f} mm²" if mm2 >= 100 else f"{mm2:.3g} mm²"


def gaps(report: Any) -> list[str]:
    """What is missing from the result, one sentence each; empty when nothing is."""
    said = []
    reasons = dict(getattr(report, "reasons", ()))
    if n := getattr(report, "failed", 0):
        why = Counter(reasons.values()).most_common(1)
        said.append(
            f"{_tiles(n)} could not be analysed, {'is' if n == 1 else 'are'} hatched, "
            "and the cells there are missing" + (f" ({why[0][0].rstrip('.')})." if why else ".")
        )
    if n := getattr(report, "saturated", 0):
        verb = "holds" if n == 1 else "hold"
        said.append(f"{_tiles(n)} {verb} more cells than the model can return; some are missing.")
    if n := getattr(report, "skipped", 0):
        said.append(f"{_tiles(n)} without tissue {'was' if n == 1 else 'were'} left out.")
    return said + list(getattr(report, "warnings", ()))


def _tiles(n: int) -> str:
    return f"{n:,} tile" if n == 1 else f"{n:,} tiles"
