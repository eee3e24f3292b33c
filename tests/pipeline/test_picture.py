"""The overlay picture: cells where they are, in their colours, with an honest scale bar."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import cell_field
from PIL import Image

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.picture import UNKNOWN_COLOR, _scale_bar, draw_overlay, write_picture
from napari_celldetr.slides.readers import open_slide

RED, BLUE = (213, 94, 0), (0, 114, 178)
COLORS = {"a": RED, "b": BLUE}


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "white.png"
    Image.fromarray(np.full((300, 400, 3), 255, np.uint8)).save(path)
    with open_slide(path, mpp=0.5, probe=False) as opened:
        yield opened


def table(*rows: tuple[float, float, float, int]) -> Detections:
    """Cells (x, y, side, class id)."""
    values = np.array(rows, np.float32).reshape(-1, 4)
    half = values[:, 2:3] / 2
    boxes = np.concatenate([values[:, :2] - half, values[:, :2] + half], axis=1)
    ids = values[:, 3].astype(np.int16)
    return Detections(boxes, np.full(len(boxes), 0.9, np.float32), ids, ("a", "b"))


def where(picture: np.ndarray, color: tuple[int, int, int], height: int) -> np.ndarray:
    """(x, y) of the image's pixels of a colour, the legend left out."""
    rows, columns = np.nonzero((picture[:height] == color).all(axis=2))
    return np.stack([columns, rows], axis=1)


def test_large_cells_are_outlined_where_they_are(slide):
    picture = draw_overlay(slide, table((100, 80, 20, 0), (300, 200, 30, 1)), COLORS)
    assert picture.shape[1] == 800
    # Small images are enlarged twice.
    for color, centre, side in ((RED, (200, 160), 40), (BLUE, (600, 400), 60)):
        points = where(picture, color, 600)
        assert np.abs(points.mean(axis=0) - centre).max() < 1.5
        assert np.ptp(points, axis=0) == pytest.approx([side, side], abs=2)


def test_small_cells_are_dots(slide):
    picture = draw_overlay(slide, table((100, 80, 20, 0)), COLORS, max_side=100)
    points = where(picture, RED, 75)
    assert len(points) == 9
    assert points.mean(axis=0).tolist() == [25, 20]


def test_a_region_shows_its_own_cells_only(slide):
    cells = table((100, 80, 20, 0), (300, 200, 30, 1))
    picture = draw_overlay(slide, cells, COLORS, region=Region(250, 150, 100, 100))
    assert picture.shape[1] == 200
    assert len(where(picture, RED, 200)) == 0
    assert where(picture, BLUE, 200).mean(axis=0) == pytest.approx([100, 100], abs=1.5)


def test_cells_of_unknown_class_are_grey(slide):
    picture = draw_overlay(slide, table((100, 80, 20, -1)), COLORS)
    assert len(where(picture, UNKNOWN_COLOR, 600)) > 20


def test_no_cells_is_a_picture_too(slide):
    picture = draw_overlay(slide, Detections.empty(("a", "b")), COLORS)
    assert picture.shape[0] > 600
    assert (picture[:600] == 255).all()


def test_the_slide_itself_is_seen(tmp_path):
    path = tmp_path / "cells.png"
    pixels = cell_field((300, 200))
    Image.fromarray(pixels).save(path)
    with open_slide(path, mpp=0.5, probe=False) as slide:
        picture = draw_overlay(slide, Detections.empty(()), {}, max_side=300)
    assert np.array_equal(picture[:200], pixels)


@pytest.mark.parametrize(
    ("width", "um_per_px", "px", "label"),
    [(1000, 0.5, 200, "0.1 mm"), (1200, 0.25, 200, "0.05 mm"), (2000, 10, 200, "2 mm")],
)
def test_the_scale_bar_is_as_long_as_it_says(width, um_per_px, px, label):
    assert _scale_bar(width, um_per_px) == (px, label)


def test_writing_is_all_or_nothing(tmp_path):
    target = tmp_path / "p.png"
    write_picture(np.zeros((5, 7, 3), np.uint8), target)
    with Image.open(target) as image:
        assert image.size == (7, 5)
    with pytest.raises(ExportError):
        write_picture(np.zeros((5, 7, 3), np.uint8), tmp_path / "none" / "p.png")
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
