"""Which query answers for which cell: one-to-one assignment, with or without extents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from napari_celldetr.nets.slots import NUCLEUS_PX

_FORBIDDEN = 1e6


@dataclass(frozen=True)
class Targets:
    """Annotated cells of one image.

    Attributes
    ----------
    centres : (N, 2) float32
        x, y in px.
    sizes : (N, 2) float32
        Width and height in px; NaN where only a point is known.
    class_ids : (N,) int64
        -1 where the type is unknown.
    valid : (H, W) bool or None
        Where the image is image and not padding.
    composition : (K,) float32 or None
        Share of each class among the cells of the image, where only that is known.
    exhaustive : bool
        Someone made sure that every cell is annotated: whatever else is found is wrong, however
        sure the network is of it.
    class_soft : (N, K) float32 or None
        A teacher's class probabilities; rows of NaN where it has none.
    """

    centres: Tensor
    sizes: Tensor
    class_ids: Tensor
    valid: Tensor | None = None
    composition: Tensor | None = None
    exhaustive: bool = False
    class_soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.centres)

    @property
    def has_extent(self) -> Tensor:
        """(N,) bool: where a box is known."""
        return torch.isfinite(self.sizes).all(-1)

    def boxes(self, image: tuple[int, int]) -> Tensor:
        """cx cy w h (N, 4) in 0..1 of an image (height, width); NaN sizes stay NaN."""
        side = self.centres.new_tensor([image[1], image[0]])
        return torch.cat((self.centres / side, self.sizes / side), -1)

    def to(self, device: str | torch.device) -> Targets:
        """The same targets on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {
            k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Cells:
    """Annotated cells of a batch in one table of T rows, image by image.

    `image` (T,) says whose; `centres`, `boxes` (T, 4), `class_ids` and `soft` (T, K) are those
    of `Targets`; `soft` holds NaN where no teacher spoke.
    """

    image: Tensor
    centres: Tensor
    boxes: Tensor
    class_ids: Tensor
    soft: Tensor | None

    @classmethod
    def of(cls, targets: Sequence[Targets], image: tuple[int, int]) -> Cells:
        """The cells of images (height, width)."""
        counts = torch.tensor([len(t) for t in targets])
        owner = torch.repeat_interleave(torch.arange(len(targets)), counts)
        centres = torch.cat([t.centres for t in targets])
        wide = next((t.class_soft.shape[1] for t in targets if t.class_soft is not None), None)
        soft = None
        if wide is not None:
            unknown = centres.new_tensor(float("nan"))
            soft = torch.cat(
                [
                    unknown.expand(len(t), wide) if t.class_soft is None else t.class_soft
                    for t in targets
                ]
            )
        return cls(
            owner.to(centres.device),
            centres,
            torch.cat([t.boxes(image) for t in targets]),
            torch.cat([t.class_ids for t in targets]),
            soft,
        )

    def __len__(self) -> int:
        return len(self.centres)


@dataclass(frozen=True)
class Pairs:
    """Matched pairs of a batch: `image` and `query` (P,) slot, `cell` (P,) row of `Cells`."""

    image: Tensor
    query: Tensor
    cell: Tensor


@dataclass(frozen=True)
class MatchCosts:
    """Weights of the assignment.

    `class_focal` uses the focal class cost of Deformable DETR, else −p. `centre` weighs the L1
    distance of centres in units of `centre_px` px (None: shares of the image, as the paper),
    `size` and `giou` count only for cells with an extent. Pairs farther than `gate_px` are
    forbidden.
    """

    score: float = 2.0
    class_focal: bool = True
    centre: float = 5.0
    centre_px: float | None = None
    size: float = 5.0
    giou: float = 2.0
    gate_px: float | None = None

    @classmethod
    def pixel(cls, nucleus: float = NUCLEUS_PX) -> MatchCosts:
        """−2p + L1 / 4 px, pairs over 10 px rejected: for heatmap queries.

        `nucleus` is a typical side in px; the distances named are for one of 12.
        """
        return cls(2.0, False, 1.0, nucleus / 3, 0.0, 0.0, nucleus * 5 / 6)


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    targets: Targets,
    image: tuple[int, int],
    *,
    costs: MatchCosts,
    usable: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One-to-one assignment of minimal cost.

    Parameters
    ----------
    logits : (Q,), boxes : (Q, 4) cx cy w h in 0..1
    targets : Targets
    image : (height, width) px
    usable : (Q,) bool, optional
        Slots that may be matched.

    Returns
    -------
    queries, cells : (K,) int64
        Matched pairs, by rising query index.
    """
    empty = torch.zeros(0, dtype=torch.int64, device=logits.device)
    if not len(targets) or not len(logits):
        return empty, empty
    cost = _cost(logits, boxes, targets, image, costs)
    if usable is not None:
        cost[~usable] = _FORBIDDEN
    table = cost.cpu().numpy()
    rows, columns = linear_sum_assignment(table)
    kept = table[rows, columns] < _FORBIDDEN / 2
    pairs = np.stack((rows[kept], columns[kept]))
    queries, cells = torch.from_numpy(pairs).to(logits.device)
    return queries, cells


def match_all(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[Targets],
    image: tuple[int, int],
    *,
    costs: MatchCosts,
    usable: Tensor,
) -> Pairs:
    """`match` for a batch: logits (B, Q), boxes (B, Q, 4), usable (B, Q)."""
    images, queries, cells = [], [], []
    first = 0
    for i, target in enumerate(targets):
        own, found = match(logits[i], boxes[i], target, image, costs=costs, usable=usable[i])
        images.append(torch.full_like(own, i))
        queries.append(own)
        cells.append(found + first)
        first += len(target)
    return Pairs(torch.cat(images), torch.cat(queries), torch.cat(cells))


def _cost(
    logits: Tensor, boxes: Tensor, targets: Targets, image: tuple[int, int], costs: MatchCosts
) -> Tensor:
    p = logits.float().sigmoid()
    if costs.class_focal:
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        cost = costs.score * (positive - negative)[:, None]
    else:
        cost = -costs.score * p[:, None]
    side = boxes.new_tensor([image[1], image[0]])
    apart = (boxes[:, None, :2] - (targets.centres / side)[None]).abs()
    far = (apart * side).norm(dim=-1)
    unit = side / costs.centre_px if costs.centre_px else torch.ones_like(side)
    cost = cost + costs.centre * (apart * unit).sum(-1)
    known = targets.has_extent
    if (costs.size or costs.giou) and bool(known.any()):
        true = targets.boxes(image)[known]
        extra = costs.size * (boxes[:, None, 2:] - true[None, :, 2:]).abs().sum(-1)
        extra = extra - costs.giou * generalized_iou(boxes[:, None], true[None])
        cost[:, known] += extra
    if costs.gate_px is not None:
        cost = torch.where(far > costs.gate_px, cost.new_tensor(_FORBIDDEN), cost)
    return torch.nan_to_num(cost, nan=_FORBIDDEN, posinf=_FORBIDDEN, neginf=-_FORBIDDEN)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (…) of cx cy w h boxes (…, 4) that broadcast against each other."""
    a0, a1 = a[..., :2] - a[..., 2:] / 2, a[..., :2] + a[..., 2:] / 2
    b0, b1 = b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2
    inter = (torch.minimum(a1, b1) - torch.maximum(a0, b0)).clamp(min=0).prod(-1)
    union = (a1 - a0).prod(-1) + (b1 - b0).prod(-1) - inter
    hull = (torch.maximum(a1, b1) - torch.minimum(a0, b0)).prod(-1).clamp(min=1e-9)
    return inter / union.clamp(min=1e-9) - (hull - union) / hull
