"""`celldetr finetune` from end to end, on a drawn slide."""

import json

import numpy as np
import pytest
from fakes import draw_cells, spaced_centres
from nets.tiny_nets import card, small, small_config
from PIL import Image

from napari_celldetr.cli import main
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.registry import save_model

SIDE = 300
PLACES = spaced_centres((SIDE, SIDE), pitch=40)


@pytest.fixture
def words(tmp_path):
    """A drawn slide, its corrections, a model, and the command that joins them."""
    pixels = draw_cells((SIDE, SIDE), PLACES)
    pixels[(pixels < 255).any(axis=2)] = (120, 90, 180)
    Image.fromarray(pixels).save(tmp_path / "drawn.png")
    save_model(tmp_path / "parent", small(), card(small_config()))
    (tmp_path / "c.geojson").write_text(json.dumps(corrections(PLACES)))
    return [
        "finetune",
        str(tmp_path / "c.geojson"),
        *("--slide", str(tmp_path / "drawn.png"), "--mpp", "0.5"),
        *("--model", str(tmp_path / "parent"), "-o", str(tmp_path / "new")),
        *("--steps", "2", "--batch", "2", "--device", "cpu", "--what", "adapters"),
    ]


def corrections(places):
    def ring(x0, y0, x1, y1):
        return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]

    def feature(ring, kind, name):
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": ring},
            "properties": {"objectType": kind, "classification": {"name": name}},
        }

    cells = [
        feature(ring(x - 6, y - 6, x + 6, y + 6), "detection", ("round", "long")[i % 2])
        for i, (x, y) in enumerate(np.asarray(places).tolist())
    ]
    whole = feature(ring(0, 0, SIDE, SIDE), "annotation", "Region*")
    return {"type": "FeatureCollection", "features": [whole, *cells]}


@pytest.mark.parametrize("what", ["decoder", "adapters"])
def test_corrections_in_a_model_out(words, what, tmp_path, capsys):
    assert main([*words, "--what", what]) == 0
    out = capsys.readouterr().out
    known = read_card(tmp_path / "new")
    assert known.parent == read_card(tmp_path / "parent").weights_sha256
    assert (known.arguments["adapters"] > 0) == (what == "adapters")
    assert "New model" in out
    assert "Research use only" in out


def test_too_few_corrections_are_an_error(words, tmp_path, capsys):
    (tmp_path / "c.geojson").write_text(json.dumps(corrections(PLACES[:4])))
    assert main(words) == 1
    assert "too few corrections" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_project_is_named(words, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([words[0], str(tmp_path / "empty"), *words[2:]]) == 1
    assert "project" in capsys.readouterr().err
