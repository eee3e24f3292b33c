"""Backbones: folding changes nothing, and weights that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.backbones import (
    Backbone,
    FeaturePyramid,
    fold_batch_norm,
    load_backbone_weights,
)

NAME = "mobilenetv2_050"


def body(name=NAME, seed=0):
    """A timm feature extractor whose batch norms have run."""
    torch.manual_seed(seed)
    net = timm.create_model(name, features_only=True, pretrained=False, out_indices=(2, 3))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@pytest.mark.parametrize("name", [NAME, "resnet18"])
def test_folded_batch_norm_gives_the_same_features(name):
    net, image = body(name), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = net(image)
        fold_batch_norm(net)
        after = net(image)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-4)


def test_features_have_the_strides_asked_for():
    net = Backbone(NAME, (4, 16))
    found = net(torch.randn(1, 3, 64, 96))
    assert [f.shape[-2:] for f in found] == [(16, 24), (4, 6)]
    assert tuple(f.shape[1] for f in found) == net.channels


def test_an_unknown_backbone_or_stride_is_refused():
    with pytest.raises(ModelError, match="No backbone"):
        Backbone("resnet5000", (8,))
    with pytest.raises(ModelError, match="stride"):
        Backbone(NAME, (8, 64))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_come_from_a_local_file(tmp_path, suffix):
    source, path = body(seed=1), tmp_path / f"weights{suffix}"
    state = {k: v.contiguous() for k, v in source.state_dict().items()}
    if suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        save_file(state, path)
    target, image = body(seed=2), torch.randn(1, 3, 64, 64)
    load_backbone_weights(target, path)
    with torch.no_grad():
        for a, b in zip(source(image), target(image), strict=True):
            assert torch.equal(a, b)


def damaged(kind, path):
    state = {k: v.numpy() for k, v in body().state_dict().items()}
    key = "conv_stem.weight"
    if kind == "absent":
        return path
    if kind == "missing tensor":
        del state[key]
    if kind == "wrong shape":
        state[key] = state[key][:, :1]
    if kind == "pickle":
        state[key] = np.array([{"a": 1}], dtype=object)
    np.savez(path, **state)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    if kind == "not a zip":
        path.write_bytes(b"no weights")
    return path


@pytest.mark.parametrize(
    "kind",
    ["absent", "missing tensor", "wrong shape", "pickle", "truncated", "not a zip"],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, kind):
    with pytest.raises(ModelError, match="weights"):
        load_backbone_weights(body(), damaged(kind, tmp_path / "weights.npz"))


def test_damaged_safetensors_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\x10" * 100)
    with pytest.raises(ModelError, match="cannot be read"):
        load_backbone_weights(body(), path)


def test_the_pyramid_brings_context_down():
    torch.manual_seed(0)
    net = FeaturePyramid((4, 6, 8), 16)
    levels = [torch.randn(1, c, s, s) for c, s in ((4, 16), (6, 8), (8, 4))]
    found = net(levels)
    assert [tuple(f.shape[1:]) for f in found] == [(16, 16, 16), (16, 8, 8), (16, 4, 4)]
    levels[2] = levels[2] + 1
    assert not torch.equal(net(levels)[0], found[0])
    levels[0] = levels[0] + 1
    assert torch.equal(net(levels)[2], net([torch.zeros(1, 4, 16, 16), *levels[1:]])[2])
