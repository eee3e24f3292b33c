"""A lesson in a model says the same as its head on a run of the model without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_nets import NAMES, card, pictures, small

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.head import Head
from napari_celldetr.nets.card import ModelCard, read_card, write_card
from napari_celldetr.nets.lesson_head import LessonHead
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.registry import load_model, save_model

LOW = {"threshold": 0.4, "score_floor": 0.001}


def a_head(size: int = 16) -> Head:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=size), rng.uniform(0.5, 2, size)]
    values += [rng.normal(size=(4, size)) / 3, rng.normal(size=4)]
    short = [v.astype(np.float16) for v in values]
    return Head((*NAMES, "new"), NAMES, *short, 1.25)


def with_lesson(own: ModelCard, head: Head, **changes: object) -> ModelCard:
    values = {
        "class_names": head.class_names,
        "class_colors": (*own.class_colors, (9, 9, 9)),
        "lesson": {"model_classes": list(NAMES)},
    }
    return replace(own, **(values | changes))


@pytest.mark.parametrize("calibration", [None, {"class_temperature": 2.0}])
def test_network_and_table_agree(calibration, tmp_path):
    model, head = small().half().float(), a_head()
    own = card(model.config, **LOW, calibration=calibration)
    plain = CellDETRPredictor(model, own, class_columns=True).predict(pictures(1))[0].detections
    expected = head.all_probabilities(plain)
    model.lesson = LessonHead.of(head)
    save_model(tmp_path / "m", model, with_lesson(own, head, name="m"))
    taught = load_model(tmp_path / "m", device="cpu", class_columns=True)
    found = taught.predict(pictures(1))[0].detections
    assert found.class_names == head.class_names
    assert len(found) == len(plain) > 5
    p = np.stack([found.columns[f"probability_{n}"] for n in head.class_names], axis=1)
    assert np.abs(p - expected).max() < 1e-3
    assert np.array_equal(found.class_ids, head.teach(plain).class_ids)
    np.testing.assert_array_equal(found.boxes, plain.boxes)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_torch_and_numpy_agree():
    head = a_head()
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(500, 16)).astype(np.float16)
    shares = rng.dirichlet([0.2, 0.2, 0.2], 500).astype(np.float32)
    word = np.full((500, 4), 1e-3, np.float32)
    word[:, :3] = np.clip(shares, 1e-3, 1)
    expected = head.probabilities(vectors, np.log(word))
    found = LessonHead.of(head).shares(torch.from_numpy(vectors), shares)
    assert np.abs(found - expected).max() < 1e-5


def test_cards_without_a_lesson_are_what_they_were(tmp_path):
    own = card(small().config, **LOW)
    assert '"lesson"' not in own.to_json()
    head = a_head()
    write_card(tmp_path, with_lesson(own, head))
    assert read_card(tmp_path).lesson == {"model_classes": list(NAMES)}


@pytest.mark.parametrize(
    "lesson", [{}, {"model_classes": ["x", "y", "z"]}, {"model_classes": 3}, ["round"]]
)
def test_cards_with_an_impossible_lesson_are_refused(lesson):
    with pytest.raises((ModelError, TypeError)):
        with_lesson(card(small().config, **LOW), a_head(), lesson=lesson)


def test_a_lesson_of_another_size_is_refused(tmp_path):
    model, head = small(), a_head()
    own = card(model.config, **LOW)
    model.lesson = LessonHead.of(a_head(8))
    save_model(tmp_path / "m", model, with_lesson(own, head, name="m"))
    with pytest.raises(ModelError, match="cannot be used"):
        load_model(tmp_path / "m", device="cpu")


def test_columns_are_given_where_classes_are_predicted_alone():
    model = small()
    measured = card(model.config, **LOW, class_rule={"measure": "dab_od_mean", "threshold": 0.2})
    assert not CellDETRPredictor(model, measured, class_columns=True).class_columns
    assert CellDETRPredictor(model, card(model.config, **LOW), class_columns=True).class_columns
