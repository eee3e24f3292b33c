"""MaskFormer and its predictor: shapes, semantic inference, tiles that agree, honest words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_classifiers import card, mask_config, maskformer
from tiny_nets import pictures

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.core.predictor import UNKNOWN, PixelPredictor
from napari_celldetr.nets.mask_criterion import MaskCriterion
from napari_celldetr.nets.maskformer import mask_logits, semantic
from napari_celldetr.nets.pixel_predictor import MaskFormerPredictor


def test_there_is_a_word_before_and_after_every_layer():
    found = maskformer()(torch.randn(2, 3, 64, 96))
    assert [c.shape for c in found.classes] == [(2, 6, 4)] * 3
    assert [m.shape for m in found.masks] == [(2, 6, 32, 48)] * 3


def test_every_parameter_learns():
    network = maskformer(memory_strides=(32,)).train()
    truth = torch.randint(0, 3, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    loss, _ = MaskCriterion(3, 2)(network(torch.randn(2, 3, 64, 64)), list(truth))
    loss.backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # Other levels than the finest and the one looked at feed nothing but the sums.
    assert [n for n in still if not n.startswith("pyramid.smooth")] == []


@pytest.mark.parametrize(
    "bad",
    [
        {"num_classes": 0},
        {"mask_stride": 3},
        {"mask_stride": 16},
        {"memory_strides": ()},
        {"memory_strides": (5,)},
        {"memory_strides": "32"},
        {"memory_strides": (1,)},
        {"window": 192},
        {"heads": 3},
        {"queries": 10**6},
        {"fold_norm": 1},
    ],
)
def test_settings_that_fit_nothing_are_refused(bad):
    with pytest.raises(ConfigError, match="cannot be built"):
        mask_config(**bad)


def test_semantic_inference_by_hand():
    # Two queries: one sure of class 0, one of "no mask"; masks of 1/2 and all.
    classes = torch.tensor([[[50.0, 0, 0], [0, 0, 50.0]]])
    masks = torch.tensor([[[[0.0]], [[50.0]]]])
    torch.testing.assert_close(semantic(classes, masks), torch.tensor([[[[0.5]], [[0.0]]]]))
    pixels = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)
    embeddings = torch.tensor([[[1.0, 1, 1, 1, 7]]])
    assert float(mask_logits(embeddings, pixels)) == pytest.approx(10 / 2 + 7)


def test_one_window_is_decoded_as_in_training():
    network = maskformer()
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found = network(image)
        shares = semantic(found.classes[-1], found.masks[-1])
        shares = shares / shares.sum(1, keepdim=True)
        expected = torch.nn.functional.interpolate(shares, size=(64, 64), mode="bilinear")
        torch.testing.assert_close(network.semantic(image), expected)


@pytest.mark.parametrize("shape", [(64, 64), (33, 70), (200, 150), (20, 300)])
def test_shares_add_up_to_one_on_tiles_of_any_size(shape):
    network = maskformer()
    predictor = MaskFormerPredictor(network, card(network))
    assert isinstance(predictor, PixelPredictor)
    found = predictor.predict(pictures(2, *shape))
    assert found.shape == (2, 3, *shape)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32).sum(1), 1, atol=2e-3)
    classes = predictor.classes(pictures(2, *shape))
    assert classes.dtype == np.uint8
    assert classes.shape == (2, *shape)
    one = predictor.classes(pictures(2, *shape)[1:])
    assert (one == classes[1:]).mean() > 0.999


def test_the_predictor_is_the_network():
    network = maskformer()
    tiles = pictures(1, 96, 128)
    with torch.inference_mode():
        image = (torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
        expected = network.semantic(image)
    predictor = MaskFormerPredictor(network, card(network))
    assert predictor.to("cpu").dtype == "float32"
    np.testing.assert_allclose(predictor.predict(tiles), expected.numpy(), atol=1e-3)
    assert predictor.predict(tiles[:0]).shape == (0, 3, 96, 128)


def test_tiles_on_the_lattice_agree_far_from_their_edges():
    network = maskformer()
    predictor = MaskFormerPredictor(network, card(network))
    lattice = predictor.lattice_px
    assert (lattice, predictor.halo_px) == (64, 64)
    (whole,) = pictures(1, 512, 768)
    full = predictor.predict(whole[None])[0].astype(np.float32)
    corner = 2 * lattice
    part = predictor.predict(whole[None, :, corner:])[0].astype(np.float32)
    apart = np.abs(part - full[:, :, corner:])
    # As far as convolutions and windows reach nothing is promised to the bit.
    assert apart[..., 320:].max() < 1e-3
    assert apart[..., predictor.halo_px :].max() < 0.1


def test_a_result_does_not_depend_on_what_lies_far_away():
    network = maskformer()
    predictor = MaskFormerPredictor(network, card(network))
    tile = pictures(1, 64, 640)
    other = tile.copy()
    other[:, :, 448:] = 255 - other[:, :, 448:]
    a, b = (predictor.predict(t).astype(np.float32) for t in (tile, other))
    assert np.abs(a - b)[..., :96].max() < 1e-3
    assert np.abs(a - b)[..., 448:].max() > 1e-2


def test_values_that_are_no_numbers_are_no_class():
    network = maskformer()
    with torch.no_grad():
        network.queries[0, 0] = torch.nan
    predictor = MaskFormerPredictor(network, card(network))
    assert np.isnan(predictor.predict(pictures(1))).all()
    assert (predictor.classes(pictures(1)) == UNKNOWN).all()
