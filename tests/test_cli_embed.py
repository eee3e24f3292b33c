"""`celldetr embed` as a person meets it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from fakes import FakePredictor, draw_cells, spaced_centres

from napari_celldetr import RESEARCH_USE
from napari_celldetr.cli import main
from napari_celldetr.cli.exits import Exit
from napari_celldetr.pipeline.export import read_detections

SIZE = (700, 500)
CENTRES = spaced_centres(SIZE)
SMALL_TILES = ("--tile-px", "256", "--halo-px", "16", "--no-tissue-only")


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def load_model(name: str, *, device: str = "auto", flips: bool = False) -> FakePredictor:
        return FakePredictor(embedding_size=4)

    monkeypatch.setattr("napari_celldetr.nets.registry.load_model", load_model)
    monkeypatch.setenv("CELLDETR_CACHE", str(tmp_path / "cache"))
    pixels = draw_cells(SIZE, CENTRES)
    physical = {f"PhysicalSize{a}": 0.5 for a in "XY"} | {
        f"PhysicalSize{a}Unit": "µm" for a in "XY"
    }
    paths = [tmp_path / f"{name}.ome.tif" for name in ("one", "two")]
    for turn, path in enumerate(paths):
        flipped = np.ascontiguousarray(pixels[:, :: -1 if turn else 1])
        tifffile.imwrite(
            path, flipped, ome=True, tile=(256, 256), photometric="rgb",
            metadata={"axes": "YXS", **physical},
        )  # fmt: skip
    return [str(p) for p in paths]


@pytest.mark.parametrize("suffix", ["parquet", "h5ad"])
def test_a_slide_becomes_a_table_of_embeddings(
    suffix: str, slides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"cells.{suffix}"
    assert main(["embed", slides[0], "-o", str(out), *SMALL_TILES]) == Exit.OK
    cells = read_detections(out)
    assert cells.embeddings is not None
    assert cells.embeddings.shape == (len(CENTRES), 4)
    said = capsys.readouterr()
    assert str(out) in said.out
    assert RESEARCH_USE in said.out
    assert "4 numbers a cell" in said.err


def test_a_detect_run_is_not_computed_again(
    slides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", slides[0], "-o", str(tmp_path / "a.csv"), *SMALL_TILES]) == Exit.OK
    capsys.readouterr()
    assert main(["embed", slides[0], "-o", str(tmp_path / "a.parquet"), *SMALL_TILES]) == Exit.OK
    assert "of them from an earlier run" in capsys.readouterr().out


def test_a_cohort_is_compared(
    slides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cohort"
    assert main(["embed", *slides, "-o", str(out), *SMALL_TILES]) == Exit.OK
    assert sorted(p.name for p in out.iterdir()) == ["one.ome.parquet", "two.ome.parquet"]
    said = capsys.readouterr().err
    assert "How far the slides lie apart" in said
    assert "of 2 slides" in said


def test_vectors_of_another_program_take_the_place_of_the_models(
    slides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    centres = np.array(CENTRES, float)[:, :2]
    theirs, out = tmp_path / "theirs.npz", tmp_path / "cells.parquet"
    np.savez(
        theirs,
        embedding=np.arange(2.0 * len(centres)).reshape(-1, 2),
        x=centres[:, 0],
        y=centres[:, 1],
    )
    words = ["--vectors", str(theirs), *SMALL_TILES]
    assert main(["embed", slides[0], "-o", str(out), *words]) == Exit.OK
    cells = read_detections(out)
    assert cells.embeddings is not None
    assert cells.embeddings.shape[1] == 2
    assert cells.source.model.endswith(" with embeddings of theirs.npz")
    assert "matched by place" in capsys.readouterr().err
    assert main(["embed", *slides, "-o", str(tmp_path), *words]) == Exit.ERROR
    assert "one slide with --vectors" in capsys.readouterr().err


def test_other_formats_are_refused_before_anything_is_computed(
    slides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", slides[0], "-o", str(tmp_path / "a.csv"), *SMALL_TILES]) == Exit.ERROR
    assert ".parquet, .h5ad" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()
    assert not (tmp_path / "cache").exists()
