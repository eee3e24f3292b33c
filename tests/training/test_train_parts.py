"""Parts of training: number format, shares of data, what is frozen, what a run begins with."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sets import config
from torch import nn

from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.training import precision as module
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.fraction import spread, take_fraction
from napari_celldetr.training.memory import keep_memory
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.precision import choose_precision
from napari_celldetr.training.specs import DataSpec
from napari_celldetr.training.start import freeze, input_statistics, parameter_groups


def narrow(**changes):
    """The shipped network's form, narrower."""
    values = {"backbone": "mobilenetv2_050", "size": 16, "heads": 2, "feed_forward": 16}
    return CellDETRConfig.small(3, **(values | {"pyramid_size": 8} | changes))


# --- number format ---------------------------------------------------------------------------


class Trunk(nn.Module):
    """Gives what it is told, in the number format it is asked in."""

    def __init__(self, bad=False, breaks=False):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3)
        self.bad, self.breaks = bad, breaks

    def forward(self, image):
        out = self.layer(image)
        if out.dtype == torch.bfloat16 and self.breaks:
            raise RuntimeError("no such kernel")
        return [out * float("nan") if self.bad and out.dtype == torch.bfloat16 else out]


@pytest.fixture
def clock(monkeypatch):
    """Time goes by only while a trunk runs: 1 s in float32, `half` s in bfloat16."""
    state = {"now": 0.0, "half": 1.0}

    def timed(module_, image, device, precision):
        _, finite = real(module_, image, device, precision)
        return (state["half"] if precision == "bfloat16" else 1.0), finite

    real = module._time
    monkeypatch.setattr(module, "_time", timed)
    return state


@pytest.mark.parametrize(
    ("half", "expected"), [(0.5, "bfloat16"), (0.9, "float32"), (10, "float32")]
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(clock, half, expected):
    clock["half"] = half
    found = choose_precision(Trunk(), "cpu", "auto", side=16)
    assert found.name == expected
    assert found.speedup == pytest.approx(1 / half, abs=0.01)


def test_bfloat16_must_work_and_give_numbers(clock):
    clock["half"] = 0.1
    assert "not numbers" in choose_precision(Trunk(bad=True), "cpu", "auto", side=16).reason
    broken = choose_precision(Trunk(breaks=True), "cpu", "auto", side=16)
    assert broken.name == "float32"
    assert "no such kernel" in broken.reason


def test_a_trial_changes_neither_weights_nor_random_numbers():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    module._ratio(module.copy.deepcopy(trunk), module._picture(16, "cpu"), "cpu")
    assert torch.equal(torch.rand(3), expected)
    choose_precision(trunk, "cpu", "float32")
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items())
    assert all(p.grad is None for p in trunk.parameters())


def test_what_is_asked_for_is_not_tried(monkeypatch):
    monkeypatch.setattr(module, "_ratio", None)
    assert choose_precision(Trunk(), "cpu", "bfloat16").name == "bfloat16"
    assert choose_precision(Trunk(), "cpu", "float32").name == "float32"


def test_memory_is_kept_where_glibc_offers_it():
    assert keep_memory() in (True, False)
    if not sys.platform.startswith("linux"):
        assert not keep_memory()


# --- share of the data -----------------------------------------------------------------------


def field(name, group, points=3):
    empty = np.zeros((8, 8, 3), np.uint8)
    xy = np.ones((points, 2), np.float32)
    ids = np.zeros(points, np.int16)
    return Field(name, group, empty, 0.5, xy, xy, ids, ("a",))


def pool(groups, points=3):
    fields = tuple(field(f"{g}-{i}", g, points) for i, g in enumerate(groups))
    return Pool(DataSpec("points", None, 0.5, 1.0), fields)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=40),
    st.integers(0, 100),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
)
def test_shares_are_nested_and_spread_over_groups(groups, seed, one, other):
    small, large = sorted((one, other))
    whole = pool(groups)
    few, many = (take_fraction([whole], f, seed=seed)[0].fields for f in (small, large))
    assert {f.name for f in few} <= {f.name for f in many}
    assert len(few) == max(1, round(small * len(groups)))
    order = spread(groups, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(groups)))
    for count in range(1, len(groups) + 1):
        for name in set(groups):
            taken = sum(groups[i] == name for i in order[:count])
            # Each of the other groups may be one ahead or behind.
            assert abs(taken - groups.count(name) * count / len(groups)) <= len(set(groups))


def test_a_share_is_the_seeds_own_and_leaves_fields_without_labels():
    whole = pool("aabbccdd")
    bare = replace(whole, fields=(*whole.fields, field("bare", "z", 0)))
    one, same, other = (take_fraction([bare], 0.5, seed=s)[0] for s in (1, 1, 4))
    names = [[f.name for f in p.fields] for p in (one, same, other)]
    assert names[0] == names[1] != names[2]
    assert all(n[-1] == "bare" for n in names)
    assert sorted(n[0] for n in names[0][:-1]) == ["a", "b", "c", "d"]


# --- beginning -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "learning"),
    [
        ("none", {"backbone", "heads", "decoders"}),
        ("backbone", {"heads", "decoders"}),
        ("all_but_classifier", {"decoders"}),
    ],
)
def test_what_is_frozen_does_not_learn(tmp_path, what, learning):
    model = CellDETR(narrow()).train()
    plan = config(tmp_path, freeze=what)
    freeze(model, plan)
    groups = parameter_groups(plan, model, factor=0.5)
    assert set(groups) == learning
    assert groups["decoders"]["lr"] == plan.recipe.lr_decoders / 2
    count = sum(p.numel() for g in groups.values() for p in g["params"])
    if what == "all_but_classifier":
        assert count == 2 * (16 * 3 + 3)
        assert not any(m.training for m in model.modules())
    else:
        assert model.representation.training
        assert model.encoder.backbone.training == (what == "none")


def test_input_statistics_follow_the_backbone():
    assert input_statistics("mobilenetv2_100")[0] == (0.5, 0.5, 0.5)
    assert input_statistics("tf_efficientnet_lite2") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert input_statistics("resnet34")[0] == (0.485, 0.456, 0.406)
    assert input_statistics("my own")[1] == (0.229, 0.224, 0.225)
