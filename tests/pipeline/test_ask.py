"""Clicks: what detection found comes back, near clicks cost little, and trouble is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import FakePredictor, FakeSlide, draw_cells, fake_card, spaced_centres
from scipy import ndimage
from scipy.spatial import cKDTree

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import UNKNOWN, Detections
from napari_celldetr.core.errors import ConfigError, JobError, SlideError
from napari_celldetr.core.predictor import PointAnswers
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline import ask as module
from napari_celldetr.pipeline.ask import KEPT_WINDOWS, Asker
from napari_celldetr.pipeline.detect import detect

pytestmark = pytest.mark.usefixtures("no_thread_leak")

SIZE = (1500, 1100)
STRIDE = 2


@dataclass
class FakeAskable(FakePredictor):
    """The fake detector, asked: the component under the point, or a faint box around it.

    A point on a pixel of `no_number` gets no finite answer.
    """

    encoded: int = 0
    no_number: tuple[int, int, int] | None = None
    asked: list[int] = field(default_factory=list)

    def encode_tile(self, tile):
        self.encoded += 1
        return tile.copy()

    def ask(self, tile, xy):
        self.asked.append(len(xy))
        found = self._components(tile)
        rows, failed = [], []
        for x, y in xy:
            under = (found.boxes[:, :2] <= (x, y)).all(1) & (found.boxes[:, 2:] > (x, y)).all(1)
            rows.append(found.select(np.flatnonzero(under)[:1]) if under.any() else None)
            failed.append(self.no_number is not None and _is(tile, x, y, self.no_number))
        faint = [[x - 3, y - 3, x + 3, y + 3] for x, y in xy]
        boxes = [f if r is None else r.boxes[0] for f, r in zip(faint, rows, strict=True)]
        scores = [0.0 if r is None else r.scores[0] for r in rows]
        ids = [UNKNOWN if r is None else r.class_ids[0] for r in rows]
        names = self.card.class_names
        return PointAnswers(Detections(boxes, scores, ids, names), np.array(failed, bool))

    def heat(self, tile):
        height, width = (s // STRIDE * STRIDE for s in tile.shape[:2])
        dark = 1 - tile[:height, :width].min(axis=2) / np.float32(255)
        return dark.reshape(height // 2, 2, width // 2, 2).mean((1, 3), np.float32), 2.0


def _is(tile, x, y, colour):
    return tuple(tile[int(y), int(x)]) == colour


@cache
def field_at(mpp, size=SIZE):
    """A drawn field whose cells are 6 µm wide at `mpp`, and their centres."""
    pitch, radius = round(12 / mpp), 3 / mpp
    centres = spaced_centres(size, pitch=pitch)
    return draw_cells(size, centres, radius), centres


@pytest.fixture(scope="module")
def drawn():
    return field_at(0.5)


def asker(pixels, model=None, *, mpp=0.5, **options):
    slide = FakeSlide(pixels, mpp=(mpp, mpp))
    return Asker(slide, model or FakeAskable(), **options), slide


# --- the same cells as detection's --------------------------------------------------------------


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.35, 0.6])
def test_asked_at_its_centre_a_detected_cell_is_that_cell(mpp):
    pixels, _ = field_at(mpp)
    config = DetectConfig(tissue_only=False, threshold=0.1)
    slide = FakeSlide(pixels, mpp=(mpp, mpp))
    region = Region(500, 300, 800, 700)
    cells = drain(detect(slide, config, predictor=FakePredictor(), region=region))
    assert len(cells) > 90
    found = Asker(slide, FakeAskable()).ask(cells.centres)
    # At a seam, detection may have kept the neighbouring tile's box, a px of the model's aside.
    same = np.isclose(found.boxes, cells.boxes, atol=2e-3).all(axis=1)
    assert same.mean() > 0.97
    assert np.abs(found.boxes - cells.boxes).max() < 0.6 / mpp
    assert found.select(same).scores.tolist() == cells.select(same).scores.tolist()
    np.testing.assert_array_equal(found.class_ids, cells.class_ids)
    assert set(found.columns) == set(cells.columns)
    for name, values in cells.columns.items():
        np.testing.assert_allclose(found.columns[name][same], values[same], rtol=1e-3)
    assert found.source.slide_id == cells.source.slide_id
    assert found.source.mpp == cells.source.mpp


def test_a_measured_class_is_measured_as_in_detection(drawn):
    pixels = drawn[0].copy()
    brown = (pixels < 255).any(axis=2) & (np.arange(SIZE[0]) < 700)[None]
    pixels[brown] = (110, 70, 40)
    card = fake_card(
        class_names=("negative", "positive"),
        class_rule={"measure": "dab_od_mean", "threshold": 0.2},
        stain="H-DAB",
    )
    config = DetectConfig(tissue_only=False, threshold=0.1)
    cells = drain(detect(FakeSlide(pixels), config, predictor=FakePredictor(card=card)))
    found = asker(pixels, FakeAskable(card=card))[0].ask(cells.centres)
    np.testing.assert_array_equal(found.class_ids, cells.class_ids)
    assert 0 < found.class_ids.sum() < len(found)
    for name in ("dab_od_mean", "hematoxylin_od_mean"):
        np.testing.assert_allclose(found.columns[name], cells.columns[name], atol=1e-4)


def test_the_given_pixel_size_replaces_the_slides(drawn):
    pixels, centres = drawn
    slide = FakeSlide(pixels, mpp=(1.0, 1.0))
    right = asker(pixels)[0].ask(centres[:5])
    given = Asker(slide, FakeAskable(), mpp=0.5).ask(centres[:5])
    np.testing.assert_allclose(given.boxes, right.boxes, atol=1e-3)
    np.testing.assert_allclose(given.columns["diameter_um"], right.columns["diameter_um"])


def test_points_come_back_in_the_order_asked(drawn):
    pixels, centres = drawn
    chance = np.random.default_rng(0)
    points = centres[chance.permutation(len(centres))[:60]]
    found = asker(pixels)[0].ask(points)
    assert np.abs(found.centres - points).max() < 2
    backwards = asker(pixels)[0].ask(points[::-1])
    np.testing.assert_array_equal(backwards.boxes[::-1], found.boxes)


def test_where_nothing_is_the_score_says_so(drawn):
    pixels, centres = drawn
    point = centres[0] + 12
    found = asker(pixels)[0].ask(point[None])
    assert found.scores.tolist() == [0]
    np.testing.assert_allclose(found.centres[0], point, atol=0.01)


def test_no_points_no_cells(drawn):
    found = asker(drawn[0])[0].ask(np.zeros((0, 2)))
    assert len(found) == 0
    assert found.class_names == ("dark", "red")
    assert {"diameter_um", "area_um2"} <= set(found.columns)


# --- what a click costs -------------------------------------------------------------------------


def test_a_second_click_nearby_costs_only_the_decoder(drawn):
    model = FakeAskable()
    one, slide = asker(drawn[0], model)
    first = one.ask(np.array([[700.0, 500.0]]))
    reads = slide.reads
    again = one.ask(np.array([[700.0, 500.0]]))
    one.ask(np.array([[690.0, 510.0], [700.0, 500.0]]))
    assert (model.encoded, slide.reads) == (1, reads)
    assert model.asked == [1, 1, 2]
    assert first == again


def test_points_of_one_call_share_a_window(drawn):
    model = FakeAskable()
    one, _ = asker(drawn[0], model)
    one.ask(np.array([[100.0, 100.0], [900.0, 900.0], [110.0, 90.0], [905.0, 890.0]]))
    assert model.encoded == 2
    assert sorted(model.asked) == [2, 2]


def test_few_windows_are_kept_and_answers_do_not_depend_on_which(drawn):
    pixels, centres = drawn
    model = FakeAskable()
    one, _ = asker(pixels, model)
    chance = np.random.default_rng(1)
    points = centres[chance.permutation(len(centres))[:80]]
    each = [one.ask(p[None]) for p in points]
    assert len(one._kept) == KEPT_WINDOWS
    assert len(one._kept_tiles) <= module.KEPT_TILES
    together = asker(pixels)[0].ask(points)
    np.testing.assert_array_equal(np.concatenate([e.boxes for e in each]), together.boxes)
    # The window used last is among those kept.
    before = model.encoded
    one.ask(points[-1:])
    assert model.encoded == before


@pytest.mark.parametrize("mpp", [0.5, 0.35, 1.1])
def test_every_point_has_its_window_around_it(mpp):
    # 96 px of the model's scale on every side, as far as the tile goes.
    one, _ = asker(np.full((900, 900, 3), 255, np.uint8), mpp=mpp)
    points = np.random.default_rng(2).uniform(0, 900, (30, 2))
    for point, place in zip(points, one._places(points), strict=True):
        window = one._window(tuple(int(v) for v in place))
        read = window.source.tile.read
        at = (point - (read.x, read.y)) / one._tiles.scale - window.corner
        assert (at >= 94).all()
        assert (at <= module.WINDOW_PX - 94).all()
        assert window.pixels.shape == (module.WINDOW_PX, module.WINDOW_PX, 3)


# --- trouble ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points", [[[-1, 5]], [[1500, 5]], [[5, 1100]], [[np.nan, 5]], [5, 5], [[5, 5], [9999, 0]]]
)
def test_points_outside_the_slide_are_refused(drawn, points):
    with pytest.raises(ConfigError, match="outside the slide"):
        asker(drawn[0])[0].ask(np.array(points, float))


def test_corners_of_the_slide_can_be_asked(drawn):
    corners = np.array([[0, 0], [1499.9, 0], [0, 1099.9], [1499.9, 1099.9]])
    found = asker(drawn[0])[0].ask(corners)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [*SIZE, *SIZE]).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_an_answer_that_is_no_number_is_an_error_and_no_cell(drawn):
    pixels = drawn[0].copy()
    pixels[500, 700] = (9, 8, 7)
    one, _ = asker(pixels, FakeAskable(no_number=(9, 8, 7)))
    with pytest.raises(JobError, match="no usable answer at 1 of 2"):
        one.ask(np.array([[20.0, 20.0], [700.5, 500.5]]))
    assert len(one.ask(np.array([[20.0, 20.0]]))) == 1


def test_a_box_without_extent_is_an_error(drawn):
    model = FakeAskable()
    model.faults.degenerate = True
    real = model.ask
    model.ask = lambda tile, xy: PointAnswers(
        Detections([[*p, *p] for p in xy], real(tile, xy).detections.scores, [0], ("dark", "red")),
        np.array([False]),
    )
    with pytest.raises(JobError, match="no usable answer"):
        asker(drawn[0], model)[0].ask(drawn[1][:1])


def test_a_box_beyond_the_slide_is_an_error(drawn):
    model = FakeAskable()
    model.ask = lambda tile, xy: PointAnswers(
        Detections([[x - 30, y, x - 20, y + 9] for x, y in xy], [0.9], [0], ("dark", "red")),
        np.array([False]),
    )
    with pytest.raises(JobError, match="no usable answer"):
        asker(drawn[0], model)[0].ask(np.array([[2.0, 50.0]]))
    assert len(asker(drawn[0], model)[0].ask(np.array([[40.0, 50.0]]))) == 1


def test_a_model_that_cannot_be_asked_is_refused_with_a_remedy(drawn):
    with pytest.raises(ConfigError, match="another model"):
        asker(drawn[0], FakePredictor())[0].ask(drawn[1][:1])


def test_a_lazy_model_is_loaded_by_the_first_question(drawn):
    class Lazy:
        card, device = fake_card(), "auto"
        loads = 0

        @property
        def loaded(self):
            self.loads += 1
            return FakeAskable()

    lazy = Lazy()
    one, _ = asker(drawn[0], lazy)
    assert lazy.loads == 0
    one.ask(drawn[1][:1])
    one.ask(drawn[1][-1:])
    assert lazy.loads == 1


def test_an_unknown_or_absurd_pixel_size_is_refused_at_once(drawn):
    with pytest.raises(SlideError, match="--mpp"):
        Asker(FakeSlide(drawn[0], mpp=None), FakeAskable())
    with pytest.raises(ConfigError, match="mpp"):
        Asker(FakeSlide(drawn[0]), FakeAskable(), mpp=5.0)


def test_damage_is_said_where_it_is_and_nowhere_else(drawn):
    pixels, centres = drawn
    slide = FakeSlide(pixels, unreadable=(Region(1400, 1000, 10, 10),))
    one = Asker(slide, FakeAskable())
    with pytest.raises(SlideError):
        one.ask(np.array([[1390.0, 990.0]]))
    assert one.ask(centres[:1]).scores[0] > 0


@pytest.mark.parametrize("step", ["encode_tile", "ask"])
def test_lack_of_memory_is_said_with_a_remedy(drawn, step):
    model = FakeAskable()

    def full(*_):
        raise MemoryError("no room")

    setattr(model, step, full)
    with pytest.raises(JobError, match="wait until"):
        asker(drawn[0], model)[0].ask(drawn[1][:1])


# --- the heatmap --------------------------------------------------------------------------------


def test_the_tiled_heatmap_equals_the_whole(drawn):
    region = Region(37, 111, 1301, 803)
    steps = []
    heat, side = drain(asker(drawn[0])[0].heatmap(region), steps.append)
    whole, _ = FakeAskable().heat(FakeSlide(drawn[0]).read(Region(37, 111, 1302, 804)))
    assert side == 2.0
    assert heat.dtype == np.float32
    assert heat.shape == (402, 651)
    np.testing.assert_allclose(heat, whole, atol=1e-6)
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert steps[-1].done == steps[-1].total == 6


@pytest.mark.parametrize("mpp", [0.25, 0.35, 0.6])
def test_at_any_scale_the_heat_lies_where_the_cells_are(mpp):
    pixels, centres = field_at(mpp)
    region = Region(21, 13, 1100, 700)
    heat, side = drain(asker(pixels, mpp=mpp)[0].heatmap(region))
    assert side == pytest.approx(2 * 0.5 / mpp, rel=0.01)
    blobs, count = ndimage.label(heat > 0.1)
    found = np.array(ndimage.center_of_mass(heat, blobs, range(1, count + 1)))[:, ::-1]
    found = (found + 0.5) * side + (region.x, region.y)
    margin = 2 * 6 / mpp
    low, high = np.array([region.x, region.y]), np.array([region.x1, region.y1])
    within = (centres > low + margin).all(1) & (centres < high - margin).all(1)
    gap, _ = cKDTree(found).query(centres[within])
    assert within.sum() > 50
    assert gap.max() < 0.5 * side


def test_beyond_the_slide_there_is_no_heat():
    heat, side = drain(
        asker(np.zeros((300, 400, 3), np.uint8))[0].heatmap(Region(-100, -60, 700, 500))
    )
    rows, columns = (np.arange(n) * side for n in heat.shape)
    inside = ((rows >= 60) & (rows < 360))[:, None] & ((columns >= 100) & (columns < 500))[None]
    assert (heat[inside] == 1).all()
    assert (heat[~inside] == 0).all()


def test_what_could_not_be_read_is_no_number_and_is_noted(drawn):
    slide = FakeSlide(drawn[0], unreadable=(Region(1400, 1000, 10, 10),))
    steps = []
    region = Region(0, 0, *SIZE)
    heat, _ = drain(Asker(slide, FakeAskable()).heatmap(region), steps.append)
    assert np.isnan(heat[500, 700])
    assert np.isfinite(heat[:200, :200]).all()
    assert any("missing" in s.note for s in steps)
    whole = Asker(FakeSlide(drawn[0], unreadable=(region,)), FakeAskable()).heatmap(region)
    with pytest.raises(JobError, match="No part"):
        drain(whole)


def test_heat_that_is_no_number_stays_none_and_is_noted(drawn):
    model, steps = FakeAskable(), []
    model.heat = lambda tile: (np.full((512, 512), np.nan, np.float32), 2.0)
    heat, _ = drain(asker(drawn[0], model)[0].heatmap(Region(0, 0, 90, 60)), steps.append)
    assert np.isnan(heat).all()
    assert any("not finite" in s.note for s in steps)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(0, 0, 4097, 4097), "too large"),
        (Region(0, 0, 20_000, 1000), "too large"),
        (Region(1500, 0, 100, 100), "outside"),
    ],
)
def test_regions_too_large_or_elsewhere_are_refused_at_once(drawn, region, words):
    with pytest.raises(ConfigError, match=words):
        asker(drawn[0])[0].heatmap(region)


def test_the_limit_counts_px_of_the_model():
    slide = SimpleNamespace(
        size=(99_000, 99_000), mpp=(0.25, 0.25), name="large.svs", background=(255, 255, 255)
    )
    one = Asker(slide, FakeAskable())
    one.heatmap(Region(0, 0, 8192, 8192)).close()
    with pytest.raises(ConfigError, match="too large"):
        one.heatmap(Region(0, 0, 8300, 8300))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_heatmap_can_be_stopped(drawn, steps):
    job = asker(drawn[0])[0].heatmap(Region(0, 0, *SIZE))
    for _ in range(steps):
        next(job)
    job.close()


# --- the shipped model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    from napari_celldetr import load_model

    return load_model("celldetr-he", device="cpu")


@pytest.fixture(scope="module")
def tissue():
    from skimage import data

    return np.tile(data.immunohistochemistry(), (2, 2, 1))


def test_the_shipped_model_answers_as_it_detected(real, tissue):
    slide = FakeSlide(tissue, mpp=(0.35, 0.35))
    config = DetectConfig(tissue_only=False)
    cells = drain(detect(slide, config, predictor=real, region=Region(150, 150, 700, 700)))
    found = Asker(slide, real).ask(cells.centres)
    assert len(cells) > 30
    apart = np.abs(found.boxes - cells.boxes).max(axis=1)
    # Windows see a little less around a cell than tiles do, and a cell's centre is not its peak.
    assert np.median(apart) < 0.1
    assert np.mean(apart < 1) > 0.9
    assert np.mean(found.class_ids == cells.class_ids) > 0.95
    assert np.mean(np.abs(found.scores - cells.scores) < 0.05) > 0.9


def test_the_shipped_model_s_heatmap_has_no_seams(real, tissue, monkeypatch):
    slide = FakeSlide(tissue)
    monkeypatch.setattr(module, "HEAT_TILE_PX", 640)
    heat, _ = drain(Asker(slide, real).heatmap(Region(320, 384, 256, 192)))
    whole, _ = real.heat(real.encode_tile(tissue))
    np.testing.assert_allclose(heat, whole[192:288, 160:288], atol=1e-4)
    assert heat.max() > 0.5
