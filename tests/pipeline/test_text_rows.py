import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.pipeline.text_rows import blank, decimals, hexadecimal, join, words


def lines(pieces, count):
    return join([*pieces, b"\n"], count).decode().splitlines()


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), st.integers(0, 4))
def test_decimals_read_back_within_half_a_unit(values, places):
    texts = lines([decimals(np.array(values), places)], len(values))
    for text, value in zip(texts, values, strict=True):
        assert abs(float(text) - value) <= 0.5000001 * 10**-places + abs(value) * 1e-12
        assert len(text.partition(".")[2]) == places
        assert not text.lstrip("-").startswith("0") or text.lstrip("-")[:2] in ("0.", "0")


def test_known_numbers():
    values = np.array([0, 0.005, -0.5, 12.345, 1234567.891, -3])
    assert lines([decimals(values, 2)], 6) == [
        "0.00", "0.00", "-0.50", "12.34", "1234567.89", "-3.00",
    ]  # fmt: skip
    assert lines([decimals(np.array([0, 7, -120]), 0)], 3) == ["0", "7", "-120"]
    assert lines([decimals(np.array([True, False]), 0)], 2) == ["1", "0"]


def test_not_finite_is_nothing_and_huge_is_exact():
    assert join([decimals(np.array([np.nan, 1.0, np.inf]), 1), b";"], 3) == b";1.0;;"
    huge = np.array([1e300, np.nan, 2.5])
    assert [float(v or "nan") for v in lines([decimals(huge, 2)], 3)] == pytest.approx(
        huge.tolist(), nan_ok=True
    )


def test_no_negative_zero():
    assert lines([decimals(np.array([-0.001, -0.0]), 2)], 2) == ["0.00", "0.00"]


def test_words_keep_their_length_and_letters():
    assert lines([b"<", words(["a", "", "Größe μ"]), b">"], 3) == ["<a>", "<>", "<Größe μ>"]
    assert words([]).shape[0] == 0


def test_hexadecimal_and_blank():
    piece = hexadecimal(np.array([0, 2**64 - 1, 0x123456789ABCDEF0], np.uint64))
    assert lines([blank(piece, np.array([False, True, False]))], 3) == [
        "0" * 16, "", "123456789abcdef0",
    ]  # fmt: skip
