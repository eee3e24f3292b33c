"""Deformable attention: the fast form is the reference, in values and gradients."""

from __future__ import annotations

import random

import pytest
import torch

from napari_celldetr.nets.attention import DeformableAttention, deformable_attention


def case(shapes, *, batch=2, queries=5, heads=2, size=4, points=3, spread=2.0, seed=0, dtype=None):
    """Random value, locations (reaching (spread - 1) / 2 beyond the image) and weights."""
    g = torch.Generator().manual_seed(seed)
    dtype = dtype or torch.float32
    tokens = sum(h * w for h, w in shapes)
    grid = (batch, queries, heads, len(shapes), points)
    value = torch.randn(batch, tokens, heads, size, generator=g, dtype=dtype)
    where = torch.rand(*grid, 2, generator=g, dtype=dtype) * spread - (spread - 1) / 2
    weights = torch.randn(*grid[:3], len(shapes) * points, generator=g, dtype=dtype)
    return value, where, weights.softmax(-1).view(grid)


def slow(value, shapes, locations, weights):
    """Bilinear sampling written out, one tap at a time."""
    batch, _, heads, size = value.shape
    queries, levels, points = locations.shape[1], len(shapes), locations.shape[4]
    out = torch.zeros(batch, queries, heads, size, dtype=value.dtype)
    for b, q, m, level, p in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, queries, heads, levels, points))
    ).tolist():
        height, width = shapes[level]
        start = sum(h * w for h, w in shapes[:level])
        x = float(locations[b, q, m, level, p, 0]) * width - 0.5
        y = float(locations[b, q, m, level, p, 1]) * height - 0.5
        for row in range(height):
            for column in range(width):
                share = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
                if share:
                    tap = value[b, start + row * width + column, m]
                    out[b, q, m] += weights[b, q, m, level, p] * share * tap
    return out.flatten(2)


@pytest.mark.parametrize("seed", range(40))
def test_fast_form_equals_the_reference(seed):
    rng = random.Random(seed)
    shapes = [(rng.randint(1, 9), rng.randint(1, 9)) for _ in range(rng.randint(1, 4))]
    batch, queries, heads, points = (rng.randint(low, 4) for low in (1, 0, 1, 1))
    spread = rng.choice([0.5, 1.0, 1.5, 4.0, 100.0])
    value, where, weights = case(
        shapes, batch=batch, queries=queries, heads=heads, points=points, spread=spread, seed=seed
    )
    fast = deformable_attention(value, shapes, where, weights)
    reference = deformable_attention(value, shapes, where, weights, backend="grid_sample")
    assert fast.shape == (batch, queries, heads * 4)
    torch.testing.assert_close(fast, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ["embedding_bag", "grid_sample"])
def test_both_forms_equal_bilinear_sampling_written_out(backend):
    shapes = [(3, 5), (1, 4), (2, 1), (1, 1)]
    value, where, weights = case(shapes, queries=3, points=2, dtype=torch.float64)
    found = deformable_attention(value, shapes, where, weights, backend=backend)
    torch.testing.assert_close(found, slow(value, shapes, where, weights), atol=1e-12, rtol=0)


@pytest.mark.parametrize("at", [0.0, 1.0, 0.125, 0.5, 0.875, -0.125, 1.125])
def test_points_on_pixel_centres_and_borders(at):
    value, _, weights = case([(4, 4)], batch=1, queries=1)
    where = torch.full((1, 1, 2, 1, 3, 2), at)
    fast = deformable_attention(value, [(4, 4)], where, weights)
    reference = deformable_attention(value, [(4, 4)], where, weights, backend="grid_sample")
    torch.testing.assert_close(fast, reference, atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", ["embedding_bag", "grid_sample"])
def test_gradients_of_value_locations_and_weights(backend):
    shapes = [(3, 4), (2, 2), (1, 1)]
    inputs = case(shapes, batch=2, queries=2, size=2, points=2, dtype=torch.float64)
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, x, w: deformable_attention(v, shapes, x, w, backend=backend), inputs
    )


@pytest.mark.parametrize("seed", range(20))
def test_gradients_are_the_reference_s(seed):
    rng = random.Random(seed)
    # Sides by which places divide without rounding: both forms see the same side of a kink.
    sides = (1, 2, 4, 8) if seed % 2 else (1, 3, 5, 6)
    shapes = [(rng.choice(sides), rng.choice(sides)) for _ in range(rng.randint(1, 3))]
    value, where, weights = case(
        shapes, batch=rng.randint(1, 3), spread=rng.choice([0.5, 1.5, 4.0]), seed=seed
    )
    if seed % 2:
        # Exactly on pixel centres and halfway between, where bilinear weights have their kinks.
        wide = torch.tensor([[w, h] for h, w in shapes])[:, None]
        where = (where * wide * 2).round() / 2 / wide
    wanted = torch.randn(*where.shape[:2], 8, generator=torch.Generator().manual_seed(seed))
    found = []
    for backend in ("embedding_bag", "grid_sample"):
        inputs = [t.clone().requires_grad_() for t in (value, where, weights)]
        deformable_attention(inputs[0], shapes, *inputs[1:], backend=backend).backward(wanted)
        found.append([t.grad for t in inputs])
    for fast, reference in zip(*found, strict=True):
        torch.testing.assert_close(fast, reference, atol=2e-4, rtol=1e-4)


def test_gradient_of_one_input_alone():
    shapes = [(3, 4)]
    for i in range(3):
        inputs = case(shapes, dtype=torch.float64)
        inputs[i].requires_grad_()
        value, where, weights = inputs
        deformable_attention(value, shapes, where, weights).square().sum().backward()
        assert [t.grad is not None for t in inputs] == [j == i for j in range(3)]
        assert inputs[i].grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["embedding_bag", "grid_sample"])
def test_narrow_values_keep_exact_places(dtype, backend):
    # 96² tokens: an index in half precision would be off by rows.
    shapes = [(96, 96)]
    value, where, weights = case(shapes, batch=1, spread=1.0)
    exact = deformable_attention(value, shapes, where, weights, backend="grid_sample")
    found = deformable_attention(value.to(dtype), shapes, where, weights.to(dtype), backend=backend)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_places_that_are_no_numbers_give_no_crash(bad):
    value, where, weights = case([(4, 4), (1, 2)], queries=3)
    where[0, 1, 0, 0, 0, 0] = bad
    found = deformable_attention(value, [(4, 4), (1, 2)], where, weights)
    untouched = torch.tensor([0, 2])
    assert torch.isfinite(found[0, untouched]).all()
    assert torch.isfinite(found[1]).all()
    # NaN is not lost on the way: what comes of it can be flagged. Infinity is just far outside.
    assert bool(torch.isnan(found[0, 1, :4]).all()) == (bad != bad)


def module(*, box_constrained=False, levels=2, backend="embedding_bag"):
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, levels, 3, box_constrained=box_constrained, backend=backend)
    with torch.no_grad():
        layer.offsets.weight.normal_(std=3)
        layer.weights.weight.normal_()
    return layer


def seen_locations(monkeypatch, layer, query, references, shapes):
    """Where `layer` really samples."""
    from napari_celldetr.nets import attention

    caught = []
    real = attention.deformable_attention

    def spy(value, shapes, locations, weights, **kw):
        caught.append((locations, weights))
        return real(value, shapes, locations, weights, **kw)

    monkeypatch.setattr(attention, "deformable_attention", spy)
    memory = torch.randn(len(query), sum(h * w for h, w in shapes), 8)
    out = layer(query, references, layer.project(memory), shapes)
    assert out.shape == query.shape
    return caught[0]


SHAPES = [(4, 6), (2, 3)]


def test_box_constrained_attention_never_leaves_the_box(monkeypatch):
    boxes = torch.rand(2, 50, 4)
    where, weights = seen_locations(
        monkeypatch, module(box_constrained=True), torch.randn(2, 50, 8) * 5, boxes, SHAPES
    )
    low = (boxes[..., :2] - boxes[..., 2:] / 2)[:, :, None, None, None]
    high = (boxes[..., :2] + boxes[..., 2:] / 2)[:, :, None, None, None]
    assert where.shape == (2, 50, 2, 2, 3, 2)
    assert (where >= low - 1e-6).all()
    assert (where <= high + 1e-6).all()
    # The test bites: the points do use the whole box.
    reach = ((where - (low + high) / 2).abs() / (high - low)).amax()
    assert reach > 0.49
    torch.testing.assert_close(weights.sum((-1, -2)), torch.ones(2, 50, 2))


def test_the_paper_s_box_formula(monkeypatch):
    layer, query, boxes = module(box_constrained=True), torch.randn(1, 4, 8), torch.rand(1, 4, 4)
    where, _ = seen_locations(monkeypatch, layer, query, boxes, SHAPES)
    offsets = layer.offsets(query).view(1, 4, 2, 2, 3, 2)
    for q in range(4):
        expected = boxes[0, q, :2] + 0.5 * offsets[0, q].tanh() * boxes[0, q, 2:]
        torch.testing.assert_close(where[0, q], expected)


def test_free_attention_leaves_the_box(monkeypatch):
    boxes = torch.rand(1, 50, 4) * 0.1 + 0.4
    where, _ = seen_locations(monkeypatch, module(), torch.randn(1, 50, 8) * 5, boxes, SHAPES)
    centre, size = boxes[..., :2], boxes[..., 2:]
    outside = (where - centre[:, :, None, None, None]).abs() > size[:, :, None, None, None] / 2
    assert outside.any()


def test_box_and_point_references_as_in_deformable_detr(monkeypatch):
    layer, query, boxes = module(), torch.randn(1, 4, 8), torch.rand(1, 4, 4)
    offsets = layer.offsets(query).view(1, 4, 2, 2, 3, 2)
    with monkeypatch.context() as patch:
        by_box, _ = seen_locations(patch, layer, query, boxes, SHAPES)
    by_point, _ = seen_locations(monkeypatch, layer, query, boxes[..., :2], SHAPES)
    centre, size = (part[:, :, None, None, None] for part in boxes.split(2, -1))
    torch.testing.assert_close(by_box, centre + offsets / 3 * size * 0.5)
    for level, (height, width) in enumerate(SHAPES):
        expected = centre[:, :, :, 0] + offsets[:, :, :, level] / torch.tensor([width, height])
        torch.testing.assert_close(by_point[:, :, :, level], expected)


@pytest.mark.parametrize("box_constrained", [False, True])
def test_points_start_apart_and_inside(monkeypatch, box_constrained):
    torch.manual_seed(0)
    layer = DeformableAttention(16, 4, 1, 3, box_constrained=box_constrained)
    with torch.no_grad():
        where = layer.offsets(torch.zeros(1, 1, 16)).view(4, 3, 2)
    if box_constrained:
        where = where.tanh()
        assert where.abs().max() < 1
    steps = where.abs().amax(-1)
    assert (steps.diff(dim=-1) > 0).all()
    assert torch.unique(where.flatten(0, 1).round(decimals=4), dim=0).shape[0] == 12


def test_module_gives_the_same_with_both_backends():
    query, boxes = torch.randn(2, 7, 8), torch.rand(2, 7, 4)
    memory = torch.randn(2, 30, 8)
    results = []
    for backend in ("embedding_bag", "grid_sample"):
        layer = module(backend=backend)
        out = layer(query, boxes, layer.project(memory), SHAPES)
        out.square().sum().backward()
        results.append([out.detach(), *(p.grad for p in layer.parameters())])
    for fast, reference in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference, atol=2e-4, rtol=1e-4)
