"""Drawn cells of known membranes are measured as drawn; brown nuclei and cytoplasm are not."""

import numpy as np
import pytest

from napari_celldetr.core.her2 import Cutoffs, Pattern, cell_scores, classify_cells
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.membrane import judge, read_bands
from napari_celldetr.pipeline.her2.outline import NOBODY, RAYS, Growth, draw_outlines
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import dab_od
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

MPP = 0.25
SIDE = 120


def ring(density, *, share=1.0, radius_um=6.0, cytoplasm=0.0, nucleus=0.0, width_um=0.38):
    """One cell in the middle of a picture: box of its nucleus, and DAB."""
    at = (np.arange(SIDE) + 0.5 - SIDE / 2) * MPP
    r = np.hypot(at[None, :], at[:, None])
    angle = np.arctan2(at[:, None], at[None, :]) % (2 * np.pi)
    line = density * np.exp(-0.5 * ((r - radius_um) / width_um) ** 2) * (angle < 2 * np.pi * share)
    dab = np.maximum(line, cytoplasm * (r < radius_um))
    dab = np.maximum(dab, nucleus * (r < 3.5))
    half = 3.5 / MPP
    box = [SIDE / 2 - half, SIDE / 2 - half, SIDE / 2 + half, SIDE / 2 + half]
    return np.array([box], np.float32), dab.astype(np.float32)


def measured(boxes, dab):
    outlines = draw_outlines(boxes, dab, mpp=MPP)
    return outlines, judge(read_bands(outlines, dab, mpp=MPP))


@pytest.mark.parametrize("radius_um", [4.7, 6.0, 8.0])
def test_an_outline_is_drawn_to_the_membrane(radius_um):
    outlines, membranes = measured(*ring(0.5, radius_um=radius_um))
    assert np.abs(outlines.radii * MPP - radius_um).max() < 0.35
    assert membranes.completeness[0] == 1
    assert membranes.intensity[0] == pytest.approx(0.5, abs=0.06)


def test_without_stain_a_cell_has_the_usual_width():
    outlines, membranes = measured(*ring(0.0))
    assert outlines.radii * MPP == pytest.approx(3.5 + Growth().usual_um, abs=0.3)
    assert (membranes.completeness == 0).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9])
def test_completeness_is_the_stained_share(share):
    _, membranes = measured(*ring(0.7, share=share))
    assert membranes.completeness[0] == pytest.approx(share, abs=0.06)


def test_more_intensity_and_more_outline_are_never_less():
    levels = np.linspace(0.05, 1.4, 15)
    found = [measured(*ring(d))[1].intensity[0] for d in levels]
    assert (np.diff(found) > 0).all()
    shares = np.linspace(0.05, 1.0, 15)
    found = [measured(*ring(0.7, share=s))[1].completeness[0] for s in shares]
    assert (np.diff(found) >= 0).all()


def test_brown_cytoplasm_is_no_membrane():
    boxes, dab = ring(0.0, cytoplasm=0.6)
    outlines, membranes = measured(boxes, dab)
    assert membranes.completeness[0] < 0.15
    assert read_bands(outlines, dab, mpp=MPP).cytoplasm[0] == pytest.approx(0.6, abs=0.05)
    # A membrane that stands out of it is.
    _, membranes = measured(*ring(1.0, cytoplasm=0.4))
    assert membranes.completeness[0] > 0.9


def test_a_membrane_between_brown_cells_is_read():
    boxes, dab = ring(0.0)
    brown = np.full_like(dab, 0.8)
    _, membranes = measured(boxes, brown)
    assert membranes.completeness[0] == 0
    # It need not be a quarter darker where there is as much brown on either side.
    _, membranes = measured(boxes, brown + ring(0.19)[1])
    assert membranes.completeness[0] > 0.9
    # The rim of brown cytoplasm, or of a brown nucleus beside pale cytoplasm, is none.
    _, membranes = measured(boxes, ring(0.95, cytoplasm=0.8)[1])
    assert membranes.completeness[0] < 0.15


def test_a_brown_nucleus_is_no_membrane():
    _, membranes = measured(*ring(0.0, nucleus=1.0))
    assert membranes.completeness[0] < 0.15


def two_cells(first, second, *, gap_um=14.0):
    """Two cells that meet: membranes of the given densities, one line between."""
    boxes_a, _ = ring(0.0)
    shift = gap_um / MPP
    wide = np.zeros((SIDE, SIDE + int(shift)), np.float32)
    at_x = (np.arange(wide.shape[1]) + 0.5 - SIDE / 2) * MPP
    at_y = (np.arange(SIDE) + 0.5 - SIDE / 2) * MPP
    boxes = np.concatenate([boxes_a, boxes_a + np.array([shift, 0, shift, 0])]).astype(np.float32)
    for centre, density in ((0.0, first), (gap_um, second)):
        r = np.hypot(at_x[None, :] - centre, at_y[:, None])
        line = density * np.exp(-0.5 * ((r - gap_um / 2) / 0.38) ** 2)
        np.maximum(wide, line.astype(np.float32), out=wide)
    return boxes, wide


def test_neighbours_meet_half_way():
    outlines, _ = measured(*two_cells(0.0, 0.0, gap_um=10.0))
    assert outlines.neighbours[0, 0] == 1
    assert outlines.neighbours[1, RAYS // 2] == 0
    assert outlines.neighbours[0, RAYS // 2] == NOBODY
    assert outlines.radii[0, 0] * MPP == pytest.approx(5.0, abs=0.2)
    assert outlines.radii[1, RAYS // 2] * MPP == pytest.approx(5.0, abs=0.2)


def test_a_line_shared_with_a_stained_neighbour_is_the_neighbour_s():
    _, membranes = measured(*two_cells(0.0, 0.9))
    assert membranes.completeness[1] > 0.95
    assert membranes.completeness[0] < 0.15
    _, membranes = measured(*two_cells(0.9, 0.9))
    assert (membranes.completeness > 0.95).all()


def test_a_neighbour_s_brown_nucleus_is_no_membrane():
    boxes, dab = two_cells(0.0, 0.0, gap_um=8.0)
    x = (np.arange(dab.shape[1]) + 0.5 - SIDE / 2) * MPP
    y = (np.arange(SIDE) + 0.5 - SIDE / 2) * MPP
    nucleus = (np.hypot(x[None, :] - 8.0, y[:, None]) < 3.9) * np.float32(1.0)
    _, membranes = measured(boxes, np.maximum(dab, nucleus))
    assert membranes.completeness[0] < 0.15


def test_other_cut_offs_need_no_new_reading():
    boxes, dab = ring(0.2)
    bands = read_bands(draw_outlines(boxes, dab, mpp=MPP), dab, mpp=MPP)
    assert judge(bands, Cutoffs(weak=0.1)).completeness[0] == 1
    assert judge(bands, Cutoffs(weak=0.25)).completeness[0] == 0


def test_no_cells_no_measurements():
    outlines, membranes = measured(np.zeros((0, 4)), np.zeros((32, 32), np.float32))
    assert len(outlines) == 0
    assert membranes.intensity.shape == (0,)
    assert outlines.polygons().shape == (0, RAYS, 2)


def test_a_cell_at_the_edge_is_measured_by_what_there_is():
    boxes, dab = ring(0.6)
    _, membranes = measured(boxes - 50, np.roll(dab, (-50, -50), (0, 1)))
    assert np.isfinite(membranes.intensity).all()
    assert 0 <= membranes.completeness[0] <= 1


@pytest.mark.parametrize(
    ("mix", "least"),
    [
        ({Pattern.COMPLETE_INTENSE: 0.12}, 0.93),
        ({Pattern.FAINT_INCOMPLETE: 0.3}, 0.88),
        ({Pattern.COMPLETE_WEAK_MODERATE: 0.5}, 0.93),
    ],
)
def test_cells_of_a_generated_slide(tmp_path, mix, least):
    truth = make_her2_slide(tmp_path / "a.ome.tif", mix, size=(1600, 1600), seed=5)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        rgb = slide.read(Region(0, 0, 1600, 1600), MPP)
    _, membranes = measured(truth.cells.boxes, dab_od(rgb, 244))
    patterns = classify_cells(membranes.intensity, membranes.completeness, Cutoffs())
    same = cell_scores(patterns) == cell_scores(truth.staining.patterns)
    assert same.mean() >= least
