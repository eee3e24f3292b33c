"""Adapters and further classes: a network that gets them gives what it gave before."""

import pytest
import torch
from tiny_nets import small, tiny

from napari_celldetr.nets.adapters import Adapter
from napari_celldetr.nets.celldetr_config import OverviewConfig
from napari_celldetr.nets.widen import widened


def image(side=64):
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("make", [small, tiny])
@torch.no_grad()
def test_fresh_adapters_change_nothing(make):
    old = make().eval()
    new = widened(old, 3, adapters=4).eval()
    before, found = old(image())
    after, again = new(image())
    assert len(new.encoder.adapters)
    assert torch.equal(before.memory, after.memory)
    assert torch.equal(found.logits[-1], again.logits[-1])
    assert torch.equal(found.boxes[-1], again.boxes[-1])


def test_a_fresh_adapter_learns():
    made = Adapter(8, 2)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(made(x), x)
    made(x).square().sum().backward()
    assert made.up.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_new_classes_leave_the_old_ones_as_they_were():
    old = small().eval()
    new = widened(old, 5).eval()
    boxes = torch.tensor([[[0.4, 0.5, 0.2, 0.2], [0.7, 0.3, 0.1, 0.2]]])
    before, after = old.encode(image()), new.encode(image())
    torch.testing.assert_close(before.class_map, after.class_map[:, :3])
    said, told = old.represent(before, boxes).logits[-1], new.represent(after, boxes).logits[-1]
    torch.testing.assert_close(said, told[..., :3])
    assert told.softmax(-1)[..., 3:].sum(-1).max() < 0.02


def test_what_is_asked_for_already_is_given_back():
    model = small()
    assert widened(model, 3) is model
    adapted = widened(model, 3, adapters=4)
    assert widened(adapted, 3, adapters=8) is adapted


def test_an_overview_goes_with_new_classes_alone():
    overview = OverviewConfig(backbone="mobilenetv2_050", pyramid_size=8, scale=2)
    model = small(overview=overview)
    assert widened(model, 3, adapters=4).overview is not None
    assert widened(model, 4).overview is None


@torch.no_grad()
def test_known_features_are_read_as_the_image_is():
    model = small().eval()
    features = model.encoder.backbone(image())
    whole, part = model.encode(image()), model.encode_features(features, (64, 64))
    assert torch.equal(whole.memory, part.memory)
    assert torch.equal(whole.heat, part.heat)
