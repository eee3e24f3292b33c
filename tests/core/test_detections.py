import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.core.detections import UNKNOWN, Detections, Source, concatenate
from napari_celldetr.core.errors import CellDETRError


def some(count=20, seed=0, **changes):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-30, 500, (count, 2))
    values = {
        "boxes": np.concatenate([low, low + rng.uniform(1, 30, (count, 2))], 1),
        "scores": rng.random(count),
        "class_ids": rng.integers(-1, 2, count),
        "class_names": ("a", "b"),
        "embeddings": rng.normal(size=(count, 3)),
        "columns": {"area_um2": rng.random(count), "site": np.array(["s"] * count)},
        "source": Source(slide="x.svs", mpp=(0.5, 0.5)),
    }
    return Detections(**{**values, **changes})


def test_columns_are_frozen():
    cells = some()
    for array in (cells.boxes, cells.scores, cells.embeddings, cells.columns["area_um2"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(TypeError):
        cells.columns["new"] = np.zeros(20)


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("boxes", np.zeros((19, 4))),
        ("boxes", np.full((20, 4), np.nan)),
        ("boxes", np.tile([5, 5, 1, 1], (20, 1))),
        ("scores", np.full(20, 1.5)),
        ("scores", np.full(20, np.inf)),
        ("class_ids", np.full(20, 2)),
        ("class_ids", np.full(20, -2)),
        ("embeddings", np.zeros((19, 3))),
        ("columns", {"x": np.zeros(19)}),
    ],
)
def test_what_does_not_fit_is_refused(what, value):
    with pytest.raises(CellDETRError, match="Detections"):
        some(**{what: value})


def test_empty_tables_have_their_shapes():
    empty = Detections.empty(("a",), embedding_size=7)
    assert empty.boxes.shape == (0, 4)
    assert empty.embeddings.shape == (0, 7)
    assert empty.counts() == {"a": 0}
    assert len(empty.ordered()) == 0
    assert empty.class_labels.shape == (0,)


@given(st.integers(0, 10_000))
def test_canonical_order_is_the_full_comparison(seed):
    rng = np.random.default_rng(seed)
    # Few distinct values, both signs: many shared centres, so that every key is needed.
    low = rng.integers(-2, 3, (60, 2)).astype(float)
    boxes = np.concatenate([low, low + rng.integers(0, 3, (60, 2))], 1)
    cells = Detections(boxes, rng.integers(0, 3, 60) / 4, rng.integers(-1, 2, 60), ("a", "b"))
    x, y = cells.centres.T
    keys = (cells.scores, cells.class_ids, *cells.boxes.T[::-1], x, y)
    assert cells.ordered() == cells.select(np.lexsort(keys))
    assert cells.select(rng.permutation(60)).ordered() == cells.ordered()


def test_equality_is_about_values_not_source():
    cells = some()
    assert cells == some(source=Source(slide="other"))
    assert cells != some(seed=1)
    assert cells != some(class_names=("a", "c"))
    assert cells != "cells"


def test_select_takes_every_column_along():
    cells = some()
    picked = cells.select(cells.class_ids == 1)
    assert (picked.class_ids == 1).all()
    assert len(picked.columns["site"]) == len(picked) == len(picked.embeddings)


def test_above_includes_the_threshold():
    cells = some(3, scores=np.array([0.1, 0.5, 0.9], np.float32))
    assert len(cells.above(0.5)) == 2


def test_moved_scales_then_shifts():
    cells = Detections(np.array([[1, 2, 3, 4]]), np.ones(1), np.zeros(1), ("a",))
    assert cells.moved((2, 3), (10, 20)).boxes.tolist() == [[12, 26, 16, 32]]


def test_counts_and_labels_name_the_unknown():
    cells = some(4, class_ids=np.array([0, UNKNOWN, 1, 1]))
    assert cells.counts() == {"a": 1, "b": 2, "unknown": 1}
    assert cells.class_labels.tolist() == ["a", "unknown", "b", "b"]


def test_pickles():
    cells = some()
    back = pickle.loads(pickle.dumps(cells))
    assert back == cells
    assert back.source == cells.source


def test_concatenate_keeps_rows_and_shared_columns():
    one, two = some(5), some(7, seed=1, columns={"area_um2": np.ones(7)})
    both = concatenate([one, two])
    assert len(both) == 12
    assert set(both.columns) == {"area_um2"}
    assert both.select(slice(0, 5)).boxes.tolist() == one.boxes.tolist()
    assert len(concatenate([Detections.empty(("a", "b")), one])) == 5
    with pytest.raises(CellDETRError):
        concatenate([])
    with pytest.raises(CellDETRError):
        concatenate([one, some(class_names=("z", "b"))])


def test_source_round_trips_as_json():
    source = Source("s.svs", "0" * 64, (0.5, 0.25), "m", "1" * 64, '{"a": 1}', "0.1")
    assert Source.from_json(source.to_json()) == source
    assert json.loads(Source().to_json())["mpp"] is None
    assert Source.from_json(Source().to_json()) == Source()
