"""What a network said before is what it is held to."""

import copy

import pytest
import torch
from nets.tiny_nets import NAMES, small, tiny

from napari_celldetr.nets.matching import Targets
from napari_celldetr.nets.widen import widened
from napari_celldetr.training import finetune_keep
from napari_celldetr.training.finetune_cache import Batch
from napari_celldetr.training.finetune_keep import can_keep, keep_loss


@pytest.fixture
def batch():
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = small().encoder.backbone(image)
    nothing = Targets(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    return Batch(features, [nothing, nothing], (64, 64))


def test_the_same_network_has_nothing_to_keep(batch):
    model = small().eval()
    assert float(keep_loss(model, copy.deepcopy(model), batch).detach()) < 1e-4
    adapted = widened(model, len(NAMES), adapters=4)
    assert float(keep_loss(adapted, model, batch).detach()) < 1e-4


@pytest.mark.parametrize(
    "part", ["encoder.heat_head", "detection", "representation", "encoder.class_head"]
)
def test_every_part_is_held(batch, part, monkeypatch):
    # A network with random weights is sure of nothing.
    monkeypatch.setattr(finetune_keep, "SURE", 0.0)
    before, model = small().eval(), small().eval()
    with torch.no_grad():
        for parameter in model.get_submodule(part).parameters():
            parameter.mul_(1.3)
    loss = keep_loss(model, before, batch)
    assert float(loss.detach()) > 1e-4
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.get_submodule(part).parameters())


def test_networks_without_a_heatmap_cannot_be_held():
    assert can_keep(small())
    assert not can_keep(tiny())
