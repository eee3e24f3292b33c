"""Tissue masks: generous where there is something, empty where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import slide_files
from PIL import Image

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import make_he_slide
from napari_celldetr.slides.tissue import find_tissue, tissue_mask


def glass(level=243, side=400, noise=1.5):
    values = np.random.default_rng(0).normal(level, noise, (side, side, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", [255, 243, 205])
def test_a_blank_slide_has_none(level):
    mask, _, _ = find_tissue(glass(level))
    assert mask.mean() < 0.002


@pytest.mark.parametrize("level", [250, 205])
@pytest.mark.parametrize("colour", [(200, 150, 200), (212, 219, 235), (190, 160, 130)])
def test_pale_stains_are_found_on_any_glass(level, colour):
    picture = glass(level)
    patch = np.array(colour) * level / 250
    texture = np.random.default_rng(1).normal(0, 4, (200, 200, 3))
    picture[100:300, 100:300] = np.clip(patch + texture, 0, 255)
    mask, _, _ = find_tissue(picture)
    assert mask[110:290, 110:290].mean() > 0.98
    assert mask[:80].mean() < 0.01


def test_never_scanned_black_is_not_tissue():
    picture = glass()
    picture[:, :150] = 0
    picture[200:300, 250:350] = (150, 80, 150)
    mask, _, _ = find_tissue(picture)
    assert mask[:, :140].mean() < 0.01
    assert mask[205:295, 255:345].all()


def test_green_pen_is_not_tissue():
    picture = glass()
    picture[50:80] = (60, 150, 90)
    mask, _, _ = find_tissue(picture)
    assert mask.mean() < 0.02


@pytest.mark.parametrize("folder", ["he_brca_m2c", "he_tnbc", "ihc_endonuke"])
def test_fields_full_of_tissue_are_kept_whole(shared_data, folder):
    files = sorted((shared_data / folder / "images").iterdir())[::8]
    assert files
    for path in files:
        with open_slide(path, mpp=0.5, probe=False) as slide:
            mask = tissue_mask(slide)
            corners = [
                Region(x, y, 64, 64)
                for x in range(0, slide.size[0] - 64, 64)
                for y in range(0, slide.size[1] - 64, 64)
            ]
            seen = np.mean([mask.covers(r) for r in corners])
            assert seen > 0.97, path.name


@pytest.mark.parametrize(
    ("folder", "column"), [("he_brca_m2c", "points"), ("ihc_endonuke", "points")]
)
def test_no_labelled_cell_is_left_out(shared_data, folder, column):
    for table in sorted((shared_data / folder / column).glob("*.csv"))[::10]:
        rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
        image = next((shared_data / folder / "images").glob(f"{table.stem}.*"))
        with open_slide(image, mpp=0.5, probe=False) as slide:
            mask = tissue_mask(slide)
            assert all(mask.covers(Region(int(float(x)), int(float(y)), 1, 1)) for x, y, *_ in rows)


def test_real_slide(shared_data):
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs", probe=False) as slide:
        mask = tissue_mask(slide)
        assert 0.25 < mask.array.mean() < 0.6
        assert mask.covers(Region(1100, 1500, 10, 10))
        assert not mask.covers(Region(100, 1700, 300, 300))
        assert mask.fraction(Region(100, 1700, 300, 300)) == 0
        assert mask.fraction(Region(1000, 1500, 200, 200)) > 0.9
        assert mask.area_um2 == pytest.approx(mask.area_px * 0.499**2)
        assert not mask.covers(Region(10**6, 10**6, 10, 10))


def test_every_made_cell_lies_in_a_covered_tile(tmp_path):
    cells = make_he_slide(tmp_path / "a.ome.tif", size=(2048, 1536), seed=4)
    with open_slide(tmp_path / "a.ome.tif", probe=False) as slide:
        mask = tissue_mask(slide)
        tiles = {(int(x) // 128, int(y) // 128) for x, y in cells.centres}
        assert all(mask.covers(Region(x * 128, y * 128, 128, 128)) for x, y in tiles)
        assert 0.1 < mask.array.mean() < 0.8


def test_a_small_island_on_a_large_slide_is_found(tmp_path):
    picture = glass(245, 2000, 1)
    picture[900:960, 1500:1560] = (170, 110, 170)
    path = slide_files.write_tiff(tmp_path / "a.tif", [picture], compression="deflate")
    with open_slide(path, probe=False) as slide:
        mask = tissue_mask(slide)
        assert mask.covers(Region(1500, 900, 60, 60))
        assert mask.array.mean() < 0.01


def test_tiny_pictures_do_not_trip(tmp_path):
    for side in (1, 3, 20):
        path = tmp_path / f"{side}.png"
        Image.fromarray(np.full((side, side, 3), 150, np.uint8)).save(path)
        with open_slide(path, probe=False) as slide:
            assert tissue_mask(slide).array.shape == (side, side)
