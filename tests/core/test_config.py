import dataclasses
import json

import pytest

from napari_celldetr.core.config import DetectConfig, check, describe, from_mapping, to_json
from napari_celldetr.core.errors import ConfigError


def test_every_setting_is_described_for_people():
    for setting in describe(DetectConfig):
        assert setting.info.label
        assert setting.info.label != setting.name
        assert setting.info.help
    names = [s.name for s in describe(DetectConfig)]
    assert names == [f.name for f in dataclasses.fields(DetectConfig)]


def test_types_choices_and_options_are_seen():
    by_name = {s.name: s for s in describe(DetectConfig)}
    assert by_name["device"].choices == ("auto", "cpu", "cuda", "mps")
    assert by_name["threshold"].optional
    assert by_name["threshold"].kind is float
    assert by_name["tile_px"].kind is int
    assert by_name["flips"].kind is bool


def test_defaults_are_valid():
    assert check(DetectConfig()) == DetectConfig()


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 1.5},
        {"threshold": float("nan")},
        {"threshold": "high"},
        {"tile_px": 8},
        {"tile_px": True},
        {"device": "tpu"},
        {"mpp": 0.01},
        {"model": None},
        {"model": 3},
        {"flips": "yes"},
        {"no_such_setting": 1},
    ],
)
def test_wrong_values_are_refused(values):
    with pytest.raises(ConfigError) as caught:
        from_mapping(DetectConfig, values)
    assert caught.value.remedy


def test_json_is_sorted_and_complete():
    raw = json.loads(to_json(DetectConfig(threshold=0.25)))
    assert raw["threshold"] == 0.25
    assert list(raw) == sorted(raw)
    assert from_mapping(DetectConfig, raw) == DetectConfig(threshold=0.25)
