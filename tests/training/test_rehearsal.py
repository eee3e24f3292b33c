"""The rehearsal sample: comes back as it was, and only as the card says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nets.tiny_nets import card, cells, small_config

from napari_celldetr.core.errors import ModelError
from napari_celldetr.training.finetune_cache import Seen
from napari_celldetr.training.rehearsal import NAME, read_rehearsal, write_rehearsal


def crops(count=3):
    rng = torch.Generator().manual_seed(0)
    made = []
    for i in range(count):
        levels = tuple(
            torch.randn(c, 64 // s, 64 // s, generator=rng).half() for c, s in ((4, 2), (6, 8))
        )
        valid = torch.from_numpy(np.random.default_rng(i).random((64, 64)) < 0.7)
        made.append(Seen(levels, cells(valid=valid), 64))
    return made


@pytest.fixture
def shipped(tmp_path):
    made = crops()
    about = write_rehearsal(tmp_path, made, {"data": ["drawn"]})
    return made, replace(card(small_config()), training={"rehearsal": about}), tmp_path


def test_what_is_written_is_read(shipped):
    made, known, folder = shipped
    back = read_rehearsal(folder, known)
    assert known.training["rehearsal"]["crops"] == len(back) == 3
    for one, other in zip(made, back, strict=True):
        assert other.side == 64
        assert torch.equal(one.targets.centres, other.targets.centres)
        assert torch.equal(one.targets.class_ids, other.targets.class_ids)
        assert torch.equal(one.targets.valid, other.targets.valid)
        assert torch.equal(one.targets.sizes.isnan(), other.targets.sizes.isnan())
        for a, b in zip(one.features, other.features, strict=True):
            assert (a.float() - b.float()).abs().max() <= 0.6 * a.float().abs().max() / 127 + 0.01


def test_a_card_without_one_has_none(tmp_path):
    assert read_rehearsal(tmp_path, card(small_config())) == []


def test_another_file_is_refused(shipped):
    _, known, folder = shipped
    data = bytearray((folder / NAME).read_bytes())
    data[-1] ^= 1
    (folder / NAME).write_bytes(data)
    with pytest.raises(ModelError, match="rehearsal sample"):
        read_rehearsal(folder, known)


def test_a_missing_file_is_named(shipped):
    _, known, folder = shipped
    (folder / NAME).unlink()
    with pytest.raises(ModelError, match="rehearsal"):
        read_rehearsal(folder, known)
