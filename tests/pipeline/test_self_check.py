"""The pixel size, doubted: by the slide's own data, and by the nuclei that were found."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import fake_card

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.self_check import (
    CLEAR_UM,
    FAR_UM,
    FEWEST,
    SURE,
    USUAL_UM,
    Finding,
    check_cells,
    check_slide,
    check_sureness,
    is_far,
)


def slide(mpp=(0.25, 0.25), source="openslide", objective=40.0, bounds=None):
    return SimpleNamespace(
        mpp=mpp,
        mpp_source=source,
        objective=objective,
        size=(4000, 3000),
        bounds=bounds or Region(0, 0, 4000, 3000),
    )


def cells(width_um, mpp=(0.5, 0.5), count=FEWEST, spread=0.0):
    """`count` square boxes whose median is `width_um` at `mpp`."""
    sides = width_um * np.exp(np.linspace(-spread, spread, count))[:, None] / np.array(mpp)
    low = np.arange(count)[:, None] * 40.0 + np.zeros(2)
    return Detections(
        np.concatenate([low, low + sides], axis=1), np.ones(count), np.zeros(count), ("a",)
    )


def only(findings):
    (one,) = findings
    assert isinstance(one, Finding)
    assert one.text.endswith(".")
    return one


# --- the slide ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("mpp", "power"), [(0.25, 40), (0.5, 20), (0.23, 40), (0.25, None)])
def test_a_pixel_size_that_fits_is_said_with_its_place(mpp, power):
    found = only(check_slide(slide((mpp, mpp), objective=power)))
    assert found.level == "ok"
    assert found.suggested_mpp is None
    assert f"{mpp:g} µm" in found.text
    assert "scanner" in found.text
    assert (f"{power}×" in found.text) is (power is not None)


@pytest.mark.parametrize(
    ("mpp", "power", "better"), [(0.5, 40, 0.25), (0.25, 20, 0.5), (1.0, 40, 0.25), (0.25, 10, 1)]
)
def test_a_pixel_size_of_another_objective_is_doubted(mpp, power, better):
    found = only(check_slide(slide((mpp, mpp), objective=power)))
    assert found.level == "doubt"
    assert found.suggested_mpp == better
    assert f"{power}× objective" in found.text


def test_no_pixel_size_is_a_doubt_and_the_objective_a_hint():
    found = only(check_slide(slide(None, "missing", 20.0)))
    assert (found.level, found.suggested_mpp) == ("doubt", 0.5)
    assert "no pixel size" in found.text
    found = only(check_slide(slide(None, "missing", None)))
    assert (found.level, found.suggested_mpp) == ("doubt", None)


def test_a_refused_pixel_size_says_why():
    found = only(check_slide(slide(None, "tiff tag refused: 353 × 353 µm/px", None)))
    assert found.level == "doubt"
    assert "353" in found.text


@pytest.mark.parametrize("power", [0.0, 1000.0, -20.0])
def test_objectives_that_cannot_be_are_left_aside(power):
    known = only(check_slide(slide(objective=power)))
    assert known.level == "ok"
    assert "objective" not in known.text
    unknown = only(check_slide(slide(None, "missing", power)))
    assert unknown.suggested_mpp is None
    assert "objective" not in unknown.text


def test_a_coarse_slide_is_worth_a_note():
    assert only(check_slide(slide((1.5, 1.5), objective=None))).level == "note"
    assert only(check_slide(slide((0.9, 0.9), objective=None))).level == "ok"


def test_where_the_pixel_size_is_from_is_said_in_words():
    assert "given by you" in only(check_slide(slide(source="user"))).text
    assert "from somewhere" in only(check_slide(slide(source="somewhere"))).text


def test_a_scanned_part_is_noted_with_its_place():
    found = check_slide(slide(bounds=Region(120, 340, 2000, 1000)))
    assert [f.level for f in found] == ["ok", "note"]
    for number in ("120", "340", "2000", "1000", "4000", "3000"):
        assert number in found[1].text


def test_real_slides_as_they_are(shared_data):
    from napari_celldetr.slides.readers import open_slide

    expected = {
        "CMU-1-Small-Region.svs": "ok",
        "tcga-cr-7395_HE_jpeg2000_no-mpp.svs": "doubt",
        "CRC-AI-15_IHC.tif": "doubt",
    }
    for name, level in expected.items():
        with open_slide(shared_data / "slides" / name, probe=False) as real:
            assert check_slide(real)[0].level == level, name


# --- the cells ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.25), (0.25, 0.251)])
@pytest.mark.parametrize(
    ("width", "level", "factor"),
    [
        (4.4, "doubt", 2),
        (4.6, "note", None),
        (4.9, "note", None),
        (5.1, "ok", None),
        (8.9, "ok", None),
        (9.1, "note", None),
        (9.4, "note", None),
        (9.7, "doubt", 0.5),
        (20.0, "doubt", 0.5),
    ],
)
def test_the_median_nucleus_decides(mpp, width, level, factor):
    found = only(check_cells(cells(width, mpp), mpp, card=fake_card()))
    assert found.level == level
    if factor is None:
        assert found.suggested_mpp is None
    else:
        assert found.suggested_mpp == pytest.approx(factor * mpp[0], rel=0.003)
        assert "pixel size" in found.text
    assert f"{width:.1f} µm" in found.text


def test_a_single_giant_changes_nothing():
    table = cells(6.5, spread=0.2)
    boxes = table.boxes.copy()
    boxes[0, 2:] += 4000
    found = only(check_cells(replace(table, boxes=boxes), (0.5, 0.5), card=fake_card()))
    assert found.level == "ok"


def test_few_cells_say_nothing():
    assert check_cells(cells(3.0, count=FEWEST - 1), (0.5, 0.5), card=fake_card()) == []
    assert len(check_cells(cells(3.0), (0.5, 0.5), card=fake_card())) == 1


def test_measured_diameters_are_taken_as_they_are():
    table = cells(6.5).with_columns(diameter_um=np.full(FEWEST, 3.5, np.float32))
    assert only(check_cells(table, (0.5, 0.5), card=fake_card())).level == "doubt"


def test_no_pixel_size_is_suggested_that_no_slide_can_have():
    assert only(check_cells(cells(3, (1.5, 1.5)), (1.5,) * 2, card=fake_card())).level == "doubt"
    found = only(check_cells(cells(3, (1.5, 1.5)), (1.5, 1.5), card=fake_card()))
    assert found.suggested_mpp is None
    found = only(check_cells(cells(30, (0.15, 0.15)), (0.15, 0.15), card=fake_card()))
    assert found.suggested_mpp is None


def test_a_model_of_larger_nuclei_expects_larger_ones():
    # Typical nuclei of 12 µm instead of 6: all limits twice as high.
    card = fake_card(arguments={"nucleus_px": 24.0})
    for width, level in ((8.9, "doubt"), (10.5, "ok"), (17.5, "ok"), (19.5, "doubt")):
        assert only(check_cells(cells(width), (0.5, 0.5), card=card)).level == level, width
    for odd in ("large", 0, None):
        card = fake_card(arguments={"nucleus_px": odd})
        assert only(check_cells(cells(6.5), (0.5, 0.5), card=card)).level == "ok"


def test_the_clear_limits_lie_beyond_the_usual_ones():
    assert CLEAR_UM[0] < USUAL_UM[0] < USUAL_UM[1] < CLEAR_UM[1]


def test_real_fields_read_at_half_and_twice_their_pixel_size(shared_data):
    """One H&E field at each of three pixel sizes: right is not doubted, wrong is."""
    from PIL import Image

    from napari_celldetr import load_model

    path = sorted((shared_data / "he_brca_m2c" / "images").iterdir())[0]
    picture = Image.open(path).convert("RGB").crop((0, 0, 320, 320))
    model = load_model("celldetr-he", device="cpu")
    suggested = {}
    for factor in (0.5, 1, 2):
        size = tuple(round(side * factor) for side in picture.size)
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
        table = model.predict(pixels[None])[0].detections.above(model.card.threshold)
        found = check_cells(table, (0.5, 0.5), card=model.card)
        suggested[factor] = (only(found).level, only(found).suggested_mpp)
    assert suggested[1] == ("ok", None)
    assert suggested[0.5] == ("doubt", 1.0)
    assert suggested[2] == ("doubt", 0.25)


def test_far_is_beyond_what_odd_tissue_has():
    assert FAR_UM[0] < CLEAR_UM[0] < CLEAR_UM[1] < FAR_UM[1]
    for width, far in ((3.2, True), (4.0, False), (9.9, False), (12.5, True)):
        assert is_far(cells(width), (0.5, 0.5), card=fake_card()) is far
    assert not is_far(cells(3.2, count=FEWEST - 1), (0.5, 0.5), card=fake_card())


def test_a_model_that_is_not_sure_is_said_to_be():
    card = fake_card()
    table = replace(cells(6.0), scores=np.full(FEWEST, card.threshold + SURE / 2, np.float32))
    found = only(check_sureness(table, (0.5, 0.5), card=card))
    assert found.level == "doubt"
    assert "0.5 µm" in found.text
    sure = replace(table, scores=table.scores + np.float32(SURE))
    assert check_sureness(sure, (0.5, 0.5), card=card) == []
    # Cells that only a lower threshold lets in say nothing of the others.
    below = replace(table, scores=np.full(FEWEST, card.threshold - 0.1, np.float32))
    assert check_sureness(below, (0.5, 0.5), card=card) == []
