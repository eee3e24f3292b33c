import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from napari_celldetr.training import scanner

GREYS = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)


def picture(seed=0, shape=(48, 64)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def test_tone_is_a_power_and_a_factor_for_each_channel():
    gamma, balance = np.array([0.8, 1.0, 1.3]), np.array([1.0, 0.95, 1.05])
    made = scanner.change_tone(GREYS, gamma, balance)
    levels = GREYS / 255
    expected = np.clip(255 * levels**gamma * balance, 0, 255)
    assert np.abs(made - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(scanner.change_tone(GREYS, np.ones(3), np.ones(3)), GREYS)


@settings(max_examples=30, deadline=None)
@given(saturation=st.floats(0, 2), seed=st.integers(0, 1000))
def test_colour_matrices_keep_grey(saturation, seed):
    mixing = np.random.default_rng(seed).uniform(-0.05, 0.05, (3, 3))
    matrix = scanner.colour_matrix(saturation, mixing)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert np.abs(scanner.change_colours(GREYS, matrix).astype(int) - GREYS).max() <= 1


def test_colour_matrices_by_hand():
    np.testing.assert_allclose(scanner.colour_matrix(1.0, np.zeros((3, 3))), np.eye(3))
    np.testing.assert_allclose(scanner.colour_matrix(0.0, np.zeros((3, 3))), 1 / 3)
    mixing = np.zeros((3, 3))
    mixing[0, 1] = 0.1  # a tenth of green runs into red
    np.testing.assert_allclose(scanner.colour_matrix(1.0, mixing)[0], [0.9, 0.1, 0.0])
    image = np.full((2, 3, 3), (200, 100, 50), np.uint8)
    made = scanner.change_colours(image, scanner.colour_matrix(1.0, mixing))
    np.testing.assert_array_equal(made, np.full((2, 3, 3), (190, 100, 50)))
    half = scanner.change_colours(image, scanner.colour_matrix(0.5, np.zeros((3, 3))))
    assert np.abs(half[0, 0] - (117 + (np.array([200, 100, 50]) - 117) / 2)).max() <= 1


def test_colours_never_leave_their_range():
    matrix = scanner.colour_matrix(2.0, np.zeros((3, 3)))
    made = scanner.change_colours(picture(), matrix)
    expected = np.clip(picture() @ matrix.T, 0, 255)
    assert np.abs(made - expected).max() <= 1


def test_sharpening_overshoots_at_an_edge_and_leaves_flat_areas():
    image = np.full((20, 40, 3), 80, np.uint8)
    image[:, 20:] = 160
    made = scanner.sharpen(image, 0.8)
    assert made[:, :12].tolist() == image[:, :12].tolist()
    assert (made[:, 19] < 70).all()
    assert (made[:, 20] > 170).all()
    np.testing.assert_array_equal(scanner.sharpen(image, 0.0), image)


@pytest.mark.parametrize("scale", [0.5, 0.73, 1.0, 0.01])
def test_resampling_keeps_shape_and_brightness(scale):
    image = picture()
    made = scanner.resample_down_up(image, scale)
    assert made.shape == image.shape
    assert abs(made.mean() - image.mean()) < 3
    if scale == 1.0:
        np.testing.assert_array_equal(made, image)
    else:
        assert made.std() < 0.8 * image.std()


def test_shading_by_hand():
    image = np.full((41, 81, 3), 200, np.uint8)
    made = scanner.shade(image, (0.1, -0.05), 0.0)
    assert made[20, 40].tolist() == [200] * 3
    assert made[20, 80].tolist() == [220] * 3
    assert made[20, 0].tolist() == [180] * 3
    assert made[0, 40].tolist() == [210] * 3
    made = scanner.shade(image, (0.0, 0.0), 0.2)
    assert made[20, 40].tolist() == [200] * 3
    assert made[0, 0].tolist() == made[-1, -1].tolist() == [160] * 3
    np.testing.assert_array_equal(scanner.shade(image, (0, 0), 0.0), image)


def test_full_colour_compression_keeps_colour_edges():
    image = np.full((32, 32, 3), (200, 120, 200), np.uint8)
    image[:, 1::2] = (120, 120, 200)
    error = [
        np.abs(scanner.recompress(image, 95, full_colour=full).astype(int) - image).mean()
        for full in (False, True)
    ]
    assert error[0] > 3 * error[1]


def test_nothing_is_written_into_the_argument():
    image = picture()
    before = image.copy()
    scanner.change_tone(image, np.full(3, 0.8), np.ones(3))
    scanner.change_colours(image, np.eye(3))
    scanner.sharpen(image, 1.0)
    scanner.resample_down_up(image, 0.5)
    scanner.shade(image, (0.1, 0.1), 0.1)
    scanner.recompress(image, 50)
    np.testing.assert_array_equal(image, before)


def test_sharpening_against_a_slow_gaussian():
    image = picture(3)
    soft = ndimage.convolve1d(
        image.astype(float), np.array([1, 4, 6, 4, 1]) / 16, 0, mode="nearest"
    )
    soft = ndimage.convolve1d(soft, np.array([1, 4, 6, 4, 1]) / 16, 1, mode="nearest")
    expected = np.clip(image + 0.6 * (image - soft), 0, 255)
    assert np.abs(scanner.sharpen(image, 0.6) - expected).max() <= 0.51
