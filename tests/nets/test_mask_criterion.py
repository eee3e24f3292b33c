"""Matching of masks against all assignments, losses against values worked by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from napari_celldetr.nets.losses import focal_loss
from napari_celldetr.nets.mask_criterion import (
    MaskCosts,
    MaskCriterion,
    Segments,
    mask_costs,
    mask_dice,
    mask_focal,
    match_masks,
)
from napari_celldetr.nets.maskformer import Masks


def segments(count=3, pixels=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shares = torch.rand(count, pixels, generator=generator)
    valid = (torch.rand(pixels, generator=generator) > 0.2).float()
    return Segments(torch.arange(count), shares, valid)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (2, 4)])
def test_the_assignment_is_the_cheapest_of_all(seed, shape):
    queries, count = shape
    torch.manual_seed(seed)
    classes, masks = torch.randn(queries, count + 1), 3 * torch.randn(queries, 20)
    wanted = segments(count, seed=seed)
    table = mask_costs(classes, masks, wanted, costs=MaskCosts())
    rows, columns = match_masks(classes, masks, wanted, costs=MaskCosts())
    fewest = min(shape)
    assert len(rows) == len(set(rows.tolist())) == len(set(columns.tolist())) == fewest
    every = (
        table[list(q), list(s)].sum()
        for q in itertools.permutations(range(queries), fewest)
        for s in itertools.permutations(range(count), fewest)
    )
    assert float(table[rows, columns].sum()) == pytest.approx(float(min(every)), abs=1e-5)


def test_costs_are_those_of_each_pair_on_its_own():
    torch.manual_seed(1)
    classes, masks, one = torch.randn(4, 4), torch.randn(4, 20), segments()
    one = Segments(one.class_ids, one.shares.round(), one.valid)
    table = mask_costs(classes, masks, one, costs=MaskCosts(2.0, 5.0, 3.0))
    for q, t in itertools.product(range(4), range(3)):
        logits, truth = masks[q][None], one.shares[t][None]
        expected = (
            -2 * classes[q].softmax(0)[t]
            + 5 * mask_focal(logits, truth, one.valid)[0]
            + 3 * mask_dice(logits, truth, one.valid)[0]
        )
        assert float(table[q, t]) == pytest.approx(float(expected), abs=1e-5)


def test_dice_by_hand():
    # p = 1/2 everywhere, two of four pixels: 1 - (2 · 1 + 1) / (2 + 2 + 1).
    found, truth = torch.zeros(1, 4), torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert float(mask_dice(found, truth, torch.ones(4))[0]) == pytest.approx(1 - 3 / 5)
    # Without the last two: 1 - (2 · 1 + 1) / (1 + 2 + 1).
    valid = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert float(mask_dice(found, truth, valid)[0]) == pytest.approx(1 - 3 / 4)


def test_focal_by_hand():
    # p = 1/2: (1/2)² · ln 2 in every pixel, whatever the truth.
    found, truth = torch.zeros(1, 4), torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert float(mask_focal(found, truth, torch.ones(4))[0]) == pytest.approx(math.log(2) / 4)
    # p = 3/4 for a pixel that is one: (1/4)² · ln 4/3.
    found, truth = torch.full((1, 1), math.log(3)), torch.ones(1, 1)
    by_hand = math.log(4 / 3) / 16
    assert float(mask_focal(found, truth, torch.ones(1))[0]) == pytest.approx(by_hand)


def test_focal_is_the_known_one_on_hard_truth_and_least_at_a_soft_one():
    logits = torch.linspace(-4, 4, 81).view(1, -1)
    hard = torch.ones_like(logits)
    known = focal_loss(logits, hard, alpha=1.0).mean()
    torch.testing.assert_close(mask_focal(logits, hard, torch.ones(81))[0], known)
    soft = [
        float(mask_focal(v.view(1, 1), torch.tensor([[0.3]]), torch.ones(1))) for v in logits[0]
    ]
    best = float(logits[0, soft.index(min(soft))].sigmoid())
    assert best == pytest.approx(0.3, abs=0.03)


def test_segments_are_the_classes_that_are_there_in_shares_of_what_counts():
    truth = torch.zeros(4, 4, dtype=torch.uint8)
    truth[:2, :2] = torch.tensor([[2, 2], [2, 255]])
    truth[2:, 2:] = 255
    one = Segments.of(truth, 5, stride=2)
    assert one.class_ids.tolist() == [0, 2]
    assert one.valid.tolist() == [0.75, 1, 1, 0]
    torch.testing.assert_close(one.shares[1], torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(one.shares[0], torch.tensor([0, 1.0, 1.0, 0]))


def test_what_does_not_count_has_no_gradient_and_an_unknown_image_no_segments():
    torch.manual_seed(0)
    masks = torch.randn(2, 3, 4, 4, requires_grad=True)
    classes = torch.randn(2, 3, 4, requires_grad=True)
    truth = torch.zeros(2, 8, 8, dtype=torch.uint8)
    truth[0, :4], truth[1] = 255, 255
    loss, parts = MaskCriterion(3, 2)(Masks([classes], [masks]), list(truth))
    loss.backward()
    assert set(parts) == {"mask class", "mask focal", "mask dice"}
    assert float(loss.detach()) == pytest.approx(sum(parts.values()), abs=1e-5)
    assert not masks.grad[0, :, :2].any()
    assert masks.grad[0, :, 2:].any()
    assert not masks.grad[1].any()
    assert classes.grad[1].any()


def test_masks_that_are_right_cost_less():
    truth = torch.zeros(8, 8, dtype=torch.uint8)
    truth[2:6, 2:6] = 1
    right = torch.stack([(truth == i).float() for i in range(2)])[None, :, ::2, ::2] * 20 - 10
    classes = torch.tensor([[[9.0, 0, 0], [0, 9.0, 0]]])
    criterion = MaskCriterion(2, 2)
    good, _ = criterion(Masks([classes], [right]), [truth])
    # Which query says it does not matter, what it says of it does.
    swapped, _ = criterion(Masks([classes.flip(1)], [right.flip(1)]), [truth])
    wrong, _ = criterion(Masks([classes.flip(1)], [right]), [truth])
    assert float(good) == pytest.approx(float(swapped), abs=1e-6)
    assert float(good) < 0.05 < 1 < float(wrong)
