"""PatchViT and its predictor: shapes, settings, heatmaps, honest words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_classifiers import card, patch_config, patch_vit
from tiny_nets import pictures

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.predictor import PatchPredictor
from napari_celldetr.nets.patch_predictor import ViTPatchPredictor


@pytest.mark.parametrize("backbone", ["mobilenetv2_050", ""])
def test_every_parameter_that_is_used_learns(backbone):
    network = patch_vit(backbone=backbone, stride=32).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 3)
    # Keys' biases shift all weights of a query alike and so change nothing.
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize(
    "bad",
    [
        {"num_classes": 0},
        {"size": 18},
        {"heads": 3},
        {"patch": 72},
        {"stride": 12},
        {"dropout": 1.0},
        {"depth": True},
        {"backbone": 5},
        {"size": 10**6},
    ],
)
def test_settings_that_fit_nothing_are_refused(bad):
    with pytest.raises(ConfigError, match="cannot be built"):
        patch_config(**bad)


def test_the_predictor_is_the_network():
    network = patch_vit()
    predictor = ViTPatchPredictor(network, card(network))
    assert isinstance(predictor, PatchPredictor)
    assert predictor.patch_px == 64
    assert predictor.dtype == "float32"
    assert predictor.to("cpu").device == "cpu"
    tiles = pictures(3)
    found = predictor.predict(tiles)
    with torch.inference_mode():
        image = (torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        expected = network(image).softmax(-1).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert predictor.predict(tiles[:0]).shape == (0, 3)


def test_a_heatmap_is_each_patch_on_its_own():
    network = patch_vit()
    predictor = ViTPatchPredictor(network, card(network))
    (tile,) = pictures(1, 150, 230)
    heat = predictor.heatmap(tile, 40)
    assert heat.shape == (3, 5, 3)
    patch = tile[80:144, 120:184]
    np.testing.assert_allclose(heat[2, 3], predictor.predict(patch[None])[0], atol=1e-5)
    assert predictor.heatmap(tile).shape == (2, 3, 3)
    with pytest.raises(ConfigError, match="no heatmap"):
        predictor.heatmap(tile[:60])
    with pytest.raises(ConfigError, match="not the patches"):
        predictor.predict(tile[None])


def test_values_that_are_no_numbers_are_no_class():
    network = patch_vit()
    with torch.no_grad():
        network.classify.bias[0] = torch.nan
    found = ViTPatchPredictor(network, card(network)).predict(pictures(2))
    assert np.isnan(found).all()
