"""Losses by hand: classes with smoothing, focus and teachers; compositions; soft negatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_celldetr.nets.losses import (
    box_losses,
    class_cross_entropy,
    composition_divergence,
    heat_loss,
    trust,
    wanted_classes,
)

NAN = float("nan")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.05, 0.5]), st.booleans())
def test_class_loss_without_extras_is_torch_s_cross_entropy(seed, smoothing, weighted):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 4, generator=g) * 3
    truth = torch.randint(0, 4, (9,), generator=g)
    weight = torch.rand(4, generator=g) + 0.1 if weighted else None
    wanted = wanted_classes(truth, 4, smoothing=smoothing, share=0.5)
    found = class_cross_entropy(logits, truth, wanted, weight=weight)
    expected = F.cross_entropy(logits, truth, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_focal_class_loss_by_hand():
    # Probabilities .8 .2 and .5 .5; γ 2.
    logits = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]])
    truth = torch.tensor([0, 1])
    wanted = wanted_classes(truth, 2, share=0.5)
    found = class_cross_entropy(logits, truth, wanted, gamma=2)
    expected = -(0.2**2 * math.log(0.8) + 0.5**2 * math.log(0.5)) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)
    weighed = class_cross_entropy(logits, truth, wanted, gamma=2, weight=torch.tensor([1.0, 3.0]))
    expected = -(0.2**2 * math.log(0.8) + 3 * 0.5**2 * math.log(0.5)) / 4
    assert float(weighed) == pytest.approx(expected, rel=1e-5)


def test_a_certain_class_has_finite_gradients_whatever_the_focus():
    for gamma in (0.0, 0.5, 2.0):
        logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        truth = torch.tensor([0, 0])
        wanted = wanted_classes(truth, 2, share=0.5)
        class_cross_entropy(logits, truth, wanted, gamma=gamma).backward()
        assert torch.isfinite(logits.grad).all()


def test_teacher_and_annotation_are_blended_by_hand():
    truth = torch.tensor([0, 1])
    soft = torch.tensor([[0.2, 0.5, 0.3], [NAN, NAN, NAN]])
    found = wanted_classes(truth, 3, smoothing=0.3, soft=soft, share=0.25)
    expected = [[0.75 * 0.8 + 0.05, 0.75 * 0.1 + 0.125, 0.75 * 0.1 + 0.075], [0.1, 0.8, 0.1]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert torch.equal(wanted_classes(truth, 3, soft=soft, share=0.0), F.one_hot(truth, 3).float())


def test_composition_by_hand():
    p = torch.tensor([[[0.8, 0.2], [0.4, 0.6], [0.0, 1.0]], [[0.5, 0.5]] * 3])
    used = torch.tensor([[True, True, False], [False, False, False]])
    # The first field's cells are .6 .4 on average and should be .9 .1; the second has none.
    shares = torch.tensor([[0.9, 0.1], [1.0, 0.0]])
    expected = 0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4)
    assert float(composition_divergence(p, used, shares)) == pytest.approx(expected / 2, rel=1e-5)
    # Counts serve as well as shares, and a class that is absent costs nothing by itself.
    counts = torch.tensor([[18.0, 2.0], [0.0, 0.0]])
    assert float(composition_divergence(p, used, counts)) == pytest.approx(expected / 2, rel=1e-5)
    pure = composition_divergence(p[:1], used[:1], torch.tensor([[1.0, 0.0]]))
    assert float(pure) == pytest.approx(-math.log(0.6), rel=1e-5)
    right = composition_divergence(p[:1], used[:1], torch.tensor([[0.6, 0.4]]))
    assert float(right) == pytest.approx(0, abs=1e-6)


def test_composition_never_gives_gradients_that_are_no_numbers():
    p = torch.tensor([[[1.0, 0.0], [NAN, NAN]]], requires_grad=True)
    used = torch.tensor([[True, False]])
    composition_divergence(p, used, torch.tensor([[0.0, 1.0]])).backward()
    assert torch.isfinite(p.grad).all()


def test_trust_by_hand():
    p = torch.tensor([0.0, 0.3, 0.5, 0.75, 0.9, 1.0])
    torch.testing.assert_close(trust(p), torch.tensor([1.0, 1.0, 1.0, 0.25, 0.04, 0.0]))


def test_a_believed_cell_pulls_less_the_surer_it_is():
    # Without trust the pull of an unlabelled cell on its logit grows with its probability.
    logits = torch.tensor([[[-4.0, 0.0, 2.0, 4.0, 12.0, 60.0]]])
    pulls = []
    for weight in (None, trust(logits.sigmoid())):
        heat = logits.clone().requires_grad_()
        heat_loss(heat, torch.zeros_like(heat), weight).backward()
        pulls.append(heat.grad[0, 0])
    hard, soft = pulls
    assert (hard.diff()[:2] > 0).all()
    assert (hard[2:] > 0.9).all()
    assert torch.equal(hard[:2], soft[:2])
    assert soft[3] < soft[2] < hard[2]
    assert soft[4] < 1e-6 * hard[4]
    assert torch.isfinite(soft).all()


def test_boxes_by_hand():
    found = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.2, 0.1, 0.1]])
    true = torch.tensor([[0.6, 0.5, 0.1, 0.4], [0.1, 0.1, NAN, NAN]])
    unit = torch.tensor([10.0, 20.0])
    parts = box_losses(found, true, unit, log_size=True, giou=False)
    assert {k: pytest.approx(float(v), rel=1e-5) for k, v in parts.items()} == {
        "centre": (0.1 * 10 + 0.1 * 20) / 2,
        "size": 2 * math.log(2),
    }
    parts = box_losses(found, true, unit, log_size=False, giou=True)
    assert float(parts["size"]) == pytest.approx(0.3, rel=1e-5)
    # Intersection .05 x .2, union .04 + .04 - .01, hull .25 x .4.
    assert float(parts["giou"]) == pytest.approx(1 - (0.01 / 0.07 - 0.03 / 0.1), rel=1e-4)
    nothing = box_losses(found[:0], true[:0], unit, log_size=False, giou=True)
    assert all(float(v) == 0 for v in nothing.values())
