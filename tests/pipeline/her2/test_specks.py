"""A small brown box without blue is no nucleus; a nucleus is, whatever its colour and size."""

import numpy as np
import pytest

from napari_celldetr.pipeline.her2.specks import LARGEST_UM, find_specks

MPP = 0.25
SIDE = 60


def disc(blue, brown, size_um):
    """One box of that size in the middle of a picture, and what lies in it."""
    at = np.arange(SIDE) + 0.5 - SIDE / 2
    inside = np.hypot(at[None, :], at[:, None]) * MPP < size_um / 2
    amounts = inside[..., None] * np.array([blue, brown], np.float32)
    half = size_um / MPP / 2
    low, high = SIDE / 2 - half, SIDE / 2 + half
    return np.array([[low, low, high, high]], np.float32), amounts.astype(np.float32)


@pytest.mark.parametrize(
    ("blue", "brown", "size_um", "is_speck"),
    [
        (0.08, 0.5, 4.0, True),
        (0.4, 0.1, 4.0, False),
        (0.4, 0.5, 4.0, False),
        (0.02, 0.06, 4.0, False),
        (0.08, 0.9, LARGEST_UM + 1, False),
    ],
)
def test_small_and_brown_without_blue_is_no_nucleus(blue, brown, size_um, is_speck):
    assert find_specks(*disc(blue, brown, size_um), mpp=MPP)[0] == is_speck


def test_no_boxes_no_specks():
    assert find_specks(np.zeros((0, 4)), np.zeros((8, 8, 2), np.float32), mpp=MPP).shape == (0,)
