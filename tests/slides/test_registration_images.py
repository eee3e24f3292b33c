"""Density pictures: what absorbs red light, at the asked µm per pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.registration_images import DensityImage, density_image, density_of


@pytest.fixture
def picture(tmp_path):
    rgb = np.full((300, 400, 3), 244, np.uint8)
    rgb[60:240, 80:320] = (200, 120, 170)
    rgb[100:140, 100:140] = (80, 60, 140)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_nuclei_are_dark_and_glass_is_nothing(picture):
    with open_slide(picture, mpp=0.5, probe=False) as slide:
        image = density_image(slide, 1.0)
    assert image.density.shape == (150, 200)
    assert image.step == (1.0, 1.0)
    assert image.extent_um == (200, 150)
    assert image.density[5, 5] == pytest.approx(0, abs=0.01)
    assert image.density[60, 60] > 3 * image.density[90, 120] > 0.05
    assert image.tissue[90, 120]
    assert not image.tissue[5, 5]


def test_without_a_pixel_size_it_is_refused(picture):
    with open_slide(picture, probe=False) as slide, pytest.raises(SlideError, match="pixel size"):
        density_image(slide, 1.0)


@pytest.mark.parametrize("mpp", [1.0, 1.4, 2.0, 3.1, 8.0])
def test_coarser_pictures_cover_the_same_place(mpp):
    y, x = np.indices((203, 305)) + 0.5
    ramp = (x * 0.001 + y * 0.002).astype(np.float32)
    image = DensityImage(ramp, np.ones(ramp.shape, bool), (1.0, 1.0))
    small = image.coarser(mpp)
    assert small.mpp == pytest.approx(mpp, rel=0.02)
    rows, columns = np.indices(small.density.shape)
    there = (columns + 0.5) * small.step[0] * 0.001 + (rows + 0.5) * small.step[1] * 0.002
    inner = (slice(2, -2), slice(2, -2))
    assert np.abs(small.density - there)[inner].max() < 0.002


def test_finer_than_it_is_stays_as_it_is():
    image = density_of(np.full((64, 64, 3), 200, np.uint8), (2.0, 2.0))
    assert image.coarser(0.5) is image
