"""`celldetr finetune --what head`: from a project and from a file to a model that can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_celldetr import RESEARCH_USE, DetectConfig, detect, drain, open_slide
from napari_celldetr.cli import main
from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.edits import relabel
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.registry import load_model
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.export import export
from napari_celldetr.pipeline.project import Project
from napari_celldetr.pipeline.project_cells import RunAbout
from napari_celldetr.pipeline.reviewed import find_record, reviewed_table
from napari_celldetr.slides.synthetic import make_he_slide

ODD = "odd one"


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A slide, a project in which large cells got a class of their own, and the same as file."""
    root = tmp_path_factory.mktemp("worked")
    path = root / "drawn.ome.tif"
    make_he_slide(path, size=(700, 600), mpp=0.4975, seed=3)
    model = load_model("celldetr-he", device="cpu", class_columns=True)
    with open_slide(path) as slide:
        config = DetectConfig(tissue_only=False)
        found = drain(detect(slide, config, predictor=model, workspace=root / "w", keep_floor=True))
        table = CellTable(found.class_names, cell_ids, threshold=model.card.threshold)
        table.replace(Claims.prepared(found, cell_ids))
        with Project.open(root / "project", author="ada").slide(slide) as record:
            record.save_cells(found, RunAbout(threshold=model.card.threshold))
            with record.journal() as journal:
                for name, rows in _labels(table).items():
                    edit = relabel(table, rows, name)
                    journal.append(edit, model=model.card.name, weights="")
                    table.apply(edit, author="ada")
        export(table.corrected(), root / "said.geojson", slide=slide)
    return path, root / "project", root / "said.geojson"


def _labels(table: CellTable) -> dict[str, Any]:
    kept = np.flatnonzero(table.kept)
    sides = table.boxes[kept, 2:] - table.boxes[kept, :2]
    order = kept[np.argsort(sides.prod(axis=1))]
    return {ODD: order[-25:], table.class_names[0]: order[:25]}


def test_every_probability_is_stored_and_columns_stay_inside(worked: Any) -> None:
    path, project, _ = worked
    with open_slide(path) as slide:
        table = reviewed_table(find_record(slide, project))
    names = [f"probability_{n}" for n in table.claims[0].table.class_names]
    columns = table.claims[0].table.columns
    assert set(names) <= set(columns)
    p = np.stack([columns[n] for n in names], axis=1)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert not set(names) & set(table.corrected().cells.columns)


def test_from_a_project(worked: Any, tmp_path: Path, capsys: Any) -> None:
    path, project, _ = worked
    words = ["finetune", str(project), "--slide", str(path), "-o", str(tmp_path / "mine")]
    assert main([*words, "--device", "cpu", "--author", "ada"]) == 0
    told = capsys.readouterr().out
    assert RESEARCH_USE in told
    assert ODD in told
    assert "kept aside" in told
    card = read_card(tmp_path / "mine")
    assert card.class_names[-1] == ODD
    with open_slide(path) as slide:
        mine = load_model(tmp_path / "mine", device="cpu")
        config = DetectConfig(model=str(tmp_path / "mine"), tissue_only=False)
        found = drain(detect(slide, config, predictor=mine, workspace=tmp_path / "w"))
    assert found.counts()[ODD] >= 20
    # The folder is taken now.
    assert main(words) == 1
    assert "already" in capsys.readouterr().err


def test_from_a_file(worked: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    path, _, said = worked
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["finetune", str(said), "--slide", str(path), "-o", str(tmp_path / "mine")]
    assert main([*words, "--device", "cpu", "--model", "celldetr-he"]) == 0
    assert ODD in capsys.readouterr().out
    assert read_card(tmp_path / "mine").class_names[-1] == ODD


@pytest.mark.parametrize(
    ("what", "told"), [("nothing", "no such corrections"), ("empty", "no such project")]
)
def test_what_cannot_be_taught(
    worked: Any, tmp_path: Path, capsys: Any, what: str, told: str
) -> None:
    source = tmp_path / "x"
    if what == "empty":
        source.mkdir()
    words = ["finetune", str(source), "--slide", str(worked[0]), "-o", str(tmp_path / "m")]
    assert main(words) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "m").exists()
