"""Matching and losses against slow, independent forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_nets import cells, no_cells, small, tiny

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.celldetr import Detected
from napari_celldetr.nets.criterion import Criterion, LossWeights, usable_slots
from napari_celldetr.nets.losses import composition_divergence, focal_loss, heat_loss, heat_targets
from napari_celldetr.nets.matching import MatchCosts, Targets, generalized_iou, match
from napari_celldetr.nets.noise import BoxNoise
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


# --- a whole batch against images one by one ---------------------------------------------------


def grid(ids=(0, 1, 2), **changes):
    """Cells on a grid, every third without extent and every fourth of unknown type."""
    points = [(x, y) for x in range(8, 64, 12) for y in range(8, 64, 12)]
    sizes = [[9.0, 11.0] if i % 3 else [math.nan] * 2 for i in range(25)]
    found = cells(points, sizes, [-1 if i % 4 == 0 else ids[i % len(ids)] for i in range(25)])
    return replace(found, **changes)


def batch():
    """A full image, an empty one, and one with padding."""
    valid = torch.ones(64, 64, dtype=torch.bool)
    valid[:, 30:] = False
    return [grid(), no_cells(), cells([(5, 5), (20, 40)], [[9, 30], [7, 8]], (1, 2), valid)]


def pictures(count, seed=3):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def slow_classes(model, encoded, detected, targets, pairs, weights):
    """Class loss of the sequential mode, image by image and layer by layer."""
    every, cells_in_all, total = model.config.class_target == "all", 0, 0.0
    chosen = []
    for i, (queries, own) in enumerate(pairs):
        ids = targets[i].class_ids[own]
        cells_in_all += int((ids >= 0).sum())
        part = encoded.of([i])
        if every:
            usable = usable_slots(detected, targets, (64, 64))[i]
            boxes, features = detected.boxes[-1][i], detected.features[i]
            out = model.represent(part, boxes[None], padding=~usable[None], features=features[None])
            for logits in out.logits:
                wanted = torch.zeros_like(logits[0])
                for q, k in zip(queries.tolist(), ids.tolist(), strict=True):
                    if k >= 0:
                        wanted[q, k] = 1
                counted = usable.clone()
                counted[queries[ids < 0]] = False
                total = total + focal_loss(logits[0], wanted)[counted].sum()
        elif len(queries):
            boxes = clamp_boxes(detected.boxes[-1][i, queries], (64, 64))
            out = model.represent(part, boxes[None], features=detected.features[i, queries][None])
            chosen.append(([x[0, ids >= 0] for x in out.logits], ids[ids >= 0]))
    if every:
        return total / max(cells_in_all, 1)
    truth = torch.cat([t for _, t in chosen])
    layers = [torch.cat([x[n] for x, _ in chosen]) for n in range(2)]
    return sum(F.cross_entropy(x, truth, weight=weights) for x in layers)


def slow_parts(model, image, targets, class_weights):
    """Losses of a network without heatmap, straight from the definitions, one image at a time."""
    criterion, parts = Criterion.for_model(model), {}
    encoded, detected = model(image)
    count = sum(len(t) for t in targets)
    usable = usable_slots(detected, targets, (64, 64))
    for logits, boxes in zip(detected.logits, detected.boxes, strict=True):
        pairs = [
            match(logits[i], boxes[i], t, (64, 64), costs=criterion.costs, usable=usable[i])
            for i, t in enumerate(targets)
        ]
        sums = dict.fromkeys(("objectness", "centre", "size", "giou"), 0.0)
        matched = extents = 0
        for i, (queries, own) in enumerate(pairs):
            wanted = torch.zeros_like(logits[i])
            wanted[queries] = 1
            sums["objectness"] += 2 * focal_loss(logits[i], wanted)[usable[i]].sum() / count
            for q, c in zip(queries.tolist(), own.tolist(), strict=True):
                true = targets[i].boxes((64, 64))[c]
                matched += 1
                sums["centre"] += 5 * (boxes[i, q, :2] - true[:2]).abs().sum()
                if true.isfinite().all():
                    extents += 1
                    sums["size"] += 5 * (boxes[i, q, 2:] - true[2:]).abs().sum()
                    sums["giou"] += 2 * (1 - generalized_iou(boxes[i, q], true))
        for name, value in sums.items():
            by = {"objectness": 1, "centre": matched}.get(name, extents)
            parts[name] = parts.get(name, 0.0) + value / by
    classes = slow_classes(model, encoded, detected, targets, pairs, class_weights)
    return parts | {"class": 0.2 * classes}


@pytest.mark.parametrize("target", ["matched", "all"])
@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("rep", ["none", "all"])
def test_losses_of_a_batch_equal_those_of_its_images(target, decoupled, rep):
    model = tiny(
        class_target=target, decoupled=decoupled, representation_self_attention=rep, queries=30
    )
    weights = torch.tensor([1.0, 0.5, 2.0])
    image, targets = pictures(3), batch()
    with torch.no_grad():
        expected = slow_parts(model, image, targets, weights)
        _, found = Criterion.for_model(model, weights)(model, image, targets)
    assert found == {k: pytest.approx(float(v), rel=1e-5) for k, v in expected.items()}


# --- what the representation decoder is shown ---------------------------------------------------


@pytest.mark.parametrize("rep", ["none", "not_first", "all"])
@pytest.mark.parametrize("source", ["noised", "positive_negative"])
def test_parallel_mode_learns_from_disturbed_boxes(source, rep):
    target = "all" if source == "positive_negative" else "matched"
    model = tiny(mode="parallel", class_target=target, representation_self_attention=rep)
    criterion = Criterion.for_model(model, boxes=source)
    true = Criterion.for_model(model)
    image, targets = pictures(3), batch()
    losses = []
    for one in (true, criterion, criterion):
        torch.manual_seed(0)
        loss, parts = one(model, image, targets)
        losses.append(parts["class"])
    assert losses[1] == losses[2] != losses[0]
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name
    assert model.representation.layers[0].cross.value.weight.grad.any()


def test_without_noise_disturbed_boxes_are_the_true_ones():
    model = tiny(mode="parallel", class_target="matched")
    with torch.no_grad():
        losses = [
            Criterion.for_model(model, boxes=source, noise=BoxNoise(0, 0))(
                model, pictures(1), [grid()]
            )[1]["class"]
            for source in ("true", "noised")
        ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_negative_boxes_are_taught_that_they_hold_nothing(monkeypatch):
    model = tiny(mode="parallel", class_target="all", representation_self_attention="all")
    caught = {}
    real = model.represent

    def spy(encoded, boxes, **options):
        caught.update(options, boxes=boxes, out=real(encoded, boxes, **options))
        return caught["out"]

    monkeypatch.setattr(model, "represent", spy)
    target = grid(ids=(1,))
    criterion = Criterion.for_model(model, boxes="positive_negative")
    _, parts = criterion(model, pictures(1), [target])
    assert caught["boxes"].shape == (1, 50, 4)
    assert caught["mask"][:25, 25:].all()
    assert caught["mask"][25:, :25].all()
    assert not caught["mask"][:25, :25].any()
    known = target.class_ids >= 0
    total = 0.0
    for logits in caught["out"].logits:
        wanted = F.one_hot(torch.ones(25, dtype=torch.int64), 3).float()
        total += focal_loss(logits[0, :25], wanted)[known].sum()
        total += focal_loss(logits[0, 25:], torch.zeros(25, 3)).sum()
    expected = float(total.detach()) * 0.2 / int(known.sum())
    assert parts["class"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({"mode": "sequential"}, "noised"),
        ({"mode": "sequential"}, "positive_negative"),
        ({"mode": "parallel", "class_target": "matched"}, "positive_negative"),
        ({"mode": "parallel", "decoupled": False}, "positive_negative"),
    ],
)
def test_disturbed_boxes_that_make_no_sense_are_refused(settings, source):
    model = tiny(**settings)
    with pytest.raises(ConfigError, match="do not fit"):
        Criterion.for_model(model, boxes=source)
    criterion = replace(Criterion.for_model(model), boxes=source)
    with pytest.raises(ConfigError, match="do not fit"):
        criterion(model, pictures(1), [grid()])


# --- compositions ------------------------------------------------------------------------------


def composition_only(shares=(0.7, 0.2, 0.1)):
    """A field of which nobody knows a cell."""
    nowhere = torch.zeros(64, 64, dtype=torch.bool)
    return replace(no_cells(), valid=nowhere, composition=torch.tensor(shares))


def sure_of_cells(model):
    """Make a network find cells everywhere."""
    with torch.no_grad():
        for logit in model.detection.logit:
            logit.bias.fill_(6.0)
        if hasattr(model.encoder, "heat_head"):
            model.encoder.heat_head[-1].bias.fill_(3.0)
    return model


@pytest.mark.parametrize("target", ["matched", "all"])
@pytest.mark.parametrize("build", [tiny, small])
def test_composition_teaches_classes_alone(build, target):
    model = sure_of_cells(build(class_target=target))
    criterion = Criterion.for_model(model)
    loss, parts = criterion(model, pictures(1), [composition_only()])
    assert {k for k, v in parts.items() if v} == {"composition"}
    loss.backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.detection.parameters())
    assert not any(p.grad is not None and p.grad.any() for p in model.proposer.parameters())
    reached = [*model.representation.classify.parameters()]
    if build is small:
        assert not any(p.grad.any() for p in model.encoder.heat_head.parameters())
        reached += model.encoder.class_head.parameters()
    assert all(p.grad.any() for p in reached)
    # Beside other fields it changes none of their losses.
    with torch.no_grad():
        alone = criterion(model, pictures(2)[:1], [grid()])[1]
        beside = criterion(model, pictures(2), [grid(), composition_only()])[1]
    assert beside.pop("composition") > 0
    assert beside == {k: pytest.approx(v, rel=1e-4) for k, v in alone.items()}


def test_composition_is_that_of_the_cells_found():
    model = small(queries=12)
    image, target = pictures(2), composition_only()
    weights = replace(LossWeights.pixel(), composition=3.0)
    with torch.no_grad():
        encoded, detected = model(image)
        used = detected.queries.valid[1] & (detected.logits[-1][1].sigmoid() > 0.4)
        model.encoder.heat_head[-1].bias += 4.0
        encoded, detected = model(image)
        used = detected.queries.valid[1] & (detected.logits[-1][1].sigmoid() > 0.4)
        assert used.any()
        boxes = clamp_boxes(detected.boxes[-1][1, used], (64, 64))[None]
        part = encoded.of([1])
        p = [x.softmax(-1) for x in model.represent(part, boxes).logits]
        p.append(model.class_at(part, boxes).softmax(-1))
        shares = target.composition[None]
        expected = 3 * sum(
            composition_divergence(x, torch.ones(1, len(boxes[0])) > 0, shares) for x in p
        )
        criterion = Criterion.for_model(model, weights=weights)
        _, parts = criterion(model, image, [no_cells(), target])
    assert parts["composition"] == pytest.approx(float(expected), rel=1e-4)


def test_a_composition_without_any_cell_found_teaches_nothing():
    model = small()
    with torch.no_grad():
        model.encoder.heat_head[-1].bias.fill_(-30.0)
    loss, parts = Criterion.for_model(model)(model, pictures(1), [composition_only()])
    assert parts["composition"] == 0
    loss.backward()


# --- missing points ----------------------------------------------------------------------------


def heat_gradient(soft, target, heat, teacher=None):
    """Gradient of heat and objectness losses where the heatmap is `heat` and nothing moves."""
    model = small(window=64, queries=40)
    encoded = model.encode(pictures(1))
    encoded = replace(encoded, heat=heat.clone().requires_grad_())
    detected = model.detect(encoded)
    logits = [x.detach().requires_grad_() for x in detected.logits]
    frozen = Detected(
        logits, [b.detach() for b in detected.boxes], detected.features, detected.queries
    )
    model.forward = lambda image: (encoded, frozen)
    criterion = Criterion.for_model(model, soft_negatives=soft)
    loss, _ = criterion(model, pictures(1), [target], teacher)
    loss.backward()
    return encoded.heat.grad[0, 0], logits[-1], frozen


def unlabelled(sure=4.0):
    """Two cells seen, of which only the first is annotated, and a double of the first."""
    heat = torch.full((1, 1, 32, 32), -5.0)
    heat[0, 0, 8, 8] = heat[0, 0, 24, 24] = sure
    heat[0, 0, 8, 12] = sure
    return heat, cells([(17.0, 17.0)], [[10.0, 10.0]], (0,))


def test_an_unlabelled_cell_is_no_strong_negative():
    heat, target = unlabelled()
    hard, scores, frozen = heat_gradient(False, target, heat)
    soft, eased, _ = heat_gradient(True, target, heat)
    assert hard[24, 24] > 0.5
    assert 0 <= soft[24, 24] < 0.01 * hard[24, 24]
    # A double near the annotated cell stays wrong, doubtful places as well, and hits stay hits.
    changed = hard != soft
    assert changed.nonzero().tolist() == [[24, 24]]
    assert soft[8, 12] > 0.5
    # The same of the queries.
    where = frozen.boxes[-1][0, :, :2] * 64
    far = ((where - 17).norm(dim=-1) > 12) & (scores.detach()[0].sigmoid() > 0.5)
    assert far.any()
    easier = eased.grad[0].abs() < scores.grad[0].abs() * 0.999
    assert torch.equal(easier, far & frozen.queries.valid[0])


def test_where_every_cell_is_annotated_negatives_stay_strong():
    heat, target = unlabelled()
    hard, scores, _ = heat_gradient(False, target, heat)
    soft, eased, _ = heat_gradient(True, replace(target, exhaustive=True), heat)
    assert torch.equal(hard, soft)
    assert torch.equal(scores.grad, eased.grad)


def test_a_teacher_may_say_where_cells_are():
    heat, target = unlabelled(sure=0.3)
    hard, scores, _ = heat_gradient(False, target, heat)
    shy, _, _ = heat_gradient(True, target, heat)
    sure = unlabelled(sure=6.0)[0]
    teacher = replace(small(window=64).encode(pictures(1)), heat=sure)
    taught, eased, _ = heat_gradient(True, target, heat, teacher)
    # Of .57 the network itself is hardly sure, the teacher is.
    assert shy[24, 24] > 0.5 * hard[24, 24]
    assert taught[24, 24] < 0.01 * hard[24, 24]
    assert torch.equal(taught[0:4], hard[0:4])
    assert eased.grad.abs().sum() < scores.grad.abs().sum()
    with pytest.raises(ConfigError, match="teacher"):
        heat_gradient(True, target, heat, replace(teacher, heat=None))


def test_soft_negatives_count_for_every_kind_of_network():
    for changes in ({}, {"query_source": "two_stage"}, {"query_source": "heatmap"}):
        for target in ("matched", "all"):
            model = sure_of_cells(tiny(class_target=target, **changes))
            losses = []
            for soft in (False, True):
                criterion = Criterion.for_model(model, soft_negatives=soft)
                loss, parts = criterion(model, pictures(2), [cells([(9, 9)]), no_cells()])
                losses.append(parts)
            loss.backward()
            assert losses[1]["objectness"] < 0.5 * losses[0]["objectness"]
            if target == "all":
                assert losses[1]["class"] < losses[0]["class"]
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


# --- classes ------------------------------------------------------------------------------------


def test_a_teacher_s_classes_change_the_class_losses_alone():
    model = small(window=64)
    image = pictures(2)
    plain = [grid(), grid()]
    soft = torch.full((25, 3), 1 / 3)
    soft[5:] = math.nan
    taught = [replace(grid(), class_soft=soft), grid()]
    criterion = Criterion.for_model(model)
    deaf = Criterion.for_model(model, weights=replace(LossWeights.pixel(), soft_labels=0.0))
    with torch.no_grad():
        first, second, third = (
            c(model, image, t)[1]
            for c, t in ((criterion, plain), (criterion, taught), (deaf, taught))
        )
    assert {k for k in first if first[k] != pytest.approx(second[k], rel=1e-6)} == {
        "dense",
        "class",
    }
    assert third == {k: pytest.approx(v, rel=1e-6) for k, v in first.items()}


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_a_teacher_s_classes_serve_sigmoids_too(mode):
    model = tiny(class_target="all", mode=mode)
    soft = torch.rand(25, 3)
    criterion = Criterion.for_model(model)
    losses = [
        criterion(model, pictures(1), [replace(grid(), class_soft=s)])[1]["class"]
        for s in (None, soft)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_focus_on_hard_classes_lowers_the_class_losses():
    model = small(window=64)
    weights = replace(LossWeights.pixel(), class_gamma=2.0)
    with torch.no_grad():
        plain = Criterion.for_model(model)(model, pictures(1), [grid()])[1]
        focal = Criterion.for_model(model, weights=weights)(model, pictures(1), [grid()])[1]
    assert {k for k in plain if plain[k] != focal[k]} == {"dense", "class"}
    assert focal["dense"] < plain["dense"]
    assert focal["class"] < plain["class"]


def test_targets_move_with_all_they_hold():
    target = replace(composition_only(), class_soft=torch.zeros(0, 3), exhaustive=True)
    moved = target.to("meta")
    assert moved.centres.device.type == moved.composition.device.type == "meta"
    assert moved.valid.device.type == moved.class_soft.device.type == "meta"
    assert moved.exhaustive
    assert no_cells().to("cpu").valid is None
