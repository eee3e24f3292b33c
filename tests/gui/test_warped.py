"""One slide laid onto another, pixel by pixel; no viewer."""

import numpy as np
import pytest

from napari_celldetr.core.transform import SlideFrame, SlideTransform, SplineWarp
from napari_celldetr.gui.around import around
from napari_celldetr.gui.warp_masks import SEAM_COLOR, WHOLE, Checker, Swipe
from napari_celldetr.gui.warped import WarpedPyramid
from napari_celldetr.gui.warped_level import CHUNK_PX
from napari_celldetr.pipeline.warp import Mover

SIZE = (900, 700)


def frame(size=SIZE, mpp=1.0):
    return SlideFrame("a", "a", size, (mpp, mpp))


def shifted(x, y, *, size=SIZE, mpp=1.0, warp=None):
    affine = np.array([[1.0, 0, x * mpp], [0, 1, y * mpp]])
    return SlideTransform(frame(), frame(size, mpp), affine, warp)


def noise(size=SIZE, seed=0):
    chance = np.random.default_rng(seed)
    return chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def ramps(size):
    """A picture (h, w, 3) whose red and green say where each pixel is, in px / 4."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    return np.stack([x / 4, y / 4, 0 * x], axis=-1).round().astype(np.uint8)


class Counting:
    """An array that knows how much of it was read."""

    def __init__(self, pixels):
        self.pixels, self.read = pixels, 0
        self.shape, self.dtype, self.ndim = pixels.shape, pixels.dtype, 3

    def __getitem__(self, key):
        part = self.pixels[key]
        self.read += part.shape[0] * part.shape[1]
        return part


def test_whole_steps_move_pixels_and_change_none():
    pixels = noise()
    out = WarpedPyramid([pixels], Mover(shifted(3, -2))).levels[0]
    # The first level covers the IHC's frame and all of the H&E, which reaches beyond it.
    assert out.shape == (702, 903, 4)
    whole = np.asarray(out)
    np.testing.assert_array_equal(whole[:700, 3:, :3], pixels)
    assert (whole[:700, 3:, 3] == 255).all()
    assert not whole[:, :3, 3].any()
    assert not whole[700:, :, 3].any()


def test_half_a_step_mixes_two_pixels():
    pixels = noise()
    out = np.asarray(WarpedPyramid([pixels], Mover(shifted(3.5, 0))).levels[0]).astype(float)
    mean = (pixels[:, :-1].astype(float) + pixels[:, 1:]) / 2
    np.testing.assert_allclose(out[:, 4:903, :3], mean, atol=0.51)


def test_a_turn_by_a_quarter_is_exact():
    pixels = noise()
    affine = np.array([[0.0, -1, 700], [1, 0, 0]])
    turned = SlideTransform(frame(), frame((700, 900)), affine)
    out = np.asarray(WarpedPyramid([pixels], Mover(turned)).levels[0])
    np.testing.assert_array_equal(out[..., :3], np.rot90(pixels, -1))


def test_every_pixel_of_a_bent_picture_is_from_where_the_transform_says():
    chance = np.random.default_rng(3)
    warp = SplineWarp((-200.0, -200.0), (130.0, 130.0), chance.normal(0, 9, (11, 13, 2)))
    angle = np.radians(25)
    affine = np.array([[np.cos(angle), -np.sin(angle), 90], [np.sin(angle), np.cos(angle), -70]])
    bent = SlideTransform(frame(), frame((950, 800)), affine, warp)
    pyramid = WarpedPyramid([ramps(SIZE)], Mover(bent))
    out = np.asarray(pyramid.levels[0])
    x, y = chance.integers(0, out.shape[1], 4000), chance.integers(0, out.shape[0], 4000)
    places = np.stack([x, y], axis=1) + 0.5 + pyramid.origin
    source = bent.inverse(places)
    inside = ((source > 4) & (source < np.array(SIZE) - 4)).all(axis=1)
    outside = ((source < -2) | (source > np.array(SIZE) + 2)).any(axis=1)
    assert inside.sum() > 1000
    assert outside.sum() > 100
    found = 4 * out[y, x, :2].astype(float) + 0.5
    # A grey step is 4 px, rounded twice; there is no bias beyond Pillow's rounding down.
    miss = found[inside] - source[inside]
    assert np.abs(miss).max() < 7
    assert np.abs(np.median(miss, axis=0)).max() < 2
    assert (out[y, x, 3][inside] == 255).all()
    assert not out[y, x, 3][outside].any()


def test_coarse_levels_show_the_same_places():
    pyramid = WarpedPyramid([ramps(SIZE)], Mover(shifted(0, 0)))
    fine, coarse = (np.asarray(level).astype(float) for level in pyramid.levels[:2])
    assert coarse.shape[:2] == (350, 450)
    means = fine.reshape(350, 2, 450, 2, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse, means, atol=1.01)


def test_a_finer_source_keeps_its_detail():
    pixels = noise()
    # IHC pixels are twice as wide as those of the H&E.
    twice = SlideTransform(frame(), frame((450, 350), 2.0), np.eye(2, 3))
    pyramid = WarpedPyramid([pixels], Mover(twice))
    assert pyramid.factor == 0.5
    np.testing.assert_array_equal(np.asarray(pyramid.levels[0])[..., :3], pixels)


def test_the_other_direction():
    pixels = noise()
    pyramid = WarpedPyramid([pixels], Mover(shifted(3, -2), inverse=True))
    assert pyramid.origin == (-3, 0)
    whole = np.asarray(pyramid.levels[0])
    np.testing.assert_array_equal(whole[2:702, :900, :3], pixels)


def test_only_what_is_looked_at_is_read_and_only_once():
    size = (4 * CHUNK_PX, 4 * CHUNK_PX)
    same = SlideTransform(frame(size), frame(size), np.eye(2, 3))
    source = Counting(noise(size))
    level = WarpedPyramid([source], Mover(same)).levels[0]
    assert level[600:700, 600:800].shape == (100, 200, 4)
    first = source.read
    assert CHUNK_PX**2 <= first < 1.1 * CHUNK_PX**2
    level[700:900, 700:900]
    assert source.read == first


def test_a_coarse_view_reads_a_coarse_level_of_the_source():
    size = (4 * CHUNK_PX, 4 * CHUNK_PX)
    same = SlideTransform(frame(size), frame(size), np.eye(2, 3))
    full = noise(size)
    sources = [Counting(full), Counting(np.ascontiguousarray(full[::4, ::4]))]
    pyramid = WarpedPyramid(sources, Mover(same))
    np.asarray(pyramid.levels[2])
    assert pyramid.levels[2].shape[0] == CHUNK_PX
    assert sources[0].read == 0
    assert sources[1].read > 0


def test_masks_act_when_pixels_are_handed_out():
    pyramid = WarpedPyramid([noise()], Mover(shifted(0, 0)))
    level = pyramid.levels[0]
    full = np.asarray(level)
    pyramid.mask = Swipe(400.0, 2.0)
    swiped = np.asarray(level)
    assert (swiped[:, 399:401] == SEAM_COLOR).all()
    np.testing.assert_array_equal(swiped[:, :399], full[:, :399])
    assert not swiped[:, 401:, 3].any()
    pyramid.mask = Checker((100.0, 50.0))
    fields = np.asarray(level)[..., 3]
    assert fields[10, 10] == 255
    assert fields[10, 110] == 0
    assert fields[60, 10] == 0
    assert fields[60, 110] == 255
    # A part shows the same fields as the whole.
    np.testing.assert_array_equal(level[200:300, 300:500, 3:][..., 0], fields[200:300, 300:500])
    np.testing.assert_array_equal(np.asarray(pyramid.unmasked[0]), full)
    pyramid.mask = WHOLE
    np.testing.assert_array_equal(np.asarray(level), full)


def test_a_seam_lies_at_the_same_place_on_every_level():
    pyramid = WarpedPyramid([noise()], Mover(shifted(0, 0)))
    pyramid.mask = Swipe(400.0, 0.1)
    shown = [np.asarray(level)[5, :, 3] > 0 for level in pyramid.levels[:2]]
    assert [int(row.sum()) for row in shown] == [400, 200]


def test_the_level_that_napari_keeps_is_one_that_nobody_looks_at():
    shapes = [level.shape for level in WarpedPyramid([noise()], Mover(shifted(0, 0))).levels]
    assert max(shapes[-1][:2]) <= 64
    assert shapes[-2][1] == 2 * shapes[-1][1] - shapes[-2][1] % 2


def test_a_picture_around_a_place():
    pixels = noise()
    plain = around([pixels], (450.0, 350.0), 1.0, (100, 60))
    np.testing.assert_array_equal(plain, pixels[320:380, 400:500])
    corner = around([pixels], (0.0, 0.0), 1.0, (100, 60))
    assert (corner[:30] == 244).all()
    np.testing.assert_array_equal(corner[30:, 50:], pixels[:30, :50])
    levels = [pixels, pixels[::2, ::2]]
    np.testing.assert_array_equal(
        around(levels, (450.0, 350.0), 2.0, (100, 60)), pixels[::2, ::2][145:205, 175:275]
    )
    assert (around([pixels], (-5000.0, 0.0), 1.0, (40, 30)) == 244).all()


@pytest.mark.parametrize("step", [0.1, 0.37, 3.0])
def test_a_picture_around_a_place_has_its_size_at_any_zoom(step):
    assert around([noise()], (450.3, 350.7), step, (101, 63)).shape == (63, 101, 3)
