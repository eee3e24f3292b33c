"""The jobs of the HER2 dock, without a window."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from her2_fakes import her2_reading, her2_slide, nuclei

from napari_celldetr.core.annotations import Area, CorrectedCells, Status
from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.gui.her2_job import (
    MeasureRequest,
    MeasureStep,
    check_job,
    coverage_job,
    measure_job,
)
from napari_celldetr.gui.her2_nuclei import search_for
from napari_celldetr.gui.her2_words import error_words
from napari_celldetr.gui.sources import ArraySlide, FileSource
from napari_celldetr.pipeline.her2.caveats import stain_doubts
from napari_celldetr.pipeline.her2.result import Control
from napari_celldetr.pipeline.her2.score import score_her2
from napari_celldetr.pipeline.her2.tumour import ASSUMED, Tumour
from napari_celldetr.pipeline.her2.tumour_request import TumourRequest, require_stains
from napari_celldetr.pipeline.her2.zones import Zone
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import make_he_slide


@dataclass(frozen=True)
class Pixels:
    """A source of one array."""

    pixels: np.ndarray
    mpp: tuple[float, float] | None

    def open(self):
        return ArraySlide("pixels", [self.pixels], self.mpp)


def corrected(cells):
    n = len(cells)
    ids = np.zeros((n, 2), np.uint64)
    return CorrectedCells(cells, ids, np.full(n, Status.CLAIMED, np.uint8), np.zeros(n, "U1"))


def request(source, cells=None, **options):
    table = nuclei() if cells is None else cells
    return MeasureRequest(source, lambda: corrected(table), **options)


def file_source(mpp=None):
    path, _ = her2_slide()
    return FileSource(path, (1200, 1200), mpp)


def test_what_is_in_view_comes_first():
    early = []

    def see(step):
        if isinstance(step, MeasureStep) and step.early is not None:
            early.append(step.early)

    found = drain(measure_job(request(file_source(), first=Region(300, 300, 300, 300))), see)
    assert len(early) == 1
    assert 0 < len(early[0]) < len(found.state) == len(her2_reading())
    assert found.state.stain.notes
    assert found.state.refusal is None


def test_a_control_changes_how_strong_the_stain_is():
    whole = Region(0, 0, 1200, 1200)
    first = drain(measure_job(request(file_source()))).state
    even = drain(measure_job(request(file_source(), control=Control(whole, 1.0)))).state
    assert even.stain.gain != 1.0
    assert any(note.startswith("Gain:") for note in even.stain.notes)
    change = even.membranes.intensity.mean() / first.membranes.intensity.mean()
    assert change == pytest.approx(even.stain.gain, rel=0.1)


def test_coarse_slides_are_measured_and_not_scored():
    found = drain(measure_job(request(file_source(mpp=0.6)))).state
    found.use_tumour(Tumour(ASSUMED))
    assert "too coarse" in found.refusal.reason
    assert found.of_slide().score.score is None
    assert found.of_slide().n_cells == len(found)


def test_pixels_without_a_size_have_coverage():
    path, _ = her2_slide()
    with open_slide(path, probe=False) as slide:
        pixels = slide.read(Region(200, 200, 600, 600))
    found = drain(coverage_job(Pixels(pixels, None), Tumour(), Cutoffs()))
    assert found.state is None
    assert sum(found.covered.coverage.percent.values()) == pytest.approx(100)
    assert "pixel size is not known" in found.covered.refusal.reason


def test_an_he_slide_is_refused(tmp_path):
    path = tmp_path / "he.ome.tif"
    truth = make_he_slide(path, size=(1024, 1024), seed=3)
    with pytest.raises(SlideError, match="another stain"):
        drain(measure_job(request(FileSource(path, (1024, 1024)), truth)))
    with pytest.raises(SlideError, match="another stain") as told:
        drain(check_job(FileSource(path, (1024, 1024))))
    assert "Choose the H-DAB slide" in error_words(told.value)
    assert drain(check_job(file_source())) is None


@dataclass
class Session:
    """What is asked of a session."""

    kept: bool
    weights: str = ""
    missing: float = 1.0

    @property
    def settings(self):
        return {}

    @property
    def cells(self):
        return type("Cells", (), {"kept": np.array([self.kept])})

    @property
    def coverage(self):
        return type("Coverage", (), {"missing": lambda _, region: self.missing})()


def test_nuclei_are_looked_for_where_nobody_looked():
    from fakes import fake_card

    card = replace(fake_card(), stain="H-DAB")
    models = type("Models", (), {"cards": lambda _: [fake_card(), card]})()
    region = Region(0, 0, 10, 10)
    assert search_for(Session(False), region, models).card is card
    own = card.weights_sha256
    assert search_for(Session(True, own, 1.0), region, models).card is card
    assert search_for(Session(True, own, 0.0), region, models) is None
    # Another model's cells, or a person's, are used as they are.
    assert search_for(Session(True, "other", 1.0), region, models) is None


def without_size(slide):
    """A slide's pixels, of unknown size."""
    return Pixels(slide.read(Region(0, 0, *slide.size)), None)


def test_coverage_is_what_the_command_line_gives():
    with open_slide(her2_slide()[0], probe=False) as slide:
        source = without_size(slide)
    for tumour in (TumourRequest(assumed=True), TumourRequest((square(300, 900),))):
        with source.open() as slide:
            told = drain(score_her2(slide, tumour=tumour))
        found = drain(coverage_job(source, told.tumour, Cutoffs())).covered
        assert found.coverage == told.coverage
        assert found.coverage.pixels > 1000
        assert found.kinds == told.kinds


def square(low, high):
    return Zone(Area(((low, low), (high, low), (high, high), (low, high)), "region", "t"))


def test_another_stain_is_not_covered_either(tmp_path):
    make_he_slide(tmp_path / "he.ome.tif", size=(1024, 1024), seed=3)
    with open_slide(tmp_path / "he.ome.tif", probe=False) as slide:
        source = without_size(slide)
    with pytest.raises(SlideError, match="another stain"):
        drain(coverage_job(source, Tumour(ASSUMED), Cutoffs()))


def test_what_cannot_be_told_of_the_stain_is_kept_with_the_cells():
    """On hardly stained tissue neither stain is seen."""
    kept = []
    with open_slide(her2_slide()[0], probe=False) as slide:
        pixels = slide.read(Region(0, 0, *slide.size)).astype(float)
    pale = Pixels((255 - (255 - pixels) * 0.05).astype(np.uint8), (0.25, 0.25))
    found = drain(measure_job(request(pale, keep=kept.append)))
    with pale.open() as slide:
        told = stain_doubts(require_stains(slide))
    assert len(told) == 1
    assert found.state.notes == kept[0].notes == told
