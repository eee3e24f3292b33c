"""Landmarks, as clicks and as a file; no viewer."""

import numpy as np
import pytest

from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.transform import SlideFrame, SlideTransform, TransformError
from napari_celldetr.gui.landmarks import Landmark, Landmarks, read_landmarks, write_landmarks

PAIRS = (((1.0, 2.0), (3.0, 4.0)), ((10.5, 20.25), (30.0, 40.125)))


def test_two_clicks_make_a_landmark_in_either_order():
    marks = Landmarks()
    assert marks.wanted is None
    marks = marks.clicked("he", (1.0, 2.0))
    assert marks.wanted == "ihc"
    assert marks.pairs == ()
    marks = marks.clicked("ihc", (3.0, 4.0))
    assert marks.wanted is None
    marks = marks.clicked("ihc", (30.0, 40.125))
    assert marks.wanted == "he"
    marks = marks.clicked("he", (10.5, 20.25))
    assert marks.pairs == PAIRS


def test_a_second_click_on_the_same_slide_moves_the_first():
    marks = Landmarks().clicked("he", (1.0, 2.0)).clicked("he", (5.0, 6.0))
    assert marks.items == (Landmark((5.0, 6.0), None),)


def test_deleting_moves_the_others_up():
    marks = Landmarks.of(PAIRS).clicked("he", (7.0, 7.0))
    assert marks.without([0]).pairs == PAIRS[1:]
    assert marks.without([2]).pairs == PAIRS
    assert marks.without([0, 1, 2]).items == ()


def test_what_is_missed_is_in_um_of_the_ihc():
    he = SlideFrame("a", "a", (100, 100), (0.5, 0.5))
    ihc = SlideFrame("b", "b", (100, 100), (0.25, 0.25))
    transform = SlideTransform(he, ihc, np.eye(2, 3))
    # 10 px of 0.5 µm are 20 px of 0.25 µm; the second one is 3 and 4 px off.
    marks = Landmarks.of([((10.0, 10.0), (20.0, 20.0)), ((10.0, 10.0), (23.0, 24.0))])
    misses = marks.clicked("he", (1.0, 1.0)).misses_um(transform)
    np.testing.assert_allclose(misses, [0.0, 1.25, np.nan])
    assert np.isnan(marks.misses_um(None)).all()


def test_a_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / "marks.csv"
    assert write_landmarks(Landmarks.of(PAIRS).clicked("he", (7.0, 7.0)), path) == 2
    assert path.read_text().splitlines()[0] == "he_x,he_y,ihc_x,ihc_y"
    assert read_landmarks(path).pairs == PAIRS


def test_files_that_hold_none_are_refused(tmp_path):
    path = tmp_path / "cells.csv"
    path.write_text("x,y\n1,2\n")
    with pytest.raises(TransformError, match=r"cells\.csv"):
        read_landmarks(path)
    with pytest.raises(ExportError):
        write_landmarks(Landmarks.of(PAIRS), tmp_path / "no" / "folder" / "m.csv")
