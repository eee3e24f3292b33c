"""`celldetr sample` as a person meets it."""

from __future__ import annotations

import pytest

from napari_celldetr import RESEARCH_USE
from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.pipeline import samples
from napari_celldetr.pipeline.her2.stain_kind import guess_stain
from napari_celldetr.pipeline.her2.zones import read_zones
from napari_celldetr.slides.readers import open_slide


def test_a_her2_slide_comes_with_its_tumour_and_the_command_to_try(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, "HER2_SIZE", (700, 700))
    identities = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        assert main(["sample", "her2", "-o", str(folder)]) == Exit.OK
        slide, outline = (folder / name for name in samples.HER2_FILES)
        with open_slide(slide) as opened:
            assert opened.mpp == pytest.approx((0.25, 0.25))
            assert opened.size == (700, 700)
            identities.append(opened.identity())
        (zone,) = read_zones(outline).tumour
        assert 0 < zone.area_px < 700 * 700
        said = capsys.readouterr().out
        assert f"celldetr her2 {slide} --regions {outline}" in said
        assert RESEARCH_USE in said
    assert identities[0] == identities[1]


def test_a_pair_says_that_it_is_for_aligning_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samples, "PAIR_SIZE_UM", (900.0, 700.0))
    assert main(["sample", "pair", "-o", str(tmp_path)]) == Exit.OK
    said = capsys.readouterr().out
    assert "aligning only" in said
    assert "celldetr register" in said
    with open_slide(tmp_path / samples.PAIR_FILES[0]) as he:
        assert guess_stain(he).kind == "H&E"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["sample", "her2", "-o", str(tmp_path / "file" / "x")]) == Exit.ERROR
    assert "Found" in capsys.readouterr().err
