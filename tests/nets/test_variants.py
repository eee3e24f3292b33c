"""Every variant of the ablation builds, learns and predicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_nets import awake, card, cells, no_cells, pictures

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.variants import ABLATIONS, ablation_variants

NARROW = {
    "backbone": "mobilenetv2_050",
    "size": 16,
    "heads": 2,
    "points": 2,
    "feed_forward": 16,
    "pyramid_size": 8,
    "window": 64,
}


def targets():
    points = [(x, y) for x in range(8, 64, 12) for y in range(8, 64, 12)]
    return [cells(points, [[9.0, 11.0]] * 25, [i % 3 for i in range(25)]), no_cells()]


@pytest.mark.parametrize("name", ABLATIONS)
def test_variant_learns_and_predicts(name):
    model = awake(ablation_variants(3, **NARROW)[name])
    loss, parts = Criterion.for_model(model)(
        model, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), targets()
    )
    loss.backward()
    assert all(np.isfinite(v) for v in parts.values())
    assert parts["class" if model.config.representation_layers else "dense"] > 0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    for layer in model.representation.layers:
        assert layer.cross.offsets.weight.grad.any()
    predictor = CellDETRPredictor(model, card(model.config))
    # A tile of the window, and one that is larger.
    for side in (64, 96):
        found = predictor.predict(pictures(1, side, side))[0]
        assert found.flags <= {"saturated"}
        assert len(found.detections)


def test_each_variant_is_the_small_network_but_for_what_it_names():
    variants = ablation_variants(4, window=128)
    base = CellDETRConfig.small(4, window=128)
    assert next(iter(variants)) == "small"
    assert variants["small"] == base
    for name, config in variants.items():
        changed = {
            k for k in CellDETRConfig.__dataclass_fields__ if getattr(config, k) != getattr(base, k)
        }
        assert changed == set(ABLATIONS[name]), name
    assert variants["queries_60"].queries == 60
    assert {v.query_source for v in variants.values()} == {"heatmap", "two_stage", "learned"}


def test_changes_that_fit_no_variant_are_refused():
    with pytest.raises(ConfigError):
        ablation_variants(3, size=18)


@pytest.mark.parametrize("name", ["window_learned", "window_two_stage"])
def test_networks_of_a_window_learn_a_picture(name):
    torch.manual_seed(0)
    model = CellDETR(ablation_variants(3, **NARROW | {"queries": 20})[name])
    points = [(12, 14), (40, 30), (50, 52)]
    target = cells(points, [[10.0, 12.0]] * 3, (0, 1, 2))
    image = torch.full((1, 3, 64, 64), 0.5)
    for i, (x, y) in enumerate(points):
        image[0, i, y - 5 : y + 5, x - 5 : x + 5] = -2.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    criterion = Criterion.for_model(model)
    losses = []
    for _ in range(18):
        loss, parts = criterion(model, image, [target])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(sum(parts.values()))
    assert min(losses[-5:]) < 0.7 * losses[0]
