"""Words that name data sets, and the settings of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_celldetr.core.config import check, from_mapping
from napari_celldetr.core.errors import ConfigError
from napari_celldetr.training.config import EvaluateConfig, TrainConfig
from napari_celldetr.training.specs import DataSpec, parse_data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("points:a", DataSpec("points", Path("a"), 0.5, 1.0)),
        ("points:a/b@0.25", DataSpec("points", Path("a/b"), 0.25, 1.0)),
        ("instances:a*0.3", DataSpec("instances", Path("a"), 0.5, 0.3)),
        ("instances:a@0.25*2+dab", DataSpec("instances", Path("a"), 0.25, 2.0, True)),
        ("instances:a@0.25*2+dab-any", DataSpec("instances", Path("a"), 0.25, 2.0, "any")),
        ("points:../shared/x_y-z@1", DataSpec("points", Path("../shared/x_y-z"), 1.0, 1.0)),
        ("points:C:/data@0.5", DataSpec("points", Path("C:/data"), 0.5, 1.0)),
    ],
)
def test_data_sets_are_read(text, expected):
    assert parse_data(text) == [expected]


def test_several_data_sets():
    found = parse_data("points:a@0.5*0.8  instances:b@0.25*0.2+dab\n")
    assert [s.folder.name for s in found] == ["a", "b"]
    assert [s.restain for s in found] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a",
        "points:",
        "points",
        "masks:a",
        "points:a@x",
        "points:a@0",
        "points:a@-1",
        "points:a@nan",
        "points:a@inf",
        "points:a@9",
        "points:a*0",
        "points:a*nan",
        "points:a*inf",
        "points:a*",
        "points:@0.5",
        "points:a fine:b",
    ],
)
def test_malformed_words_are_refused(text):
    with pytest.raises(ConfigError) as caught:
        parse_data(text)
    assert "KIND:FOLDER" in caught.value.expected
    assert caught.value.remedy


def test_class_names_and_groups():
    config = TrainConfig(classes=" a, b ,,c", hold_out="07, 08,")
    assert config.class_names == ("a", "b", "c")
    assert config.data_classes == ("a", "b", "c")
    assert config.held_out == {"07", "08"}
    assert TrainConfig(classes="nucleus").data_classes == ()
    assert TrainConfig(classes="nucleus").class_names == ("nucleus",)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 0}, {"crop": 8}, {"ema": 1.5}, {"architecture": "large"}, {"mpp": float("nan")}],
)
def test_settings_out_of_bounds_are_refused(changes):
    with pytest.raises(ConfigError):
        from_mapping(TrainConfig, changes)


def test_defaults_are_valid():
    check(TrainConfig())
    check(EvaluateConfig())
