"""HER2 IHC of breast cancer: patterns of cells, and the guideline's rules on their counts."""

from __future__ import annotations

from napari_celldetr.core.her2.assessment import Assessment, JudgedCells, assess, maximum_rule
from napari_celldetr.core.her2.exclusions import EXCLUSION_WORDS, Exclusion
from napari_celldetr.core.her2.guideline import (
    GUIDELINE,
    Branch,
    Margin,
    Minimum,
    Score,
    margins,
    score_counts,
    score_many,
)
from napari_celldetr.core.her2.patterns import (
    CELL_CLASSES,
    SCORES,
    Cutoffs,
    Pattern,
    cell_scores,
    classify_cells,
)
from napari_celldetr.core.her2.shares import (
    TileCounts,
    count_patterns,
    h_score,
    score_shares,
    wilson_interval,
)

__all__ = [
    "CELL_CLASSES",
    "EXCLUSION_WORDS",
    "GUIDELINE",
    "SCORES",
    "Assessment",
    "Branch",
    "Cutoffs",
    "Exclusion",
    "JudgedCells",
    "Margin",
    "Minimum",
    "Pattern",
    "Score",
    "TileCounts",
    "assess",
    "cell_scores",
    "classify_cells",
    "count_patterns",
    "h_score",
    "margins",
    "maximum_rule",
    "score_counts",
    "score_many",
    "score_shares",
    "wilson_interval",
]
