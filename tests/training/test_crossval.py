"""Cross-validation: nobody is scored by a network that saw them, and finished work is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_sets import CLASSES, instances_folder, points_folder

from napari_celldetr.cli import main
from napari_celldetr.core.errors import ConfigError, DataError, JobError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import read_card
from napari_celldetr.training import crossval
from napari_celldetr.training.config import CrossvalidateConfig
from napari_celldetr.training.crossval import CrossReport, crossvalidate, divide
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

PEOPLE = ("01", "02", "03", "04")


def plan(root: Path, **changes: object) -> CrossvalidateConfig:
    """Two folds of the shortest training."""
    base = CrossvalidateConfig(
        data=f"points:{root / 'points'}",
        output=str(root / "cross"),
        steps=2,
        batch=1,
        crop=64,
        warmup=1,
        workers=0,
        device="cpu",
        precision="float32",
        folds=2,
    )
    return replace(base, **changes)


def test_every_field_is_scored_by_a_network_that_never_saw_its_group(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", PEOPLE, split={"04": "val"})
    instances_folder(tmp_path / "masks", ("07", "08"))
    data = f"points:{tmp_path / 'points'} instances:{tmp_path / 'masks'}@0.5"
    report = drain(crossvalidate(plan(tmp_path, data=data)))
    assert isinstance(report, CrossReport)
    assert sorted(g for fold in report.folds for g in fold) == ["01", "02", "03", "04", "07", "08"]
    for number, held in enumerate(report.folds, 1):
        card = read_card(tmp_path / "cross" / f"group-{number}" / "model")
        seen = {g for entry in card.data for g in entry["groups"]}
        assert seen == {"01", "02", "03", "04", "07", "08"} - set(held)
        for one in report.sets.values():
            assert {f.group for f in one.held_out if f.fold == number} <= set(held)
    points = report.sets["points"]
    assert sorted(f.group for f in points.held_out) == list(PEOPLE)
    assert points.scores[3.0].detection.n_truth == 4 * 12
    assert [c.name for c in points.scores[3.0].classes] == list(CLASSES)
    # Masks without types are scored for detection alone.
    assert report.sets["masks"].scores[3.0].classes == ()
    stored = json.loads((tmp_path / "cross" / "report-group.json").read_text())
    assert stored["sets"]["points"]["scores_by_radius_um"]["3"]["detection"]["truth"] == 48
    assert "2 of 2 folds by group" in report.as_text()


def test_finished_folds_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    first = drain(crossvalidate(plan(tmp_path, only="2")))
    assert first.done == (2,)
    trained = []

    def watched(config, **more):
        trained.append(config.output)
        return train(config, **more)

    train = crossval.train
    monkeypatch.setattr(crossval, "train", watched)
    both = drain(crossvalidate(plan(tmp_path)))
    assert [Path(t).name for t in trained] == ["group-1"]
    assert both.done == (1, 2)
    again = drain(crossvalidate(plan(tmp_path)))
    assert len(trained) == 1
    assert again.as_dict() == both.as_dict()
    # Other settings are another training: refused, since the folder holds this one.
    for changes in ({"seed": 5}, {"lr_heads": 0.02}):
        with pytest.raises(JobError, match="folder"):
            drain(crossvalidate(plan(tmp_path, **changes)))
    drain(crossvalidate(plan(tmp_path, fresh=True)))
    assert len(trained) == 5


def test_corrected_labels_are_scored_anew(tmp_path: Path) -> None:
    folder = points_folder(tmp_path / "points", PEOPLE)
    before = drain(crossvalidate(plan(tmp_path, only="1")))
    name = before.sets["points"].held_out[0].cells.name
    labels = folder / "points" / f"{name}.csv"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-2]) + "\n")
    after = drain(crossvalidate(plan(tmp_path, only="1")))
    truth = [r.sets["points"].scores[3.0].detection.n_truth for r in (before, after)]
    assert truth[0] - truth[1] == 2


def test_a_patient_in_two_sets_is_in_one_fold(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    instances_folder(tmp_path / "masks", ("03", "07", "08"))
    words = parse_data(f"points:{tmp_path / 'points'} instances:{tmp_path / 'masks'}@0.5")
    sets = {w: load_fields(w, class_names=CLASSES) for w in words}
    folds = divide(sets, "group", 3)
    assert sorted(g for fold in folds for g in fold) == ["01", "02", "03", "04", "07", "08"]


def test_best_weights_cannot_be_chosen_on_the_fields_that_are_scored(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    words = f"points:{tmp_path / 'points'}"
    with pytest.raises(ConfigError, match="last weights"):
        drain(crossvalidate(plan(tmp_path, validation=words, keep="best")))


def test_a_single_fold_says_that_its_threshold_is_its_own(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    report = drain(crossvalidate(plan(tmp_path, only="2")))
    assert "optimistic" in report.as_text()
    assert (tmp_path / "cross" / "report-group-2.json").is_file()


def test_sites_are_folds(tmp_path: Path) -> None:
    people = ("TCGA-A7-0001", "TCGA-A7-0002", "TCGA-A8-0003", "TCGA-AC-0004")
    points_folder(tmp_path / "points", people)
    instances_folder(tmp_path / "masks", ("07", "08"))
    words = parse_data(f"points:{tmp_path / 'points'} instances:{tmp_path / 'masks'}@0.5")
    sets = {w: load_fields(w, class_names=CLASSES) for w in words}
    assert divide(sets, "site", 5) == [
        {"TCGA-A7-0001", "TCGA-A7-0002"},
        {"TCGA-A8-0003"},
        {"TCGA-AC-0004"},
    ]
    with pytest.raises(DataError, match="site"):
        divide({words[1]: sets[words[1]]}, "site", 5)


@pytest.mark.parametrize("only", ["3", "0", "1,x", "-1"])
def test_folds_that_do_not_exist_are_refused(tmp_path: Path, only: str) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    with pytest.raises(ConfigError, match="no such folds"):
        drain(crossvalidate(plan(tmp_path, only=only)))


@pytest.mark.parametrize("radii", [(), ("x",), (3.0, 0.0), (3.0, float("nan"))])
def test_radii_that_cannot_be_read_are_refused(tmp_path: Path, radii: tuple[float, ...]) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    with pytest.raises(ConfigError, match="radii"):
        drain(crossvalidate(plan(tmp_path, radii_um=radii)))


def test_groups_held_out_by_hand_are_never_used(tmp_path: Path) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    report = drain(crossvalidate(plan(tmp_path, hold_out="04", only="1")))
    assert sorted(g for fold in report.folds for g in fold) == ["01", "02", "03"]
    card = read_card(tmp_path / "cross" / "group-1" / "model")
    assert "04" not in card.data[0]["groups"]


def test_command_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points_folder(tmp_path / "points", PEOPLE)
    words = f"crossvalidate --data points:{tmp_path / 'points'} --output {tmp_path / 'out'}"
    options = "--steps 1 --batch 1 --crop 64 --warmup 0 --workers 0 --device cpu --folds 2"
    assert main([*words.split(), *options.split(), "--precision", "float32"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 folds by group" in said
    assert "Research use only" in said
    assert (tmp_path / "out" / "report-group.json").is_file()
