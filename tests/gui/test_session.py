"""A slide's session: what outlives the window, who may write, and what runs add to each other."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from tables import NAMES, random_table, table_of
from viewer_fakes import slide_image

from napari_celldetr.core.annotations import Area, Status
from napari_celldetr.core.detections import Source
from napari_celldetr.core.edits import add, confirm, delete, mark, relabel
from napari_celldetr.core.errors import AnnotationError
from napari_celldetr.core.progress import TileEvent, drain
from napari_celldetr.core.regions import Region, TileGrid
from napari_celldetr.gui.contributions import get_reader
from napari_celldetr.gui.coverage import Seen
from napari_celldetr.gui.detect_job import merge_job
from napari_celldetr.gui.keeping import open_job
from napari_celldetr.gui.prepared import prepare, with_earlier
from napari_celldetr.gui.session import SESSION_KEY, session_of
from napari_celldetr.gui.sources import source_of_layer
from napari_celldetr.pipeline.project import Project

CARD = SimpleNamespace(
    name="fake",
    weights_sha256="w1",
    class_names=NAMES,
    class_colors=((0, 0, 200), (200, 0, 0)),
    threshold=0.5,
)
SIZE = (1200, 900)


@pytest.fixture
def slide_path(tmp_path):
    path = tmp_path / "case.ome.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(256, 256), metadata={"PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"},
    )  # fmt: skip
    return path


def open_slide(path):
    viewer = ViewerModel()
    ((data, options, _),) = get_reader(str(path))(str(path))
    return viewer, viewer.add_image(data, **options)


@pytest.fixture
def begin(slide_path, qtbot):
    """Open the slide in a window of its own: ``begin() -> (session, user)``."""
    users = []

    def make():
        viewer, layer = open_slide(slide_path)
        user = object()
        session = session_of(viewer, layer, user)
        users.append((session, user))
        qtbot.waitUntil(lambda: session.state != "opening", timeout=10_000)
        return session, user

    yield make
    for session, user in users:
        session.leave(user)


def run(session, table, region=None, *, identity=("w1", "{}")):
    """What a run of a model does to a session, tiles and merged result."""
    session.begin(CARD, identity, 0.5)
    earlier = session.earlier()
    region = region or Region(0, 0, *SIZE)
    for tile in TileGrid(512, 0).plan(region):
        mine = table.select(np.array([tile.core.contains(x, y) for x, y in table.centres], bool))
        session.add_tile(TileEvent(tile, "done", mine), within=region)
    merged = with_earlier(table, earlier.claims, region)
    ready = prepare(
        merged,
        SIZE,
        mpp=0.5,
        annotations=earlier.annotations(),
        threshold=0.5,
        seen=earlier.seen,
    )
    session.take(ready)


def saved(session, qtbot):
    qtbot.waitUntil(lambda: not session._saver.running, timeout=10_000)
    assert not session.problems
    assert session.saved.kind in ("saved", "saving")
    session._journal.flush(10)


def test_a_slide_comes_back_as_it_was_left(begin, qtbot):
    session, user = begin()
    assert session.state == "open"
    run(session, random_table(300, SIZE).ordered())
    rows = np.flatnonzero(session.cells.kept)
    session.edit(relabel(session.cells, rows[:5], "red"))
    session.edit(delete(session.cells, rows[7:9]))
    session.edit(add(session.cells, np.array([[50.0, 50, 66, 66]]), "new"))
    session.edit(mark(session.cells, Area(((0, 0), (90, 0), (90, 90)))))
    session.set_threshold(0.7)
    session.viewer.scene.camera.zoom = 3.5
    before, digest = session.corrected(), session.cells.annotations.digest()
    saved(session, qtbot)
    session.leave(user)
    again, _ = begin()
    assert again.cells.annotations.digest() == digest
    assert again.cells.threshold == 0.7
    after = again.corrected()
    assert after.cells == before.cells
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.status, before.status)
    assert again.cells.class_names == (*NAMES, "new")
    assert again.colors[:2] == list(CARD.class_colors)
    assert again.viewer.scene.camera.zoom == 3.5
    assert again.coverage.area_px() == SIZE[0] * SIZE[1]
    assert again.can_undo == "mark complete area"
    # And everything can still be taken back.
    for _ in range(4):
        again.undo()
    assert again.undo() is None
    assert not again.cells.annotations.cells


def test_another_threshold_is_on_disk_before_the_slide_is_closed(begin, qtbot):
    session, _ = begin()
    session._keep_view()
    assert "threshold" not in session._record.view()
    run(session, random_table(50, SIZE).ordered())
    session.set_threshold(0.8)
    qtbot.waitUntil(lambda: session._record.view().get("threshold") == 0.8, timeout=6000)


def test_what_another_person_redoes_stays_the_word_of_who_said_it(begin, qtbot, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    session, user = begin()
    run(session, random_table(50, SIZE).ordered())
    rows = np.flatnonzero(session.cells.kept)[:3]
    session.edit(relabel(session.cells, rows, "red"))
    session.edit(confirm(session.cells, rows))
    session.undo()
    session.undo()
    saved(session, qtbot)
    session.leave(user)
    monkeypatch.setenv("LOGNAME", "bob")
    again, user = begin()
    assert again.author == "bob"
    again.redo()
    again.edit(delete(again.cells, np.flatnonzero(again.cells.kept)[10:11]))
    again.undo()
    again.redo()
    now = {key: said.author for key, said in again.cells.annotations.cells.items()}
    assert sorted(now.values()) == ["ada", "ada", "ada", "bob"]
    saved(again, qtbot)
    again.leave(user)
    third, _ = begin()
    assert {k: said.author for k, said in third.cells.annotations.cells.items()} == now


def test_a_second_window_on_the_slide_may_only_look(begin, qtbot):
    session, user = begin()
    run(session, random_table(50, SIZE).ordered())
    session.edit(delete(session.cells, np.flatnonzero(session.cells.kept)[:1]))
    saved(session, qtbot)
    other, _ = begin()
    assert session.author in other.read_only
    assert len(other.corrected()) == len(session.corrected())
    with pytest.raises(AnnotationError, match="looked at only"):
        other.edit(delete(other.cells, np.flatnonzero(other.cells.kept)[:1]))
    assert len(other.corrected()) == len(session.corrected())
    session.leave(user)
    third, _ = begin()
    assert third.read_only == ""


def test_edits_made_while_the_record_opens_are_written_down(slide_path, qtbot):
    viewer, layer = open_slide(slide_path)
    user = object()
    session = session_of(viewer, layer, user)
    assert session.state == "opening"
    session.edit(add(session.cells, np.array([[50.0, 50, 66, 66]]), "mine"))
    qtbot.waitUntil(lambda: session.state == "open", timeout=10_000)
    assert session.can_undo == "add 1 cell as mine"
    assert len(session.corrected()) == 1
    session._journal.flush(10)
    session.leave(user)
    record = Project.open(author="x").slide(next(iter(Project.open(author="x").slides())))
    with record, record.journal() as journal:
        assert len(journal) == 1


def test_runs_on_two_parts_of_a_slide_add_up(begin):
    session, _ = begin()
    table = random_table(400, SIZE).ordered()
    left, right = Region(0, 0, 500, 900), Region(500, 0, 700, 900)
    for region in (left, right):
        x = table.centres[:, 0]
        inside = (x >= region.x) & (x < region.x1)
        run(session, table.select(inside), region)
    assert session.corrected().cells.digest() == prepared_digest(table)
    assert session.coverage.area_px() == SIZE[0] * SIZE[1]


def prepared_digest(table):
    from napari_celldetr.pipeline.measure import size_columns

    kept = table.above(0.5).ordered()
    return kept.with_columns(**size_columns(kept.boxes, (0.5, 0.5))).digest()


def test_another_models_cells_take_the_place_of_the_first_ones(begin):
    session, _ = begin()
    run(session, table_of([[100, 100, 116, 116], [300, 300, 316, 316]]))
    session.edit(relabel(session.cells, np.array([0]), "red"))
    run(
        session,
        table_of([[102, 101, 118, 117], [600, 600, 616, 616]]),
        identity=("w2", "{}"),
    )
    now = session.corrected().cells
    assert [(float(x), float(y)) for x, y in now.centres] == [(108, 108), (608, 608)]
    assert now.class_labels.tolist() == ["red", "dark"]
    assert session.conflicts == ()


def test_a_disagreement_with_a_new_run_is_kept_for_the_docks(begin):
    session, _ = begin()
    run(session, table_of([[100, 100, 116, 116]]))
    session.edit(relabel(session.cells, np.array([0]), "other"))
    run(session, table_of([[101, 100, 117, 116]], class_ids=[1]), identity=("w2", "{}"))
    (conflict,) = session.conflicts
    assert "now says red; you said other" in conflict.text


def test_tiles_that_failed_are_still_seen_after_reopening(begin, qtbot):
    session, user = begin()
    session.begin(CARD, ("w1", "{}"), 0.5)
    grid = TileGrid(512, 0)
    session.add_tile(TileEvent(grid.tile(0, 0), "done", table_of([[9, 9, 25, 25]])))
    session.add_tile(TileEvent(grid.tile(0, 1), "failed", None, "a reason"))
    session.take(prepare(table_of([[9, 9, 25, 25]]), SIZE, mpp=0.5))
    saved(session, qtbot)
    session.leave(user)
    again, _ = begin()
    counted = again.coverage.counted()
    assert counted == session.coverage.counted()
    assert counted[Seen.FAILED] > 0
    assert again.coverage.area_px() == 512 * 512


def test_a_damaged_result_is_told_and_corrections_stay(begin, qtbot, tmp_path):
    session, user = begin()
    run(session, table_of([[100, 100, 116, 116]]))
    session.edit(relabel(session.cells, np.array([0]), "red"))
    saved(session, qtbot)
    session.leave(user)
    (about,) = (tmp_path / "project").rglob("cells/*.json")
    said = json.loads(about.read_text())
    about.write_text(json.dumps({**said, "sha256": "0" * 64}))
    again, _ = begin()
    assert again.problems
    assert len(again.cells.annotations) == 1
    assert again.cells.status[again.cells.kept].tolist() == [Status.RECLASSED]


def test_a_project_that_cannot_be_used_is_told_and_corrections_hold(
    slide_path, qtbot, tmp_path, monkeypatch
):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    monkeypatch.setenv("CELLDETR_PROJECT", str(tmp_path / "thesis"))
    viewer, layer = open_slide(slide_path)
    user = object()
    session = session_of(viewer, layer, user)
    qtbot.waitUntil(lambda: session.state != "opening", timeout=10_000)
    assert session.state == "unsaved"
    assert session.problems
    session.edit(add(session.cells, np.array([[50.0, 50, 66, 66]]), "mine"))
    assert session.undo() == "add 1 cell as mine"
    session.redo()
    assert len(session.corrected()) == 1
    session.leave(user)
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize("steps", range(1, 3))
def test_a_window_closed_while_the_record_opens_leaves_nothing_open(slide_path, begin, steps):
    import threading

    viewer, layer = open_slide(slide_path)
    job = open_job(source_of_layer(layer, mpp=(0.5, 0.5)), author="ada")
    for _ in range(steps):
        next(job, None)
    job.close()
    assert "celldetr-journal" not in {t.name for t in threading.enumerate()}
    session, _ = begin()
    assert session.read_only == ""
    assert viewer.layers


def test_a_pixel_size_given_by_a_person_comes_back_with_the_cells(begin, qtbot):
    # Cells found at another pixel size than the layer's were shown on a raster of another size.
    session, user = begin()
    session.use_mpp(0.25)
    run(session, fine(random_table(300, SIZE).ordered()))
    rows = np.flatnonzero(session.cells.kept)
    session.edit(delete(session.cells, rows[:3]))
    before = session.corrected().cells
    saved(session, qtbot)
    session.leave(user)
    again, _ = begin()
    assert again.state == "open"
    assert again.frame.mpp == (0.25, 0.25)
    assert again.corrected().cells == before
    assert again.can_undo == "delete 3 cells"


def fine(table):
    return table.with_source(Source(mpp=(0.25, 0.25), weights_sha256="w1"))


def test_corrections_over_an_earlier_model_hold_after_reopening(begin, qtbot):
    session, user = begin()
    run(session, table_of([[100, 100, 116, 116], [300, 300, 316, 316], [500, 500, 516, 516]]))
    session.edit(delete(session.cells, np.array([0])))
    session.edit(relabel(session.cells, np.array([1]), "red"))
    other = table_of([[101, 101, 117, 117], [301, 301, 317, 317], [501, 501, 517, 517]])
    run(session, other, identity=("w2", "{}"))
    before = session.corrected()
    assert len(before) == 2
    saved(session, qtbot)
    session.leave(user)
    again, _ = begin()
    after = again.corrected()
    assert after.cells == before.cells
    np.testing.assert_array_equal(after.ids, before.ids)


def test_a_selection_from_before_a_run_edits_nothing_that_is_gone(begin):
    session, _ = begin()
    table = random_table(60, SIZE).ordered()
    run(session, table)
    stale = np.flatnonzero(session.cells.kept)
    session.select(stale)
    session.begin(CARD, ("w1", "{}"), 0.5)
    tile = TileGrid(2048, 0).tile(0, 0)
    session.add_tile(TileEvent(tile, "reused", table))
    assert not len(session.selected)
    count = int(session.cells.kept.sum())
    assert len(relabel(session.cells, stale, "red")) == 0
    session.edit(relabel(session.cells, stale, "red"))
    assert int(session.cells.kept.sum()) == count


def test_a_run_begun_while_the_record_opens_is_not_mixed_with_what_comes(begin, slide_path, qtbot):
    session, user = begin()
    run(session, random_table(300, SIZE).ordered())
    saved(session, qtbot)
    session.leave(user)
    viewer, layer = open_slide(slide_path)
    late = session_of(viewer, layer, user)
    late.begin(CARD, ("w2", "{}"), 0.5)
    qtbot.waitUntil(lambda: late.state == "open", timeout=10_000)
    assert int(late.cells.kept.sum()) == 0
    assert late.coverage is None
    late.leave(user)


def test_a_stopped_run_keeps_the_earlier_cells_around_it(begin):
    session, _ = begin()
    table = random_table(300, SIZE).ordered()
    run(session, table)
    before = session.corrected().cells
    region = Region(300, 200, 300, 300)
    tile = TileGrid(1024, 0).tile(0, 0)
    inside = [region.contains(x, y) for x, y in table.centres]
    session.begin(CARD, ("w1", "{}"), 0.5)
    earlier = session.earlier()
    mine = table.select(np.array(inside, bool))
    session.add_tile(TileEvent(tile, "done", mine), within=region)
    job = merge_job(
        [(tile, mine)], session.frame, SIZE, SimpleNamespace(mpp=0.5), earlier, within=region
    )
    session.take(drain(job).cells)
    assert session.corrected().cells.digest() == before.digest()


def test_a_run_on_a_part_contradicts_nothing_elsewhere(begin):
    session, _ = begin()
    run(session, table_of([[100, 100, 116, 116], [900, 700, 916, 716]]))
    session.edit(confirm(session.cells, np.array([0, 1])))
    part = Region(0, 0, 400, 400)
    session.begin(CARD, ("w2", "{}"), 0.5)
    ready = prepare(
        table_of([[300, 300, 316, 316]]),
        SIZE,
        mpp=0.5,
        annotations=session.annotations_now(),
        within=part,
    )
    session.take(ready)
    assert [c.box[0] for c in session.conflicts] == [100]


def test_cells_seen_in_a_complete_area_are_no_disagreement_for_another_model(begin):
    session, _ = begin()
    table = random_table(80, SIZE).ordered()
    run(session, table)
    session.edit(mark(session.cells, Area(((0, 0), (1200, 0), (1200, 900), (0, 900)))))
    seen = session.seen()
    session.begin(CARD, ("w2", "{}"), 0.5)
    earlier = session.earlier(seen)
    ready = prepare(
        table,
        SIZE,
        mpp=0.5,
        annotations=earlier.annotations(),
        threshold=0.5,
        seen=earlier.seen,
    )
    assert ready.conflicts == ()


def test_a_picture_is_known_by_its_pixels_whatever_their_size(tmp_path, qtbot):
    viewer, user = ViewerModel(), object()
    pixels = np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)
    layer = viewer.add_layer(slide_image(pixels, mpp=None))
    session = session_of(viewer, layer, user)
    qtbot.waitUntil(lambda: session.state == "open", timeout=10_000)
    session.edit(add(session.cells, np.array([[50.0, 50, 66, 66]]), "mine"))
    session.leave(user)
    other = ViewerModel()
    again = session_of(other, other.add_layer(slide_image(pixels, mpp=0.5)), user)
    qtbot.waitUntil(lambda: again.state == "open", timeout=10_000)
    assert len(again.corrected()) == 1
    again.leave(user)


def test_docks_share_a_session_and_a_copy_of_the_layer_has_its_own(begin):
    from copy import deepcopy

    session, _ = begin()
    assert session_of(session.viewer, session.layer, session) is session
    session.leave(session)
    assert deepcopy(session.layer.metadata)[SESSION_KEY].session is None


def test_removing_the_slide_lets_go_of_its_record(begin):
    session, _ = begin()
    session.edit(add(session.cells, np.array([[50.0, 50, 66, 66]]), "mine"))
    session.viewer.layers.remove(session.layer)
    assert session.state == ""
    other, _ = begin()
    assert other.read_only == ""
    assert len(other.corrected()) == 1


def test_the_same_run_again_changes_nothing(begin):
    session, _ = begin()
    table = random_table(200, SIZE).ordered()
    run(session, table)
    session.edit(delete(session.cells, np.flatnonzero(session.cells.kept)[:3]))
    before = session.corrected()
    layers = list(session.viewer.layers)
    run(session, table)
    after = session.corrected()
    assert after.cells == before.cells
    np.testing.assert_array_equal(after.ids, before.ids)
    assert list(session.viewer.layers) == layers
