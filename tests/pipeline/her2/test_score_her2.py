"""The job from slide to score: figures that are true, and every reason for giving no score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from her2_slides import MIX, FakePixels, box, make, stain_network, zone_of

from napari_celldetr.core.errors import DataError, ModelError, SlideError
from napari_celldetr.core.her2 import SCORES, Minimum, Pattern, cell_scores, score_shares
from napari_celldetr.core.her2.shares import count_patterns
from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import SlideFrame, SlideTransform, TransformError
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.result import Rules, conclude
from napari_celldetr.pipeline.her2.score import TumourRequest, score_her2
from napari_celldetr.slides.readers import open_slide

NONE = Networks()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("score") / "a.ome.tif"
    truth = make(path)
    with open_slide(path) as slide:
        yield slide, truth, path


def drawn(truth):
    return TumourRequest((zone_of(truth.tumour),))


@pytest.fixture(scope="module")
def scored(made):
    slide, truth, _ = made
    return drain(score_her2(slide, tumour=drawn(truth), cells=truth.cells, networks=NONE))


def test_a_slide_with_drawn_tumour_gets_the_score_that_was_painted(made, scored):
    _, truth, _ = made
    true = score_shares(count_patterns(truth.staining.patterns))
    found = scored.assessment
    assert scored.score == "3+"
    assert scored.refusal is None
    assert found.tumour_confirmed
    # The outline passes through cells at its edge.
    assert 0.97 * len(truth.cells) < found.n_cells <= len(truth.cells)
    for score in SCORES:
        assert found.percent_cells[score] == pytest.approx(true[score], abs=8)
    agree = scored.judged.scores == cell_scores(truth.staining.patterns)
    assert agree.mean() > 0.85


def test_without_tumour_everything_is_measured_and_nothing_scored(made):
    slide, truth, _ = made
    found = drain(score_her2(slide, cells=truth.cells, networks=NONE))
    assert found.score is None
    assert "confirmed" in found.refusal.reason
    assert "--regions" in found.refusal.remedy
    assert found.assessment.n_cells == len(truth.cells)
    assert not found.assessment.tumour_confirmed


def test_all_tissue_may_be_assumed_to_be_tumour(made):
    slide, truth, _ = made
    asked = TumourRequest(assumed=True)
    found = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    assert found.score == "3+"
    assert "assumed" in found.tumour.words


def test_each_zone_is_assessed_by_itself(made):
    slide, truth, _ = made
    half = (zone_of(box(0, 0, 850, 1700), "left"), zone_of(box(850, 0, 1700, 1700), "right"))
    asked = TumourRequest(half)
    found = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    assert [zone.name for zone, _ in found.regions] == ["left", "right"]
    assert sum(part.n_cells for _, part in found.regions) == found.assessment.n_cells
    cut = replace(found.tumour, cut_out=(zone_of(box(0, 0, 1700, 400)),))
    again = conclude(replace(found, tumour=cut), found.reading)
    for zone, part in again.regions:
        inside = cut.inside(again.judged.centres, zone) & (again.judged.excluded == 0)
        assert part.n_cells == inside.sum()


def test_tumour_beside_the_slide_is_refused_before_anything_is_read(made):
    slide, truth, _ = made
    asked = TumourRequest((zone_of(box(9000, 9000, 9900, 9900)),))
    with pytest.raises(DataError, match="No tumour area lies on"):
        next(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    frames = [SlideFrame("b", "0" * 64, slide.size, slide.mpp)]
    frames.append(SlideFrame(slide.name, slide.identity(), slide.size, slide.mpp))
    carried = replace(asked, on_he=True, transform=SlideTransform(*frames, np.eye(2, 3)))
    with pytest.raises(DataError, match="slide 'b'"):
        next(score_her2(slide, tumour=carried, cells=truth.cells, networks=NONE))


def test_few_cells_are_not_scored(made):
    slide, truth, _ = made
    asked = TumourRequest((zone_of(box(700, 700, 950, 950)),))
    found = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    assert found.score is None
    assert "100" in found.refusal.reason
    assert "100" in found.refusal.remedy
    assert 0 < found.assessment.n_cells < 100
    rules = Rules(minimum=Minimum(cells=5))
    assert conclude(replace(found, refusal=None), found.reading, rules).score is not None


def test_a_coarse_slide_has_coverage_and_no_score(made):
    _, truth, path = made
    with open_slide(path, mpp=0.6) as slide:
        found = drain(score_her2(slide, tumour=drawn(truth), cells=truth.cells, networks=NONE))
    assert found.score is None
    assert "0.6 µm/px" in found.refusal.reason
    assert found.assessment.n_cells > 0
    assert found.assessment.percent_area["0"] > 0


def test_a_very_coarse_slide_has_coverage_by_pixels(made):
    _, truth, path = made
    with open_slide(path, mpp=1.5) as slide:
        found = drain(score_her2(slide, tumour=drawn(truth), networks=NONE))
    assert found.score is None
    assert found.reading is None
    assert sum(found.coverage.percent.values()) == pytest.approx(100)
    assert found.coverage.percent["3+"] > 0.5


def test_without_a_pixel_size_there_is_coverage_by_pixels_of_the_tumour(tmp_path, made):
    from PIL import Image

    slide, truth, _ = made
    Image.fromarray(slide.read(slide.region)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", probe=False) as bare:
        found = drain(score_her2(bare, tumour=drawn(truth), networks=NONE))
        whole = drain(score_her2(bare, networks=NONE))
    assert found.score is None
    assert "pixel size" in found.refusal.reason
    assert "--mpp" in found.refusal.remedy
    assert found.tumour.confirmed
    # Stain is in the tumour: less of all tissue is stained.
    assert found.coverage.percent["0"] < whole.coverage.percent["0"]
    assert found.coverage.pixels < whole.coverage.pixels


def test_a_transform_of_other_slides_is_refused(made):
    slide, truth, _ = made
    frame = SlideFrame("b", "0" * 64, slide.size, slide.mpp)
    own = SlideFrame(slide.name, slide.identity(), slide.size, slide.mpp)
    zones = (zone_of(truth.tumour),)
    asked = TumourRequest(zones, on_he=True, transform=SlideTransform(frame, own, np.eye(2, 3)))
    found = drain(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    assert found.score == "3+"
    asked = replace(asked, transform=SlideTransform(own, frame, np.eye(2, 3)))
    with pytest.raises(TransformError, match="another slide"):
        next(score_her2(slide, tumour=asked, cells=truth.cells, networks=NONE))
    with pytest.raises(SlideError, match="same slide"):
        next(score_her2(slide, tumour=TumourRequest(he=slide), networks=NONE))


def test_networks_stand_beside_the_measurement(made, scored):
    slide, truth, _ = made
    networks = Networks(stain=stain_network(), pixels=FakePixels(lambda t: np.full(t.shape[:2], 4)))
    found = drain(score_her2(slide, tumour=drawn(truth), cells=truth.cells, networks=networks))
    assert found.assessment.percent_cells == scored.assessment.percent_cells
    assert found.networks.maximum == "2+"
    assert found.networks.patches.counts()["2+"] > 40
    pixels = found.networks.pixels
    assert pixels.percent_area == {"0": 0, "1+": 0, "2+": 0, "3+": 100}
    # All but the 3+ cells' pixels are another class.
    assert pixels.disagreement == pytest.approx(
        1 - scored.assessment.percent_area["3+"] / 100, abs=0.02
    )
    assert pixels.confusion[1:, :4].sum() == 0


def test_background_and_0_are_the_same_answer_where_nothing_is_stained():
    from napari_celldetr.pipeline.her2.pixel_agreement import PixelAgreement

    confusion = np.zeros((5, 5), np.int64)
    confusion[1, :3] = 60, 20, 20
    confusion[3, [0, 3]] = 50, 50
    assert PixelAgreement(confusion, 0.5).disagreement == pytest.approx((20 + 50) / 200)


def test_a_network_that_agrees_disagrees_in_nothing(made, scored):
    from napari_celldetr.pipeline.her2.pixel_agreement import compare_pixels
    from napari_celldetr.pipeline.her2.pixel_map import render_cells

    slide, _, _ = made
    outlines, judged = scored.reading.measured.outlines, scored.judged
    whole = render_cells(outlines, (judged.scores + 1).astype(np.uint8), slide.region, (850, 850))
    parts = iter(np.pad(whole, 128)[y : y + 768, x : x + 768] for x in (0, 512) for y in (0, 512))

    def same(tile):
        part = next(parts)
        return np.pad(part, [(0, 768 - part.shape[0]), (0, 768 - part.shape[1])])

    job = compare_pixels(slide, FakePixels(same), outlines, judged.scores, scored.counted, ())
    found = drain(job)
    assert found.disagreement < 0.002
    total = found.confusion[1:].sum() * 0.25
    assert total == pytest.approx(scored.assessment.cell_area_um2, rel=0.04)


def test_a_network_for_other_pixels_is_refused(made):
    slide, truth, _ = made
    other = Networks(pixels=FakePixels(lambda t: t[..., 0], names=("a", "b")))
    with pytest.raises(ModelError, match="other pixels"):
        drain(score_her2(slide, tumour=drawn(truth), cells=truth.cells, networks=other))


def test_other_rules_take_no_pixels(scored):
    from napari_celldetr.core.her2 import Cutoffs

    strict = conclude(scored, scored.reading, Rules(Cutoffs(intense=1.5)))
    assert strict.score == "2+"
    assert strict.assessment.counts[Pattern.COMPLETE_INTENSE] < 10


def test_no_cells_at_all_are_a_reason(made):
    slide, truth, _ = made
    none = truth.cells.select(np.zeros(len(truth.cells), bool))
    found = drain(score_her2(slide, tumour=drawn(truth), cells=none, networks=NONE))
    assert found.score is None
    assert found.refusal.reason.startswith("0 tumour cells")


@pytest.mark.parametrize("pattern", [p for p in Pattern if p is not Pattern.NONE])
def test_the_mix_has_every_pattern_the_tests_rely_on(pattern):
    assert pattern in MIX or pattern is Pattern.STRONG_INCOMPLETE
