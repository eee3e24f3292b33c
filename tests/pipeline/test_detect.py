"""The one flow, exactly: a drawn field in, its very cells out, however it was cut."""

import threading
import time

import numpy as np
import pytest
from fakes import (
    FakePredictor,
    FakeSlide,
    Faults,
    cell_field,
    draw_cells,
    fake_card,
    spaced_centres,
)

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.errors import ConfigError, JobError, SlideError
from napari_celldetr.core.progress import drain
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.detect import detect

SMALL = DetectConfig(tile_px=256, halo_px=32, tissue_only=False)
SIZE = (1500, 1100)

pytestmark = pytest.mark.usefixtures("no_thread_leak")


@pytest.fixture(scope="module")
def field():
    return cell_field(SIZE)


def run(slide, config=SMALL, **options):
    steps = []
    options.setdefault("predictor", FakePredictor())
    cells = drain(detect(slide, config, **options), steps.append)
    return cells, steps


def whole(field):
    """The truth: the fake detector on the whole field at once."""
    return FakePredictor().predict(field[None])[0].detections.above(0.5).ordered()


def test_tiled_equals_whole(field):
    cells, steps = run(FakeSlide(field))
    truth = whole(field)
    assert len(truth) == len(spaced_centres(SIZE))
    np.testing.assert_array_equal(cells.boxes, truth.boxes)
    np.testing.assert_array_equal(cells.scores, truth.scores)
    np.testing.assert_array_equal(cells.class_ids, truth.class_ids)
    report = steps[-1].report
    assert report.done == report.tiles == 48
    assert report.cells == len(cells)
    assert report.device == "cpu"


@pytest.mark.parametrize(
    ("tile", "halo"), [(256, 16), (320, 32), (512, 64), (640, 24), (1024, 64), (2048, 128)]
)
def test_six_tilings_find_the_same_cells_without_a_seam_peak(field, tile, halo):
    jittery = FakePredictor(faults=Faults(jitter_px=1.5))
    cells, _ = run(
        FakeSlide(field),
        DetectConfig(tile_px=tile, halo_px=halo, tissue_only=False),
        predictor=jittery,
    )
    truth = whole(field)
    assert len(cells) == len(truth)
    gaps = np.abs(cells.centres[:, None] - truth.centres[None]).max(axis=2)
    nearest = gaps.argmin(axis=1)
    assert len(set(nearest.tolist())) == len(truth)
    assert gaps.min(axis=1).max() <= 1.6


def test_batch_size_and_reading_threads_change_nothing(field):
    expected, _ = run(FakeSlide(field))
    for batch, prefetch in ((3, 1), (8, 4)):
        config = DetectConfig(
            tile_px=256, halo_px=32, tissue_only=False, batch=batch, prefetch=prefetch
        )
        cells, _ = run(FakeSlide(field), config)
        assert cells == expected


def test_another_resolution_comes_back_in_level_0_pixels():
    # 0.25 µm/px slide, 0.5 µm/px model: every coordinate doubles and nothing shifts.
    fine = cell_field((1200, 900)).repeat(2, axis=0).repeat(2, axis=1)
    cells, _ = run(FakeSlide(fine, mpp=(0.25, 0.25)))
    truth = whole(cell_field((1200, 900)))
    np.testing.assert_allclose(cells.boxes, truth.boxes * 2, atol=1e-3)


@pytest.mark.parametrize("mpp", [0.21, 0.33, 0.47, 0.61, 0.73])
def test_dots_at_known_places_for_odd_pixel_sizes(mpp):
    scale = 0.5 / mpp
    centres = spaced_centres((900, 700), pitch=30)
    slide_size = (round(900 * scale), round(700 * scale))
    slide = FakeSlide(draw_cells(slide_size, centres * scale, 8 * scale), mpp=(mpp, mpp))
    cells, _ = run(slide)
    assert len(cells) == len(centres)
    shift = cells.centres[:, None] - centres[None] * scale
    nearest = shift[np.hypot(*shift.T).T.argmin(axis=0), np.arange(len(centres))]
    # Discs are drawn on whole pixels and boxes end on whole model pixels; neither has a side.
    assert np.abs(nearest).max() <= 0.5 + 0.5 * scale
    assert np.abs(nearest.mean(axis=0)).max() <= 0.1 * max(scale, 1)


def test_slightly_oblong_pixels_are_handled():
    centres = spaced_centres((900, 700), pitch=30)
    slide = FakeSlide(draw_cells((900, 700), centres, 8), mpp=(0.5, 0.495))
    cells, _ = run(slide)
    assert len(cells) == len(centres)
    gaps = np.hypot(*(cells.centres[:, None] - centres[None]).T).min(axis=0)
    assert gaps.max() <= 1.1


def test_cells_at_the_slides_edge_are_cut_there_and_filling_has_none():
    edge = np.array([[0.0, 50], [50, 0], [299.5, 100], [100, 199.5], [150, 100]])
    cells, _ = run(FakeSlide(draw_cells((300, 200), edge, 6)))
    assert len(cells) == 5
    assert (cells.boxes >= 0).all()
    assert (cells.boxes[:, 2] <= 300).all()
    assert (cells.boxes[:, 3] <= 200).all()
    black = FakeSlide(draw_cells((300, 200), edge, 6), background=(0, 0, 0))
    assert len(run(black)[0]) <= 5


def test_a_region_gives_its_cells_and_no_others(field):
    region = Region(333, 222, 400, 300)
    cells, _ = run(FakeSlide(field), region=region)
    x, y = whole(field).centres.T
    inside = (x >= 333) & (x < 733) & (y >= 222) & (y < 522)
    assert cells == whole(field).select(inside).with_columns(**cells.columns)


def test_a_viewports_tiles_are_reused_by_the_whole_run(field, tmp_path):
    view, steps = run(FakeSlide(field), region=Region(400, 400, 300, 300), workspace=tmp_path)
    first = steps[-1].report.done
    assert 0 < first < 48
    model = FakePredictor()
    cells, steps = run(FakeSlide(field), predictor=model, workspace=tmp_path)
    report = steps[-1].report
    assert report.reused == first
    assert sum(model.calls) == 48 - first == report.done
    assert cells == run(FakeSlide(field))[0]
    assert len(view) < len(cells)
    reused = [e for s in steps for e in s.events if e.state == "reused"]
    assert len(reused) == first


def test_coming_back_needs_neither_network_nor_pixels(field, tmp_path):
    expected, _ = run(FakeSlide(field), workspace=tmp_path)
    slide, model = FakeSlide(field), FakePredictor()
    again, steps = run(slide, predictor=model, workspace=tmp_path)
    assert again == expected
    assert (slide.reads, model.calls) == (0, [])
    assert steps[-1].report.reused == 48


def test_fresh_computes_again(field, tmp_path):
    run(FakeSlide(field), workspace=tmp_path)
    model = FakePredictor()
    run(FakeSlide(field), predictor=model, workspace=tmp_path, fresh=True)
    assert sum(model.calls) == 48


def test_threshold_is_not_part_of_the_run_but_pixel_size_and_model_are(field, tmp_path):
    run(FakeSlide(field), workspace=tmp_path)
    base = {"tile_px": 256, "halo_px": 32, "tissue_only": False}
    for changes, card, computed in (
        ({"threshold": 0.8}, {}, 0),
        ({"mpp": 0.6}, {}, 70),
        ({}, {"weights_sha256": "e" * 64}, 48),
    ):
        model = FakePredictor(card=fake_card(**card))
        run(FakeSlide(field), DetectConfig(**base, **changes), predictor=model, workspace=tmp_path)
        assert sum(model.calls) == computed, changes


def test_threshold_after_the_run_equals_threshold_in_it(field):
    floor, _ = run(FakeSlide(field), keep_floor=True)
    config = DetectConfig(tile_px=256, halo_px=32, tissue_only=False, threshold=0.75)
    strict, _ = run(FakeSlide(field), config)
    assert 0 < len(strict) < len(floor)
    assert floor.above(0.75) == strict


def test_what_is_looked_at_comes_first(field):
    _, steps = run(FakeSlide(field), first=(1400, 1000))
    tiles = [e.tile for s in steps for e in s.events]
    gaps = [np.hypot(t.core.centre[0] - 1400, t.core.centre[1] - 1000) for t in tiles]
    assert gaps == sorted(gaps)


def test_events_carry_every_tiles_cells_as_they_come(field):
    cells, steps = run(FakeSlide(field))
    shown = [e.detections for s in steps for e in s.events]
    assert len(shown) == 48
    assert sum(len(d) for d in shown) >= len(cells)
    assert [s.done for s in steps] == sorted(s.done for s in steps)
    assert all(d.scores.min(initial=1) >= 0.5 for d in shown)


def test_tiles_without_tissue_are_skipped_and_said_so():
    field = np.full((1100, 2200, 3), 245, np.uint8)
    field[:, :700] = (200, 150, 190)
    field[:500, :500] = draw_cells((500, 500), spaced_centres((500, 500)))
    config = DetectConfig(tile_px=256, halo_px=32)
    cells, steps = run(FakeSlide(field), config)
    report = steps[-1].report
    assert report.skipped > 10
    assert report.skipped + report.done == report.tiles
    assert steps[-1].fraction == 1
    assert "skipped" in report.summary()
    assert len(cells) > 0


def test_an_empty_slide_gives_an_empty_table_that_says_it_was_looked_at():
    cells, steps = run(FakeSlide(np.full((600, 600, 3), 250, np.uint8)))
    assert len(cells) == 0
    assert cells.class_names == ("dark", "red")
    assert {"diameter_um", "area_um2"} <= set(cells.columns)
    assert cells.source.model == "fake"
    assert steps[-1].report.done == steps[-1].report.tiles > 0


def test_tissue_without_cells_raises_a_doubt():
    pink = np.full((600, 600, 3), (200, 150, 190), np.uint8)
    cells, steps = run(FakeSlide(pink), DetectConfig(tile_px=256, halo_px=32))
    assert len(cells) == 0
    (warning,) = steps[-1].report.warnings
    assert "Check the pixel size" in warning


def test_a_region_cut_by_the_slide_is_said_so(field):
    slide = FakeSlide(field)
    width, height = slide.size
    _, steps = run(slide, region=Region(width - 200, height - 100, 500, 500))
    assert any("only 200 × 100 px" in w for w in steps[-1].report.warnings)
    _, steps = run(slide, region=Region(0, 0, 200, 100))
    assert not any("beyond" in w for w in steps[-1].report.warnings)


def test_embeddings_come_through_storage_and_merge(field):
    slide, size = FakeSlide(field), 5
    cells, _ = run(slide, predictor=FakePredictor(embedding_size=size))
    sides = cells.boxes[:, 2:] - cells.boxes[:, :2]
    assert cells.embeddings.shape == (len(cells), size)
    # The fake's vector is the box's own size; cells cut by the slide's edge may differ.
    np.testing.assert_array_equal(cells.embeddings[:, 0], sides[:, 0])


def test_source_says_how_to_make_it_again(field):
    cells, _ = run(FakeSlide(field))
    assert cells.source.slide == "fake.tif"
    assert cells.source.mpp == (0.5, 0.5)
    assert len(cells.source.slide_id) == len(cells.source.weights_sha256) == 64
    assert "tile_px" in cells.source.config


def test_sizes_are_measured_in_um(field):
    cells, _ = run(FakeSlide(field))
    sides = cells.boxes[:, 2:] - cells.boxes[:, :2]
    np.testing.assert_allclose(
        cells.columns["diameter_um"], np.sqrt(sides.prod(axis=1)) * 0.5, rtol=1e-5
    )


def test_a_slow_network_does_not_hold_up_progress():
    slide = FakeSlide(cell_field((400, 400)))
    model = FakePredictor(faults=Faults(seconds=0.7))
    times = [time.monotonic()]
    config = DetectConfig(tile_px=512, halo_px=32, tissue_only=False)
    drain(detect(slide, config, predictor=model), lambda _: times.append(time.monotonic()))
    # 250 ms are promised; the slack is for a machine that is busy with other things.
    assert max(np.diff(times)) < 0.6
    assert len(times) > 4


def test_the_network_runs_in_one_thread_of_its_own(field):
    model = FakePredictor()
    run(FakeSlide(field), predictor=model)
    assert model.threads == {"celldetr-network_0"}


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 20])
def test_closing_the_job_stops_it_and_leaves_a_resumable_run(field, tmp_path, steps):
    job = detect(FakeSlide(field), SMALL, predictor=FakePredictor(), workspace=tmp_path)
    for _ in range(steps):
        next(job)
    job.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("celldetr")]
    model = FakePredictor()
    cells, last = run(FakeSlide(field), predictor=model, workspace=tmp_path)
    assert cells == run(FakeSlide(field))[0]
    assert last[-1].report.reused + sum(model.calls) == 48


def test_reading_ahead_is_bounded(field):
    slide = FakeSlide(field)
    job = detect(slide, SMALL, predictor=FakePredictor())
    while not (step := next(job)).events:
        pass
    time.sleep(0.3)
    assert step.done == 1
    assert slide.reads <= 12
    job.close()


def test_missing_pixel_size_says_what_to_give(field):
    with pytest.raises(SlideError, match="--mpp"):
        run(FakeSlide(field, mpp=None))


def test_given_pixel_size_replaces_the_slides(field):
    config = DetectConfig(tile_px=256, halo_px=32, tissue_only=False, mpp=0.5)
    cells, _ = run(FakeSlide(field, mpp=(1.0, 1.0)), config)
    assert cells.boxes.tolist() == whole(field).boxes.tolist()
    assert cells.source.mpp == (0.5, 0.5)


def test_an_implausible_nucleus_size_is_doubted():
    big = draw_cells((1500, 1500), spaced_centres((1500, 1500), pitch=80), 25)
    _, steps = run(FakeSlide(big))
    assert any("pixel size" in w for w in steps[-1].report.warnings)
    _, steps = run(FakeSlide(cell_field(SIZE)))
    assert steps[-1].report.warnings == ()


@pytest.mark.parametrize(
    "region", [Region(5000, 0, 10, 10), Region(-50, -50, 50, 50), Region(0, 1100, 10, 10)]
)
def test_a_region_outside_the_slide_is_refused(field, region):
    with pytest.raises(ConfigError, match="outside"):
        run(FakeSlide(field), region=region)


def test_a_threshold_below_the_floor_is_refused(field):
    config = DetectConfig(tile_px=256, halo_px=32, threshold=0.05)
    with pytest.raises(ConfigError, match="floor"):
        run(FakeSlide(field), config)


def test_tiles_smaller_than_their_halo_are_refused(field):
    with pytest.raises(ConfigError, match="halo"):
        run(FakeSlide(field), DetectConfig(tile_px=256, halo_px=128))


def test_a_second_run_on_the_same_workspace_is_refused_while_one_runs(field, tmp_path):
    job = detect(FakeSlide(field), SMALL, predictor=FakePredictor(), workspace=tmp_path)
    next(job)
    with pytest.raises(JobError, match="Another run"):
        run(FakeSlide(field), workspace=tmp_path)
    job.close()
    assert len(run(FakeSlide(field), workspace=tmp_path)[0]) > 0
