"""Losses as functions of tensors: focal, centre heatmap, boxes, classes, composition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_celldetr.nets.matching import generalized_iou

SURE = 0.5
"""Above this probability a network's own finding makes a soft negative."""


def focal_loss(logits: Tensor, wanted: Tensor, *, alpha: float = 0.25, gamma: float = 2) -> Tensor:
    """Sigmoid focal loss per element (Lin et al. 2017)."""
    p = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p_true = p * wanted + (1 - p) * (1 - wanted)
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    return weight * (1 - p_true) ** gamma * loss


def trust(confidence: Tensor) -> Tensor:
    """Weight of "there is no cell here", given the (detached) probability that there is one.

    1 up to `SURE`, then (1 - p)² on the scale that makes it continuous: an unlabelled cell that
    is clearly seen pulls hardly at all, while doubtful places teach as before.
    """
    return ((1 - confidence) / (1 - SURE)).clamp(0, 1) ** 2


def heat_targets(
    shape: tuple[int, int, int], image: Tensor, centres: Tensor, sigma: float
) -> Tensor:
    """Bumps of height 1 -> (B, H, W).

    The pixel that holds a centre is exactly 1, as the loss needs (Zhou et al. 2019); where bumps
    meet the highest counts; farther than 3 `sigma` along an axis they are 0.

    Parameters
    ----------
    shape : (B, H, W)
    image : (T,) int64
        Which image a centre lies in.
    centres : (T, 2)
        x, y in heatmap pixels.
    sigma : float
        In heatmap pixels.
    """
    batch, height, width = shape
    radius = int(3 * sigma + 0.5)
    span = torch.arange(-radius, radius + 1, device=centres.device)
    dy, dx = torch.meshgrid(span, span, indexing="ij")
    bump = torch.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    x = centres[:, 0].long()[:, None, None] + dx
    y = centres[:, 1].long()[:, None, None] + dy
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = ((image[:, None, None] * height + y) * width + x)[inside]
    value = bump.expand_as(x)[inside].to(centres.dtype)
    flat = centres.new_zeros(batch * height * width)
    return flat.scatter_reduce(0, index, value, "amax").view(shape)


def heat_loss(heat: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Centre heatmap focal loss, summed (Zhou et al., Objects as Points, eq. 1).

    Parameters
    ----------
    heat : (B, H, W)
        Logits.
    wanted : (B, H, W)
        From `heat_targets`.
    weight : (B, H, W), optional
        Weight of every place: 0 on padding.
    """
    p = heat.sigmoid()
    hit = wanted >= 1
    # -log p of what is wanted, in one pass over the map.
    cost = F.softplus(torch.where(hit, -heat, heat))
    loss = torch.where(hit, (1 - p) ** 2, p**2 * (1 - wanted) ** 4) * cost
    return (loss if weight is None else loss * weight).sum()


def box_losses(
    found: Tensor, true: Tensor, unit: Tensor, *, log_size: bool, giou: bool
) -> dict[str, Tensor]:
    """Mean errors of P matched boxes, cx cy w h in 0..1; sizes count where they are known.

    Parameters
    ----------
    found, true : (P, 4)
        Sizes of `true` may be NaN.
    unit : (2,)
        What a shift of the centre by the whole image counts, along x and y.
    log_size : bool
        Sizes as ratios (a nucleus twice too large is as wrong as one half too small) or as
        differences.
    giou : bool
        Whether to add 1 - GIoU.
    """
    centre = ((found[:, :2] - true[:, :2]).abs() * unit).sum() / max(len(found), 1)
    known = torch.isfinite(true).all(-1)
    extents = known.sum().clamp(min=1)
    a, b = found[known], true[known]
    if log_size:
        gap = (a[:, 2:].clamp(min=1e-6).log() - b[:, 2:].clamp(min=1e-6).log()).abs()
    else:
        gap = (a[:, 2:] - b[:, 2:]).abs()
    parts = {"centre": centre, "size": gap.sum() / extents}
    if giou:
        parts["giou"] = (1 - generalized_iou(a, b)).sum() / extents
    return parts


def wanted_classes(
    truth: Tensor, classes: int, *, smoothing: float = 0, soft: Tensor | None = None, share: float
) -> Tensor:
    """Class targets (N, K): (1 - share) of the smoothed annotation, `share` of the teacher.

    Parameters
    ----------
    truth : (N,) int64
        Annotated classes.
    smoothing : float
        Share of the annotation that is spread over all classes.
    soft : (N, K), optional
        A teacher's probabilities; rows of NaN leave the annotation as it is.
    share : float
        The teacher's say, 0..1.
    """
    wanted = F.one_hot(truth, classes).float() * (1 - smoothing) + smoothing / classes
    if soft is None:
        return wanted
    spoke = torch.isfinite(soft).all(-1, keepdim=True)
    return torch.where(spoke, wanted.lerp(soft.float(), share), wanted)


def class_cross_entropy(
    logits: Tensor,
    truth: Tensor,
    wanted: Tensor,
    *,
    weight: Tensor | None = None,
    gamma: float = 0,
) -> Tensor:
    """Weighted mean cross-entropy of logits (N, K) against targets (N, K).

    With one-hot or smoothed targets this is ``torch.nn.functional.cross_entropy``. `gamma` > 0
    makes every term focal: (1 - p)^γ (Lin et al. 2017). `weight` (K,) weighs classes; the mean
    is over the weights of the annotated classes `truth` (N,).
    """
    log_p = logits.float().log_softmax(-1)
    weight = log_p.new_ones(log_p.shape[-1]) if weight is None else weight
    terms = wanted * weight * log_p
    if gamma:
        terms = terms * (1 - log_p.exp()).clamp(min=1e-6) ** gamma
    return -terms.sum() / weight[truth].sum()


def composition_divergence(p: Tensor, used: Tensor, shares: Tensor) -> Tensor:
    """Kullback-Leibler divergence of class shares from the mean of cells' class probabilities.

    Parameters
    ----------
    p : (B, R, K)
        Class probabilities of every cell.
    used : (B, R) bool
        Slots that hold a cell.
    shares : (B, K)
        Composition of each field; scaled to sum 1.

    Returns
    -------
    () mean over fields; a field without any cell adds 0.
    """
    cells = used.sum(1, keepdim=True)
    mean = torch.where(used[..., None], p, 0.0).sum(1) / cells.clamp(min=1)
    wanted = shares / shares.sum(-1, keepdim=True).clamp(min=1e-6)
    gap = wanted * (wanted.clamp(min=1e-6).log() - mean.clamp(min=1e-6).log())
    return torch.where(cells > 0, gap, 0.0).sum() / max(len(p), 1)
