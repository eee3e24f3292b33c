"""Corrected cells become tiles: what counts, what is ignored, what is held aside."""

import numpy as np
import pytest
from PIL import Image

from napari_celldetr.core.annotations import Area, CorrectedCells, Status, new_keys
from napari_celldetr.core.detections import Detections
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.training.finetune_tiles import (
    Taught,
    TaughtTile,
    part,
    taught_tiles,
    tile_px,
)

MPP = 0.5


@pytest.fixture
def slide(tmp_path):
    Image.fromarray(np.full((600, 700, 3), 230, np.uint8)).save(tmp_path / "s.png")
    with open_slide(tmp_path / "s.png", mpp=MPP, probe=False) as slide:
        yield slide


def cells(places, status, *, ids=None, areas=None):
    low = np.array(places, np.float32).reshape(-1, 2) - 6
    table = Detections(
        np.concatenate((low, low + 12), axis=1),
        np.full(len(low), 0.9),
        np.zeros(len(low), int) if ids is None else ids,
        ("round", "long"),
    )
    states = np.array(status, np.uint8)
    authors = np.where(states > 0, "Ann", "")
    return CorrectedCells(table, new_keys(len(low)), states, authors, areas or {})


def square(x0, y0, x1, y1):
    return Area(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), "complete")


def tiles_of(slide, now):
    return list(taught_tiles(slide, Taught.of(now), mpp=MPP))


def value_at(tile, x, y):
    """What a tile's labels say at level-0 px of a slide at the model's own µm/px."""
    left, top = (int((place * 250 - 32) // 32 * 32) for place in tile.place)
    return bool(tile.field.valid[y - top, x - left])


def test_tiles_are_a_multiple_of_64_px():
    assert tile_px(0.5) == 256
    assert tile_px(0.25) == 512


def test_only_corrected_cells_count_outside_complete_areas(slide):
    now = cells(
        [(100, 100), (160, 100), (200, 200)], [Status.CONFIRMED, Status.CLAIMED, Status.DELETED]
    )
    (tile,) = tiles_of(slide, now)
    assert len(tile.field) == 1
    assert tile.corrections == 2
    assert not tile.complete
    assert value_at(tile, 100, 100)
    assert value_at(tile, 200, 200)  # a deleted cell: known, and no cell
    assert not value_at(tile, 160, 100)
    assert not value_at(tile, 60, 60)


def test_a_claim_next_to_a_corrected_cell_is_not_taken_for_background(slide):
    now = cells([(100, 100), (107, 100)], [Status.RECLASSED, Status.CLAIMED])
    low = np.array([[94, 97, 100, 103], [104, 97, 110, 103]], np.float32)
    now = CorrectedCells(
        Detections(low, [0.9, 0.9], [0, 0], ("round", "long")), now.ids, now.status, now.authors
    )
    (tile,) = tiles_of(slide, now)
    assert value_at(tile, 97, 100)
    assert not value_at(tile, 107, 100)


def test_in_a_complete_area_all_cells_count_and_empty_places_too(slide):
    now = cells(
        [(100, 100), (160, 100), (230, 230)],
        [Status.ADDED, Status.CLAIMED, Status.CLAIMED],
        areas={"a": square(50, 50, 200, 200)},
    )
    (tile,) = tiles_of(slide, now)
    assert len(tile.field) == 2
    assert tile.complete
    assert value_at(tile, 60, 60)
    assert not value_at(tile, 230, 230)


def test_nothing_counts_outside_the_slide_or_in_the_halo(slide):
    now = cells([(680, 100)], [Status.ADDED], areas={"a": square(600, 50, 900, 200)})
    tiles = tiles_of(slide, now)
    assert [t.place for t in tiles] == [(2, 0)]
    valid = tiles[0].field.valid
    left = (500 - 32) // 32 * 32
    assert not valid[:, 700 - left :].any()
    assert not valid[:, : 500 - left].any()
    assert valid[:, 600 - left : 700 - left].any()


def test_every_cell_lies_in_one_tile(slide):
    rng = np.random.default_rng(0)
    places = rng.uniform(10, 590, (60, 2))
    area = {"a": square(0, 0, 600, 600)}
    now = cells(places, [Status.ADDED] * 60, areas=area)
    assert sum(len(t.field) for t in tiles_of(slide, now)) == 60


def test_a_claim_under_a_persons_box_is_that_cell():
    now = cells([(100, 100), (101, 100)], [Status.CLAIMED, Status.ADDED])
    assert len(Taught.of(now).boxes) == 1


def test_points_have_no_size(slide):
    now = cells([(100, 100)], [Status.ADDED])
    pointed = now.cells.with_columns(only_a_point=np.ones(1, np.float32))
    now = CorrectedCells(pointed, now.ids, now.status, now.authors)
    (tile,) = tiles_of(slide, now)
    assert np.isnan(tile.field.sizes).all()


# --- the guard -------------------------------------------------------------------------------


def placed(*places):
    return [TaughtTile(None, place, True, 5) for place in places]  # type: ignore[arg-type]


def test_about_a_fifth_of_the_squares_is_held_aside_whole():
    tiles = placed(*((x, y) for x in range(40) for y in range(40)))
    parted = part(tiles, slide_id="s")
    assert 0.14 < len(parted.guard) / len(tiles) < 0.26
    assert not {t.square for t in parted.guard} & {t.square for t in parted.taught}


def test_what_is_held_aside_does_not_depend_on_the_order():
    tiles = placed(*((x, y) for x in range(12) for y in range(12)))
    one, other = part(tiles, slide_id="s"), part(tiles[::-1], slide_id="s")
    assert one.units == other.units
    assert one.units != part(tiles, slide_id="t").units


def test_once_aside_always_aside():
    few = part(placed((0, 0), (1, 0), (9, 4)), slide_id="s")
    assert len(few.guard) == 1
    more = placed((0, 0), (1, 0), (9, 4), *((x, y) for x in range(10, 30) for y in range(8)))
    places = {t.place for t in part(more, slide_id="s", before=few.units).guard}
    assert {t.place for t in few.guard} <= places


def test_two_tiles_are_too_few_to_hold_any_aside():
    assert not part(placed((0, 0), (1, 0)), slide_id="s").guard
