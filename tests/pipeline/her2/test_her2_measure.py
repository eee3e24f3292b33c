"""A slide read tile by tile is the slide read at once; cut-offs act on what was read."""

from types import SimpleNamespace

import numpy as np
import pytest

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.her2 import CELL_CLASSES, Cutoffs, Exclusion, Pattern, cell_scores
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2 import membrane, ownership
from napari_celldetr.pipeline.her2.exclusions import find_exclusions
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.membrane import (
    CONTRAST,
    OWN,
    USUAL,
    _band,
    _between,
    _lines_in_brown,
    _nuclei,
    judge,
    read_bands,
)
from napari_celldetr.pipeline.her2.outline import NOBODY, arcs_of, draw_outlines
from napari_celldetr.pipeline.her2.ownership import own_shares
from napari_celldetr.pipeline.her2.reading import square_mpp
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import dab_od
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

SIDE = 2200
TRUE = SlideStain(white=(244.0,) * 3)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    path = tmp_path_factory.mktemp("her2") / "a.ome.tif"
    mix = {Pattern.COMPLETE_INTENSE: 0.2, Pattern.FAINT_INCOMPLETE: 0.3}
    truth = make_her2_slide(path, mix, size=(SIDE, SIDE), seed=4)
    with open_slide(path) as slide:
        yield slide, truth, drain(measure_cells(slide, truth.cells, stain=TRUE))


def test_tiles_make_no_difference(generated):
    slide, truth, found = generated
    dab = dab_od(slide.read(Region(0, 0, SIDE, SIDE), 0.25), 244)
    outlines = draw_outlines(truth.cells.boxes, dab, mpp=0.25)
    whole = judge(read_bands(outlines, dab, mpp=0.25))
    np.testing.assert_allclose(found.outlines.radii, outlines.radii, atol=0.02)
    assert (found.bands.neighbours() == outlines.neighbours).mean() > 0.999
    tiled = found.membranes()
    np.testing.assert_allclose(tiled.completeness, whole.completeness, atol=0.02)
    np.testing.assert_allclose(tiled.intensity, whole.intensity, atol=0.01)


def test_the_table_has_classes_and_measurements(generated):
    _, truth, found = generated
    table = found.table()
    assert table.class_names == CELL_CLASSES
    assert len(table) == len(truth.cells)
    np.testing.assert_array_equal(table.boxes, truth.cells.boxes)
    assert (table.class_ids == cell_scores(truth.staining.patterns)).mean() > 0.88


def test_cut_offs_act_on_what_was_read(generated):
    _, _, found = generated
    usual = (found.table().class_ids == 3).sum()
    assert (found.table(Cutoffs(intense=0.95)).class_ids == 3).sum() < usual
    assert (
        found.table(Cutoffs(weak=0.02, moderate=0.05, intense=0.1)).class_ids == 3
    ).sum() > usual


def test_the_slides_stain_is_what_is_measured_with(generated):
    slide, truth, found = generated
    twice = SlideStain(TRUE.white, gain=2.0)
    doubled = drain(measure_cells(slide, truth.cells, stain=twice))
    same = found.outlines.radii == doubled.outlines.radii
    once, both = (t.bands.lines.dense(slice(None), 0.0)[same] for t in (found, doubled))
    assert np.median(both[once > 0.3] / once[once > 0.3]) == pytest.approx(2, abs=0.01)


def test_pieces_of_membrane_are_no_nuclei_and_no_neighbours(generated):
    slide, truth, found = generated
    drawn, dark = truth.shapes, np.flatnonzero(truth.staining.intensity > 0.7)[:20]
    angle = truth.staining.profile[dark].argmax(axis=1)
    reach = drawn.radii[dark, angle][:, None]
    turn = 2 * np.pi * angle[:, None] / drawn.radii.shape[1]
    at = drawn.centres[dark] + reach * np.hstack([np.cos(turn), np.sin(turn)])
    pieces = np.hstack([at - 3, at + 3]).astype(np.float32)
    boxes = np.vstack([truth.cells.boxes, pieces])
    few = np.full(len(pieces), 0.4, np.float32)
    cells = Detections(
        boxes,
        np.concatenate([truth.cells.scores, few]),
        np.zeros(len(boxes), np.int16),
        CELL_CLASSES,
        source=truth.cells.source,
    )
    both = drain(measure_cells(slide, cells, stain=TRUE))
    true = (both.cells.boxes[:, None] == truth.cells.boxes[None]).all(axis=2).any(axis=1)
    assert not both.specks[true].any()
    assert both.specks[~true].mean() > 0.8
    assert (np.abs(both.outlines.radii[true] - found.outlines.radii) < 0.02).mean() > 0.98
    excluded = drain(find_exclusions(slide, both, stain=TRUE))
    np.testing.assert_array_equal(excluded == Exclusion.SPECK, both.specks)


def test_no_cells_are_no_error(generated):
    slide, truth, _ = generated
    none = drain(measure_cells(slide, truth.cells.select(np.zeros(len(truth.cells), bool))))
    assert len(none.table()) == 0


def test_without_pixel_size_nothing_is_measured(tmp_path, generated):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 240, np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide, pytest.raises(SlideError, match="pixel size"):
        drain(measure_cells(slide, generated[1].cells))


def test_one_number_for_the_pixel_size_keeps_areas():
    oblong = SimpleNamespace(known_mpp=lambda: (0.25, 0.2548))
    assert square_mpp(oblong) ** 2 == pytest.approx(0.25 * 0.2548)


def slow_membranes(outlines, dab, weak):
    """Intensity and completeness (N,), all in dense tables as the definition has them."""
    nuclei = _nuclei(outlines, dab)
    between, _ = _between(outlines, dab, nuclei, 0.25)
    facing, arcs = outlines.neighbours, arcs_of(outlines.radii)
    met = facing != NOBODY
    beside = np.maximum(np.maximum(between, nuclei[:, None]), nuclei[facing] * met)
    beside[_lines_in_brown(outlines, dab, 0.25)] = 0
    band = _band(outlines, dab, 0.25)
    stained = (band >= weak) & (band >= CONTRAST * beside)
    own = own_shares(facing, arcs, stained, band)
    share = (arcs * own * stained).sum(axis=1) / arcs.sum(axis=1)
    picked = stained & (own >= OWN)
    picked[~picked.any(axis=1)] = True
    levels = [np.quantile(row[p], USUAL) for row, p in zip(band, picked, strict=True)]
    return np.array(levels), share


@pytest.mark.parametrize("weak", [0.02, 0.12, 0.25])
def test_what_is_kept_of_a_cell_is_enough_to_judge_it(generated, weak, monkeypatch):
    slide, truth, _ = generated
    dab = TRUE.dab(slide.read(Region(0, 0, SIDE, SIDE), 0.25))
    outlines = draw_outlines(truth.cells.boxes, dab, mpp=0.25)
    intensity, completeness = slow_membranes(outlines, dab, weak)
    # Many blocks of cells and of sides, the last of each not full.
    monkeypatch.setattr(membrane, "AT_ONCE", 100)
    monkeypatch.setattr(ownership, "AT_ONCE", 300)
    found = judge(read_bands(outlines, dab, mpp=0.25), Cutoffs(weak=weak))
    np.testing.assert_allclose(found.intensity, intensity, rtol=1e-6)
    np.testing.assert_allclose(found.completeness, completeness, atol=1e-6)


def test_a_measured_cell_takes_less_than_eight_hundred_bytes(generated):
    """Neighbours, contrast and arcs in full tables took 2,700."""
    _, _, found = generated
    bands, outlines = found.bands, found.outlines
    assert outlines.radii is bands.radii
    arrays = (bands.radii, bands.lines, bands.level, bands.faced, bands.cytoplasm, found.specks)
    size = sum(a.nbytes for a in arrays) + outlines.centres.nbytes
    assert size / len(outlines) < 800
