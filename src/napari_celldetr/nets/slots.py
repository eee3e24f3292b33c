"""Boxes of several images as slots of the representation decoder: kept in bounds, padded."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NUCLEUS_PX = 12.0
"""Typical nucleus side at 0.5 µm/px: the unit in which the pixel geometry counts sizes."""


def clamp_boxes(boxes: Tensor, image: tuple[int, int]) -> Tensor:
    """Boxes (…, 4) with sides between half and six typical nuclei, so none is a dot or a field."""
    side = boxes.new_tensor([image[1], image[0]])
    size = (boxes[..., 2:] * side).clamp(NUCLEUS_PX / 2, NUCLEUS_PX * 6) / side
    return torch.cat((boxes[..., :2], size), -1)


def pad_boxes(boxes: list[Tensor], slots: int) -> tuple[Tensor, Tensor]:
    """Box lists as one (B, slots, 4) tensor with padding mask (B, slots), True in unused slots.

    Unused slots hold (.5 .5 1 1), as the paper's parallel mode.
    """
    dummy = boxes[0].new_tensor([0.5, 0.5, 1.0, 1.0])
    padded = torch.stack([torch.cat((b, dummy.expand(slots - len(b), 4))) for b in boxes])
    used = torch.tensor([len(b) for b in boxes], device=padded.device)
    return padded, torch.arange(slots, device=padded.device)[None] >= used[:, None]


def pad_rows(rows: list[Tensor], slots: int, value: float = 0) -> Tensor:
    """Lists of rows (N_i, …) as one (B, slots, …) tensor, filled up with `value`."""
    wide = [(0, 0) * (r.dim() - 1) + (0, slots - len(r)) for r in rows]
    return torch.stack([F.pad(r, w, value=value) for r, w in zip(rows, wide, strict=True)])


def group_mask(sizes: list[int], device: torch.device | str = "cpu") -> Tensor:
    """(R, R) bool, True where a slot of one group would look at a slot of another.

    `sizes` are the lengths of the groups, R their sum.
    """
    lengths = torch.tensor(sizes, device=device)
    group = torch.repeat_interleave(torch.arange(len(sizes), device=device), lengths)
    return group[:, None] != group[None]
