"""The demo does the main job on images every installation has, and can be run anywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from fakes import FakePredictor, fake_card
from PIL import Image

from napari_celldetr.cli import demo as command
from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.nets.registry import find_model


@pytest.fixture
def fake_models(tmp_path, monkeypatch):
    """Cards of both models, and the fake network behind them."""
    for name in ("celldetr-he", "celldetr-ihc"):
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(fake_card(name=name).to_json(), encoding="utf-8")

    def load_model(name, *, device="auto", flips=False):
        return FakePredictor(card=fake_card(name=Path(name).name))

    monkeypatch.setenv("CELLDETR_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("napari_celldetr.nets.registry.load_model", load_model)


@pytest.mark.usefixtures("fake_models")
def test_the_demo_writes_tables_and_pictures(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--no-viewer"]) == Exit.OK
    shown = capsys.readouterr().out
    assert "Research use only" in shown
    for key in ("ihc", "he"):
        with (out / key / "cells.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        features = json.loads((out / key / "cells.geojson").read_text())["features"]
        assert len(rows) == len(features) > 0
        with Image.open(out / key / "overlay.png") as picture:
            assert min(picture.size) > 500
    assert "cells drawn into it found" in shown


@pytest.mark.parametrize(
    ("platform", "display", "expected"), [("linux", None, False), ("linux", ":7", True)]
)
def test_the_viewer_only_opens_where_there_is_a_display(monkeypatch, platform, display, expected):
    monkeypatch.setattr("sys.platform", platform)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    assert command._has_viewer() is expected


@pytest.mark.usefixtures("fake_models")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "demo")]) == Exit.ERROR
    assert "What to do:" in capsys.readouterr().err


def test_the_real_models_find_most_of_the_drawn_cells(tmp_path, capsys):
    root = Path(__file__).parents[2] / "models"
    if not all((root / name / "card.json").is_file() for name in ("celldetr-he", "celldetr-ihc")):
        pytest.skip("the models are not in this checkout")
    assert find_model("celldetr-he").is_dir()
    assert main(["demo", "--out", str(tmp_path), "--no-viewer", "--device", "cpu"]) == Exit.OK
    line = next(r for r in capsys.readouterr().out.splitlines() if "drawn into it" in r)
    hit, known = int(line.split()[1]), int(line.split()[4])
    assert hit >= 0.7 * known
