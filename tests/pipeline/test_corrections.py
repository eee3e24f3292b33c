"""Corrections as a project holds them, ready to be learned from."""

from pathlib import Path

import numpy as np
from killable_journal import quick_folder
from project_child import table

from napari_celldetr.core.cell_table import CellTable
from napari_celldetr.core.claims import Claims
from napari_celldetr.core.edits import confirm, delete
from napari_celldetr.pipeline.cell_ids import cell_ids
from napari_celldetr.pipeline.project import Project, SlideFacts
from napari_celldetr.pipeline.project_cells import RunAbout
from napari_celldetr.pipeline.reviewed import reviewed_and_said
from napari_celldetr.training.finetune_tiles import Taught

FACTS = SlideFacts("s.svs", "0123456789abcdef" * 4, (6000, 6000), (0.5, 0.5))


def test_a_project_knows_what_was_deleted():
    with quick_folder() as name:
        record = Project.open(Path(name) / "project", author="ada").slide(FACTS)
        claims = table(60, seed=1)
        record.save_cells(claims, RunAbout(threshold=0.3))
        cells = CellTable(claims.class_names, cell_ids, threshold=0.3)
        cells.replace(Claims.prepared(claims, cell_ids))
        kept = np.flatnonzero(cells.kept)
        with record.journal() as journal:
            for edit in (delete(cells, kept[:5]), confirm(cells, kept[5:12])):
                journal.append(edit, model="he", weights="f" * 64)
                cells.apply(edit, author="ada")
        now, said = reviewed_and_said(record)
        taught = Taught.of(now, said)
        assert len(taught.gone) == 5
        assert taught.said.sum() == 7
        assert taught.corrections == 12
        assert taught.authors == ("ada",)
        assert len(taught.boxes) == len(kept) - 5
        record.close()
