"""The overlay picture: cells where they are, in their colours, with an honest scale bar."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import cell_field
from PIL import Image

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.legend import LegendEntry, scale_bar
from napari_celldetr.pipeline.picture import (
    UNKNOWN_COLOR,
    draw_overlay,
    view_picture,
    write_picture,
)
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
    [
        (1000, 0.5, 200, "100 µm"),
        (1200, 0.25, 200, "50 µm"),
        (2000, 10, 200, "2 mm"),
        (500, 10, 100, "1 mm"),
        (300, 0.01, 50, "0.5 µm"),
    ],
)
def test_the_scale_bar_is_as_long_as_it_says(width, um_per_px, px, label):
    assert scale_bar(width, um_per_px) == (px, label)


def dark_runs(strip: np.ndarray) -> list[int]:
    """Lengths of the runs of nearly black pixels in every row."""
    dark = (strip < 60).all(axis=2)
    edges = np.diff(np.pad(dark, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    return [
        int(stop - start)
        for row in edges
        for start, stop in zip(np.flatnonzero(row == 1), np.flatnonzero(row == -1), strict=True)
    ]


def test_a_view_gets_a_bar_of_its_length_and_a_legend():
    screen = np.full((200, 900, 4), 255, np.uint8)
    screen[:, :, 1] = 10
    entries = [LegendEntry("tumour", RED, 12_345), LegendEntry("épithélium", BLUE)]
    picture = view_picture(screen, um_per_px=0.5, legend=entries)
    assert picture.shape[1:] == (900, 3)
    assert (picture[:200] == screen[:, :, :3]).all()
    strip = picture[200:]
    # A fifth of 450 µm is 90 µm: the longest round length below is 50 µm, 100 px.
    assert scale_bar(900, 0.5) == (100, "50 µm")
    assert max(dark_runs(strip)) == 100
    for entry in entries:
        assert (strip == entry.color).all(axis=2).sum() > 50
    assert entries[0].text == "tumour  12,345"
    # Without a pixel size a bar would be a guess.
    for unknown in (None, 0.0, float("nan")):
        bare = view_picture(screen, um_per_px=unknown, legend=entries)
        assert max(dark_runs(bare[200:])) < 50
        assert len(bare) < len(picture)


def test_the_letter_for_micro_is_not_a_box():
    """Pillow's own font has none; a u with a stem stands for it."""
    wide = np.full((40, 800, 3), 255, np.uint8)
    strips = [view_picture(wide, um_per_px=mpp)[40:] for mpp in (0.5, 500.0)]
    assert [scale_bar(800, mpp)[1] for mpp in (0.5, 500.0)] == ["50 µm", "50 mm"]
    below, right = 24, 13 + 100 + 20
    ink = [(s[below:30, right:200] < 120).all(axis=2).sum() for s in strips]
    # Of "50 µm" the stem alone reaches below the line, of "50 mm" nothing does.
    assert ink[0] > 0
    assert ink[1] == 0


def test_a_legend_wraps_and_long_names_do_not_fail():
    many = [LegendEntry(f"class number {i}", RED, i) for i in range(30)]
    small = view_picture(np.zeros((50, 300, 3), np.uint8), um_per_px=1.0, legend=many)
    large = view_picture(np.zeros((50, 2000, 3), np.uint8), um_per_px=1.0, legend=many)
    assert len(small) > len(large)
    view_picture(np.zeros((9, 20, 3), np.uint8), um_per_px=1.0, legend=many)


@pytest.mark.parametrize("shape", [(5, 5), (5, 5, 2), (0, 5, 3), (5, 5, 3, 1)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ExportError, match="no picture"):
        view_picture(np.zeros(shape, np.uint8), um_per_px=1.0)
    with pytest.raises(ExportError, match="no picture"):
        view_picture(np.zeros((5, 5, 3), np.float32), um_per_px=1.0)


def test_writing_is_all_or_nothing(tmp_path):
    target = tmp_path / "p.png"
    write_picture(np.zeros((5, 7, 3), np.uint8), target)
    with Image.open(target) as image:
        assert image.size == (7, 5)
    with pytest.raises(ExportError):
        write_picture(np.zeros((5, 7, 3), np.uint8), tmp_path / "none" / "p.png")
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
