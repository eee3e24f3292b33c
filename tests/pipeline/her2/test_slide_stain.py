"""The light and stains of a slide are found where they can be, and the defaults kept where not."""

import numpy as np
import pytest
from PIL import Image

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2 import Pattern, cell_scores
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.measure import measure_cells
from napari_celldetr.pipeline.her2.slide_stain import (
    SlideStain,
    calibrate,
    control_od,
    estimate_slide_stain,
)
from napari_celldetr.slides.artefacts import recoloured, rewrite
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import DAB, H_DAB, HAEMATOXYLIN, stain_vectors
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

SIDE = 1400
MIX = {
    Pattern.COMPLETE_INTENSE: 0.2,
    Pattern.FAINT_INCOMPLETE: 0.3,
    Pattern.COMPLETE_WEAK_MODERATE: 0.2,
}
BLUE, RED_BROWN = (0.74, 0.62, 0.26), (0.36, 0.60, 0.71)
TUMOUR = Region(400, 400, 600, 600)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("stain") / "usual.ome.tif"
    truth = make_her2_slide(path, MIX, size=(SIDE, SIDE), seed=3, compression="deflate")
    with open_slide(path) as slide:
        yield slide, truth


def changed(slide, folder, change):
    path = folder / "changed.ome.tif"
    rewrite(slide, path, change)
    return open_slide(path)


def angle(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(), -1, 1)))


def right(slide, truth, stain):
    table = drain(measure_cells(slide, truth.cells, stain=stain)).table()
    return (table.class_ids == cell_scores(truth.staining.patterns)).mean()


def test_the_usual_stains_are_left_alone_and_glass_is_white(made):
    slide, _ = made
    stain = estimate_slide_stain(slide)
    np.testing.assert_allclose(stain.white, 244, atol=1)
    assert stain.vectors is H_DAB
    assert stain.gain == 1
    assert "glass" in stain.notes[0]
    assert "agree" in stain.notes[1]


@pytest.mark.parametrize("white", [(226.0, 224.0, 235.0), (215.0, 215.0, 215.0)])
def test_other_stains_in_another_light_are_found_and_make_cells_right(made, tmp_path, white):
    slide, truth = made
    vectors = stain_vectors(BLUE, RED_BROWN)
    with changed(slide, tmp_path, lambda rgb: recoloured(rgb, vectors, white)) as other:
        stain = estimate_slide_stain(other)
        np.testing.assert_allclose(stain.white, white, atol=1)
        assert angle(stain.vectors[0], vectors[0]) < 2
        assert angle(stain.vectors[1], vectors[1]) < 4
        found = right(other, truth, stain)
        assert found > right(other, truth, SlideStain(white=white))
        assert found > right(other, truth, SlideStain(white, vectors)) - 0.02


def test_without_brown_the_usual_dab_stays(tmp_path):
    make_her2_slide(tmp_path / "a.ome.tif", {}, size=(1024, 1024), seed=5)
    with open_slide(tmp_path / "a.ome.tif") as slide:
        stain = estimate_slide_stain(slide)
    assert stain.vectors is H_DAB
    assert "DAB is the usual one (too little of it is alone)" in stain.notes[1]


def test_another_chromogen_is_not_taken_for_dab(made, tmp_path):
    slide, _ = made
    vectors = stain_vectors(HAEMATOXYLIN, (0.25, 0.86, 0.44))
    with changed(slide, tmp_path, lambda rgb: recoloured(rgb, vectors, (244.0,) * 3)) as red:
        stain = estimate_slide_stain(red)
    assert stain.vectors is H_DAB
    assert "DAB is the usual one" in stain.notes[1]


def test_a_slide_cropped_to_tissue_says_that_its_white_is_assumed(made, tmp_path):
    slide, _ = made
    with changed(slide, tmp_path, lambda rgb: rgb[500:900, 500:900]) as crop:
        stain = estimate_slide_stain(crop)
    assert all(240 <= level <= 255 for level in stain.white)
    assert "assumed" in stain.notes[0]
    assert "cannot be told" in stain.notes[1]


def test_never_scanned_parts_are_no_glass(made, tmp_path):
    slide, _ = made

    def framed(rgb):
        return np.pad(rgb, ((600, 600), (600, 600), (0, 0)), constant_values=255)

    with changed(slide, tmp_path, framed) as wide:
        np.testing.assert_allclose(estimate_slide_stain(wide).white, 244, atol=1)


@pytest.mark.parametrize("glass", [(150, 150, 150), (250, 215, 210)])
def test_implausible_glass_is_not_believed(tmp_path, glass):
    picture = np.full((600, 600, 3), glass, np.uint8)
    picture[200:400, 200:400] = (120, 90, 140)
    Image.fromarray(picture).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        stain = estimate_slide_stain(slide)
    assert min(stain.white) >= 240
    assert "assumed" in stain.notes[0]


@pytest.mark.parametrize("strength", [0.7, 1.4])
def test_calibration_undoes_a_weak_or_strong_lot(made, tmp_path, strength):
    slide, truth = made
    reference = SlideStain(white=(244.0,) * 3)
    expected = control_od(reference, slide, TUMOUR)
    vectors = np.array(H_DAB)
    vectors[1] *= strength
    with changed(slide, tmp_path, lambda rgb: recoloured(rgb, vectors, (244.0,) * 3)) as lot:
        stain = calibrate(reference, lot, TUMOUR, expected_od=expected)
        assert stain.gain == pytest.approx(1 / strength, rel=0.05)
        assert control_od(stain, lot, TUMOUR) == pytest.approx(expected, rel=0.02)
        assert right(lot, truth, stain) > right(lot, truth, reference)
    assert stain.notes[-1].startswith("Gain:")


def test_a_control_without_stain_or_too_far_off_is_refused(made):
    slide, _ = made
    stain = SlideStain(white=(244.0,) * 3)
    for nothing in (Region(0, 0, 60, 60), Region(9000, 9000, 10, 10)):
        with pytest.raises(DataError, match="too little stained tissue"):
            calibrate(stain, slide, nothing, expected_od=0.8)
    for wrong in (0.05, 6.0):
        with pytest.raises(DataError, match=r"0\.5 to 2"):
            calibrate(stain, slide, TUMOUR, expected_od=wrong)


def test_dab_levels_do_not_depend_on_the_names_of_vectors():
    colour = np.rint(244 * 10 ** -(0.7 * np.array(DAB))).astype(np.uint8)
    stain = SlideStain(white=(244.0,) * 3, gain=1.5)
    assert stain.dab(colour) == pytest.approx(1.05, abs=0.02)
