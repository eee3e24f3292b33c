"""A lesson becomes a model folder: only on the model it was taught on, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from taught_slide import MPP, NAMES, say, some, taught_slide

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.card import ModelCard, read_card
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.celldetr_config import CellDETRConfig
from napari_celldetr.nets.registry import load_model, save_model
from napari_celldetr.pipeline.lesson import Lesson
from napari_celldetr.pipeline.share_lesson import share_lesson
from napari_celldetr.pipeline.teach import TeachSettings, teach


def base(folder: Path) -> ModelCard:
    config = CellDETRConfig.small(
        2, backbone="mobilenetv2_050", size=8, heads=2, points=2, feed_forward=16, pyramid_size=8
    )
    card = ModelCard(
        name=folder.name,
        title=folder.name,
        description="",
        architecture="celldetr",
        arguments=vars(config) | {},
        class_names=NAMES,
        class_colors=((1, 2, 3), (4, 5, 6)),
        mpp=0.5,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
        stain="H&E",
        threshold=0.5,
        score_floor=0.1,
        weights_sha256="0" * 64,
        licence="MIT",
        data=[],
        metrics={"old": 1},
        intended_use="",
        limits="Few fields.",
    )
    return save_model(folder, CellDETR(config), card)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lesson]:
    folder = tmp_path_factory.mktemp("models") / "base"
    card = base(folder)
    table, truth = taught_slide()
    say(table, truth, some(table, 90))
    how = TeachSettings(author="ada", mpp=MPP, colors={"spotted": (7, 8, 9)})
    lesson = drain(teach(table.copy(), how))
    return folder, replace(lesson, weights=card.weights_sha256).sealed()


def test_a_model_that_can_be_opened_elsewhere(made: tuple[Path, Lesson], tmp_path: Path) -> None:
    folder, lesson = made
    card = share_lesson(lesson, folder, tmp_path / "taught")
    assert card == read_card(tmp_path / "taught")
    assert card.parent == read_card(folder).weights_sha256
    assert card.class_names == (*NAMES, "spotted")
    assert card.class_colors == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    assert card.lesson is not None
    assert card.lesson["id"] == lesson.id
    assert "one slide by one person" in card.limits
    assert "Few fields." in card.limits
    assert card.data[-1]["cells"] == int((~lesson.guard).sum())
    assert "cells kept aside" in card.metrics
    found = load_model(tmp_path / "taught", device="cpu").predict(
        np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3)).astype(np.uint8)
    )[0]
    assert found.detections.class_names == card.class_names


def test_only_on_the_model_that_was_taught(made: tuple[Path, Lesson], tmp_path: Path) -> None:
    folder, lesson = made
    wrong = replace(lesson, weights="f" * 64)
    with pytest.raises(ModelError, match="cannot be joined"):
        share_lesson(wrong, folder, tmp_path / "a")
    with pytest.raises(ModelError, match="with a head"):
        share_lesson(replace(lesson, head=None), folder, tmp_path / "a")
    card = share_lesson(lesson, folder, tmp_path / "taught")
    again = replace(lesson, weights=card.weights_sha256)
    with pytest.raises(ModelError, match="without a lesson"):
        share_lesson(again, tmp_path / "taught", tmp_path / "a")
    with pytest.raises(ModelError, match="already"):
        share_lesson(lesson, folder, tmp_path / "taught")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taught"]


def test_changed_weights_are_refused(made: tuple[Path, Lesson], tmp_path: Path) -> None:
    folder, lesson = made
    share_lesson(lesson, folder, tmp_path / "taught")
    path = tmp_path / "taught" / "weights.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ModelError, match="cannot be used"):
        load_model(tmp_path / "taught", device="cpu")


def test_nothing_is_left_when_it_cannot_be_written(
    made: tuple[Path, Lesson], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_celldetr.pipeline.share_lesson.save_model", full)
    with pytest.raises(ModelError, match="cannot be written"):
        share_lesson(made[1], made[0], tmp_path / "taught")
    assert not any(tmp_path.iterdir())
