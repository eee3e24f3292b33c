"""Checkpoints: exact, complete, refused when they are another run's or damaged."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from napari_celldetr.core.errors import JobError
from napari_celldetr.training.checkpoint import NAME, load_checkpoint, save_checkpoint

CONFIG = json.dumps({"seed": 0, "steps": 10, "output": "a", "workers": 0})


def state(seed=0):
    """Model with buffers, its average, and an optimizer that has run."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    model = model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 3, 3)).square().sum().backward()
        optimizer.step()
    return model, average, optimizer


def same(a, b):
    for x, y in zip(a[:2], b[:2], strict=True):
        for (key, v), (other, w) in zip(
            x.state_dict().items(), y.state_dict().items(), strict=True
        ):
            assert key == other
            assert v.dtype == w.dtype
            assert torch.equal(v, w)
    first, second = (o[2].state_dict()["state"] for o in (a, b))
    assert first.keys() == second.keys()
    for index in first:
        for key, value in first[index].items():
            assert torch.equal(value, second[index][key])


def test_a_state_comes_back_exactly(tmp_path):
    saved, other = state(0), state(1)
    save_checkpoint(tmp_path, *saved, step=7, config=CONFIG)
    assert load_checkpoint(tmp_path, *other, config=CONFIG) == 7
    same(saved, other)
    torch.manual_seed(3)
    batch = torch.randn(5, 3, 3, 3)
    for model, _, optimizer in (saved, other):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()
    same(saved, other)
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_nothing_to_restore_is_step_0(tmp_path):
    assert load_checkpoint(tmp_path, *state(), config=CONFIG) == 0


def test_settings_that_do_not_change_the_result_may_change(tmp_path):
    save_checkpoint(tmp_path, *state(), step=7, config=CONFIG)
    free = json.dumps(json.loads(CONFIG) | {"output": "b", "workers": 3})
    assert load_checkpoint(tmp_path, *state(1), config=free) == 7


def test_other_settings_are_refused(tmp_path):
    save_checkpoint(tmp_path, *state(), step=7, config=CONFIG)
    other = state(1)
    before = copy.deepcopy(other[0])
    with pytest.raises(JobError, match="other settings") as caught:
        load_checkpoint(tmp_path, *other, config=json.dumps(json.loads(CONFIG) | {"seed": 1}))
    assert caught.value.found == "seed = 1 instead of 0"
    same((other[0], other[1], other[2]), (before, other[1], other[2]))


@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "no metadata", "other network"])
def test_damaged_checkpoints_are_refused(tmp_path, kind):
    from safetensors.torch import save_file

    save_checkpoint(tmp_path, *state(), step=7, config=CONFIG)
    path = tmp_path / NAME
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    if kind == "text":
        path.write_text("this is not a checkpoint")
    if kind == "empty":
        path.write_bytes(b"")
    if kind == "no metadata":
        save_file({"a": torch.zeros(1)}, path)
    if kind == "other network":
        meta = {"step": "7", "config": CONFIG}
        save_file({"model.strange": torch.zeros(1)}, path, metadata=meta)
    with pytest.raises(JobError, match="cannot be continued"):
        load_checkpoint(tmp_path, *state(), config=CONFIG)


def test_a_crash_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    from napari_celldetr.training import checkpoint

    save_checkpoint(tmp_path, *state(0), step=7, config=CONFIG)

    def crash(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, *state(1), step=8, config=CONFIG)
    other = state(2)
    assert load_checkpoint(tmp_path, *other, config=CONFIG) == 7
    same(other, state(0))
