"""Nuclei that would be too small, large, dense or sparse for tissue."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_sets

from napari_celldetr.training.fields import Field
from napari_celldetr.training.pools import load_fields, load_pools
from napari_celldetr.training.scale import scale_doubt
from napari_celldetr.training.specs import parse_data


def grid(*, spacing=20.0, side=np.nan, count=4, mpp: float | None = 0.5, complete=True):
    """`count` by `count` nuclei, `spacing` px apart."""
    at = 10 + spacing * np.arange(count)
    points = np.stack(np.meshgrid(at, at), axis=-1).reshape(-1, 2)
    return Field(
        name="f",
        group="g",
        image=np.zeros((8, 8, 3), np.uint8),
        mpp=mpp,
        points=points,
        sizes=np.full((len(points), 2), side),
        class_ids=np.full(len(points), -1),
        complete=complete,
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, ""),
        ({"mpp": 2.0}, "lie 40 µm apart; the usual median is 3 to 30"),
        ({"mpp": 2.0, "complete": False}, ""),  # the nuclei between may lack their label
        ({"mpp": 0.05}, "lie 1 µm apart; the usual median is 3 to 30"),
        ({"mpp": 0.05, "complete": False}, "lie 1 µm apart; the usual median is 3 to 30"),
        ({"mpp": 0.05, "count": 3}, ""),  # 9 distances are too few
        ({"mpp": None}, ""),
        ({"side": 12.0}, ""),
        ({"side": 12.0, "mpp": 4.0, "complete": False}, "measure 48 µm; the usual median is 2.5 t"),
        ({"side": 12.0, "mpp": 0.05}, "measure 0.6 µm; the usual median is 2.5 to 25"),
        ({"side": 12.0, "spacing": 500}, ""),  # the boxes say more than the distances
    ],
)
def test_doubts(options, says):
    doubt = scale_doubt([grid(**options)])
    assert doubt.startswith(says)
    assert bool(doubt) == bool(says)


def test_nothing_to_judge():
    assert not scale_doubt([])
    assert not scale_doubt([grid(count=1), grid(count=0)])


def test_sets_are_doubted_when_they_are_read(tmp_path):
    root = tiny_sets.points_folder(tmp_path / "points")
    for read in (
        lambda word: load_fields(parse_data(word)[0], class_names=tiny_sets.CLASSES),
        lambda word: load_pools(tiny_sets.config(tmp_path, data=word)),
    ):
        assert read(f"points:{root}@0.5")  # warnings are errors
        with pytest.warns(UserWarning, match=r"of 'points' would lie 1 µm .* \(0.05 now\)\.$"):
            read(f"points:{root}@0.05")


@pytest.mark.parametrize(
    ("word", "mpp"),
    [("points:he_brca_m2c", 0.5), ("instances:he_tnbc", 0.25), ("points:ihc_endonuke", 0.5)],
)
def test_real_sets(shared_data, word, mpp):
    fields = load_fields(
        parse_data(word.replace(":", f":{shared_data}/") + f"@{mpp}")[0], class_names=()
    )
    assert fields
    for wrong in (0.05, 2.0):
        assert scale_doubt([replace(f, mpp=wrong) for f in fields])
