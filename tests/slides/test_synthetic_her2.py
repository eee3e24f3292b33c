"""Generated HER2 slides hold the cells, patterns and pixels that were asked for."""

import numpy as np
import pytest

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.her2 import Pattern
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.membranes import (
    CORNERS,
    NO_CELL,
    draw_staining,
    ellipse_radii,
    grow_shapes,
    paint_membranes,
    pixel_classes,
)
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import dab_od
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

MPP = 0.25


def nest(n=30, seed=0):
    rng = np.random.default_rng(seed)
    columns, rows = np.meshgrid(np.arange(6), np.arange(5))
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1) * 52.0 + 40
    centres = (centres + rng.uniform(-4, 4, centres.shape))[:n]
    nuclear = ellipse_radii(rng.uniform(13, 18, (n, 2)), rng.uniform(0, np.pi, n))
    return grow_shapes(centres, nuclear, rng, mpp=MPP), rng


def test_a_mix_is_drawn_to_the_cell(tmp_path):
    mix = {Pattern.COMPLETE_INTENSE: 0.12, Pattern.FAINT_INCOMPLETE: 0.3}
    truth = make_her2_slide(tmp_path / "a.ome.tif", mix, size=(1400, 1400), seed=1)
    n = len(truth.cells)
    patterns = truth.staining.patterns
    assert n > 150
    assert (patterns == Pattern.COMPLETE_INTENSE).sum() == round(0.12 * n)
    assert (patterns == Pattern.FAINT_INCOMPLETE).sum() == round(0.3 * n)
    assert (truth.cells.class_ids == 3).sum() == round(0.12 * n)
    centres = (truth.cells.boxes[:, :2] + truth.cells.boxes[:, 2:]) / 2
    tumour = Area(tuple(map(tuple, truth.tumour.tolist())), "region")
    assert tumour.contains(centres).all()


def test_the_same_arguments_give_the_same_pixels(tmp_path):
    pixels = []
    for name in ("a", "b"):
        make_her2_slide(
            tmp_path / f"{name}.ome.tif", {Pattern.COMPLETE_INTENSE: 0.5}, size=(512, 512), seed=3
        )
        with open_slide(tmp_path / f"{name}.ome.tif") as slide:
            pixels.append(slide.read(Region(0, 0, 512, 512), MPP))
    assert np.array_equal(*pixels)


def test_membranes_show_the_density_that_was_drawn(tmp_path):
    path = tmp_path / "a.ome.tif"
    truth = make_her2_slide(
        path, {Pattern.COMPLETE_INTENSE: 1.0}, size=(1024, 1024), seed=2, compression="deflate"
    )
    with open_slide(path) as slide:
        dab = dab_od(slide.read(Region(0, 0, 1024, 1024), MPP), 244)
    angles = 2 * np.pi * np.arange(CORNERS) / CORNERS
    shapes = truth.shapes
    x = shapes.centres[:, :1] + shapes.radii * np.cos(angles)
    y = shapes.centres[:, 1:] + shapes.radii * np.sin(angles)
    inside = (x > 2) & (x < 1021) & (y > 2) & (y < 1021)
    shown = dab[np.where(inside, y, 0).astype(int), np.where(inside, x, 0).astype(int)]
    drawn = np.where(inside, truth.staining.profile, np.nan)
    # Where lines of two cells meet, the stronger is seen.
    error = np.nanmedian(np.where(inside, shown, np.nan) - drawn, axis=1)
    assert np.median(error) == pytest.approx(0, abs=0.08)
    assert np.corrcoef(np.nanmedian(drawn, axis=1), np.median(shown, axis=1))[0, 1] > 0.9


def test_painting_in_blocks_is_painting_at_once():
    shapes, rng = nest()
    staining = draw_staining(shapes, rng.integers(0, 5, 30), rng, mpp=MPP)
    whole = paint_membranes(shapes, staining, origin=(0, 0), size=(360, 300), mpp=MPP)
    part = paint_membranes(shapes, staining, origin=(100, 80), size=(90, 70), mpp=MPP)
    for all_of, some in zip(whole, part, strict=True):
        np.testing.assert_allclose(all_of[80:150, 100:190], some, atol=1e-5)


def test_each_pixel_belongs_to_one_cell_or_none():
    shapes, rng = nest()
    patterns = rng.integers(0, 5, 30)
    staining = draw_staining(shapes, patterns, rng, mpp=MPP)
    _, owner = paint_membranes(shapes, staining, origin=(0, 0), size=(360, 300), mpp=MPP)
    centres = shapes.centres.astype(int)
    assert (owner[centres[:, 1], centres[:, 0]] == np.arange(1, 31)).all()
    classes = pixel_classes(owner, patterns)
    assert (classes[owner == 0] == NO_CELL).all()
    assert set(np.unique(classes[owner == 1])) == {1 + [0, 1, 2, 3, 2][patterns[0]]}


def test_the_stained_share_is_what_was_drawn():
    shapes, rng = nest()
    staining = draw_staining(shapes, np.full(30, Pattern.STRONG_INCOMPLETE), rng, mpp=MPP)
    share = (staining.profile > 0).mean(axis=1)
    np.testing.assert_allclose(share, staining.completeness, atol=1 / CORNERS)


def test_no_nuclei_no_cells():
    rng = np.random.default_rng(0)
    shapes = grow_shapes(np.zeros((0, 2)), np.zeros((0, CORNERS), np.float32), rng, mpp=MPP)
    staining = draw_staining(shapes, [], rng, mpp=MPP)
    dab, owner = paint_membranes(shapes, staining, origin=(0, 0), size=(8, 6), mpp=MPP)
    assert dab.shape == owner.shape == (6, 8)
    assert not dab.any()
    assert shapes.boxes().shape == (0, 4)
