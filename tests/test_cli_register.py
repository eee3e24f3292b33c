"""`celldetr register` and `celldetr warp` as a person meets them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_celldetr import RESEARCH_USE
from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.transform_file import read_transform

sys.path.insert(0, str(Path(__file__).parent / "pipeline"))

from section_pairs import small_pair, write_pair


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """One pair, registered by the command with landmarks and patches."""
    folder = tmp_path_factory.mktemp("cli")
    pair = small_pair(4, size_um=(1500.0, 1300.0), angle_deg=20, flip=False)
    he, ihc = write_pair(pair, folder)
    words = ["register", str(he), str(ihc), "-o", str(folder / "t.json"), "--patches", "112"]
    code = main([*words, "--mpp", str(pair.mpp[0]), "--ihc-mpp", str(pair.mpp[1])])
    return folder, pair, code


def test_register_writes_a_transform_and_patches(run_once):
    folder, pair, code = run_once
    assert code == Exit.OK
    transform = read_transform(folder / "t.json")
    points = pair.landmarks(500)
    miss = np.hypot(*(transform.forward(points) - pair.truth.forward(points)).T)
    assert np.median(miss) / np.hypot(*pair.ihc.shape[:2]) < 0.003
    assert json.loads((folder / "t.json").read_text())["excluded_share"] is not None
    assert (folder / "t.patches.csv").read_text().count("paired") > 20


def test_an_imported_matrix_is_measured_and_summarized(run_once, capsys):
    folder, pair, _ = run_once
    transform = read_transform(folder / "t.json")
    (folder / "M.json").write_text(json.dumps(transform.affine.tolist()))
    words = ["register", str(folder / "he.png"), str(folder / "ihc.png")]
    words += ["-o", str(folder / "m.json"), "--import", str(folder / "M.json"), "--unit", "um"]
    code = main([*words, "--mpp", str(pair.mpp[0]), "--ihc-mpp", str(pair.mpp[1])])
    said = capsys.readouterr().out
    assert code == Exit.OK
    assert "% of the tissue is left out" in said
    assert "µm (median)" in said
    assert "turned" in said
    assert RESEARCH_USE in said
    assert read_transform(folder / "m.json").method == "matrix"


def test_warp_moves_points_there_and_back(run_once, capsys):
    folder, pair, _ = run_once
    points = pair.landmarks(20)
    with (folder / "p.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["x", "y", "kind"], *([*p, "a"] for p in points.tolist())])
    common = ["--transform", str(folder / "t.json")]
    assert main(["warp", str(folder / "p.csv"), "-o", str(folder / "q.csv"), *common]) == 0
    back = ["warp", str(folder / "q.csv"), "-o", str(folder / "r.csv"), "--inverse", *common]
    assert main(back) == 0
    with (folder / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    got = np.array([[float(r["x"]), float(r["y"])] for r in rows])
    assert np.abs(got - points).max() < 0.05
    assert f"{len(points)} moved" in capsys.readouterr().out


def test_warp_moves_the_slide(run_once, capsys):
    folder, pair, _ = run_once
    words = ["warp", str(folder / "he.png"), "--transform", str(folder / "t.json")]
    words += ["-o", str(folder / "moved.ome.tif"), "--mpp", "1.9"]
    assert main([*words, "--source-mpp", str(pair.mpp[0])]) == 0
    assert (folder / "moved.ome.tif").stat().st_size > 10_000
    assert "grey" in capsys.readouterr().out


@pytest.fixture
def identity(tmp_path, run_once):
    folder, _, _ = run_once
    kept = read_transform(folder / "t.json")
    path = tmp_path / "i.json"
    path.write_text(SlideTransform(kept.he, kept.ihc, np.eye(2, 3)).to_json(), encoding="utf-8")
    return path


def test_a_file_that_is_not_there_is_said_so(run_once, identity, tmp_path, capsys):
    folder, pair, _ = run_once
    he, ihc, points = (str(folder / name) for name in ("he.png", "ihc.png", "p.csv"))
    gone = {end: str(tmp_path / f"gone.{end}") for end in ("csv", "geojson", "json", "svs", "html")}
    known, sizes = ("--transform", str(identity)), ("--mpp", str(pair.mpp[0]), "--ihc-mpp", "2")
    lines = [
        ("warp", points, "-o", str(tmp_path / "q.csv"), "--transform", gone["json"]),
        ("warp", gone["csv"], "-o", str(tmp_path / "q.csv"), *known),
        ("warp", gone["geojson"], "-o", str(tmp_path / "q.geojson"), *known),
        ("register", he, gone["svs"], "-o", str(tmp_path / "t.json")),
        ("register", he, ihc, "-o", str(tmp_path / "t.json"), "--landmarks", gone["csv"], *sizes),
        ("replay", gone["html"]),
    ]
    for words in lines:
        assert main(list(words)) == Exit.ERROR
        said = capsys.readouterr().err
        assert "There is no file" in said
        assert str(tmp_path / "gone.") in said


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == Exit.ERROR
    said = capsys.readouterr().err
    assert "Expected" in said
    assert "What to do" in said
    return said


def test_one_slide_twice_and_exchanged_ones_are_refused(run_once, capsys, tmp_path):
    folder, pair, _ = run_once
    he, ihc = str(folder / "he.png"), str(folder / "ihc.png")
    out = ("-o", str(tmp_path / "t.json"), "--mpp", str(pair.mpp[0]), "--ihc-mpp", "2")
    assert "same slide" in refused(capsys, "register", he, he, *out)
    assert "exchanged" in refused(capsys, "register", ihc, he, *out)
    assert not (tmp_path / "t.json").exists()


def test_without_a_pixel_size_the_right_flag_is_named(run_once, capsys, tmp_path):
    folder, _, _ = run_once
    slides = ("register", str(folder / "he.png"), str(folder / "ihc.png"))
    out = ("-o", str(tmp_path / "t.json"))
    assert "--mpp" in refused(capsys, *slides, *out)
    assert "--ihc-mpp" in refused(capsys, *slides, *out, "--mpp", "2")


def test_a_transform_must_be_called_json(run_once, capsys, tmp_path):
    folder, _, _ = run_once
    slides = ("register", str(folder / "he.png"), str(folder / "ihc.png"))
    assert ".json" in refused(capsys, *slides, "-o", str(tmp_path / "t.txt"))


def test_warp_refuses_what_it_cannot_move(identity, capsys, tmp_path, run_once):
    folder, _, _ = run_once
    common = ("--transform", str(identity))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    said = refused(capsys, "warp", "p.csv", "-o", "q.csv", "--transform", str(broken))
    assert "register" in said
    same = str(folder / "p.csv")
    assert "replace" in refused(capsys, "warp", same, "-o", same, *common)
    as_outlines = ("warp", same, "-o", str(tmp_path / "p.geojson"), *common)
    assert "ends in .csv" in refused(capsys, *as_outlines)
    (tmp_path / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    empty = ("warp", str(tmp_path / "none.geojson"), "-o", str(tmp_path / "z.geojson"), *common)
    assert "without any" in refused(capsys, *empty)
    assert not (tmp_path / "z.geojson").exists()
    slide = str(folder / "he.png")
    assert ".ome.tif" in refused(capsys, "warp", slide, "-o", str(tmp_path / "a.png"), *common)
    wrong = ("warp", str(folder / "ihc.png"), "-o", str(tmp_path / "a.ome.tif"), *common)
    assert "another slide" in refused(capsys, *wrong)
