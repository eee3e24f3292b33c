"""Pretraining: exact resuming, boxes from a detector, a network to train on from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_sets import config, field, instances_folder, points_folder

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import CellDETRError, ConfigError, DataError, JobError, ModelError
from napari_celldetr.core.predictor import TilePrediction
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.registry import load_model, load_network
from napari_celldetr.training import found_boxes
from napari_celldetr.training.checkpoint import NAME, saved_step
from napari_celldetr.training.config import PretrainConfig
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.history import read_history
from napari_celldetr.training.pretrain import load_unlabelled, pieces, pretrain
from napari_celldetr.training.train import train


def plan(root, output="pre", **changes):
    """The shortest pretraining: 4 steps of 2 crops of 64 px."""
    values = {
        "data": f"instances:{root / 'instances'}",
        "output": str(root / output),
        "name": "tissue",
        "steps": 4,
        "batch": 2,
        "crop": 64,
        "warmup": 2,
        "workers": 0,
        "device": "cpu",
        "precision": "float32",
        "checkpoint_steps": 2,
    }
    return PretrainConfig(**(values | changes))


@pytest.fixture
def root(tmp_path):
    instances_folder(tmp_path / "instances")
    return tmp_path


@pytest.fixture
def detector(monkeypatch):
    """A detector that finds a cell of 10 × 12 px around every dark disc of `tiny_sets`."""

    class Detector:
        card = None
        calls = 0

        def predict(self, tiles):
            self.calls += 1
            return [TilePrediction(self._cells(tile), frozenset()) for tile in tiles]

        def _cells(self, tile):
            ys, xs = np.mgrid[12 : tile.shape[0] : 23, 12 : tile.shape[1] : 23]
            xy = np.stack([xs.ravel(), ys.ravel()], 1)
            dark = tile.mean(axis=2)[xy[:, 1], xy[:, 0]] < 200
            xy = xy[dark].astype(np.float32)
            half = np.array([5, 6], np.float32)
            boxes = np.concatenate([xy - half, xy + half], 1)
            return Detections(
                boxes, np.full(len(xy), 0.9, np.float32), np.zeros(len(xy), np.int16), ("nucleus",)
            )

    made = Detector()
    from fakes import fake_card

    made.card = fake_card(mpp=0.5, threshold=0.5)
    monkeypatch.setattr(found_boxes, "load_model", lambda name, device: made)
    return made


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_pretraining_resumes_to_the_bit_and_says_that_it_cannot_detect(root):
    whole = drain(pretrain(plan(root, "whole")))
    broken = plan(root, "broken", checkpoint_steps=100)
    job = pretrain(broken)
    # Boxes are found first: their progress counts fields.
    while not (step := next(job)).message.startswith("loss") or step.done < 3:
        pass
    job.close()
    assert saved_step(root / "broken") == 3
    resumed = drain(pretrain(broken))
    assert same(
        load_file(whole / "weights.safetensors"), load_file(resumed / "weights.safetensors")
    )
    assert same(load_file(root / "whole" / NAME), load_file(root / "broken" / NAME))
    history = read_history(root / "whole")
    assert list(history.steps) == [1, 2, 3, 4]
    assert set(history.parts) == {"loss", "contrast"}
    assert history.parts["loss"][0] > 0
    assert (root / "whole" / "progress.html").is_file()
    card = read_card(whole)
    assert not card.training["detects"]
    assert card.class_names == ("nucleus",)
    assert card.data[0]["cells"] > 10
    with pytest.raises(ModelError, match="cannot detect") as caught:
        load_model(whole)
    assert "--init" in caught.value.remedy


def test_what_detects_is_left_as_it_was_and_the_rest_learns(root):
    start, _ = load_network(drain(pretrain(plan(root, "one", steps=1, ema=0))))
    more = plan(root, "more", init=str(root / "one" / "tissue"), ema=0, lr_backbone=0.01)
    end, _ = load_network(drain(pretrain(more)))
    a, b = start.state_dict(), end.state_dict()
    moved = {k.split(".")[0] + "." + k.split(".")[1] for k in a if not torch.equal(a[k], b[k])}
    assert "encoder.backbone" in moved
    assert any(name.startswith("representation") for name in moved)
    assert not any(name.startswith(("detection", "proposer", "encoder.heat")) for name in moved)


def test_training_goes_on_from_it_and_a_probe_is_judged_at_given_places(root):
    points_folder(root / "points", patients=("01", "02"))
    parent = drain(pretrain(plan(root, steps=1)))
    own = {"init": str(parent), "hold_out": "02", "validation": f"points:{root / 'points'}"}
    probe = drain(train(config(root, "probe", freeze="all_but_classifier", steps=2, **own)))
    before, after = (load_network(m)[0].state_dict() for m in (parent, probe))
    same_shape = {k for k in before if before[k].shape == after[k].shape}
    assert all(torch.equal(before[k], after[k]) for k in same_shape)
    scores = read_history(root / "probe").validations[-1]["validation"]
    assert scores["given"]
    assert scores["detection"] is None
    assert set(scores["classes"]) == {"lymphocyte", "tumour", "stromal"}
    assert not read_card(probe).training["detects"]
    with pytest.raises(ModelError, match="cannot detect"):
        load_model(probe)
    whole = drain(train(config(root, "whole", steps=1, **own)))
    assert load_model(whole, device="cpu").card.parent == read_card(parent).weights_sha256
    rates = read_history(root / "whole").rates
    assert rates["heads"][0] == pytest.approx(config(root).recipe.lr_heads / 2)  # warming up


def test_boxes_are_found_once(root, detector):
    points_folder(root / "points", patients=("01", "02"))
    images = f"{root / 'points' / 'images'}@0.5"
    own = {"data": "", "images": images, "boxes_from": "any"}
    messages = []
    folder = drain(pretrain(plan(root, **own)), lambda p: messages.append(p.message))
    assert messages[:2] == ["finding cells, field 1", "finding cells, field 2"]
    assert detector.calls == 2
    assert read_card(folder).data[0]["cells"] == 24
    again = drain(pretrain(plan(root, **own)))
    assert detector.calls == 2
    assert again == folder
    other = drain(pretrain(plan(root, **own, fresh=True, seed=1)))
    assert other == folder
    assert detector.calls == 2
    (root / "pre" / found_boxes.NAME).write_bytes(b"not boxes")
    with pytest.raises(JobError, match="cannot be read"):
        drain(pretrain(plan(root, **own)))


def test_found_boxes_have_the_size_they_were_found_with(root, detector):
    pools = load_unlabelled(plan(root))
    made = drain(found_boxes.find_boxes(pools, "any", device="cpu", mpp=0.25, cache=root / "cache"))
    cells = made[0].fields[0]
    assert cells.mpp == 0.25
    assert len(cells) == 12
    assert np.allclose(cells.sizes, [20, 24], rtol=0.05)


def test_large_pictures_are_cut_and_lose_no_cell():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (250, 410, 3), dtype=np.uint8)
    xy = rng.uniform((0, 0), (409, 249), (60, 2)).astype(np.float32)
    whole = Field("f", "g", image, 0.5, xy, np.full((60, 2), 9.0), np.full(60, -1))
    parts = pieces(whole, 100)
    assert len(parts) == 3 * 5
    assert sum(len(p) for p in parts) == 60
    assert sum(p.image.size for p in parts) == image.size
    for part in parts:
        assert max(part.image.shape[:2]) <= 100
        for x, y in part.points.astype(int):
            assert 0 <= x < part.image.shape[1]
            assert 0 <= y < part.image.shape[0]
    assert pieces(whole, 410) == [whole]


def test_what_cannot_be_pretrained_is_refused(root):
    points_folder(root / "points", patients=("01",))
    (root / "empty").mkdir()
    image = field(3)[0]
    Image.fromarray(image).save(root / "empty" / "notes.gif")
    refused = [
        (ConfigError, {"data": ""}),
        (DataError, {"data": f"points:{root / 'points'}"}),
        (DataError, {"images": str(root / "empty")}),
        (DataError, {"images": str(root / "nowhere")}),
        (ConfigError, {"images": f"{root}@nan"}),
        (ConfigError, {"noise_low": 0.5, "noise_high": 0.1}),
        (ModelError, {"boxes_from": "no such model"}),
        (DataError, {"hold_out": "07,08"}),
    ]
    for kind, changes in refused:
        with pytest.raises(CellDETRError) as caught:
            drain(pretrain(plan(root, "refused", **changes)))
        assert isinstance(caught.value, kind), changes
        assert caught.value.remedy
        assert not (root / "refused").exists(), changes


def test_the_settings_are_in_the_log(root):
    drain(pretrain(plan(root, steps=1)))
    first = json.loads((root / "pre" / "log.jsonl").read_text().splitlines()[0])
    assert first["settings"]["objective"] == "contrastive"
    assert first["settings"]["temperature"] == 0.1
