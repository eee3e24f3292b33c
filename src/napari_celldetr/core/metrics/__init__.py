"""Published matching rules and figures for cells, each under the name of its source."""

from napari_celldetr.core.metrics.hovernet import HoverNetScores, hovernet_scores
from napari_celldetr.core.metrics.matching import (
    assign,
    hits_by_score,
    match_points,
    match_points_greedy,
    match_points_hovernet,
)
from napari_celldetr.core.metrics.points import (
    PointField,
    PointScores,
    Rate,
    detection_f1,
    point_scores,
    point_scores_at,
)

__all__ = [
    "HoverNetScores",
    "PointField",
    "PointScores",
    "Rate",
    "assign",
    "detection_f1",
    "hits_by_score",
    "hovernet_scores",
    "match_points",
    "match_points_greedy",
    "match_points_hovernet",
    "point_scores",
    "point_scores_at",
]
