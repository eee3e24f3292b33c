"""CellDETR: every configuration runs both ways, and its claims of decoupling hold exactly."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_nets import cells, no_cells, small, tiny, tiny_config

from napari_celldetr.core.errors import ConfigError, ModelError
from napari_celldetr.nets.celldetr import NO_PEAK, CellDETR, CellDETRConfig, peaks
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.slots import pad_boxes
from napari_celldetr.nets.transformer import sine_position, token_boxes

SOURCES = [
    ("learned", "sigmoid"),
    ("two_stage", "sigmoid"),
    ("heatmap", "sigmoid"),
    ("heatmap", "pixel"),
]
OTHERS = list(
    itertools.product((True, False), (True, False), ("sequential", "parallel"), ("matched", "all"))
)
REPS = ("none", "not_first", "all")
# Parameters that have no part in any result: the pyramid's coarsest level only feeds the finer
# ones, and timm builds the stage that holds the last stride to its end.
UNUSED = ("encoder.pyramid.smooth.4.", "encoder.backbone.")


def learn(model, targets, *, seed=0):
    """One backward pass on random images; returns the parts of the loss."""
    torch.manual_seed(seed)
    image = torch.randn(len(targets), 3, 64, 64)
    loss, parts = Criterion.for_model(model)(model, image, targets)
    loss.backward()
    assert torch.isfinite(loss)
    return parts


def all_over():
    """Cells on a grid, so that some query is near one of them whatever the network thinks."""
    points = [(x, y) for x in range(8, 64, 12) for y in range(8, 64, 12)]
    return cells(points, [[9.0, 11.0]] * len(points), [i % 3 for i in range(len(points))])


@pytest.mark.parametrize(("source", "geometry"), SOURCES)
@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_every_configuration_learns(source, geometry, number):
    decoupled, constrained, mode, target = OTHERS[number]
    model = tiny(
        query_source=source,
        geometry=geometry,
        decoupled=decoupled,
        box_constrained=constrained,
        mode=mode,
        class_target=target,
        representation_self_attention=REPS[number % 3],
    )
    learn(model, [all_over(), no_cells()])
    silent = [
        name
        for name, p in model.named_parameters()
        if (p.grad is None or not p.grad.any()) and not name.startswith(UNUSED)
    ]
    expected = [] if decoupled else ["representation.content.weight", "representation.content.bias"]
    # Keys' biases of softmax attention shift all scores alike; ReLU may rest in a net this small.
    assert [n for n in silent if n in expected] == expected
    others = [n for n in silent if n not in expected]
    assert not [n for n in others if n.endswith("weight") and "feed_forward" not in n]
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize(("source", "geometry"), SOURCES)
@pytest.mark.parametrize("rep", REPS)
@pytest.mark.parametrize("target", ["matched", "all"])
def test_images_without_cells_teach_without_nan(source, geometry, rep, target):
    model = tiny(
        query_source=source,
        geometry=geometry,
        representation_self_attention=rep,
        class_target=target,
    )
    parts = learn(model, [no_cells(), no_cells()])
    assert parts["objectness"] > 0
    assert parts["centre"] == 0
    for name, p in model.named_parameters():
        assert p.grad is None or torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize(("source", "geometry"), SOURCES)
def test_points_alone_never_teach_a_size(source, geometry):
    model = tiny(query_source=source, geometry=geometry)
    target = all_over()
    unknown = torch.full_like(target.sizes, float("nan"))
    parts = learn(model, [type(target)(target.centres, unknown, target.class_ids)])
    assert parts["size"] == 0
    assert parts.get("giou", 0) == 0
    assert parts["centre"] > 0
    heads = [box[-1] for box in model.detection.box]
    if source == "two_stage":
        heads.append(model.proposer.box[-1])
    for head in heads:
        assert not head.weight.grad[2:].any()
        assert not head.bias.grad[2:].any()
        assert head.weight.grad[:2].any()


def test_extents_do_teach_a_size():
    model = small()
    learn(model, [all_over()])
    assert all(box[-1].weight.grad[2:].any() for box in model.detection.box)
    assert model.proposer.log_size.weight.grad.any()


def test_training_runs_under_autocast():
    model = tiny(query_source="heatmap", geometry="pixel", class_target="matched")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        learn(model, [all_over(), no_cells()])
    assert model.representation.content.weight.grad.any()


# --- what the paper claims -------------------------------------------------------------------


def described(model, features, boxes=None, **options):
    torch.manual_seed(5)
    boxes = torch.rand(1, 6, 4) * 0.3 + 0.2 if boxes is None else boxes
    with torch.no_grad():
        encoded = model.encode(torch.randn(1, 3, 64, 64))
        return model.represent(encoded, boxes, features=features, **options)


@pytest.mark.parametrize("rep", REPS)
def test_detection_features_do_not_enter_the_embedding(rep):
    model = tiny(representation_self_attention=rep)
    first = described(model, torch.randn(1, 6, 16))
    second = described(model, torch.randn(1, 6, 16) * 100)
    assert torch.equal(first.embeddings, second.embeddings)
    assert torch.equal(first.logits[-1], second.logits[-1])


def test_without_decoupling_they_do():
    model = tiny(decoupled=False)
    first = described(model, torch.randn(1, 6, 16))
    second = described(model, torch.randn(1, 6, 16))
    assert not torch.allclose(first.embeddings, second.embeddings)
    with pytest.raises(ConfigError, match="needs detection features"):
        described(model, None)


def test_class_loss_does_not_reach_the_detection_decoder_when_decoupled():
    for decoupled in (True, False):
        model = small(decoupled=decoupled)
        encoded, found = model(torch.randn(1, 3, 64, 64))
        out = model.represent(encoded, found.boxes[-1], features=found.features)
        out.logits[-1].square().sum().backward()
        reached = [p.grad is not None for p in model.detection.parameters()]
        assert any(reached) != decoupled


def test_content_comes_from_size_and_position_from_centre():
    model = tiny()
    boxes = torch.tensor([[[0.3, 0.4, 0.1, 0.2], [0.6, 0.4, 0.1, 0.2], [0.3, 0.4, 0.1, 0.3]]])
    content, position = model.representation._queries(boxes, (64, 64), torch.float32)
    assert torch.equal(content[0, 0], content[0, 1])
    assert torch.equal(position[0, 0], position[0, 2])
    assert not torch.allclose(content[0, 0], content[0, 2])
    assert not torch.allclose(position[0, 0], position[0, 1])


def test_a_subset_of_boxes_is_described_as_among_all():
    for model in (tiny(), small()):
        boxes = torch.rand(1, 9, 4) * 0.3 + 0.2
        every = described(model, None, boxes)
        some = described(model, None, boxes[:, [7, 2, 4]])
        torch.testing.assert_close(
            some.embeddings, every.embeddings[:, [7, 2, 4]], atol=1e-6, rtol=0
        )


def test_self_attention_makes_the_others_matter():
    model = tiny(representation_self_attention="all")
    boxes = torch.rand(1, 9, 4) * 0.3 + 0.2
    every, some = described(model, None, boxes), described(model, None, boxes[:, :3])
    assert not torch.allclose(some.embeddings, every.embeddings[:, :3], atol=1e-4)


@pytest.mark.parametrize("rep", REPS)
def test_padding_does_not_leak(rep):
    model = tiny(representation_self_attention=rep)
    boxes = torch.rand(4, 4) * 0.3 + 0.2
    alone = described(model, None, boxes[None])
    padded, padding = pad_boxes([boxes, torch.rand(9, 4)])
    assert padding.tolist() == [[False] * 4 + [True] * 5, [False] * 9]
    assert padded[0, 5].tolist() == [0.5, 0.5, 1.0, 1.0]
    among = described(model, None, padded[:1], padding=padding[:1])
    torch.testing.assert_close(among.embeddings[:, :4], alone.embeddings, atol=1e-5, rtol=0)


def test_attention_mask_between_slots():
    model = tiny(representation_self_attention="all")
    boxes = torch.rand(1, 4, 4) * 0.3 + 0.2
    other = boxes.clone()
    other[0, 3] = torch.tensor([0.8, 0.8, 0.2, 0.1])
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:3, 3] = True
    first = described(model, None, boxes, mask=mask)
    second = described(model, None, other, mask=mask)
    torch.testing.assert_close(first.embeddings[:, :3], second.embeddings[:, :3])
    assert not torch.allclose(first.embeddings[:, 3], second.embeddings[:, 3])


@pytest.mark.parametrize("rep", ["not_first", "all"])
def test_context_tokens_are_seen_and_see_no_cell(rep):
    model = tiny(representation_self_attention=rep, context_tokens=2)
    boxes = torch.rand(1, 5, 4) * 0.3 + 0.2
    apart = torch.ones(5, 5, dtype=torch.bool).fill_diagonal_(False)
    first = described(model, None, boxes, mask=apart)
    assert first.embeddings.shape == (1, 5, 16)
    assert first.logits[-1].shape == (1, 5, 3)
    # Cells that may not see each other do not meet in the tokens either.
    other = boxes.clone()
    other[0, 4] = torch.tensor([0.8, 0.8, 0.2, 0.1])
    second = described(model, None, other, mask=apart)
    torch.testing.assert_close(first.embeddings[:, :4], second.embeddings[:, :4])
    with torch.no_grad():
        model.representation.context += torch.randn(2, 16)
    assert not torch.allclose(
        first.embeddings, described(model, None, boxes, mask=apart).embeddings
    )


def test_context_tokens_bring_in_the_whole_image():
    # What lies far from the box matters, where it did not before.
    torch.manual_seed(1)
    for tokens in (0, 2):
        model = tiny(encoder_layers=0, representation_self_attention="all", context_tokens=tokens)
        with torch.no_grad():
            encoded = model.encode(torch.randn(1, 3, 128, 128))
            box = torch.tensor([[[0.2, 0.2, 0.1, 0.1]]])
            first = model.represent(encoded, box)
            far = (encoded.tokens[0, :, :2] - 0.2).abs().amax(-1) - encoded.tokens[0, :, 2] > 0.05
            encoded.memory[0, far] += torch.randn(int(far.sum()), 16)
            same = torch.equal(first.embeddings, model.represent(encoded, box).embeddings)
        assert same == (tokens == 0)


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
@pytest.mark.parametrize("decoupled", [True, False])
def test_context_tokens_learn(mode, decoupled):
    model = tiny(
        representation_self_attention="all", context_tokens=3, mode=mode, decoupled=decoupled
    )
    learn(model, [all_over(), no_cells()])
    assert model.representation.context.grad.any()


def test_an_embedding_sees_only_its_box():
    # Memory far from the box (beyond one bilinear neighbour) has no influence.
    model = tiny(encoder_layers=0)
    torch.manual_seed(1)
    with torch.no_grad():
        encoded = model.encode(torch.randn(1, 3, 128, 128))
    box = torch.tensor([[[0.2, 0.2, 0.1, 0.1]]])
    first = model.represent(encoded, box)
    far = (encoded.tokens[0, :, :2] - 0.2).abs().amax(-1) - encoded.tokens[0, :, 2] > 0.05
    assert far.sum() > 100
    encoded.memory[0, far] += 10
    assert torch.equal(first.embeddings, model.represent(encoded, box).embeddings)
    free = tiny(encoder_layers=0, box_constrained=False)
    with torch.no_grad():
        for layer in free.representation.layers:
            layer.cross.offsets.bias.fill_(15)
    second = free.represent(encoded, box)
    encoded.memory[0, far] += 10
    assert not torch.equal(second.embeddings, free.represent(encoded, box).embeddings)


# --- the published configuration -------------------------------------------------------------


def test_default_configuration_is_the_paper_s():
    c = CellDETRConfig()
    assert (c.backbone, c.size, c.heads, c.points, c.feed_forward) == ("resnet50", 256, 8, 4, 1024)
    assert len(c.strides) + c.extra_levels == 4
    assert (c.encoder_layers, c.detection_layers, c.representation_layers) == (6, 3, 3)
    assert (c.dropout, c.queries, c.window) == (0.1, 900, 256)
    assert (c.num_classes, c.query_source, c.geometry) == (5, "learned", "sigmoid")
    assert c.representation_self_attention == "none"
    assert c.decoupled
    assert c.box_constrained
    assert c.detection_self_attention


def test_the_published_network_has_its_size():
    with torch.device("meta"):
        model = CellDETR(CellDETRConfig())
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in model.named_children()}
    # Deformable DETR with ResNet-50 has 40 M parameters with six decoder layers; here 3 + 3.
    assert 36e6 < sum(parts.values()) < 42e6
    assert 23e6 < sum(p.numel() for p in model.encoder.backbone.parameters()) < 24e6
    layers = model.representation.layers
    assert all(layer.self_attention is None for layer in layers)
    assert all(layer.cross.box_constrained for layer in layers)
    assert not any(layer.cross.box_constrained for layer in model.detection.layers)
    assert all(layer.self_attention is not None for layer in model.detection.layers)


def test_released_code_s_variant_lacks_the_first_self_attention_only():
    with torch.device("meta"):
        model = CellDETR(
            tiny_config(representation_layers=3, representation_self_attention="not_first")
        )
    assert [layer.self_attention is None for layer in model.representation.layers] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"geometry": "pixel"},
        {"size": 18},
        {"heads": 3},
        {"detection_layers": 0},
        {"representation_layers": 10**9},
        {"size": 2**40},
        {"size": "16"},
        {"num_classes": True},
        {"query_source": "crystal ball"},
        {"backend": "pickle"},
        {"dropout": float("nan")},
        {"dropout": 2.0},
        {"strides": 8},
        {"strides": ()},
        {"strides": (16, 8)},
        {"decoupled": "yes"},
        {"dense_class_weight": 0.5},
        {"context_tokens": 2},
        {"context_tokens": 65, "representation_self_attention": "all"},
    ],
)
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ConfigError) as caught:
        tiny_config(**changes)
    assert caught.value.found
    assert len(str(caught.value)) < 2000


def test_strides_that_the_backbone_lacks_are_refused():
    with pytest.raises(ModelError, match="stride"):
        CellDETR(tiny_config(strides=(8, 64)))


def test_dense_classes_need_a_map():
    model = tiny()
    encoded = model.encode(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ConfigError, match="dense class map"):
        model.class_at(encoded, torch.rand(1, 2, 4))


def test_backends_agree_on_the_whole_network():
    model = tiny(query_source="two_stage").eval()
    image = torch.randn(1, 3, 64, 64)
    found = []
    for backend in ("embedding_bag", "grid_sample"):
        model.set_backend(backend)
        with torch.no_grad():
            encoded, detected = model(image)
            out = model.represent(encoded, detected.boxes[-1])
        found.append((detected.boxes[-1], detected.logits[-1], out.embeddings))
    for fast, reference in zip(*found, strict=True):
        torch.testing.assert_close(fast, reference, atol=2e-5, rtol=0)


# --- queries ---------------------------------------------------------------------------------


def test_peaks_are_the_local_maxima_best_first():
    torch.manual_seed(0)
    heat = torch.randn(1, 1, 12, 9)
    xy, logit = peaks(heat, 100)
    expected = []
    for row in range(12):
        for column in range(9):
            around = heat[0, 0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            if heat[0, 0, row, column] == around.max():
                where = ((column + 0.5) / 9, (row + 0.5) / 12)
                expected.append((float(heat[0, 0, row, column]), *where))
    expected.sort(reverse=True)
    used = logit[0] > NO_PEAK / 2
    found = torch.cat((logit[0, used, None], xy[0, used]), -1)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_queries_grow_with_the_area():
    model = small(queries=12, window=64)
    counts = [len(model(torch.randn(1, 3, *s))[1].boxes[-1][0]) for s in ((64, 64), (128, 192))]
    assert counts == [12, 72]
    staged = tiny(query_source="two_stage", queries=4)
    assert len(staged(torch.randn(1, 3, 128, 64))[1].boxes[-1][0]) == 8
    learned = tiny()
    assert len(learned(torch.randn(1, 3, 128, 64))[1].boxes[-1][0]) == 12


def test_a_floor_leaves_peaks_out_and_changes_no_other():
    model = small().eval()
    with torch.no_grad():
        encoded = model.encode(torch.randn(2, 3, 64, 64))
        every = model.detect(encoded)
        floor = float(every.queries.prior.sigmoid().median())
        fewer = model.detect(encoded, floor=floor)
    assert fewer.boxes[-1].shape[1] < every.boxes[-1].shape[1]
    for i in range(2):
        kept = fewer.queries.valid[i]
        assert (fewer.queries.prior[i, kept].sigmoid() >= floor).all()
        torch.testing.assert_close(
            fewer.boxes[-1][i, kept], every.boxes[-1][i, : len(kept)][kept], atol=1e-6, rtol=0
        )
    with torch.no_grad():
        none = model.detect(encoded, floor=1.0)
    assert not none.queries.valid.any()


def test_token_boxes_and_sine_positions():
    boxes = token_boxes([(2, 4), (1, 1)], device=torch.device("cpu"), dtype=torch.float32)
    assert boxes.shape == (1, 9, 4)
    assert boxes[0, 0].tolist() == [0.125, 0.25, 0.25, 0.5]
    assert boxes[0, 8].tolist() == [0.5, 0.5, 1.0, 1.0]
    code = sine_position(boxes[..., :2], 16)
    assert code.shape == (1, 9, 16)
    # The first half speaks of y alone, the second of x alone.
    assert torch.equal(code[0, 0, :8], code[0, 3, :8])
    assert torch.equal(code[0, 0, 8:], code[0, 4, 8:])
    assert not torch.allclose(code[0, 0, 8:], code[0, 1, 8:])
