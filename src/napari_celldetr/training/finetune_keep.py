"""Not forgetting: on what it learned from before, a network is held to what it said before.

The answers of the network as it was are the targets, everywhere and softly, instead of the few
labels of the sample (Li and Hoiem, Learning without Forgetting, 2017; Buzzega et al., Dark
Experience, NeurIPS 2020): heatmap, objectness, boxes, classes, and the direction of embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_celldetr.nets.celldetr import CellDETR, Detected, HeatmapQueries
from napari_celldetr.nets.slots import clamp_boxes
from napari_celldetr.training.finetune_cache import Batch

SURE = 0.3
"""Cells scored above this by the network as it was are held in box, class and embedding."""
OBJECTNESS = 4.0
SIZE = 0.25


def can_keep(model: CellDETR) -> bool:
    """Whether two networks of its kind can be asked about the same places."""
    return isinstance(model.proposer, HeatmapQueries)


def keep_loss(model: CellDETR, before: CellDETR, batch: Batch) -> Tensor:
    """How far `model` says something else than `before` about a batch; 0 where it does not.

    Sums over places count per cell that `before` is sure of, as in `nets.criterion`.
    """
    with torch.no_grad():
        told = before.encode_features(batch.features, batch.image)
        queries = before.proposer(told)
        said: Detected = before.detection(told, queries)
    sure = queries.valid & (said.logits[-1].sigmoid() > SURE)
    cells = sure.sum().clamp(min=1)
    encoded = model.encode_features(batch.features, batch.image)
    proposer = model.proposer
    assert isinstance(proposer, HeatmapQueries)
    assert told.heat is not None
    assert encoded.heat is not None
    assert queries.prior is not None
    # The old network's places and priors: what the heatmap says is compared by itself.
    places = proposer.at(encoded, queries.references[..., :2], queries.prior, queries.valid)
    found: Detected = model.detection(encoded, places)
    total: Tensor = _bernoulli(told.heat, encoded.heat).sum() / cells
    asked = _bernoulli(said.logits[-1], found.logits[-1])
    total = total + OBJECTNESS * asked[queries.valid].sum() / cells
    if not bool(sure.any()):
        return total
    total = total + _boxes(said, found, sure, batch, model.config.offset_px)
    boxes = clamp_boxes(said.boxes[-1], batch.image, model.config.nucleus_px)
    total = total + _classes(before.class_at(told, boxes), model.class_at(encoded, boxes), sure)
    if model.config.representation_layers:
        with torch.no_grad():
            old = before.represent(told, boxes, padding=~queries.valid, features=said.features)
        new = model.represent(encoded, boxes, padding=~queries.valid, features=found.features)
        for a, b in zip(old.logits, new.logits, strict=True):
            total = total + _classes(a, b, sure)
        alike = F.cosine_similarity(old.embeddings[sure], new.embeddings[sure], dim=-1)
        total = total + (1 - alike).mean()
    return total


def _bernoulli(old: Tensor, new: Tensor) -> Tensor:
    """Kullback-Leibler divergence of probabilities given as logits, entry by entry."""
    p = old.sigmoid()
    cross = F.binary_cross_entropy_with_logits(new, p, reduction="none")
    own = F.binary_cross_entropy_with_logits(old, p, reduction="none")
    return cross - own


def _classes(old: Tensor, new: Tensor, sure: Tensor) -> Tensor:
    a, b = old[sure].float().log_softmax(-1), new[sure].float().log_softmax(-1)
    return F.kl_div(b, a, reduction="batchmean", log_target=True)


def _boxes(said: Detected, found: Detected, sure: Tensor, batch: Batch, unit: float) -> Tensor:
    old, new = said.boxes[-1][sure], found.boxes[-1][sure]
    side = old.new_tensor([batch.image[1], batch.image[0]])
    centre = ((new[:, :2] - old[:, :2]) * side / unit).abs().sum(-1).mean()
    size = (new[:, 2:].clamp(min=1e-6) / old[:, 2:].clamp(min=1e-6)).log().abs().sum(-1).mean()
    return centre + SIZE * size
