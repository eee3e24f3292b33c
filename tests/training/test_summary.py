"""What is said of the data before training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_celldetr.training.fields import Field
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.specs import DataSpec
from napari_celldetr.training.summary import what_is_trained_on


def field(group, ids):
    ids = np.asarray(ids, np.int16)
    points, sizes = np.zeros((len(ids), 2), np.float32), np.full((len(ids), 2), np.nan, np.float32)
    return Field(
        "f", group, np.zeros((8, 8, 3), np.uint8), 0.5, points, sizes, ids, ("a", "b", "c")
    )


def pool(*fields):
    return Pool(DataSpec("points", Path("x"), 0.5, 1.0), tuple(fields))


def test_fields_groups_cells_and_classes_are_counted():
    pools = [pool(field("1", [0] * 1200), field("1", [1, -1])), pool(field("2", [1, 1]))]
    text = what_is_trained_on(pools, ("red", "blue", "green"), [field("3", [0, 1])])
    assert text == (
        "Training on 3 fields of 2 groups, 1,204 cells (red 1,200, blue 3, green 0, "
        "without class 1); validating on 1 field of 1 group, 2 cells."
    )


def test_classes_without_any_label_are_warned_of():
    pools = [pool(field("1", [-1, -1]))]
    assert "cannot learn to tell red, blue apart" in what_is_trained_on(pools, ("red", "blue"))
    assert what_is_trained_on(pools, ("nucleus",)) == "Training on 1 field of 1 group, 2 cells."
