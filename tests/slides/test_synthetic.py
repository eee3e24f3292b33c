"""Made slides: repeatable, seamless, and their truth where the pixels are."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from napari_celldetr.core.regions import Region
from napari_celldetr.slides import synthetic
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import dab_od, optical_density
from napari_celldetr.slides.synthetic import make_he_slide, make_ihc_slide


def test_a_made_slide_is_a_tiled_pyramid_with_its_truth(tmp_path):
    path = tmp_path / "he.ome.tif"
    cells = make_he_slide(path, size=(1800, 1300), mpp=0.5, seed=2)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert tif.pages[0].is_tiled
        assert len(tif.series[0].levels) == 3
    with open_slide(path, probe=False) as slide:
        assert slide.size == (1800, 1300)
        assert slide.mpp == pytest.approx((0.5, 0.5))
        assert slide.level_sizes == [(1800, 1300), (900, 650), (450, 325)]
        density = optical_density(slide.read(slide.region)).mean(axis=2)
    assert set(cells.counts()) == set(synthetic.HE_CLASSES)
    assert min(cells.counts().values()) > 50
    x, y = cells.centres.astype(int).T
    assert np.median(density[y, x]) > 2 * np.median(density[density > 0.08])
    assert (cells.boxes.min(axis=0) > 0).all()
    assert (cells.boxes[:, 2] < 1800).all()
    assert (cells.boxes[:, 3] < 1300).all()


def test_boxes_are_tight(tmp_path):
    path = tmp_path / "he.ome.tif"
    cells = make_he_slide(path, size=(900, 900), seed=1, cells=12, compression="deflate")
    assert len(cells) == 12
    with open_slide(path, probe=False) as slide:
        dark = optical_density(slide.read(slide.region))[..., 0] > 0.22
    for x0, y0, x1, y1 in cells.boxes:
        left, top, right, bottom = int(x0) - 4, int(y0) - 4, int(x1) + 5, int(y1) + 5
        labels, _ = ndimage.label(dark[top:bottom, left:right])
        own = labels[int(y0 + y1) // 2 - top, int(x0 + x1) // 2 - left]
        assert own
        ys, xs = np.nonzero(labels == own)
        assert xs.min() + left == pytest.approx(x0, abs=2)
        assert xs.max() + 1 + left == pytest.approx(x1, abs=2)
        assert ys.min() + top == pytest.approx(y0, abs=2)
        assert ys.max() + 1 + top == pytest.approx(y1, abs=2)


def test_the_same_seed_gives_the_same_slide_and_another_another(tmp_path):
    tables, pixels = [], []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        path = tmp_path / f"{name}.ome.tif"
        tables.append(make_he_slide(path, size=(700, 600), seed=seed))
        with open_slide(path, probe=False) as slide:
            pixels.append(slide.read(slide.region))
    assert tables[0].digest() == tables[1].digest() != tables[2].digest()
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])


def test_blocks_meet_without_a_seam(tmp_path, monkeypatch):
    pixels = []
    for block in (1024, 256):
        monkeypatch.setattr(synthetic, "BLOCK_PX", block)
        path = tmp_path / f"{block}.ome.tif"
        make_he_slide(path, size=(1100, 800), seed=3, compression="deflate")
        with open_slide(path, probe=False) as slide:
            pixels.append([slide.read(slide.region), slide.read_level(1, 0, 0, 550, 400)])
    for first, second in zip(*pixels, strict=True):
        # Sums in another order may round the other way here and there.
        assert np.abs(first.astype(int) - second).max() <= 1


def test_stained_nuclei_are_the_positive_ones(tmp_path):
    path = tmp_path / "ihc.ome.tif"
    cells = make_ihc_slide(path, size=(1200, 1000), seed=0)
    with open_slide(path, probe=False) as slide:
        brown = dab_od(slide.read(Region(0, 0, 1200, 1000)))
    x, y = cells.centres.astype(int).T
    positive = cells.class_labels == "positive"
    assert 0.2 < positive.mean() < 0.4
    assert np.percentile(brown[y, x][positive], 10) > 0.3
    assert np.percentile(brown[y, x][~positive], 85) < 0.2
