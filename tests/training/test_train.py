"""Training as a job: exact resuming, refusals, and a model folder that loads."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_sets import config, instances_folder, points_folder

from napari_celldetr.core.errors import (
    CellDETRError,
    ConfigError,
    DataError,
    JobError,
    ModelError,
)
from napari_celldetr.core.predictor import NUMERICAL
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.celldetr import CellDETRConfig
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.registry import load_model, load_network
from napari_celldetr.training import loop
from napari_celldetr.training.checkpoint import BEST, NAME, saved_step
from napari_celldetr.training.earlier import FINISHED
from napari_celldetr.training.kept import Kept
from napari_celldetr.training.pools import load_pools
from napari_celldetr.training.train import class_weights, train
from napari_celldetr.training.validation import Validation, load_validation


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
    """Run until `steps` steps are done, then close the job as Ctrl-C does."""
    while next(job).done < steps:
        pass
    job.close()


def kill_after(job, steps, folder):
    """Run until `steps` steps are done, and leave the folder as a killed process would."""
    while next(job).done < steps:
        pass
    aside = folder.with_name(folder.name + "-aside")
    shutil.copytree(folder, aside)
    job.close()
    shutil.rmtree(folder)
    aside.rename(folder)


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def narrow(**changes):
    """The shipped network's form, narrower."""
    values = {"backbone": "mobilenetv2_050", "size": 16, "heads": 2, "feed_forward": 16}
    return CellDETRConfig.small(3, **(values | {"pyramid_size": 8} | changes))


def test_training_makes_a_model_that_predicts(root):
    import numpy as np

    steps = []
    folder = drain(train(config(root, hold_out="02", precision="auto")), steps.append)
    assert [s.done for s in steps] == [0, 1, 2, 3, 4]
    assert steps[0].note.startswith("Training on 1 field of 1 group, 12 cells (lymphocyte ")
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
    whole = drain(train(config(root, "whole"), network=narrow()))
    broken = config(root, "broken", workers=workers)
    # One step after the checkpoint: that step is lost and done again.
    kill_after(train(broken, network=narrow()), 3, root / "broken")
    assert saved_step(root / "broken") == 2
    steps = []
    resumed = drain(train(broken, network=narrow()), steps.append)
    assert [s.done for s in steps] == [2, 3, 4]
    assert steps[0].note.endswith("Going on from step 2 of 4.")
    assert same_tensors(weights(whole), weights(resumed))
    assert same_tensors(load_file(root / "whole" / NAME), load_file(root / "broken" / NAME))
    assert log(root / "whole") == log(root / "broken")
    again = drain(train(broken, network=narrow()))
    assert same_tensors(weights(whole), weights(again))


def test_a_closed_run_loses_no_step_and_equals_an_uninterrupted_one_to_the_bit(root):
    whole = drain(train(config(root, "whole"), network=narrow()))
    broken = config(root, "broken", checkpoint_steps=100)
    stop_after(train(broken, network=narrow()), 3)
    assert saved_step(root / "broken") == 3
    steps = []
    resumed = drain(train(broken, network=narrow()), steps.append)
    assert [s.done for s in steps] == [3, 4]
    assert [s.total for s in steps] == [4, 4]
    assert same_tensors(weights(whole), weights(resumed))
    assert same_tensors(load_file(root / "whole" / NAME), load_file(root / "broken" / NAME))
    assert log(root / "whole") == log(root / "broken")


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_within_a_step_waits_for_its_end_and_a_second_one_does_not(
    root, monkeypatch, presses
):
    whole = drain(train(config(root, "whole"), network=narrow()))
    real, calls = Criterion.__call__, []

    def pressed(self, model, image, targets):
        calls.append(1)
        if len(calls) == 3:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return real(self, model, image, targets)

    monkeypatch.setattr(Criterion, "__call__", pressed)
    plan = config(root, "broken", checkpoint_steps=100)
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            drain(train(plan, network=narrow()))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    # Broken off within the third step, nothing whole is at hand: only steps done are kept.
    assert saved_step(root / "broken") == (3 if presses == 1 else 0)
    monkeypatch.undo()
    assert same_tensors(weights(whole), weights(drain(train(plan, network=narrow()))))


def test_other_settings_are_refused_and_fresh_starts_over(root):
    drain(train(config(root, steps=2), network=narrow()))
    with pytest.raises(JobError, match="other settings") as caught:
        drain(train(config(root, steps=2, seed=1), network=narrow()))
    assert "seed" in caught.value.found
    drain(train(config(root, steps=2, seed=1, fresh=True), network=narrow()))
    assert len(log(root / "run")) == 2


@pytest.mark.parametrize("lost", [(), (NAME,), (NAME, "log.jsonl")], ids=len)
def test_a_finished_run_is_not_trained_again_and_not_overwritten(root, lost):
    plan = config(root, steps=2)
    folder = drain(train(plan, network=narrow()))
    for name in lost:
        (root / "run" / name).unlink()
    # What was done to the model since is kept.
    (folder / "card.json").write_text(replace(read_card(folder), threshold=0.7).to_json())
    steps = []
    assert drain(train(plan, network=narrow()), steps.append) == folder
    assert [s.note for s in steps] == [FINISHED]
    before = (folder / "weights.safetensors").read_bytes()
    for changes in ({"seed": 1}, {"batch": 2}):
        with pytest.raises(JobError, match="other settings") as caught:
            drain(train(replace(plan, **changes), network=narrow()))
        assert next(iter(changes)) in caught.value.found
    with pytest.raises(JobError, match="other settings") as caught:
        drain(train(replace(plan, steps=3), network=narrow()))
    assert f"--init {folder}" in caught.value.remedy
    assert (folder / "weights.safetensors").read_bytes() == before
    assert read_card(folder).threshold == 0.7


def test_an_unfinished_run_without_a_checkpoint_is_told_from_others(root):
    stop_after(train(config(root), network=narrow()), 1)
    (root / "run" / NAME).unlink()
    with pytest.raises(JobError, match="other settings"):
        drain(train(config(root, seed=1), network=narrow()))
    steps = []
    drain(train(config(root), network=narrow()), steps.append)
    assert [s.done for s in steps] == [0, 1, 2, 3, 4]


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
    job = train(config(root), network=narrow())
    with pytest.raises(JobError, match=f"{kind} is not a number at step 3"):
        drain(job)
    kept = load_file(root / "run" / NAME)
    assert all(torch.isfinite(v).all() for v in kept.values())
    assert not (root / "run" / "tiny").exists()
    monkeypatch.undo()
    drain(train(config(root), network=narrow()))
    whole = drain(train(config(root, "whole"), network=narrow()))
    assert same_tensors(weights(root / "run" / "tiny"), weights(whole))


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


# --- validation, beginnings, ends ------------------------------------------------------------


def validated(root, output, **changes):
    """A training that is validated after every other step on a patient it never sees."""
    own = {"hold_out": "02", "validation": f"points:{root / 'points'}", "validate_steps": 2}
    return config(root, output, **(own | {"checkpoint_steps": 3, "steps": 6} | changes))


@pytest.mark.parametrize(("stop", "how"), [(4, kill_after), (4, stop_after), (6, stop_after)])
def test_a_validated_run_resumes_to_the_bit_and_keeps_its_best(root, stop, how):
    whole = drain(train(validated(root, "whole", keep="best"), network=narrow()))
    plan = validated(root, "broken", keep="best")
    # The first that has so many steps is a field of the validation that follows them.
    job = train(plan, network=narrow())
    how(job, stop, *([root / "broken"] if how is kill_after else []))
    assert not any("validation" in e and e["step"] == stop for e in log(root / "broken"))
    resumed = drain(train(plan, network=narrow()))
    assert log(root / "whole") == log(root / "broken")
    assert same_tensors(weights(whole), weights(resumed))
    for name in (NAME, BEST):
        assert same_tensors(load_file(root / "whole" / name), load_file(root / "broken" / name))
    rows = [e for e in log(root / "whole") if "validation" in e]
    assert [e["step"] for e in rows] == [2, 4, 6]
    assert rows[0]["validation"]["fields"] == 1
    assert rows[0]["validation"]["cells"] == 12


def test_the_best_weights_are_those_that_scored_best(root, monkeypatch):
    marks = iter([0.2, 0.9, 0.4])
    real = Validation._scores

    cuts = iter([0.21, 0.34567, 0.5])

    def scores(self, *args):
        found = replace(real(self, *args), detection=next(marks), class_mean=None)
        return replace(found, threshold=next(cuts))

    monkeypatch.setattr(Validation, "_scores", scores)
    plan = validated(root, "best", keep="best")
    best = drain(train(plan, network=narrow()))
    assert read_card(best).threshold == 0.3456
    assert read_card(best).training["kept_step"] == 4
    assert Kept.of(plan) == Kept(4, 0.3456, 4, True)
    # Had the last weights been kept, it would be told that others were better.
    other = Kept.of(replace(plan, keep="last"))
    assert other == Kept(6, 0.5, 4, True)
    text = other.as_text(detects=True)
    assert "The model holds step 6; step 4 validated better (--keep best)." in text
    assert "Score threshold 0.50, the best on the validation fields" in text
    monkeypatch.undo()
    last = drain(train(validated(root, "last", steps=6), network=narrow()))
    stop_after(train(validated(root, "four"), network=narrow()), 4)
    state = load_file(root / "four" / NAME)
    average = {k[8:]: v.half() for k, v in state.items() if k.startswith("average.")}
    assert same_tensors(weights(best), average)
    assert not same_tensors(weights(last), average)
    assert not (root / "last" / BEST).exists()


def test_without_a_validation_that_finds_cells_the_threshold_is_the_usual_one(root, monkeypatch):
    plan = config(root, steps=1)
    assert read_card(drain(train(plan, network=narrow()))).threshold == 0.4
    assert "--best-threshold" in Kept.of(plan).as_text(detects=True)
    assert Kept.of(plan).as_text(detects=False) == ""
    real = Validation._scores
    monkeypatch.setattr(Validation, "_scores", lambda *a: replace(real(*a), detection=0.0))
    none = drain(train(validated(root, "none", steps=2), network=narrow()))
    assert read_card(none).threshold == 0.4


def test_validation_never_sees_a_group_that_is_trained_on(root):
    everything = config(root, validation=f"points:{root / 'points'}")
    with pytest.raises(DataError, match="cannot be validated on") as caught:
        drain(train(everything))
    assert "--hold-out" in caught.value.remedy
    with pytest.raises(DataError, match="cannot be validated on"):
        drain(train(validated(root, "x", validation_groups="01")))
    plan = validated(root, "x", validation_groups="02")
    assert [f.group for f in load_validation(plan, load_pools(plan)).fields] == ["02"]
    assert not (root / "x").exists()


def test_a_refused_training_leaves_no_folder(root):
    refused = [
        {"data": f"points:{root / 'nowhere'}"},
        {"data": "points"},
        {"init": "nowhere"},
        {"hold_out": "99"},
        {"backbone": "no such net"},
        {"keep": "best"},
        {"freeze": "all_but_classifier"},
        {"boxes": "noised"},
        {"mode": "parallel", "boxes": "noised", "noise_low": 0.5, "noise_high": 0.2},
        {"backbone_weights": str(root / "no.npz")},
    ]
    for changes in refused:
        with pytest.raises(CellDETRError) as caught:
            drain(train(config(root, "refused", **changes)))
        assert caught.value.remedy, changes
        assert not (root / "refused").exists(), changes


def test_a_file_in_place_of_the_folder_is_refused(root):
    (root / "run").write_text("")
    with pytest.raises(JobError, match="output folder"):
        drain(train(config(root), network=narrow()))


def test_a_full_disk_is_named(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "save_checkpoint", full)
    with pytest.raises(JobError, match="written to disk") as caught:
        drain(train(config(root), network=narrow()))
    assert "No space left" in caught.value.found


def test_a_run_from_before_a_setting_existed_goes_on(root):
    plan = config(root, precision="auto")
    stop_after(train(plan, network=narrow()), 3)
    path = root / "run" / NAME
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    settings = json.loads(meta["config"])
    for name in ("augmentation", "precision", "validation", "freeze"):
        del settings[name]
    del meta["precision"]
    save_file(tensors, path, metadata=meta | {"config": json.dumps(settings)})
    steps = []
    drain(train(plan, network=narrow()), steps.append)
    assert [s.done for s in steps] == [3, 4]


def test_a_run_goes_on_in_the_number_format_it_began_in(root):
    half = config(root, "half", precision="bfloat16")
    whole = drain(train(half, network=narrow()))
    broken = replace(half, output=str(root / "broken"))
    stop_after(train(broken, network=narrow()), 3)
    assert same_tensors(weights(whole), weights(drain(train(broken, network=narrow()))))
    assert load_model(whole, device="cpu").card.training["precision"] == "bfloat16"
    plain = drain(train(config(root, "plain", precision="float32"), network=narrow()))
    assert not same_tensors(weights(whole), weights(plain))


def test_other_networks_are_another_run(root):
    drain(train(config(root), network=narrow()))
    with pytest.raises(JobError, match="other settings") as caught:
        drain(train(config(root), network=narrow(decoupled=False)))
    assert "network" in caught.value.found


def test_fine_tuning_takes_smaller_steps_and_keeps_the_parents_input(root):
    first = drain(train(config(root, "first", steps=1), network=narrow()))
    changed = replace(read_card(first), mean=(0.1, 0.2, 0.3))
    (first / "card.json").write_text(changed.to_json())
    again = drain(train(config(root, "again", steps=1, init=str(first), warmup=0)))
    card = read_card(again)
    assert card.mean == (0.1, 0.2, 0.3)
    assert card.parent == changed.weights_sha256
    recipe = config(root).recipe
    assert log(root / "again")[0]["rates"]["backbone"] == pytest.approx(recipe.lr_backbone / 4)
    asked = config(root, "asked", steps=1, init=str(first), warmup=0, rate_factor=1)
    drain(train(asked))
    assert log(root / "asked")[0]["rates"]["backbone"] == pytest.approx(recipe.lr_backbone)


def test_a_linear_probe_changes_the_classifier_alone(root):
    parent = drain(train(config(root, "first", steps=1), network=narrow()))
    probe = drain(train(config(root, "probe", init=str(parent), freeze="all_but_classifier")))
    before, after = weights(parent), weights(probe)
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    assert moved
    assert all(k.startswith("representation.classify") for k in moved)
    card = read_card(probe)
    assert card.arguments["dense_class_weight"] == 0
    assert card.training["detects"]


def test_a_share_of_the_fields_is_trained_on(tmp_path):
    points_folder(tmp_path / "points", patients=("01", "02", "03", "04"))
    folder = drain(train(config(tmp_path, fraction=0.5, steps=1), network=narrow()))
    assert read_card(folder).data[0]["fields"] == 2


def test_parallel_mode_and_its_boxes_reach_the_network_and_its_losses(root):
    plan = config(root, steps=1, mode="parallel", boxes="noised")
    folder = drain(train(plan, network=narrow()))
    card = read_card(folder)
    assert card.arguments["mode"] == "parallel"
    assert card.training["boxes"] == "noised"
