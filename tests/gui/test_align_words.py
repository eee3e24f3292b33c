"""What *Align slides* says."""

from dataclasses import replace

import numpy as np
import pytest
from aligned_pair import known_transform

from napari_celldetr.core.errors import JobError
from napari_celldetr.core.progress import Progress
from napari_celldetr.gui.align_words import (
    error_words,
    failure_words,
    left_out_words,
    result_words,
    step_words,
)
from napari_celldetr.pipeline.transform_words import share_words, turn_words


def turned(degrees, *, mirrored=False, scale=1.0):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    affine = np.column_stack([matrix, [0.0, 0.0]])
    return replace(known_transform(bent=False), affine=affine)


@pytest.mark.parametrize(
    ("degrees", "mirrored", "said"),
    [
        (0, False, "not turned"),
        (30, False, "turned by 30° clockwise"),
        (-100, False, "turned by 100° counter-clockwise"),
        (140, True, "mirrored and turned by 140° clockwise"),
        (0, True, "mirrored and not turned"),
    ],
)
def test_how_it_is_turned(degrees, mirrored, said):
    assert turn_words(turned(degrees, mirrored=mirrored)) == said


def test_the_result_in_sentences():
    said = result_words(turned(30, scale=1.06))
    assert "turned by 30° clockwise, 6 % larger." in said
    assert "about 10 µm (median)" in said
    assert "120 µm in nine tenths" in said
    plain = replace(turned(30), error_map=None)
    assert "not measured" in result_words(plain)
    assert "not measured" in share_words(plain)


def test_how_much_is_left_out():
    # A third of the cells, and the one of unknown error.
    said = (
        "34.4 % of the tissue is left out: 33.3 % with an error over 50 µm, "
        "1.0 % where it is not known."
    )
    assert share_words(known_transform()) == said
    assert left_out_words(known_transform()) == f"{said} It is grey."
    assert share_words(replace(known_transform(), limit_um=500.0)).startswith("1.0 %")


def test_failures_say_what_was_found():
    error = JobError("It failed.", expected="tissue", found="nothing", remedy="look again")
    assert failure_words(error) == "Not aligned. It failed. Found: nothing."


def test_steps_are_in_plain_words():
    assert step_words(Progress(4, 12, "affine (stages)")) == (
        "Improving turn, size and position… (step 5 of 12)"
    )
    assert step_words(Progress(0, 12, "reading a.svs (stages)")) == "Reading a.svs… (step 1 of 12)"
    assert step_words(Progress(0, 0, "opening the slides")) == "Opening the slides…"


def test_what_is_known_of_a_place():
    assert error_words(None, trusted=True) == ""
    assert error_words(3.14, trusted=True) == "Here: up to about 3.1 µm off"
    assert error_words(120.0, trusted=False) == "Here: up to about 120 µm off; left out"
    assert "not known" in error_words(float("nan"), trusted=False)
