"""Where things are: dots at known places come back there, at every level, offset and µm/px."""

from __future__ import annotations

import numpy as np
import pytest
import slide_files
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slide_files import halves, picture

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.alignment import Stored, relative_scale
from napari_celldetr.slides.pyramid import CHUNK_PX, plan_levels
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.resample import Axis, resample

WIDTH, HEIGHT = 1237, 911
RADIUS = 32.0
DOTS = [
    (35.3, 37.8),
    (1201.6, 34.1),
    (39.5, 876.2),
    (1200.2, 874.7),
    (618.4, 455.9),
    (321.7, 700.1),
]


def dotted() -> np.ndarray:
    """Dark soft dots on white, at subpixel places (pixel 0 spans 0..1)."""
    x, y = np.arange(WIDTH) + 0.5, np.arange(HEIGHT)[:, None] + 0.5
    dark = np.zeros((HEIGHT, WIDTH))
    for cx, cy in DOTS:
        away = np.minimum(np.hypot(x - cx, y - cy) / RADIUS, 1)
        dark = np.maximum(dark, np.cos(away * np.pi / 2) ** 2)
    return np.repeat((255 - 240 * dark).astype(np.uint8)[..., None], 3, axis=2)


def centroid(picture_: np.ndarray) -> tuple[float, float]:
    dark = 255.0 - picture_[..., 0]
    assert dark.sum() > 0
    x, y = np.arange(dark.shape[1]) + 0.5, np.arange(dark.shape[0]) + 0.5
    return float((dark.sum(0) * x).sum() / dark.sum()), float((dark.sum(1) * y).sum() / dark.sum())


def squeezed(pixels: np.ndarray, levels: int) -> list[np.ndarray]:
    """Levels that hold the whole side, however odd."""
    found = [pixels]
    for k in range(1, levels + 1):
        width, height = WIDTH // 2**k, HEIGHT // 2**k
        x, y = Axis(0, WIDTH / width, width), Axis(0, HEIGHT / height, height)
        found.append(resample(pixels, x, y))
    return found


PYRAMIDS = {
    "dropped": lambda a: halves(a, 4),
    "kept": lambda a: halves(a, 4, keep_odd=True),
    "squeezed": lambda a: squeezed(a, 4),
    "single": lambda a: [a],
}
CASES = [
    *((name, "dropped") for name in slide_files.LOSSLESS),
    *(("plain_lzw.tif", kind) for kind in ("kept", "squeezed", "single")),
    ("ome_deflate.ome.tif", "kept"),
    ("new.zarr", "single"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_r25_dots_come_back_where_they_are(tmp_path, name, kind):
    path = slide_files.write(tmp_path, name, PYRAMIDS[kind](dotted()))
    chance = np.random.default_rng(5)
    worst = 0.0
    with open_slide(path, probe=False) as slide:
        native = slide.mpp[0]
        for mpp in (native, 0.25, 0.37, 0.77, 1.0, 1.6, 2.0, 3.1, 4.0, 8.0):
            for cx, cy in DOTS:
                # Odd places and sizes, hanging over the slide's edge where a dot is near it.
                x, y = (int(c) - int(chance.integers(40, 70)) for c in (cx, cy))
                region = Region(
                    x, y, int(chance.integers(110, 150)), int(chance.integers(110, 150))
                )
                seen = slide.read(region, mpp)
                fx, fy = centroid(seen)
                fx = region.x + fx * region.width / seen.shape[1]
                fy = region.y + fy * region.height / seen.shape[0]
                worst = max(worst, abs(fx - cx), abs(fy - cy))
    assert worst <= 0.5, worst


def test_output_size_is_rounded_and_at_least_one(tmp_path):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture()])
    with open_slide(path, probe=False) as slide:
        native = slide.mpp[0]
        for side, mpp in ((300, 0.77), (1, 8.0), (257, native), (33, 0.2)):
            expected = max(1, round(side * native / mpp))
            assert slide.read(Region(5, 5, side, side), mpp).shape == (expected, expected, 3)


def test_reads_in_pieces_equal_one_read(tmp_path):
    path = slide_files.write(tmp_path, "plain_lzw.tif", halves(picture(), 2))
    with open_slide(path, probe=False) as slide:
        native = slide.mpp[0]
        for factor in (1, 2, 4):
            whole = slide.read(Region(0, 0, 640, 480), native * factor)
            for x in (0, 160, 480):
                part = slide.read(Region(x, 64, 160, 320), native * factor)
                piece = whole[64 // factor : 384 // factor, x // factor : (x + 160) // factor]
                assert np.array_equal(part, piece)


def test_large_reads_are_done_in_bands_with_the_same_result(tmp_path, monkeypatch):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture()])
    with open_slide(path, probe=False) as slide:
        whole = slide.read(slide.region, 0.83)
        monkeypatch.setattr("napari_celldetr.slides.slide.BLOCK_PX", 20_000)
        banded = slide.read(slide.region, 0.83)
        assert np.abs(whole.astype(int) - banded).max() <= 1


# -- resampling ---------------------------------------------------------------------------


def slow_average(row: np.ndarray, axis: Axis) -> np.ndarray:
    """Area averages of a 1-D signal, straight from the definition, 1000 samples a pixel."""
    fine = np.repeat(row.astype(float), 1000)
    low = axis.source_range[0]
    out = []
    for i in range(axis.count):
        start = (axis.start + i * axis.step - low) * 1000
        stop = start + axis.step * 1000
        out.append(fine[round(start) : round(stop)].mean())
    return np.array(out)


@given(
    start=st.floats(0, 30).map(lambda v: round(v, 3)),
    step=st.floats(1, 7).map(lambda v: round(v, 3)),
    count=st.integers(1, 12),
)
def test_shrinking_is_area_averaging(start, step, count):
    axis = Axis(start, step, count)
    low, high = axis.source_range
    row = np.random.default_rng(0).integers(0, 256, high - low).astype(np.uint8)
    pixels = np.repeat(row[None, :, None], 3, axis=2)
    got = resample(pixels, axis, Axis(0, 1, 1))[0, :, 0]
    assert np.abs(got - slow_average(row, axis)).max() <= 1.0


@given(
    start=st.floats(-5, 5), step=st.floats(0.1, 6), count=st.integers(1, 40), slope=st.floats(0, 3)
)
def test_a_ramp_stays_the_same_ramp(start, step, count, slope):
    axis = Axis(start, step, count)
    low, high = axis.source_range
    ramp = slope * (np.arange(low, high) + 0.5)
    weights = axis.weights()
    centres = start + (np.arange(count) + 0.5) * step
    assert weights.sum(axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    # Pixels are taken as flat, so a cut pixel at each end may be off by an eighth at most.
    slack = 0.13 * slope if step >= 1 else 0.0
    assert np.abs(weights @ ramp - slope * centres).max() <= slack + 0.02


# -- levels -------------------------------------------------------------------------------


def stored(pixels: np.ndarray) -> Stored:
    return Stored(
        (pixels.shape[1], pixels.shape[0]), lambda x, y, w, h: pixels[y : y + h, x : x + w]
    )


def test_level_scales_are_measured(tmp_path):
    full = picture(WIDTH, HEIGHT)
    for kind, expected in (
        ("dropped", (2, 2)),
        ("kept", (2, 2)),
        ("squeezed", (1237 / 618, 911 / 455)),
    ):
        below = PYRAMIDS[kind](full)[1]
        assert relative_scale(stored(full), stored(below)) == pytest.approx(expected, abs=1e-6)
    flat = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    assert relative_scale(stored(flat), stored(flat[: HEIGHT // 2, : WIDTH // 2])) == (2, 2)


def test_missing_levels_are_planned():
    sizes = [level.size for level in plan_levels(((40_001, 30_000),))]
    assert sizes[1] == (20_001, 15_000)
    assert max(sizes[-1]) <= 2048
    mixed = plan_levels(((40_000, 30_000), (10_000, 7_500), (1_000, 750)))
    assert [level.real for level in mixed] == [0, 1, None, None, 2]
    assert mixed[1].scale == (4, 4)


def test_made_levels_are_averages_and_display_equals_reading(tmp_path):
    full = picture(2600, 2300)
    path = slide_files.write_tiff(
        tmp_path / "s.tif", [full], compression="deflate", tile=(256, 256)
    )
    with open_slide(path, probe=False) as slide:
        assert slide.real_levels == [0]
        assert slide.level_sizes == [(2600, 2300), (1300, 1150)]
        half = np.array(Image.fromarray(full).reduce(2))
        assert np.array_equal(slide.levels[1].compute(scheduler="sync"), half)
        assert np.array_equal(slide.read_level(1, 500, 500, 300, 200), half[500:700, 500:800])
        window = slide.levels[0][CHUNK_PX - 30 : CHUNK_PX + 40, 2000:2600:3]
        assert np.array_equal(
            window.compute(scheduler="sync"), full[CHUNK_PX - 30 : CHUNK_PX + 40, 2000:2600:3]
        )
        assert slide.thumbnail(400).shape == (354, 400, 3)
        assert (
            np.abs(
                slide.thumbnail(650).astype(int) - np.array(Image.fromarray(full).reduce(4))
            ).max()
            <= 1
        )
