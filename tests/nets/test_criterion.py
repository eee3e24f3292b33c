"""Matching and losses against slow, independent forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_nets import cells, no_cells, small, tiny

from napari_celldetr.nets.criterion import Criterion, usable_slots
from napari_celldetr.nets.losses import focal_loss, heat_loss, heat_targets
from napari_celldetr.nets.matching import MatchCosts, Targets, generalized_iou, match
from napari_celldetr.nets.slots import clamp_boxes

IMAGE = (64, 96)


def proposals(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(count, 4, generator=g) * torch.tensor([1, 1, 0.2, 0.2])
    return torch.randn(count, generator=g), boxes + torch.tensor([0, 0, 0.02, 0.02])


def some_cells(count, seed=0, *, known=True):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, 2)) * [96, 64]
    sizes = rng.uniform(4, 20, (count, 2)) if known else np.full((count, 2), np.nan)
    return cells(points, sizes, [0] * count)


def slow_giou(a, b):
    """Of two cx cy w h boxes, by corner arithmetic on floats."""
    ax0, ay0, ax1, ay1 = a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2
    bx0, by0, bx1, by1 = b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2
    inter = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax1, bx1) - min(ax0, bx0)) * (max(ay1, by1) - min(ay0, by0))
    return inter / union - (hull - union) / hull


def slow_cost(logit, box, target, i, costs):
    p = 1 / (1 + math.exp(-logit))
    cost = -costs.score * p
    if costs.class_focal:
        cost = costs.score * (
            -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)
        )
    x, y = target.centres[i].tolist()
    unit = (96 / costs.centre_px, 64 / costs.centre_px) if costs.centre_px else (1, 1)
    cost += costs.centre * (abs(box[0] - x / 96) * unit[0] + abs(box[1] - y / 64) * unit[1])
    w, h = target.sizes[i].tolist()
    if not math.isnan(w):
        cost += costs.size * (abs(box[2] - w / 96) + abs(box[3] - h / 64))
        cost -= costs.giou * slow_giou(box, (x / 96, y / 64, w / 96, h / 64))
    far = costs.gate_px and math.hypot(box[0] * 96 - x, box[1] * 64 - y) > costs.gate_px
    return None if far else cost


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("costs", [MatchCosts(), MatchCosts.pixel()], ids=["paper", "pixel"])
def test_matching_is_the_best_of_all_assignments(seed, costs):
    logits, boxes = proposals(5, seed)
    target = some_cells(4, seed, known=seed % 2 == 0)
    queries, found = match(logits, boxes, target, IMAGE, costs=costs)
    assert queries.tolist() == sorted(queries.tolist())
    rows = boxes.tolist()

    def total(pairs):
        values = [slow_cost(float(logits[q]), rows[q], target, c, costs) for q, c in pairs]
        # A forbidden pair is worse than any permitted one.
        return sum(1e6 if v is None else v for v in values)

    best = min(total(zip(p, range(4), strict=True)) for p in itertools.permutations(range(5), 4))
    pairs = list(zip(queries.tolist(), found.tolist(), strict=True))
    assert total(pairs) + 1e6 * (4 - len(pairs)) == pytest.approx(best, abs=1e-2)
    assert all(slow_cost(float(logits[q]), rows[q], target, c, costs) is not None for q, c in pairs)


def test_gate_forbids_far_pairs_and_unusable_slots_stay_free():
    boxes = torch.tensor([[10 / 96, 10 / 64, 0.1, 0.1], [50 / 96, 10 / 64, 0.1, 0.1]])
    target = cells([(10, 10), (70, 10)], [[8.0, 8.0]] * 2, (0, 0))
    logits = torch.zeros(2)
    pairs = match(logits, boxes, target, IMAGE, costs=MatchCosts.pixel())
    assert [p.tolist() for p in pairs] == [[0], [0]]
    usable = torch.tensor([False, True])
    pairs = match(logits, boxes, target, IMAGE, costs=MatchCosts.pixel(), usable=usable)
    assert [p.tolist() for p in pairs] == [[], []]
    pairs = match(logits, boxes, target, IMAGE, costs=MatchCosts(), usable=usable)
    assert pairs[0].tolist() == [1]


def test_more_cells_than_queries_none_of_either_and_nan():
    logits, boxes = proposals(3)
    queries, found = match(logits, boxes, some_cells(7), IMAGE, costs=MatchCosts())
    assert queries.tolist() == [0, 1, 2]
    assert len(set(found.tolist())) == 3
    assert len(match(logits, boxes, no_cells(), IMAGE, costs=MatchCosts())[0]) == 0
    assert len(match(logits[:0], boxes[:0], some_cells(2), IMAGE, costs=MatchCosts())[0]) == 0
    boxes[1] = float("nan")
    assert 1 not in match(logits, boxes, some_cells(7), IMAGE, costs=MatchCosts())[0].tolist()


def test_generalized_iou_equals_corner_arithmetic():
    _, a = proposals(30, 1)
    _, b = proposals(30, 2)
    expected = [[slow_giou(x, y) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(generalized_iou(a[:, None], b[None]), torch.tensor(expected))
    assert generalized_iou(a, a).tolist() == pytest.approx([1.0] * 30, abs=1e-5)


def test_focal_loss_equals_its_definition():
    g = torch.Generator().manual_seed(0)
    logits, wanted = torch.randn(50, generator=g) * 4, (torch.rand(50, generator=g) > 0.5).float()
    expected = []
    for z, t in zip(logits.double().tolist(), wanted.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        hit = -0.25 * (1 - p) ** 2 * math.log(p)
        expected.append(hit if t else -0.75 * p**2 * math.log(1 - p))
    torch.testing.assert_close(focal_loss(logits, wanted), torch.tensor(expected).float())
    assert torch.isfinite(focal_loss(torch.tensor([500.0, -500.0]), torch.tensor([0.0, 1.0]))).all()


def test_heat_target_is_the_highest_bump_and_1_at_centres():
    centres = torch.tensor([[3.2, 4.9], [5.7, 4.1], [0.0, 0.0], [11.9, 8.9], [7.0, 3.0]])
    found = heat_targets((3, 9, 12), torch.tensor([0, 0, 0, 0, 2]), centres, 1.5)
    expected = np.zeros((9, 12))
    for row in range(9):
        for column in range(12):
            for x, y in centres[:4].tolist():
                dx, dy = column - int(x), row - int(y)
                if max(abs(dx), abs(dy)) <= 5:
                    bump = math.exp(-(dx**2 + dy**2) / 4.5)
                    expected[row, column] = max(expected[row, column], bump)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
    assert (found == 1).sum((1, 2)).tolist() == [4, 0, 1]
    assert not found[1].any()
    assert found[2, 3, 7] == 1
    assert not heat_targets((1, 9, 12), torch.zeros(0, dtype=torch.int64), centres[:0], 1.5).any()


def test_heat_loss_equals_its_definition():
    torch.manual_seed(0)
    heat, weight = torch.randn(2, 32, 32) * 3, torch.rand(2, 32, 32).round()
    image, centres = torch.tensor([0, 0, 1]), torch.tensor([[5.0, 6.0], [15.0, 15.0], [1.0, 31.0]])
    wanted = heat_targets((2, 32, 32), image, centres, 1.5)
    total = 0.0
    for i, row, column in itertools.product(range(2), range(32), range(32)):
        p = float(heat[i, row, column].double().sigmoid())
        y = float(wanted[i, row, column])
        one = (1 - p) ** 2 * math.log(p) if y >= 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
        total -= float(weight[i, row, column]) * one
    assert float(heat_loss(heat, wanted, weight)) == pytest.approx(total, rel=1e-4)


def test_heat_of_a_batch_leaves_padding_out():
    model = small(window=64)
    image = torch.randn(2, 3, 64, 64)
    valid = torch.ones(64, 64, dtype=torch.bool)
    valid[:, 40:] = False
    targets = [cells([(10, 12), (30, 30)], [[8.0, 8.0]] * 2, (0, 0), valid), no_cells()]
    with torch.no_grad():
        found = Criterion.for_model(model)(model, image, targets)[1]["heat"]
        heat = model.encode(image).heat[:, 0]
    wanted = heat_targets((2, 32, 32), torch.tensor([0, 0]), targets[0].centres / 2, 1.5)
    weight = torch.stack((valid[::2, ::2].float(), torch.ones(32, 32)))
    assert found == pytest.approx(float(heat_loss(heat, wanted, weight)) / 2, rel=1e-5)


def test_boxes_are_kept_between_half_and_six_nuclei():
    boxes = torch.tensor([[0.5, 0.5, 0.001, 0.9], [0.1, 0.2, 0.2, 0.1]])
    found = clamp_boxes(boxes, (100, 200)) * torch.tensor([200, 100, 200, 100])
    torch.testing.assert_close(
        found, torch.tensor([[100.0, 50.0, 6.0, 72.0], [20.0, 20.0, 40.0, 10.0]])
    )


def test_queries_on_padding_neither_match_nor_count():
    model = small(queries=80, window=64)
    image = torch.randn(1, 3, 64, 64)
    valid = torch.zeros(64, 64, dtype=torch.bool)
    valid[:, :32] = True
    points = [(8, 8), (24, 40), (8, 56)]
    target = cells(points, [[9.0, 9.0]] * 3, (0, 1, 2), valid)
    with torch.no_grad():
        _, found = model(image)
        usable = usable_slots(found, [target], (64, 64))
    assert usable.any()
    x = found.queries.references[0, :, 0] * 64
    assert torch.equal(usable[0], found.queries.valid[0] & (x < 32))
    # Nothing at all may be learned where nothing is valid.
    nowhere = Targets(*(getattr(no_cells(), n) for n in ("centres", "sizes", "class_ids")), ~valid)
    nowhere.valid[:] = False
    loss, parts = Criterion.for_model(model)(model, image, [nowhere])
    loss.backward()
    assert {k: v for k, v in parts.items() if v} == {}
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


def test_classes_of_unknown_type_do_not_count():
    for kind in ({"class_target": "all"}, {"class_target": "matched"}):
        model = tiny(**kind)
        target = cells(ids=(-1, -1, -1))
        torch.manual_seed(0)
        image = torch.randn(1, 3, 64, 64)
        _, parts = Criterion.for_model(model)(model, image, [target])
        if kind["class_target"] == "matched":
            assert parts["class"] == 0
        assert parts["objectness"] > 0


def test_class_weights_weigh():
    model = small()
    points = [(x, y) for x in range(8, 64, 12) for y in range(8, 64, 12)]
    target = cells(points, [[9.0, 9.0]] * 25, [i % 2 for i in range(25)])
    image = torch.randn(1, 3, 64, 64)
    losses = []
    for weights in ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [5.0, 1.0, 1.0]):
        criterion = Criterion.for_model(model, torch.tensor(weights))
        losses.append(criterion(model, image, [target])[1]["dense"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-3)


def test_training_lowers_every_loss():
    torch.manual_seed(0)
    model = small(queries=40, window=64)
    points = [(12, 14), (40, 30), (50, 52)]
    target = cells(points, [[10.0, 12.0]] * 3, (0, 1, 2))
    image = torch.full((1, 3, 64, 64), 0.5)
    for i, (x, y) in enumerate(points):
        image[0, i, y - 5 : y + 5, x - 5 : x + 5] = -2.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    criterion = Criterion.for_model(model)
    logs = []
    for _ in range(30):
        loss, parts = criterion(model, image, [target])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        logs.append(parts)
    first, last = logs[0], logs[-1]
    assert sum(last.values()) < 0.5 * sum(first.values())
    assert last["heat"] < 0.5 * first["heat"]
