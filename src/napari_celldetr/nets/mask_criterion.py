"""What a MaskFormer learns from: one mask per class present, matched to queries, at every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from napari_celldetr.core.predictor import UNKNOWN
from napari_celldetr.nets.maskformer import Masks


@dataclass(frozen=True)
class Segments:
    """The masks that an image is made of.

    Attributes
    ----------
    class_ids : (T,) int64
        One per class that is present.
    shares : (T, P) float32
        How much of each pixel of the masks is of that class, 0..1.
    valid : (P,) float32
        How much of each pixel counts, 0..1.
    """

    class_ids: Tensor
    shares: Tensor
    valid: Tensor

    @classmethod
    def of(cls, truth: Tensor, classes: int, *, stride: int) -> Segments:
        """Segments of class ids (H, W), `UNKNOWN` where nothing is known, at a masks' stride.

        A class's share of a coarse pixel is that of its pixels that count, so that thin bands
        are not lost.
        """
        known = (truth != UNKNOWN).float()
        ids = torch.unique(truth[truth != UNKNOWN]).long()
        ids = ids[ids < classes]
        maps = torch.stack([known, *((truth == i).float() for i in ids)])
        means = F.avg_pool2d(maps[None], stride)[0].flatten(1)
        valid = means[0]
        return cls(ids, means[1:] / valid.clamp(min=1e-6), valid)


@dataclass(frozen=True)
class MaskCosts:
    """Weights of the assignment of queries to segments (Cheng et al. 2021, section 3.3).

    Of −p(class), of the focal cost of the mask and of its dice cost.
    """

    chosen: float = 1.0
    focal: float = 20.0
    dice: float = 1.0


def mask_focal(logits: Tensor, shares: Tensor, valid: Tensor, *, gamma: float = 2) -> Tensor:
    """Focal loss of masks (T, P), mean over the pixels that count -> (T,).

    |t − p|^γ times the cross-entropy: Lin et al. 2017 where the truth is 0 or 1, and least at
    p = t where it lies in between (Li et al. 2020). There is no α: the dice loss weighs thin
    masks up.
    """
    gap = (shares - logits.sigmoid()).abs() ** gamma
    cost = F.binary_cross_entropy_with_logits(logits, shares, reduction="none")
    return (gap * cost * valid).sum(-1) / valid.sum().clamp(min=1)


def mask_dice(logits: Tensor, shares: Tensor, valid: Tensor) -> Tensor:
    """1 − (2 Σpt + 1) / (Σp + Σt + 1) of masks (T, P) -> (T,) (Milletari et al. 2016)."""
    p, t = logits.sigmoid() * valid, shares * valid
    return 1 - (2 * (p * shares).sum(-1) + 1) / (p.sum(-1) + t.sum(-1) + 1)


def mask_costs(
    classes: Tensor, masks: Tensor, segments: Segments, *, costs: MaskCosts, gamma: float = 2
) -> Tensor:
    """Cost (Q, T) of giving a query's mask to a segment.

    Parameters
    ----------
    classes : (Q, K + 1)
        Logits.
    masks : (Q, P)
        Logits.
    """
    chosen = -classes.softmax(-1)[:, segments.class_ids]
    p, valid, shares = masks.sigmoid(), segments.valid, segments.shares
    counted = shares * valid
    # A focal cost that is linear in the truth: one matrix product for all pairs.
    positive = (1 - p) ** gamma * F.softplus(-masks)
    negative = p**gamma * F.softplus(masks)
    focal = (positive @ counted.T + negative @ (valid - counted).T) / valid.sum().clamp(min=1)
    overlap = 2 * p @ counted.T + 1
    dice = 1 - overlap / ((p @ valid)[:, None] + counted.sum(-1)[None] + 1)
    return costs.chosen * chosen + costs.focal * focal + costs.dice * dice


@torch.no_grad()
def match_masks(
    classes: Tensor, masks: Tensor, segments: Segments, *, costs: MaskCosts
) -> tuple[Tensor, Tensor]:
    """One-to-one assignment of least cost -> queries (N,), segments (N,), N = min(Q, T)."""
    table = mask_costs(classes, masks, segments, costs=costs)
    table = torch.nan_to_num(table, nan=1e6, posinf=1e6, neginf=-1e6)
    rows, columns = linear_sum_assignment(table.cpu().numpy())
    device = classes.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


@dataclass(frozen=True)
class MaskCriterion:
    """Losses of a MaskFormer: focal and dice of matched masks, classes of all queries.

    Attributes
    ----------
    num_classes, mask_stride : int
        The network's.
    costs : MaskCosts
    classes, focal, dice : float
        Weights of the parts.
    no_mask : float
        Weight of "no mask" among the classes: most queries have none.
    """

    num_classes: int
    mask_stride: int
    costs: MaskCosts = MaskCosts()
    classes: float = 1.0
    focal: float = 20.0
    dice: float = 1.0
    no_mask: float = 0.1

    def __call__(self, found: Masks, truth: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Total loss of a batch and its parts for the log.

        `truth` has class ids (H, W) per image, `UNKNOWN` where nothing is known. Every layer
        is judged, each by a matching of its own; parts are means over layers.
        """
        segments = [Segments.of(t, self.num_classes, stride=self.mask_stride) for t in truth]
        layers = [
            self._layer(classes, masks.flatten(2), segments)
            for classes, masks in zip(found.classes, found.masks, strict=True)
        ]
        weights = {"mask class": self.classes, "mask focal": self.focal, "mask dice": self.dice}
        parts = {
            name: weight * torch.stack([layer[i] for layer in layers]).mean()
            for i, (name, weight) in enumerate(weights.items())
        }
        total = torch.stack(list(parts.values())).sum()
        return total, {k: float(v.detach()) for k, v in parts.items()}

    def _layer(
        self, classes: Tensor, masks: Tensor, segments: list[Segments]
    ) -> tuple[Tensor, Tensor, Tensor]:
        wanted = torch.full(classes.shape[:2], self.num_classes, device=classes.device)
        focal, dice = [classes.new_zeros(0)], [classes.new_zeros(0)]
        for i, one in enumerate(segments):
            queries, rows = match_masks(classes[i], masks[i], one, costs=self.costs)
            wanted[i, queries] = one.class_ids[rows]
            focal.append(mask_focal(masks[i, queries], one.shares[rows], one.valid))
            dice.append(mask_dice(masks[i, queries], one.shares[rows], one.valid))
        weight = classes.new_ones(self.num_classes + 1)
        weight[-1] = self.no_mask
        chosen = F.cross_entropy(classes.flatten(0, 1), wanted.flatten(), weight)
        count = max(sum(len(f) for f in focal), 1)
        return chosen, torch.cat(focal).sum() / count, torch.cat(dice).sum() / count
