"""Cards of other tasks than detection: round trips, who lists them, who refuses them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_nets
from tiny_classifiers import card, maskformer, patch_vit

from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.card import CLASSIFY, SEGMENT, read_card
from napari_celldetr.nets.registry import (
    CARD,
    find_model,
    is_shipped,
    list_models,
    load_model,
    load_network,
    load_patch_predictor,
    load_pixel_predictor,
    model_places,
    save_model,
)


@pytest.fixture
def models(tmp_path, monkeypatch):
    detector = tiny_nets.small()
    save_model(tmp_path / "finder", detector, tiny_nets.card(detector.config, name="finder"))
    for name, network in (("patches", patch_vit()), ("pixels", maskformer())):
        save_model(tmp_path / name, network, card(network, name=name))
    monkeypatch.setenv("CELLDETR_MODELS", str(tmp_path))
    return tmp_path


def test_shipped_cards_are_read_and_written_as_they_were():
    for folder in model_places().values():
        if is_shipped(folder):
            text = (folder / CARD).read_text(encoding="utf-8")
            one = read_card(folder)
            if "task" not in json.loads(text):
                assert one.task == "detect"
            assert set(json.loads(one.to_json())) == set(json.loads(text))


def test_detectors_alone_are_listed_unless_another_task_is_named(models):
    def names(*task):
        return {c.name for c in list_models(*task)} & {"finder", "patches", "pixels"}

    assert names() == {"finder"}
    assert names(CLASSIFY) == {"patches"}
    assert names(SEGMENT) == {"pixels"}
    assert names(None) == {"finder", "patches", "pixels"}


def test_each_loads_as_what_it_is_and_as_nothing_else(models):
    tile = tiny_nets.pictures(1)
    assert load_patch_predictor("patches", device="cpu").predict(tile).shape == (1, 3)
    assert load_pixel_predictor("pixels", device="cpu").predict(tile).shape == (1, 3, 64, 64)
    with pytest.raises(ModelError, match="another task") as caught:
        load_model("pixels", device="cpu")
    assert "finder" in caught.value.remedy
    for load, name in ((load_patch_predictor, "finder"), (load_pixel_predictor, "patches")):
        with pytest.raises(ModelError, match="another task"):
            load(name, device="cpu")


def test_detection_refuses_other_tasks_before_it_begins(models):
    from napari_celldetr.nets.lazy import LazyModel

    assert LazyModel("finder").card.task == "detect"
    with pytest.raises(ModelError, match="another task"):
        LazyModel("pixels")


def test_cards_come_back(models):
    for name in ("patches", "pixels"):
        one = read_card(models / name)
        network, again = load_network(models / name)
        assert again.to_json() == one.to_json() == (models / name / CARD).read_text()
        assert one.task in (CLASSIFY, SEGMENT)
        state = {"patches": patch_vit, "pixels": maskformer}[name]().state_dict()
        for key, value in network.state_dict().items():
            np.testing.assert_array_equal(value, state[key].half().float())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "detect"}, "no network of ours"),
        ({"task": "classify patches"}, "no network of ours"),
        ({"task": "guess"}, "not valid"),
        ({"task": 3}, "wrong type"),
        ({"class_rule": {"measure": "dab_share", "threshold": 0.5}}, "not valid"),
        ({"class_names": ["a"], "class_colors": [[0, 0, 0]]}, "no network of ours"),
        ({"arguments": {"num_classes": 3, "wings": 2}}, "does not know"),
        ({"arguments": {"num_classes": 3, "window": 1}}, "no network of ours"),
        ({"arguments": {"num_classes": 3, "queries": 7}}, "weights"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(models, change, words):
    path = models / "pixels" / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=words):
        load_network("pixels")


def test_other_weights_are_refused(models):
    path = models / "pixels" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ModelError, match="cannot be used"):
        load_pixel_predictor("pixels", device="cpu")
    assert find_model("pixels") == models / "pixels"


def test_a_detectors_card_is_as_earlier_versions_wrote_it():
    one = tiny_nets.card(tiny_nets.small_config())
    assert "task" not in json.loads(one.to_json())
    assert json.loads(replace(one, task=SEGMENT).to_json())["task"] == SEGMENT
