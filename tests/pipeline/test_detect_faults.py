"""Trouble stays with the tile that has it, and is never reported as "no cells"."""

import numpy as np
import pytest
from fakes import FakePredictor, FakeSlide, Faults, cell_field

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.errors import JobError, ModelError
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.detect import detect

SIZE = (1250, 1250)
TILES = 49
MARK = (1, 254, 3)

pytestmark = pytest.mark.usefixtures("no_thread_leak")


@pytest.fixture(scope="module")
def field():
    return cell_field(SIZE)


@pytest.fixture(scope="module")
def marked(field):
    """The field with one pixel in tile 3_3 that triggers a fault there (and in no halo)."""
    copy = field.copy()
    copy[3 * 192 + 96, 3 * 192 + 96] = MARK
    return copy


def config(**changes):
    return DetectConfig(tile_px=256, halo_px=32, tissue_only=False, **changes)


def run(slide, predictor, **changes):
    steps = []
    cells = drain(detect(slide, config(**changes), predictor=predictor, fresh=True), steps.append)
    return cells, steps[-1].report, [e for s in steps for e in s.events]


def test_one_unreadable_tile_in_400_fails_and_the_others_are_identical():
    big = cell_field((20 * 192, 20 * 192))
    clean, _, clean_events = run(FakeSlide(big), FakePredictor())
    hole = Region(7 * 192 + 90, 9 * 192 + 90, 10, 10)
    cells, report, events = run(FakeSlide(big, unreadable=(hole,)), FakePredictor())
    assert (report.failed, report.done) == (1, 399)
    ((key, reason),) = report.reasons
    assert key == "9_7"
    assert "unreadable" in reason
    assert "1 failed" in report.summary()
    before = {e.tile.key: e.detections for e in clean_events}
    for event in events:
        if event.tile.key == "9_7":
            assert event.state == "failed"
            assert event.detections is None
        else:
            assert event.detections == before[event.tile.key]
    assert 0 < len(clean) - len(cells) <= 100


@pytest.mark.parametrize("fault", [OSError("io"), ValueError("bad"), MemoryError()])
def test_a_reader_that_breaks_its_promise_costs_one_tile_too(field, fault):
    class Broken(FakeSlide):
        def read(self, region, mpp=None):
            if region.contains(3 * 192 + 96, 3 * 192 + 96):
                raise fault
            return super().read(region, mpp)

    _, report, _ = run(Broken(field), FakePredictor())
    assert report.failed == 1


def test_a_failed_tile_is_tried_again_next_time(field, tmp_path):
    hole = Region(3 * 192 + 90, 3 * 192 + 90, 10, 10)
    first = FakeSlide(field, unreadable=(hole,))
    drain(detect(first, config(), predictor=FakePredictor(), workspace=tmp_path))
    model = FakePredictor()
    cells = drain(detect(FakeSlide(field), config(), predictor=model, workspace=tmp_path))
    assert sum(model.calls) == 1
    assert cells == run(FakeSlide(field), FakePredictor())[0]


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_out_of_memory_halves_and_goes_to_the_cpu_until_all_is_done(field, batch):
    expected, _, _ = run(FakeSlide(field), FakePredictor())
    too_many = frozenset(range(1, batch + 1))
    model = FakePredictor(device="cuda:0", faults=Faults(memory_at=too_many))
    cells, report, _ = run(FakeSlide(field), model, batch=batch)
    assert (report.done, report.failed) == (TILES, 0)
    assert report.device == "cpu"
    assert cells == expected
    tried = model.calls
    assert tried[0] == batch or tried[0] < batch
    assert tried[-1] == 1
    assert any("CPU" in w for w in report.warnings)


def test_out_of_memory_stops_halving_where_it_fits(field):
    model = FakePredictor(device="cuda:0", faults=Faults(memory_at=frozenset({3, 4, 5, 6, 7, 8})))
    cells, report, _ = run(FakeSlide(field), model, batch=8)
    assert (report.done, report.device) == (TILES, "cuda:0")
    assert max(model.calls[3:]) <= 2
    assert cells == run(FakeSlide(field), FakePredictor())[0]


def test_out_of_memory_everywhere_fails_clearly(field):
    faults = Faults(memory_at=frozenset({1}), cpu_fits=False)
    with pytest.raises(JobError, match="out of memory"):
        run(FakeSlide(field[:600, :600]), FakePredictor(faults=faults))


def test_values_that_are_not_finite_are_a_failure_not_an_empty_tile(marked):
    cells, report, events = run(FakeSlide(marked), FakePredictor(faults=Faults(numerical=MARK)))
    assert report.failed == 1
    assert report.reasons[0][0] == "3_3"
    assert "numerical" in report.reasons[0][1]
    assert next(e for e in events if e.state == "failed").detections is None
    assert len(cells) > 500


def test_boxes_without_extent_are_a_failure_not_an_empty_tile(field):
    with pytest.raises(JobError, match="degenerate"):
        run(FakeSlide(field[:600, :600]), FakePredictor(faults=Faults(degenerate=True)))


def test_a_saturated_tile_keeps_its_cells_and_is_flagged(marked, tmp_path):
    clean, _, _ = run(FakeSlide(marked), FakePredictor())
    model = FakePredictor(faults=Faults(saturated=MARK))
    cells, report, events = run(FakeSlide(marked), model)
    assert cells == clean
    assert (report.saturated, report.done) == (1, TILES - 1)
    assert "some may be missing" in report.reasons[0][1]
    flagged = [e for e in events if e.state == "saturated"]
    assert len(flagged) == 1
    assert len(flagged[0].detections) > 0


def test_saturation_is_remembered(marked, tmp_path):
    for _ in range(2):
        steps = []
        model = FakePredictor(faults=Faults(saturated=MARK))
        drain(
            detect(FakeSlide(marked), config(), predictor=model, workspace=tmp_path), steps.append
        )
        assert "saturated" in steps[-1].report.summary()


@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_that_raises_on_one_tile_loses_that_tile_only(marked, batch):
    model = FakePredictor(faults=Faults(raising=MARK))
    _, report, _ = run(FakeSlide(marked), model, batch=batch)
    assert (report.failed, report.done) == (1, TILES - 1)
    assert "injected failure" in report.reasons[0][1]


def test_a_model_that_always_raises_ends_the_job_early(field):
    class Broken(FakePredictor):
        def _one(self, tile):
            raise RuntimeError("no kernel image")

    model = Broken()
    with pytest.raises(JobError, match="no kernel image"):
        run(FakeSlide(field), model)
    assert len(model.calls) < 20


def test_a_model_that_answers_too_few_tiles_is_a_failure(field):
    class Short(FakePredictor):
        def predict(self, tiles):
            return []

    with pytest.raises(JobError, match="answered 0"):
        run(FakeSlide(field[:600, :600]), Short())


def test_every_tile_unreadable_is_an_error(field):
    slide = FakeSlide(field, unreadable=(Region(0, 0, *SIZE),))
    with pytest.raises(JobError, match="All 49 tiles failed"):
        run(slide, FakePredictor())


def test_a_loader_that_raises_becomes_a_model_error(field, monkeypatch):
    from napari_celldetr.pipeline import detect as module

    def broken(run):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(module._Run, "_load", broken)
    with pytest.raises(ModelError, match="driver too old"):
        run(FakeSlide(field), FakePredictor())


def test_class_rule_without_its_measurement_is_a_model_error(field):
    from fakes import fake_card

    card = fake_card(class_rule={"measure": "ki67", "threshold": 0.2})
    with pytest.raises(ModelError, match="class rule"):
        run(FakeSlide(field[:600, :600]), FakePredictor(card=card))


def test_degenerate_boxes_among_good_ones_are_left_out_and_noted(field):
    class Mixed(FakePredictor):
        def _one(self, tile):
            found = super()._one(tile)
            cells = found.detections
            boxes = cells.boxes.copy()
            boxes[:1, 2:] = boxes[:1, :2]
            from dataclasses import replace

            return replace(found, detections=replace(cells, boxes=boxes))

    _, report, events = run(FakeSlide(field[:600, :600]), Mixed())
    assert report.failed == 0
    assert np.any(["1 degenerate" in e.reason for e in events])
