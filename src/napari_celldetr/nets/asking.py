"""Asking the detector about a point: which place of the centre heatmap is meant, and how likely."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.predictor import PointAnswers
from napari_celldetr.nets.celldetr_config import CellDETRConfig
from napari_celldetr.nets.queries import Encoded, sample_features


@dataclass(frozen=True)
class EncodedTile:
    """One tile as its encoder saw it; `size` is its (height, width) before it was padded."""

    encoded: Encoded
    size: tuple[int, int]


def refuse_unaskable(config: CellDETRConfig, size: tuple[int, int]) -> None:
    """Raise `ConfigError` for networks without a heatmap, and tiles that a network cannot take."""
    if config.query_source != "heatmap":
        raise ConfigError(
            "This model cannot be asked about points.",
            expected="a network whose queries come from a heatmap",
            found=f"query_source {config.query_source!r}",
            remedy="choose another model, e.g. celldetr-he",
        )
    if config.geometry == "sigmoid" and max(size) > config.window:
        raise ConfigError(
            "The tile is larger than this network's window.",
            expected=f"at most {config.window} × {config.window} px",
            found=f"{size[1]} × {size[0]} px",
            remedy="cut a smaller tile around the point",
        )


def points_of(xy: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.float64]:
    """Points (N, 2) inside a tile of (height, width) px, checked; else `ConfigError`."""
    points = np.ascontiguousarray(xy, np.float64)
    if points.size == 0:
        return points.reshape(0, 2)
    shaped = points.ndim == 2 and points.shape[1] == 2
    if not shaped or not ((points >= 0) & (points <= [size[1], size[0]])).all():
        raise ConfigError(
            "The points to ask about do not lie in the tile.",
            expected=f"x, y (N, 2) within {size[1]} × {size[0]} px",
            found=f"shape {points.shape}" if not shaped else f"{points[:5].tolist()}",
            remedy="give points in the tile's own pixels",
        )
    return points


def locate(
    heat: Tensor, xy: Tensor, *, image: tuple[int, int], size: tuple[int, int], radius: float
) -> tuple[Tensor, Tensor]:
    """The places of a heatmap that points mean, and the logits there.

    A point means the nearest peak within `radius`; where there is none, it means itself, with the
    logit right there. The highest logit nearby would be a neighbour's: of 965 places between
    nuclei, 8 % would then be scored as cells are, and not 2 %.

    Parameters
    ----------
    heat : (1, 1, H, W)
        Logits.
    xy : (N, 2)
        Points in px.
    image, size : (height, width) in px
        What the heatmap covers, and the part of it that is not padding.
    radius : float
        In px.

    Returns
    -------
    xy : (N, 2)
        In 0..1 of `image`.
    logit : (N,)
        The peak's, or interpolated at the point.
    """
    side = xy.new_tensor([image[1], image[0]])
    own = xy / side
    logit = sample_features(heat, own[None])[0, :, 0]
    best = F.max_pool2d(heat, 3, stride=1, padding=1)
    row, column = torch.nonzero(heat[0, 0] >= best[0, 0], as_tuple=True)
    height, width = heat.shape[-2:]
    # Computed as `peaks` does, so that a peak's query is the very one that detection has.
    at = torch.stack(((column.float() + 0.5) / width, (row.float() + 0.5) / height), -1)
    inside = (at * side < side.new_tensor([size[1], size[0]])).all(1)
    at, row, column = at[inside], row[inside], column[inside]
    if not len(at) or not len(xy):
        return own, logit
    gap, nearest = torch.cdist(own * side, at * side).min(1)
    snapped = gap <= radius
    own = torch.where(snapped[:, None], at[nearest], own)
    return own, torch.where(snapped, heat[0, 0, row[nearest], column[nearest]], logit)


def spread(table: Detections, places: NDArray[np.int64], xy: NDArray[np.float64]) -> PointAnswers:
    """Rows of `table` at `places` (M,) of N answers; the others say that they failed.

    `xy` (N, 2) are the points asked about.
    """
    count = len(xy)
    failed = np.ones(count, bool)
    failed[places] = False
    boxes = np.tile(xy, (1, 2)).astype(np.float32)
    scores, ids = np.zeros(count, np.float32), np.full(count, UNKNOWN, np.int16)
    boxes[places], scores[places], ids[places] = table.boxes, table.scores, table.class_ids
    vectors = None
    if table.embeddings is not None:
        vectors = np.zeros((count, table.embeddings.shape[1]), np.float16)
        vectors[places] = table.embeddings
    columns = {}
    for name, values in table.columns.items():
        columns[name] = np.zeros(count, values.dtype)
        columns[name][places] = values
    filled = replace(
        table, boxes=boxes, scores=scores, class_ids=ids, embeddings=vectors, columns=columns
    )
    return PointAnswers(filled, failed)
