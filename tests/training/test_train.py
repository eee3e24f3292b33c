"""Training as a job: exact resuming, refusals, and a model folder that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_sets import config, instances_folder, points_folder

from napari_celldetr.core.errors import ConfigError, DataError, JobError, ModelError
from napari_celldetr.core.predictor import NUMERICAL
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.registry import load_model, load_network
from napari_celldetr.training.checkpoint import NAME
from napari_celldetr.training.train import class_weights, train


@pytest.fixture
def root(tmp_path):
    points_folder(tmp_path / "points", patients=("01", "02"))
    return tmp_path


def weights(folder):
    return load_file(Path(folder) / "weights.safetensors")


def log(folder):
    """Lines of steps and validations, without what depends on the clock."""
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    assert [i for i, line in enumerate(lines) if "settings" in line] == [0]
    for line in lines:
        line.pop("seconds", None)
        line.get("validation", {}).pop("seconds", None)
    return lines[1:]


def stop_after(job, steps):
    """Run `steps` steps, then abandon the job as a killed process would."""
    for _ in range(steps):
        next(job)
    job.close()


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_training_makes_a_model_that_predicts(root):
    import numpy as np

    steps = []
    folder = drain(train(config(root, hold_out="02")), steps.append)
    assert [s.done for s in steps] == [1, 2, 3, 4]
    assert folder == root / "run" / "tiny"
    predictor = load_model(folder, device="cpu")
    assert predictor.card.class_names == ("lymphocyte", "tumour", "stromal")
    assert predictor.card.data[0]["groups"] == ["01"]
    assert predictor.card.training["steps"] == 4
    assert NUMERICAL not in predictor.predict(np.zeros((1, 64, 64, 3), np.uint8))[0].flags
    network, _ = load_network(folder)
    assert network.config.backend == "embedding_bag"
    entries = log(root / "run")
    assert [e["step"] for e in entries] == [1, 2, 3, 4]
    parts = {"objectness", "centre", "size", "heat", "dense", "class"}
    for entry in entries:
        assert set(entry) == {"step", "loss", "rates", *parts}
        assert set(entry["rates"]) == {"backbone", "heads", "decoders"}
        assert entry["loss"] == pytest.approx(sum(entry[p] for p in parts), abs=1e-3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(root, workers):
    whole = drain(train(config(root, "whole")))
    broken = config(root, "broken", workers=workers)
    # One step after the checkpoint: that step is lost and done again.
    stop_after(train(broken), 3)
    steps = []
    resumed = drain(train(broken), steps.append)
    assert len(steps) == 2
    assert same_tensors(weights(whole), weights(resumed))
    assert same_tensors(load_file(root / "whole" / NAME), load_file(root / "broken" / NAME))
    assert log(root / "whole") == log(root / "broken")
    again = drain(train(broken))
    assert same_tensors(weights(whole), weights(again))


def test_other_settings_are_refused_and_fresh_starts_over(root):
    drain(train(config(root, steps=2)))
    with pytest.raises(JobError, match="other settings") as caught:
        drain(train(config(root, steps=2, seed=1)))
    assert "seed" in caught.value.found
    drain(train(config(root, steps=2, seed=1, fresh=True)))
    assert len(log(root / "run")) == 2


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_numbers_that_are_none_stop_the_run_and_keep_the_checkpoint(root, monkeypatch, kind):
    real = Criterion.__call__
    calls = []

    def broken(self, model, image, targets):
        loss, parts = real(self, model, image, targets)
        calls.append(1)
        if len(calls) == 4 and kind == "loss":
            loss = loss * float("nan")
        if len(calls) == 4 and kind == "gradient":
            # The root of 0 has a finite value and an infinite slope.
            loss = loss + (loss * 0).sqrt()
        return loss, parts

    monkeypatch.setattr(Criterion, "__call__", broken)
    job = train(config(root))
    with pytest.raises(JobError, match=f"{kind} is not a number at step 3"):
        drain(job)
    kept = load_file(root / "run" / NAME)
    assert all(torch.isfinite(v).all() for v in kept.values())
    assert not (root / "run" / "tiny").exists()
    monkeypatch.undo()
    drain(train(config(root)))
    assert same_tensors(
        weights(root / "run" / "tiny"), weights(drain(train(config(root, "whole"))))
    )


def test_nucleus_learns_from_classed_points_and_instance_maps(root):
    instances_folder(root / "instances")
    data = f"points:{root / 'points'} instances:{root / 'instances'}@0.5"
    folder = drain(train(config(root, data=data, classes="nucleus", steps=2)))
    card = load_model(folder, device="cpu").card
    assert card.class_names == ("nucleus",)
    assert [d["kind"] for d in card.data] == ["points", "instances"]
    assert all(e["class"] == e["dense"] == 0 for e in log(root / "run"))


def test_fine_tuning_keeps_all_but_the_class_heads(root):
    parent = drain(train(config(root, "first", steps=1)))
    same = drain(
        train(
            config(
                root,
                "same",
                steps=1,
                init=str(parent),
                lr_backbone=0,
                lr_heads=0,
                lr_decoders=0,
                weight_decay=0,
            )
        )
    )
    assert same_tensors(weights(parent), weights(same))
    still = {"lr_backbone": 0, "lr_heads": 0, "lr_decoders": 0, "steps": 1}
    nuclei = drain(train(config(root, "nuclei", classes="nucleus", init=str(parent), **still)))
    before, after = weights(parent), weights(nuclei)
    changed = {k for k in before if before[k].shape != after[k].shape}
    assert changed
    assert all("class" in k for k in changed)
    assert all(torch.equal(before[k], after[k]) for k in before if k not in changed)


def test_what_cannot_be_trained_is_refused(root):
    with pytest.raises(ConfigError, match="No classes"):
        drain(train(config(root, classes=" , ")))
    with pytest.raises(ConfigError, match="steps"):
        drain(train(config(root, steps=0)))
    with pytest.raises(DataError):
        drain(train(config(root, data="points:" + str(root / "nowhere"))))
    with pytest.raises(DataError, match="hold out"):
        drain(train(config(root, hold_out="99")))
    with pytest.raises(ModelError, match="No model"):
        drain(train(config(root, init="nowhere")))
    with pytest.raises(ModelError, match="cannot be read"):
        drain(train(config(root, backbone_weights=str(root / "no.npz"))))


def test_rare_classes_weigh_more():
    import numpy as np

    from napari_celldetr.training.datasets import Field
    from napari_celldetr.training.pools import Pool
    from napari_celldetr.training.specs import DataSpec

    ids = np.array([0] * 16 + [1] * 4 + [-1] * 9, np.int16)
    field = Field(
        "f",
        "g",
        np.zeros((8, 8, 3), np.uint8),
        0.5,
        np.zeros((29, 2), np.float32),
        np.full((29, 2), np.nan, np.float32),
        ids,
        ("a", "b", "c"),
    )
    found = class_weights([Pool(DataSpec("points", Path("x"), 0.5, 1.0), (field,))], 3)
    assert found[1] == pytest.approx(2 * found[0])
    assert found[0] < found[2] < found[1]
    assert found.mean() == pytest.approx(1)
