"""Published matching rules and figures for cells, each under the name of its source.

Points: `point_scores` (gated one-to-one, MCSpatNet's greedy), `hovernet_scores` (HoVer-Net and
PanNuke, as published and gated). Instance maps: `panoptic_scores` (PQ, bPQ, mPQ, mPQ+),
`mask_scores` (AJI, AJI+, Dice). Scored objects: `coco_scores` (AP, AR). Scores: `froc`,
`threshold_curve`, `calibration_error`. Intervals over fields: `bootstrap_interval`.
"""

from napari_celldetr.core.metrics.bootstrap import (
    bootstrap_interval,
    bootstrap_intervals,
    field_draws,
    percentile_interval,
)
from napari_celldetr.core.metrics.candidates import ScoredObjects, box_objects, mask_objects
from napari_celldetr.core.metrics.coco import (
    COCO_AREAS_PX2,
    NUCLEUS_AREAS_UM2,
    AveragePrecision,
    CocoScores,
    coco_scores,
)
from napari_celldetr.core.metrics.curves import Froc, ThresholdCurve, froc, threshold_curve
from napari_celldetr.core.metrics.hovernet import HoverNetScores, hovernet_scores
from napari_celldetr.core.metrics.masks import (
    MaskScores,
    aggregated_jaccard,
    dice,
    mask_scores,
)
from napari_celldetr.core.metrics.matching import (
    assign,
    hits_by_score,
    match_points,
    match_points_greedy,
    match_points_hovernet,
)
from napari_celldetr.core.metrics.panoptic import (
    MaskField,
    PanopticScores,
    Quality,
    panoptic_quality,
    panoptic_scores,
)
from napari_celldetr.core.metrics.points import (
    PointField,
    PointScores,
    Rate,
    detection_f1,
    point_scores,
    point_scores_at,
)
from napari_celldetr.core.metrics.reliability import Bin, Reliability, calibration_error

__all__ = [
    "COCO_AREAS_PX2",
    "NUCLEUS_AREAS_UM2",
    "AveragePrecision",
    "Bin",
    "CocoScores",
    "Froc",
    "HoverNetScores",
    "MaskField",
    "MaskScores",
    "PanopticScores",
    "PointField",
    "PointScores",
    "Quality",
    "Rate",
    "Reliability",
    "ScoredObjects",
    "ThresholdCurve",
    "aggregated_jaccard",
    "assign",
    "bootstrap_interval",
    "bootstrap_intervals",
    "box_objects",
    "calibration_error",
    "coco_scores",
    "detection_f1",
    "dice",
    "field_draws",
    "froc",
    "hits_by_score",
    "hovernet_scores",
    "mask_objects",
    "mask_scores",
    "match_points",
    "match_points_greedy",
    "match_points_hovernet",
    "panoptic_quality",
    "panoptic_scores",
    "percentile_interval",
    "point_scores",
    "point_scores_at",
    "threshold_curve",
]
