"""What the representation decoder is shown: slots of every mode, by hand."""

from __future__ import annotations

import pytest
import torch
from tiny_nets import cells, no_cells, tiny_config

from napari_celldetr.nets.celldetr import Detected, Queries
from napari_celldetr.nets.class_slots import (
    NOTHING,
    UNKNOWN,
    annotated_slots,
    disturb,
    matched_slots,
    query_slots,
)
from napari_celldetr.nets.matching import Cells, Pairs
from napari_celldetr.nets.noise import BoxNoise
from napari_celldetr.nets.slots import Slots, group_mask, pad_boxes

IMAGE = (64, 64)
NAN = float("nan")


def scene(soft=False):
    """Three images of 3, 0 and 1 cells, five queries each; four pairs less one are matched."""
    targets = [cells(), no_cells(), cells([(20, 20)], [[NAN, NAN]], (1,))]
    if soft:
        object.__setattr__(targets[0], "class_soft", torch.eye(3))
    torch.manual_seed(0)
    boxes = torch.rand(3, 5, 4) * 0.2 + 0.3
    features, logits = torch.randn(3, 5, 8), torch.zeros(3, 5)
    valid = torch.ones(3, 5, dtype=torch.bool)
    detected = Detected([logits], [boxes], features, Queries(features, None, boxes, None, valid))
    pairs = Pairs(torch.tensor([0, 0, 2]), torch.tensor([1, 4, 3]), torch.tensor([2, 0, 3]))
    return detected, Cells.of(targets, IMAGE), pairs


def test_table_of_cells():
    _, table, _ = scene(soft=True)
    assert table.image.tolist() == [0, 0, 0, 2]
    assert table.class_ids.tolist() == [0, 2, -1, 1]
    assert table.centres.tolist() == [[10, 12], [40, 30], [50, 50], [20, 20]]
    assert table.boxes[1].tolist() == [40 / 64, 30 / 64, 10 / 64, 12 / 64]
    assert torch.equal(table.soft[:3], torch.eye(3))
    assert table.soft[3].isnan().all()
    nothing = Cells.of([no_cells(), no_cells()], IMAGE)
    assert len(nothing) == 0
    assert nothing.soft is None


def test_rows_become_slots_and_gradients_flow_back():
    slots = Slots.of(torch.tensor([0, 0, 2]), 4)
    rows = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    padded = slots.fill(rows, -1.0)
    assert padded[..., 0].tolist() == [[1, 2], [-1, -1], [3, -1], [-1, -1]]
    assert slots.padding.tolist() == [[False, False], [True, True], [False, True], [True, True]]
    (padded * torch.arange(8.0).view(4, 2, 1)).sum().backward()
    assert rows.grad.flatten().tolist() == [0, 1, 4]
    none = Slots.of(torch.zeros(0, dtype=torch.int64), 2)
    assert none.fill(torch.zeros(0, 4), 0.0).shape == (2, 0, 4)


def test_boxes_of_several_images_are_padded_with_the_whole_image():
    padded, padding = pad_boxes([torch.rand(2, 4), torch.rand(0, 4)])
    assert padded[1].tolist() == [[0.5, 0.5, 1.0, 1.0]] * 2
    assert padding.tolist() == [[False, False], [True, True]]


def test_groups_do_not_see_each_other():
    found = ["".join(".x"[v] for v in row) for row in group_mask([2, 1]).tolist()]
    assert found == ["..x", "..x", "xx."]


def test_every_query_is_shown_and_those_without_cell_are_nothing():
    detected, table, pairs = scene(soft=True)
    usable = torch.ones(3, 5, dtype=torch.bool)
    usable[1, 2:] = False
    slots = query_slots(detected, table, pairs, usable=usable, weight=None)
    n, u = NOTHING, UNKNOWN
    assert slots.truth.tolist() == [[n, -1, n, n, 0], [n, n, u, u, u], [n, n, n, 1, n]]
    assert torch.equal(slots.padding, ~usable)
    assert slots.soft[0, 4].tolist() == [1, 0, 0]
    assert slots.soft[2].isnan().all()


def test_matched_queries_are_shown_in_their_own_boxes_or_in_the_true_ones():
    detected, table, pairs = scene()
    slots = matched_slots(tiny_config(), detected, table, pairs, IMAGE)
    assert slots.truth.tolist() == [[-1, 0], [UNKNOWN] * 2, [1, UNKNOWN]]
    torch.testing.assert_close(slots.boxes[0], detected.boxes[0][0, [1, 4]])
    assert slots.boxes[2, 1].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert slots.features is None
    config = tiny_config(mode="parallel", decoupled=False)
    slots = matched_slots(config, detected, table, pairs, IMAGE)
    assert torch.equal(slots.features[0], detected.features[0, [1, 4]])
    torch.testing.assert_close(slots.boxes[0, 1], torch.tensor([10, 12, 8, 9]) / 64)
    # A point without extent: its place, in the query's size.
    torch.testing.assert_close(slots.boxes[0, 0, :2], torch.tensor([50 / 64, 50 / 64]))
    torch.testing.assert_close(slots.boxes[0, 0, 2:], detected.boxes[0][0, 1, 2:])


def test_annotated_cells_are_all_shown_found_or_not():
    detected, table, pairs = scene()
    slots = annotated_slots(detected, table, pairs, IMAGE, 12)
    assert slots.truth.tolist() == [[0, 2, -1], [UNKNOWN] * 3, [1, UNKNOWN, UNKNOWN]]
    torch.testing.assert_close(slots.boxes[0, :2], table.boxes[:2])
    torch.testing.assert_close(slots.boxes[0, 2, 2:], detected.boxes[0][0, 1, 2:])
    unmatched = Pairs(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)))
    alone = annotated_slots(detected, table, unmatched, IMAGE, 12)
    assert (alone.boxes[2, 0] * 64).tolist() == [20, 20, 12, 12]


@pytest.mark.parametrize("soft", [False, True])
def test_disturbed_slots(soft):
    detected, table, pairs = scene(soft)
    slots = annotated_slots(detected, table, pairs, IMAGE, 12)
    assert disturb(slots, IMAGE, source="true", noise=BoxNoise(), nucleus=12) is slots
    noise = BoxNoise(0.1, 0.4)
    near = disturb(slots, IMAGE, source="noised", noise=noise, nucleus=12)
    assert torch.equal(near.truth, slots.truth)
    # The second cell lies so far inside that nothing of it is ever clipped.
    apart = (near.boxes[0, 1, :2] - slots.boxes[0, 1, :2]).abs() / (slots.boxes[0, 1, 2:] / 2)
    assert apart.max() <= 0.4 + 1e-5
    assert apart.min() >= 0.1 - 1e-5
    both = disturb(slots, IMAGE, source="positive_negative", noise=noise, nucleus=12)
    assert both.boxes.shape == (3, 6, 4)
    assert both.padding.tolist() == [[False] * 6, [True] * 6, [False, True, True] * 2]
    assert torch.equal(both.truth[:, :3], slots.truth)
    n, u = NOTHING, UNKNOWN
    assert both.truth[:, 3:].tolist() == [[n, n, n], [u, u, u], [n, u, u]]
    apart = (both.boxes[0, 4, :2] - slots.boxes[0, 1, :2]).abs() / (slots.boxes[0, 1, 2:] / 2)
    assert apart.min() >= 0.4 - 1e-5
    assert torch.equal(both.mask, group_mask([3, 3]))
    assert (both.soft is None) == (not soft)
