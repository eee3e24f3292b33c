"""Contrastive pretraining: who sees whom, the loss by hand, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_nets import small, tiny

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.contrastive import (
    ContrastiveHead,
    anchor_mask,
    anchor_slots,
    contrastive_loss,
    info_nce,
)
from napari_celldetr.nets.noise import BoxNoise
from napari_celldetr.nets.slots import clamp_boxes

REPS = ("none", "not_first", "all")


def nuclei(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.cat(
        (
            torch.rand(count, 2, generator=g) * 0.8 + 0.1,
            torch.rand(count, 2, generator=g) * 0.1 + 0.15,
        ),
        -1,
    )


def loss_of(model, boxes, *, seed=0, **options):
    torch.manual_seed(seed)
    head = ContrastiveHead(model.config.size, 32, 8)
    encoded = model.encode(torch.randn(len(boxes), 3, 64, 64))
    return contrastive_loss(
        model, head, encoded, boxes, generator=torch.Generator().manual_seed(seed), **options
    )


def test_mask_by_hand():
    # Two instances and three anchors: rows look at columns, x is forbidden.
    expected = ["..xxx", "..xxx", "...xx", "..x.x", "..xx."]
    found = ["".join(".x"[v] for v in row) for row in anchor_mask(2, 3).tolist()]
    assert found == expected


def test_anchors_fill_what_would_be_padding():
    boxes = [nuclei(4), nuclei(3, 1), nuclei(1, 2), nuclei(0)]
    slots, padding, owner = anchor_slots(boxes, BoxNoise(0.0, 0.0), 2)
    assert slots.shape == (4, 12, 4)
    assert padding.int().sum(1).tolist() == [0, 1, 3, 12]
    assert padding[1].tolist() == [False] * 3 + [True] + [False] * 8
    assert owner[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert owner[1].tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert (owner[2:] == -1).all()
    # Without noise an anchor is its instance.
    for i in (0, 1):
        torch.testing.assert_close(slots[i, 4:], boxes[i][owner[i]])
    assert slots[1, 3].tolist() == [0.5, 0.5, 1.0, 1.0]
    noisy, _, _ = anchor_slots(boxes, BoxNoise(), 2)
    assert torch.equal(noisy[:, :4], slots[:, :4])
    apart = (noisy[0, 4:, 2:] / slots[0, 4:, 2:] - 1).abs()
    assert ((apart > 0.09) | (noisy[0, 4:, 2:] < slots[0, 4:, 2:])).all()


def test_loss_by_hand():
    # Two instances at right angles, anchors at 60 and 0 degrees to the first, temperature ½.
    half = math.sqrt(3) / 2
    anchors = torch.tensor([[[0.5, half], [1.0, 0.0]]])
    instances = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    used = torch.tensor([[True, True, False]])
    first = -math.log(math.exp(1) / (math.exp(1) + math.exp(2 * half)))
    second = -math.log(1 / (math.exp(2) + 1))
    found = info_nce(anchors, instances, torch.tensor([[0, 1]]), used, 0.5)
    assert float(found) == pytest.approx((first + second) / 2, abs=1e-6)
    alone = info_nce(anchors, instances, torch.tensor([[0, -1]]), used, 0.5)
    assert float(alone) == pytest.approx(first, abs=1e-6)


def test_loss_of_a_network_equals_the_slow_form():
    model = tiny(representation_self_attention="all").eval()
    boxes, noise = [nuclei(3), nuclei(2, 1)], BoxNoise()
    torch.manual_seed(0)
    head = ContrastiveHead(16, 32, 8)
    encoded = model.encode(torch.randn(2, 3, 64, 64))
    slots, _, owner = anchor_slots(boxes, noise, 1, torch.Generator().manual_seed(4))
    losses = []
    for i, own in enumerate(boxes):
        part = type(encoded)(encoded.memory[i : i + 1], encoded.shapes, (64, 64), encoded.tokens)
        true = head(model.represent(part, own[None], placed=False).embeddings[0])
        for j, k in enumerate(owner[i].tolist()):
            # The anchor alone with the instances, which do not see it.
            mask = anchor_mask(len(own), 1)
            both = clamp_boxes(torch.cat((own, slots[i, 3 + j : 4 + j])), (64, 64))[None]
            seen = head(model.represent(part, both, mask=mask, placed=False).embeddings[0, -1])
            near = torch.cosine_similarity(seen[None], true) / 0.1
            losses.append(-near.log_softmax(0)[k])
    found = contrastive_loss(
        model, head, encoded, boxes, copies=1, generator=torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close(found, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rep", REPS)
def test_anchors_never_see_each_other(rep):
    model = tiny(representation_self_attention=rep).eval()
    torch.manual_seed(0)
    encoded = model.encode(torch.randn(1, 3, 64, 64))
    boxes = nuclei(7)[None]
    moved = boxes.clone()
    moved[0, 5] = torch.tensor([0.5, 0.1, 0.1, 0.1])
    mask = anchor_mask(3, 4)
    first, second = (
        model.represent(encoded, b, mask=mask, placed=False).embeddings for b in (boxes, moved)
    )
    others = [0, 1, 2, 3, 4, 6]
    torch.testing.assert_close(first[:, others], second[:, others], atol=1e-6, rtol=0)
    assert not torch.allclose(first[:, 5], second[:, 5], atol=1e-3)
    # An instance, on the other hand, is seen by the anchors wherever there is self-attention.
    moved = boxes.clone()
    moved[0, 1] = torch.tensor([0.5, 0.1, 0.1, 0.1])
    third = model.represent(encoded, moved, mask=mask, placed=False).embeddings
    assert torch.allclose(first[:, 3:], third[:, 3:], atol=1e-6) == (rep == "none")


def test_self_attention_without_places_ignores_them():
    model = tiny(representation_self_attention="all").eval()
    layer = model.representation.layers[0]
    query = torch.randn(1, 5, 16)
    caught = []
    layer.self_attention.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    memory = torch.randn(1, 20, 16)
    value = layer.cross.project(memory)
    shapes, boxes = [(4, 4), (2, 1), (2, 1)], torch.rand(1, 5, 4)
    for placed in (True, False):
        layer(query, torch.ones(1, 5, 16), boxes, value, shapes, placed=placed)
    assert torch.equal(caught[0], query + 1)
    assert torch.equal(caught[1], query)


@pytest.mark.parametrize("rep", REPS)
@pytest.mark.parametrize("build", [tiny, small])
def test_gradients_reach_representation_and_trunk_alone(build, rep):
    model = build(representation_self_attention=rep)
    loss = loss_of(model, [nuclei(5), nuclei(2, 1), nuclei(0), nuclei(1, 3)])
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None for p in model.detection.parameters())
    assert all(p.grad is None for p in model.representation.classify.parameters())
    assert model.representation.layers[-1].cross.offsets.weight.grad.any()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.backbone.parameters())
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


def test_fields_with_nothing_to_tell_apart_do_not_count():
    model = small()
    assert float(loss_of(model, [nuclei(1), nuclei(0)]).detach()) == 0
    loss = loss_of(model, [nuclei(0), nuclei(0)])
    loss.backward()
    assert float(loss.detach()) == 0
    # One of them beside a field that counts changes nothing.
    torch.manual_seed(0)
    head, image = ContrastiveHead(16, 32, 8), torch.randn(2, 3, 64, 64)
    boxes, options = nuclei(4), {"noise": BoxNoise(0.0, 0.0), "copies": 1}
    with torch.no_grad():
        both, alone = (
            contrastive_loss(
                model, head, model.encode(image[:n]), [boxes, nuclei(1)][:n],
                generator=torch.Generator().manual_seed(1), **options,
            )
            for n in (2, 1)
        )  # fmt: skip
    assert float(both) != 0
    torch.testing.assert_close(both, alone, rtol=1e-4, atol=1e-5)


def test_pretraining_lowers_the_loss():
    torch.manual_seed(0)
    model = small(window=64)
    head = ContrastiveHead(model.config.size, 64, 16)
    image = torch.randn(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    boxes = [nuclei(8), nuclei(6, 1)]
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=3e-3)
    losses = []
    for _ in range(25):
        loss = contrastive_loss(model, head, model.encode(image), boxes, noise=BoxNoise())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_runs_under_autocast():
    model = small(representation_self_attention="all")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, [nuclei(5), nuclei(3)])
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="not possible"):
        loss_of(tiny(decoupled=False), [nuclei(3)])
    with pytest.raises(ConfigError, match="not possible"):
        loss_of(tiny(), [nuclei(3)], temperature=0.0)
    with pytest.raises(ConfigError, match="not possible"):
        loss_of(tiny(), [nuclei(3)], copies=0)
    model = tiny()
    encoded = model.encode(torch.randn(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="2 lists of boxes for 1 images"):
        contrastive_loss(model, ContrastiveHead(16), encoded, [nuclei(3)] * 2)
