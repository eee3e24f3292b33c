"""Cells at a stained edge, in folds, crushed or under pigment are named; the others are not."""

from dataclasses import replace

import numpy as np
import pytest

from napari_celldetr.core.her2 import EXCLUSION_WORDS, Exclusion, Pattern
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.her2.exclusions import (
    find_exclusions,
    judge_surroundings,
    read_surroundings,
)
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.slides.artefacts import crushed, edge_stained, folded, rewrite, speckled
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

MPP = 0.25
SIDE = 1800
AREA = (160.0, 60.0)
STAIN = SlideStain(white=(244.0,) * 3)
MIX = {Pattern.COMPLETE_INTENSE: 0.3, Pattern.FAINT_INCOMPLETE: 0.3}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean") / "clean.ome.tif"
    truth = make_her2_slide(path, MIX, size=(SIDE, SIDE), seed=7)
    with open_slide(path) as slide:
        yield slide, truth, slide.read(slide.region)


def excluded(slide, cells):
    measured = drain(measure_cells(slide, cells, stain=STAIN))
    return drain(find_exclusions(slide, measured, stain=STAIN))


def damaged(made, folder, damage):
    """Codes of all cells, and which lie where the picture was changed."""
    slide, truth, _ = made
    rewrite(slide, folder / "a.ome.tif", lambda _: damage.picture)
    with open_slide(folder / "a.ome.tif") as other:
        codes = excluded(other, truth.cells)
    x, y = truth.shapes.centres.astype(int).T
    return codes, damage.where[y, x]


def test_every_cell_of_a_clean_slide_is_counted(made):
    slide, truth, _ = made
    codes = excluded(slide, truth.cells)
    assert codes.dtype == np.int8
    assert len(codes) == len(truth.cells)
    assert (codes != Exclusion.NONE).mean() <= 0.02


@pytest.mark.parametrize("paint", [folded, crushed])
def test_folds_and_crushed_tissue_are_left_out(made, tmp_path, paint):
    damage = paint(made[2], MPP, middle=(200.0, 200.0), angle=0.6, size=AREA)
    codes, hit = damaged(made, tmp_path, damage)
    assert hit.sum() > 30
    assert (codes[hit] != Exclusion.NONE).mean() > 0.7
    assert (codes[~hit] != Exclusion.NONE).mean() < 0.03
    assert set(np.unique(codes)) <= {Exclusion.NONE, Exclusion.FOLD, Exclusion.CRUSHED}


def test_crushed_tissue_is_called_so(made, tmp_path):
    damage = crushed(made[2], MPP, middle=(200.0, 200.0), angle=0.6, size=AREA)
    codes, hit = damaged(made, tmp_path, damage)
    assert (codes[hit] == Exclusion.CRUSHED).mean() > 0.6


def test_stain_that_gathers_at_the_edge_is_left_out(made, tmp_path):
    codes, hit = damaged(made, tmp_path, edge_stained(made[2], MPP))
    assert hit.sum() > 10
    assert (codes[hit] == Exclusion.EDGE).mean() > 0.85
    assert (codes[~hit] != Exclusion.NONE).mean() < 0.02


def test_a_crop_has_no_edge_at_the_pictures_border(made, tmp_path):
    slide, truth, picture = made
    low, high = 500, 1100
    where = np.all((truth.shapes.centres > low) & (truth.shapes.centres < high), axis=1)
    cells = truth.cells.select(where)
    cells = replace(cells, boxes=cells.boxes - np.float32(low))
    rewrite(slide, tmp_path / "a.ome.tif", lambda _: picture[low:high, low:high])
    with open_slide(tmp_path / "a.ome.tif") as crop:
        measured = drain(measure_cells(crop, cells, stain=STAIN))
        around = drain(read_surroundings(crop, measured, stain=STAIN))
    assert np.isinf(around.depth).all()
    assert (judge_surroundings(around) == Exclusion.EDGE).sum() == 0


@pytest.mark.parametrize(
    "colour", [(0.577, 0.577, 0.577), (0.12, 0.42, 0.90)], ids=["carbon", "haemosiderin"]
)
def test_pigment_is_no_dab(made, tmp_path, colour):
    rng = np.random.default_rng(0)
    truth = made[1]
    chosen = rng.permutation(len(truth.cells))[:20]
    damage = speckled(made[2], MPP, truth.shapes.centres[chosen], rng, colour=colour)
    codes, _ = damaged(made, tmp_path, damage)
    assert (codes[chosen] == Exclusion.PIGMENT).mean() > 0.85
    centres = truth.shapes.centres
    away = np.linalg.norm(centres[:, None] - centres[chosen], axis=2).min(axis=1)
    others = away * MPP > 15
    assert (codes[others] != Exclusion.NONE).mean() < 0.02


def test_no_cells_are_no_error(made):
    slide, truth, _ = made
    none = truth.cells.select(np.zeros(len(truth.cells), bool))
    assert excluded(slide, none).shape == (0,)


def test_every_reason_has_words():
    assert set(EXCLUSION_WORDS) == set(Exclusion)
    assert all(reason.words for reason in Exclusion)
