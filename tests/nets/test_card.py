"""Cards: what a calibration may hold, how limits move with it, and writing whole or not at all."""

from __future__ import annotations

import json

import pytest
from tiny_nets import card, small_config

from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.errors import ModelError
from napari_celldetr.nets.card import read_card, write_card


def test_a_calibration_comes_back(tmp_path):
    one = card(small_config()).calibrated(Calibration(0.7, -0.4, 1.3, "a set, val"))
    assert write_card(tmp_path, one) == tmp_path / "card.json"
    assert read_card(tmp_path).to_json() == one.to_json()
    assert Calibration.from_dict(one.calibration) == Calibration(0.7, -0.4, 1.3, "a set, val")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json"]


def test_a_card_of_before_calibration_is_read(tmp_path):
    old = card(small_config())
    raw = json.loads(old.to_json())
    del raw["calibration"]
    (tmp_path / "card.json").write_text(json.dumps(raw))
    assert read_card(tmp_path).to_json() == old.to_json()
    assert old.calibration is None


def test_limits_move_with_the_scores():
    plain = card(small_config(), threshold=0.4, score_floor=0.05)
    calibration = Calibration(0.5, 1.0)
    once = plain.calibrated(calibration)
    assert once.threshold == pytest.approx(float(calibration.score(0.4)))
    assert once.score_floor == pytest.approx(float(calibration.score(0.05)))
    # Calibrated again: one calibration that does both, from the network's scores.
    again = once.calibrated(Calibration(2.0, -0.3))
    both = Calibration.from_dict(again.calibration)
    assert (both.scale, both.shift) == pytest.approx((1.0, 2 * 1.0 - 0.3))
    assert both.raw(again.threshold) == pytest.approx(0.4)
    assert both.raw(again.score_floor) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": "1"},
        {"shift": float("nan")},
        {"class_temperature": 0},
        {"temperature": 2.0},
    ],
)
def test_what_is_no_calibration_is_refused(bad):
    with pytest.raises(ModelError, match="calibration"):
        card(small_config(), calibration=bad)


def test_a_calibration_of_the_wrong_type_is_refused(tmp_path):
    raw = json.loads(card(small_config()).to_json()) | {"calibration": [1, 2]}
    (tmp_path / "card.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match="wrong type"):
        read_card(tmp_path)


def test_a_card_that_cannot_be_written_leaves_the_old_one(tmp_path):
    one = card(small_config())
    write_card(tmp_path, one)
    (tmp_path / "card.json.part").mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        write_card(tmp_path, one.calibrated(Calibration(0.5)))
    assert read_card(tmp_path).to_json() == one.to_json()
