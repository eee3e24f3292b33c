"""Which boxes the representation decoder is shown while training, and what each of them is.

Sequential mode shows the detection decoder's boxes, parallel mode annotated ones, as they are or
disturbed (CellDETR, supplement A.1 and A.2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from napari_celldetr.nets.celldetr import CellDETRConfig, Detected
from napari_celldetr.nets.matching import Cells, Pairs
from napari_celldetr.nets.noise import BoxNoise, noise_boxes
from napari_celldetr.nets.slots import Slots, clamp_boxes, group_mask

UNKNOWN = -1
"""A slot whose class nobody knows: it teaches nothing."""
NOTHING = -2
"""A slot without a cell: no class at all."""

BoxSource = Literal["true", "noised", "positive_negative"]


@dataclass(frozen=True)
class ClassSlots:
    """Slots of a batch.

    boxes (B, R, 4) cx cy w h in 0..1; padding (B, R) bool; truth (B, R) int64, a class,
    `UNKNOWN` or `NOTHING`; soft (B, R, K) a teacher's probabilities or None; features (B, R, C)
    of coupled networks or None; mask (R, R) bool, True where slots may not see each other;
    weight (B, R) of slots that hold `NOTHING`, or None.
    """

    boxes: Tensor
    padding: Tensor
    truth: Tensor
    soft: Tensor | None = None
    features: Tensor | None = None
    mask: Tensor | None = None
    weight: Tensor | None = None


def query_slots(
    detected: Detected, cells: Cells, pairs: Pairs, *, usable: Tensor, weight: Tensor | None
) -> ClassSlots:
    """Every query of the detection decoder; those without a cell hold `NOTHING`.

    `usable` (B, Q) marks the queries that count, `weight` (B, Q) weighs those without a cell.
    """
    truth = torch.where(usable, NOTHING, UNKNOWN)
    truth[pairs.image, pairs.query] = cells.class_ids[pairs.cell]
    soft = None
    if cells.soft is not None:
        soft = cells.soft.new_full((*truth.shape, cells.soft.shape[1]), float("nan"))
        soft[pairs.image, pairs.query] = cells.soft[pairs.cell]
    boxes = detected.boxes[-1].detach()
    return ClassSlots(boxes, ~usable, truth, soft, detected.features, weight=weight)


def matched_slots(
    config: CellDETRConfig,
    detected: Detected,
    cells: Cells,
    pairs: Pairs,
    image: tuple[int, int],
) -> ClassSlots:
    """Queries that found a cell of an image (height, width); in parallel mode with its true box."""
    boxes = detected.boxes[-1].detach()[pairs.image, pairs.query]
    if config.mode == "parallel":
        true = cells.boxes[pairs.cell]
        boxes = torch.where(torch.isfinite(true), true, boxes)
    slots = Slots.of(pairs.image, len(detected.features))
    features = None
    if not config.decoupled:
        features = slots.fill(detected.features[pairs.image, pairs.query], 0.0)
    return ClassSlots(
        slots.boxes(clamp_boxes(boxes, image, config.nucleus_px)),
        slots.padding,
        slots.fill(cells.class_ids[pairs.cell], UNKNOWN),
        None if cells.soft is None else slots.fill(cells.soft[pairs.cell], float("nan")),
        features,
    )


def annotated_slots(
    detected: Detected, cells: Cells, pairs: Pairs, image: tuple[int, int], nucleus: float
) -> ClassSlots:
    """Every annotated cell of images (height, width), found or not, in its own box.

    A cell without extent takes the size of the query that found it, else that of a typical
    `nucleus`, in px.
    """
    side = cells.boxes.new_tensor([image[1], image[0]])
    size = (nucleus / side).expand(len(cells), 2).clone()
    size[pairs.cell] = detected.boxes[-1].detach()[pairs.image, pairs.query, 2:].to(size.dtype)
    known = torch.isfinite(cells.boxes[:, 2:])
    boxes = torch.cat((cells.boxes[:, :2], torch.where(known, cells.boxes[:, 2:], size)), -1)
    slots = Slots.of(cells.image, len(detected.features))
    return ClassSlots(
        slots.boxes(clamp_boxes(boxes, image, nucleus)),
        slots.padding,
        slots.fill(cells.class_ids, UNKNOWN),
        None if cells.soft is None else slots.fill(cells.soft, float("nan")),
    )


def disturb(
    slots: ClassSlots,
    image: tuple[int, int],
    *,
    source: BoxSource,
    noise: BoxNoise,
    nucleus: float,
) -> ClassSlots:
    """The slots in disturbed boxes; with negatives, a second group that holds `NOTHING`.

    The groups do not see each other: a negative beside its positive would be told by that alone.
    """
    if source == "true":
        return slots
    near = replace(slots, boxes=clamp_boxes(noise_boxes(slots.boxes, noise), image, nucleus))
    if source == "noised":
        return near
    far = clamp_boxes(noise_boxes(slots.boxes, noise, negative=True), image, nucleus)
    count = far.shape[1]
    nothing = torch.where(slots.padding, UNKNOWN, NOTHING)
    return ClassSlots(
        torch.cat((near.boxes, far), 1),
        slots.padding.repeat(1, 2),
        torch.cat((slots.truth, nothing), 1),
        None if slots.soft is None else slots.soft.repeat(1, 2, 1),
        mask=group_mask([count, count], far.device),
    )
