"""Ablation: every variant alike, finished ones read back, failures named."""

from __future__ import annotations

import json

import pytest
from tiny_sets import config, points_folder

from napari_celldetr.core.errors import ConfigError, DataError, JobError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.celldetr import CellDETRConfig
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.registry import load_network
from napari_celldetr.training.ablate import TABLE, ablate
from napari_celldetr.training.ablation_report import AblationReport, Outcome, VariantRun
from napari_celldetr.training.config import AblateConfig


@pytest.fixture
def root(tmp_path):
    points_folder(tmp_path / "points", patients=("01", "02"))
    return tmp_path


def plan(root, **changes):
    """Two steps of each variant, measured on the second patient."""
    own = vars(config(root, "ablation")) | {"steps": 2, "hold_out": "02", "name": "x"}
    return AblateConfig(**(own | changes))


def narrow(**changes):
    values = {"backbone": "mobilenetv2_050", "size": 16, "heads": 2, "feed_forward": 16}
    return CellDETRConfig.small(3, **(values | {"pyramid_size": 8} | changes))


VARIANTS = {"reference": narrow(), "coupled": narrow(decoupled=False)}


def run(plan, **options):
    messages = []
    report = drain(
        ablate(plan, variants=VARIANTS, **options), lambda p: messages.append((p.done, p.message))
    )
    return report, messages


def test_every_variant_is_measured_and_read_back(root):
    report, messages = run(plan(root))
    assert [done for done, _ in messages] == sorted(done for done, _ in messages)
    assert messages[0][1].startswith("reference (1 of 2): starting")
    reference, coupled = report.outcomes
    assert reference.changes == {}
    assert coupled.changes == {"decoupled": False}
    network, card = load_network(root / "ablation" / "coupled-seed0" / "model")
    (measured,) = coupled.runs
    assert not network.config.decoupled
    assert measured.parameters == sum(p.numel() for p in network.parameters())
    assert measured.ms_per_mpx > 0
    assert measured.seconds_per_step > 0
    assert measured.scores["cells"] == 12
    assert card.training["hold_out"] == "02"
    assert card.data[0]["groups"] == ["01"]
    table = json.loads((root / "ablation" / TABLE).read_text())
    assert [v["name"] for v in table["variants"]] == ["reference", "coupled"]

    again, messages = run(plan(root))
    assert [m for _, m in messages] == [
        "reference (1 of 2): read back",
        "coupled (2 of 2): read back",
    ]
    assert again == report
    more, messages = run(plan(root, variants="coupled", repeats=2))
    assert messages[0][1] == "coupled (1 of 2): read back"
    assert [r.seed for r in more.outcomes[0].runs] == [0, 1]
    assert "±" in more.as_text()


def test_a_broken_ablation_goes_on_where_it_was(root):
    job = ablate(plan(root, checkpoint_steps=100), variants=VARIANTS)
    while next(job).done < 3:
        pass
    job.close()
    _, messages = run(plan(root, checkpoint_steps=100))
    words = [m for _, m in messages]
    assert words[0] == "reference (1 of 2): read back"
    done, text = next(m for m in messages if ": loss" in m[1])
    assert done == 4
    assert text.startswith("coupled (2 of 2): loss")


def test_a_variant_that_fails_is_named_and_the_others_go_on(root, monkeypatch):
    real = Criterion.__call__

    def broken(self, model, image, targets):
        loss, parts = real(self, model, image, targets)
        return loss * (1.0 if model.config.decoupled else float("nan")), parts

    monkeypatch.setattr(Criterion, "__call__", broken)
    report, _ = run(plan(root))
    assert report.outcomes[1].runs[0].failed.startswith("The loss is not a number")
    text = report.as_text()
    assert "coupled (failed)" in text
    assert "coupled, seed 0: The loss is not a number" in text


def test_what_cannot_be_ablated_is_refused(root):
    with pytest.raises(ConfigError, match="no such variant") as caught:
        run(plan(root, variants="reference,bigger"))
    assert "bigger" in caught.value.found
    with pytest.raises(ConfigError, match="afresh"):
        run(plan(root, init="celldetr-he"))
    with pytest.raises(DataError, match="validated on"):
        run(plan(root, hold_out=""))
    assert not (root / "ablation").exists()


def test_another_ablation_in_the_folder_is_refused(root):
    run(plan(root, variants="reference"))
    with pytest.raises(JobError, match="other settings") as caught:
        run(plan(root, variants="reference", crop=128))
    assert caught.value.expected == "crop = 64"
    other = {"reference": narrow(size=32)}
    with pytest.raises(JobError, match="another network"):
        drain(ablate(plan(root), variants=other))
    (root / "ablation" / TABLE).write_text("[]")
    with pytest.raises(JobError, match="cannot be read"):
        run(plan(root, variants="reference"))
    run(plan(root, variants="reference", crop=128, fresh=True))


def test_networks_tied_to_a_window_get_that_of_the_crop(root):
    tied = narrow(query_source="learned", geometry="sigmoid", dense_class_weight=0.0)
    variants = {"reference": narrow(), "tied": tied}
    report = drain(ablate(plan(root, variants="tied", steps=1), variants=variants))
    assert report.outcomes[0].changes["window"] == 64
    # 240 for 256 × 256 px.
    assert report.outcomes[0].changes["queries"] == 15
    card = read_card(root / "ablation" / "tied-seed0" / "model")
    assert card.arguments["window"] == 64


# --- the table -------------------------------------------------------------------------------


def report():
    def made(seed, f1):
        scores = {"detection": f1, "class_mean": f1 / 2, "classes": {"a": 0.5, "b": None}}
        scores |= {"fields": 3, "cells": 99}
        return VariantRun(seed, scores, 1_950_000, 100.4, 1.234, "cpu")

    outcomes = (
        Outcome("reference", {}, (made(0, 0.8), made(1, 0.9))),
        Outcome("other", {"queries": 9}, (VariantRun(0, failed="It broke."), made(1, 0.6))),
        Outcome("waiting", {"size": 1}),
    )
    return AblationReport(outcomes, {"steps": 7})


def test_the_table_says_mean_and_spread():
    table = report().as_markdown()
    row = next(line for line in table.splitlines() if line.startswith("| reference"))
    cells = [c.strip() for c in row.strip("|").split("|")]
    assert cells[1:] == [
        "0.850 ± 0.071",
        "0.425 ± 0.035",
        "0.500 ± 0.000",
        "–",
        "1.95",
        "100",
        "1.23",
    ]
    assert "- `other`: queries = 9" in table
    assert "other, seed 0: It broke." in table
    waiting = next(line for line in table.splitlines() if line.startswith("| waiting"))
    assert waiting.count("–") == 7


def test_the_text_is_in_columns():
    lines = report().as_text().splitlines()[:4]
    ends = [line.rstrip().rfind("  ") for line in lines]
    assert lines[0].startswith("variant")
    assert len(set(map(len, lines))) == 1
    assert min(ends) > 0
