"""Boxes of several images as slots of the representation decoder: kept in bounds, padded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NUCLEUS_PX = 12.0
"""Typical nucleus side at 0.5 µm/px: the unit in which the pixel geometry counts sizes."""
_PADDING_BOX = (0.5, 0.5, 1.0, 1.0)
"""What an unused slot holds (CellDETR, supplement A.1)."""


def clamp_boxes(boxes: Tensor, image: tuple[int, int], nucleus: float = NUCLEUS_PX) -> Tensor:
    """Boxes (…, 4) with sides between half and six typical nuclei, so none is a dot or a field.

    `nucleus` is a typical side in px.
    """
    side = boxes.new_tensor([image[1], image[0]])
    size = (boxes[..., 2:] * side).clamp(nucleus / 2, nucleus * 6) / side
    return torch.cat((boxes[..., :2], size), -1)


@dataclass(frozen=True)
class Slots:
    """Where the rows of a table go in a padded batch.

    Row t of the table becomes slot ``position[t]`` of image ``image[t]``; `padding` (B, R) is
    True in slots that hold no row.
    """

    image: Tensor
    position: Tensor
    padding: Tensor

    @classmethod
    def of(cls, image: Tensor, batch: int) -> Slots:
        """Slots of rows that come image by image: image (T,) int64, ascending."""
        counts = torch.bincount(image, minlength=batch)
        position = (
            torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
        )
        slots = int(counts.max()) if batch else 0
        padding = torch.arange(slots, device=image.device)[None] >= counts[:, None]
        return cls(image, position, padding)

    def fill(self, rows: Tensor, empty: float | Tensor) -> Tensor:
        """Rows (T, …) as (B, R, …); unused slots hold `empty`."""
        out = rows.new_empty(*self.padding.shape, *rows.shape[1:])
        out[:] = empty
        # Not in place, so that gradients flow from slots to rows.
        return out.index_put((self.image, self.position), rows)

    def boxes(self, rows: Tensor) -> Tensor:
        """Boxes (T, 4) as (B, R, 4); unused slots hold the whole image."""
        return self.fill(rows, rows.new_tensor(_PADDING_BOX))


def pad_boxes(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Lists of boxes (N_i, 4) as one (B, R, 4) tensor with padding mask (B, R)."""
    counts = torch.tensor([len(b) for b in boxes])
    image = torch.repeat_interleave(torch.arange(len(boxes)), counts).to(boxes[0].device)
    slots = Slots.of(image, len(boxes))
    return slots.boxes(torch.cat(boxes)), slots.padding


def group_mask(sizes: list[int], device: torch.device | str = "cpu") -> Tensor:
    """(R, R) bool, True where a slot of one group would look at a slot of another.

    `sizes` are the lengths of the groups, R their sum.
    """
    lengths = torch.tensor(sizes, device=device)
    group = torch.repeat_interleave(torch.arange(len(sizes), device=device), lengths)
    return group[:, None] != group[None]
