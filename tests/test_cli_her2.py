"""`celldetr her2` and `celldetr replay` as a person meets them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_celldetr import RESEARCH_USE
from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.core.transform import SlideFrame, SlideTransform
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import make_he_slide

sys.path.insert(0, str(Path(__file__).parent / "pipeline" / "her2"))

from her2_slides import box, geojson, make


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slide, its tumour's outline, and an H&E slide that is another's."""
    where = tmp_path_factory.mktemp("her2")
    truth = make(where / "ihc.ome.tif", size=(1200, 1200), seed=3)
    (where / "tumour.geojson").write_text(json.dumps(geojson(("Tumor", truth.tumour))))
    (where / "small.geojson").write_text(json.dumps(geojson((None, box(500, 500, 650, 650)))))
    make_he_slide(where / "he.ome.tif", size=(1500, 1500))
    return where


def her2(folder, *words, out="r.json"):
    common = ["-o", str(folder / out), "--workspace", str(folder / "runs"), "--no-networks"]
    code = main(["her2", str(folder / "ihc.ome.tif"), *map(str, words), *common])
    return code, json.loads((folder / out).read_text()) if out.endswith("json") else None


@pytest.fixture(scope="module")
def scored(folder):
    """The shipped detector's nuclei, drawn tumour."""
    return her2(folder, "--regions", folder / "tumour.geojson")


def test_a_slide_is_scored_with_the_shipped_model(folder, scored, capsys):
    code, found = scored
    assert code == Exit.OK
    assert found["score"] == "3+"
    assert found["tumour_confirmed"] is True
    assert found["models"][0]["name"] == "celldetr-ihc"
    assert found["detection"]["failed"] == 0
    # Nothing is doubted of a slide as it should be.
    assert found["score_notes"] == []
    assert found["notes"] == []
    # Again, from stored tiles: the same figures.
    _, again = her2(folder, "--regions", folder / "tumour.geojson", out="again.json")
    said = capsys.readouterr()
    assert again["percent_cells"] == found["percent_cells"]
    assert "HER2 score  3+" in said.out
    assert RESEARCH_USE in said.out
    assert "drawn on the IHC slide" in said.err
    assert "tumour areas: 1 (1 'Tumor')" in said.err


def test_replay_is_equal_and_a_changed_report_is_not(folder, scored, capsys):
    assert main(["replay", str(folder / "r.json")]) == Exit.OK
    said = capsys.readouterr().out
    assert "equal" in said
    assert "taken over, not computed again: where the tumour is" in said
    text = (folder / "r.json").read_text()
    broken = folder / "broken.json"
    broken.write_text(text.replace('"score": "3+"', '"score": "1+"', 1))
    assert main(["replay", str(broken)]) == Exit.ERROR
    assert "seal" in capsys.readouterr().err


def test_a_model_of_ones_own_is_replayed_from_its_folder(folder, scored, tmp_path, capsys):
    from napari_celldetr.nets.registry import find_model
    from napari_celldetr.pipeline.her2.seal import read_report, sealed

    own = shutil.copytree(find_model("celldetr-ihc"), tmp_path / "trained here")
    card = json.loads((own / "card.json").read_text(encoding="utf-8"))
    (own / "card.json").write_text(json.dumps(card | {"name": "own"}), encoding="utf-8")
    content = read_report(folder / "r.json")
    # As if it had been scored with that model, in a folder that is not there any more.
    content["models"][0]["name"] = "own"
    content["config"]["model"] = str(tmp_path / "gone")
    report = tmp_path / "own.json"
    report.write_text(json.dumps(sealed(content)), encoding="utf-8")
    words = ["replay", str(report), "--slide", str(folder / "ihc.ome.tif")]
    assert main(words) == Exit.ERROR
    assert "--model" in capsys.readouterr().err
    assert main([*words, "--model", str(own)]) == Exit.OK
    assert "equal" in capsys.readouterr().out
    assert main([*words, "--model", "celldetr-he"]) == Exit.ERROR
    assert "not the one of the report" in capsys.readouterr().err


def test_replay_wants_the_slide_that_was_scored(folder, scored, tmp_path, capsys):
    moved = tmp_path / "r.json"
    moved.write_text((folder / "r.json").read_text())
    assert main(["replay", str(moved)]) == Exit.ERROR
    assert "--slide" in capsys.readouterr().err
    assert main(["replay", str(moved), "--slide", str(folder / "he.ome.tif")]) == Exit.ERROR
    assert "not the slide of the report" in capsys.readouterr().err


def test_without_tumour_there_is_a_page_with_a_reason(folder, capsys):
    code, _ = her2(folder, out="r.html")
    text = (folder / "r.html").read_text(encoding="utf-8")
    said = capsys.readouterr().out
    assert code == Exit.OK
    assert "No score" in text
    assert "not confirmed" in said
    assert "what to do" in said


def test_areas_of_another_slide_are_refused_at_once(folder, capsys):
    far = folder / "far.geojson"
    far.write_text(json.dumps(geojson(("Tumor", box(30_000, 0, 40_000, 9_000)))))
    ihc, out = folder / "ihc.ome.tif", folder / "far.json"
    said = refused(capsys, ihc, "--regions", far, "-o", out)
    assert "x 0 to 1200" in said
    assert "another level" in said
    assert not out.exists()


def test_few_cells_and_coarse_pixels_are_reasons(folder):
    _, few = her2(folder, "--regions", folder / "small.geojson", out="few.json")
    assert few["score"] is None
    assert "100" in few["reason"]
    assert few["remedy"]
    _, coarse = her2(folder, "--assume-tumour", "--mpp", "1.3", out="coarse.json")
    assert coarse["score"] is None
    assert "1.3 µm/px" in coarse["reason"]
    assert coarse["percent_area"]["0"] is not None


def test_a_transform_of_another_pair_is_refused_by_name(folder, capsys):
    frames = (SlideFrame(n, n * 64, (9, 9), (0.25, 0.25)) for n in "ab")
    (folder / "t.json").write_text(SlideTransform(*frames, np.eye(2, 3)).to_json())
    words = ("--regions", folder / "tumour.geojson", "--transform", folder / "t.json")
    said = refused(capsys, folder / "ihc.ome.tif", *words, "-o", folder / "pair.json")
    assert "another slide" in said
    assert "the IHC slide 'b'" in said
    assert "'ihc.ome.tif'" in said
    assert "register" in said
    assert "drawn on the H&E slide" in said
    assert not (folder / "pair.json").exists()


def test_regions_on_the_he_slide_are_carried_across(folder):
    with open_slide(folder / "ihc.ome.tif") as ihc:
        frames = [SlideFrame("he", "c" * 64, ihc.size, ihc.mpp)]
        frames.append(SlideFrame(ihc.name, ihc.identity(), ihc.size, ihc.mpp))
    (folder / "own.json").write_text(SlideTransform(*frames, np.eye(2, 3)).to_json())
    words = ("--regions", folder / "tumour.geojson", "--transform", folder / "own.json")
    _, found = her2(folder, *words, out="own-r.json")
    assert found["score"] == "3+"
    assert found["tumour"]["source"] == "carried"
    assert found["registration"]["error_um"] is None
    assert any("Nobody measured" in note for note in found["registration"]["notes"])


def refused(capsys, *words: object) -> str:
    assert main(["her2", *map(str, words)]) == Exit.ERROR
    said = capsys.readouterr().err
    assert "Expected" in said
    assert "What to do" in said
    return said


def test_exchanged_stains_are_refused(folder, capsys):
    he, ihc = folder / "he.ome.tif", folder / "ihc.ome.tif"
    assert "stain" in refused(capsys, he, "-o", folder / "x.json", "--assume-tumour")
    assert "same slide" in refused(capsys, ihc, "--he", ihc, "-o", folder / "x.json")
    assert not (folder / "x.json").exists()


def test_what_makes_no_sense_is_refused_before_anything_is_read(folder, capsys):
    ihc, out = folder / "ihc.ome.tif", ("-o", folder / "y.json")
    assert ".html" in refused(capsys, ihc, "-o", folder / "y.pdf")
    refused(capsys, ihc, "--assume-tumour", "--he", folder / "he.ome.tif", *out)
    refused(capsys, ihc, "--regions-on", "he", *out)
    drawn = ("--regions", folder / "tumour.geojson")
    refused(capsys, ihc, *drawn, "--regions-on", "he", *out)
    refused(capsys, ihc, "--regions", folder / "none.geojson", *out)
    refused(capsys, ihc, "--weak", "0.5", *out)
    refused(capsys, ihc, "--control", 0, 0, 9, 9, *out)
    assert main(["her2", str(ihc), *map(str, drawn), "--assume-tumour", "-o", "y.json"]) == 2


def test_an_he_slide_without_pixel_size_names_the_flag(folder, capsys):
    from PIL import Image

    with open_slide(folder / "he.ome.tif") as slide:
        Image.fromarray(slide.thumbnail(400)).save(folder / "bare.png")
    words = (folder / "ihc.ome.tif", "--he", folder / "bare.png", "-o", folder / "z.json")
    assert "--he-mpp" in refused(capsys, *words)


def test_the_flags_are_those_of_the_settings(folder, capsys):
    assert main(["her2", "--help"]) == 0
    said = capsys.readouterr().out
    for flag in ("--weak", "--complete", "--min-cells", "--min-any-percent", "--limit-um"):
        assert flag in said
