"""What stands beside a score: each reason to read it otherwise, and nothing where there is none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from her2_slides import box, zone_of

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.her2 import Cutoffs, Minimum
from napari_celldetr.pipeline.detect import DetectReport
from napari_celldetr.pipeline.her2.caveats import report_notes, score_caveats
from napari_celldetr.pipeline.her2.result import Her2Result, Rules
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.slide_stain import SlideStain
from napari_celldetr.pipeline.her2.stain_kind import StainKind
from napari_celldetr.pipeline.her2.tumour import CARRIED, NETWORK, Alignment, Tumour

SLIDE = SimpleNamespace(mpp=(0.5, 0.5), size=(1000, 800), warnings=("an odd file",))
ZONES = (zone_of(box(0, 0, 500, 500)),)


def result(tumour=None, *, rules=None, slide=SLIDE, **changes):
    known = tumour or Tumour("drawn", ZONES)
    return Her2Result(slide, Her2Config(), rules or Rules(), known, SlideStain(), **changes)


def nuclei(diameter_um, n=80, score=0.8):
    """A reading of nuclei of one size, on a slide of 0.5 µm/px."""
    side = diameter_um / 0.5
    corners = np.random.default_rng(0).uniform(0, 700, (n, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + np.float32(side)], axis=1)
    cells = Detections(boxes, np.full(n, score, np.float32), np.zeros(n, np.int16), ("nucleus",))
    return SimpleNamespace(measured=SimpleNamespace(cells=cells))


def test_an_ordinary_score_stands_alone():
    assert score_caveats(result(reading=nuclei(7.0))) == ()
    assert report_notes(result(reading=nuclei(7.0))) == ("an odd file",)


def test_a_tumour_that_nobody_drew_is_said():
    (said,) = score_caveats(result(Tumour(NETWORK, ZONES)))
    assert "network" in said
    assert "nobody drew it" in said


@pytest.mark.parametrize(("error_um", "count"), [(None, 1), (12.0, 0)])
def test_a_match_that_nobody_measured_is_said(error_um, count):
    alignment = Alignment("he", "a" * 64, "given", 50.0, error_um, None, 0.0, "b" * 64)
    said = score_caveats(result(Tumour(CARRIED, ZONES, alignment=alignment)))
    assert len(said) == count
    assert all("not measured" in text for text in said)


def test_settings_of_ones_own_are_said_with_the_usual_ones():
    own = Rules(Cutoffs(intense=0.8, complete=0.7), Minimum(cells=20))
    cut, least = score_caveats(result(rules=own))
    assert "Intense from 0.8 (usually 0.6)" in cut
    assert "Complete from 0.7 (usually 0.8)" in cut
    assert "Weak" not in cut
    assert "Fewest tumour cells 20 (usually 100)" in least


def test_tiles_that_failed_are_said_with_how_many_there_were():
    report = DetectReport(tiles=40, skipped=10, failed=3, warnings=("memory",))
    found = result(detection=report)
    (said,) = score_caveats(found)
    assert said.startswith("3 of 30 tiles in or near the tumour failed")
    assert report_notes(found) == ("an odd file", said, "memory")
    (whole,) = score_caveats(result(Tumour("assumed"), detection=report))
    assert whole.startswith("3 of 30 tiles failed")


def test_a_stain_that_cannot_be_told_is_said():
    kinds = (("IHC", StainKind("H-DAB", "DAB")), ("H&E", StainKind("unknown", "too pale")))
    found = result(kinds=kinds)
    (said,) = score_caveats(found)
    assert "slide is H&E" in said
    assert "too pale" in said
    assert said in report_notes(found)


def test_areas_that_reach_out_are_noted():
    found = result(Tumour("drawn", (zone_of(box(900, 0, 1100, 100)),)))
    assert "reach beyond the IHC slide" in report_notes(found)[-1]


@pytest.mark.parametrize("diameter", [3.2, 12.5])
def test_nuclei_of_an_impossible_size_are_said(diameter):
    found = result(reading=nuclei(diameter))
    (said,) = score_caveats(found)
    assert "check the pixel size" in said
    assert report_notes(found)[-1] == said
    assert score_caveats(result(reading=nuclei(diameter, n=20))) == ()


def test_nuclei_of_an_unusual_size_are_a_note_alone():
    found = result(reading=nuclei(10.5))
    assert score_caveats(found) == ()
    assert "check the pixel size" in report_notes(found)[-1]


def test_nuclei_that_the_model_is_not_sure_of_are_said():
    card = SimpleNamespace(threshold=0.35)
    unsure = nuclei(7.0, score=0.41)
    (said,) = score_caveats(result(reading=unsure, card=card))
    assert "median score 0.41" in said
    assert "pixel size (0.5 µm" in said
    assert score_caveats(result(reading=nuclei(7.0, score=0.6), card=card)) == ()
    # Whose scores those of given nuclei are is not known.
    assert score_caveats(result(reading=unsure)) == ()
