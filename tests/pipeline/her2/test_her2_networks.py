"""Untrained networks of the kinds that are shipped, from a folder of models to the report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from her2_slides import box, make, zone_of

from napari_celldetr.core.her2 import SCORES
from napari_celldetr.core.progress import drain
from napari_celldetr.nets.registry import save_model
from napari_celldetr.pipeline.her2.content import report_content
from napari_celldetr.pipeline.her2.networks import installed_networks
from napari_celldetr.pipeline.her2.pixel_agreement import PIXEL_CLASSES
from napari_celldetr.pipeline.her2.replay import replay
from napari_celldetr.pipeline.her2.score import TumourRequest, score_her2
from napari_celldetr.pipeline.her2.seal import sealed
from napari_celldetr.pipeline.her2.settings import PIXEL_MODEL, STAIN_MODEL, TUMOUR_MODEL
from napari_celldetr.slides.readers import open_slide

sys.path.insert(0, str(Path(__file__).parents[2] / "nets"))

from tiny_classifiers import card, maskformer, patch_vit


def write_models(folder: Path) -> None:
    for name, network, classes in (
        (TUMOUR_MODEL, patch_vit(num_classes=2), ("other", "tumour")),
        (STAIN_MODEL, patch_vit(num_classes=4), SCORES),
        (PIXEL_MODEL, maskformer(num_classes=5), PIXEL_CLASSES),
    ):
        colours = tuple((10 * i, 0, 0) for i in range(len(classes)))
        save_model(
            folder / name,
            network,
            card(network, name=name, class_names=classes, class_colors=colours),
        )


@pytest.fixture
def models(tmp_path, monkeypatch):
    write_models(tmp_path / "models")
    monkeypatch.setenv("CELLDETR_MODELS", str(tmp_path / "models"))


def test_only_what_is_wanted_is_loaded(models):
    found = installed_networks("cpu", tumour=True, others=False)
    assert found.tumour.card.name == TUMOUR_MODEL
    assert (found.stain, found.pixels) == (None, None)
    both = installed_networks("cpu", tumour=False, others=True)
    assert both.tumour is None
    assert both.stain.card.class_names == SCORES
    assert both.pixels.card.class_names == PIXEL_CLASSES


def test_real_networks_answer_and_are_replayed(models, tmp_path):
    truth = make(tmp_path / "a.ome.tif", size=(700, 700))
    with open_slide(tmp_path / "a.ome.tif") as slide:
        asked = TumourRequest((zone_of(box(0, 0, 700, 700)),))
        result = drain(score_her2(slide, tumour=asked, cells=truth.cells))
        content = sealed(report_content(result))
        names = {m["role"]: m["name"] for m in content["models"]}
        assert names["stain of patches"] == STAIN_MODEL
        assert names["score of pixels"] == PIXEL_MODEL
        assert 0 <= content["networks"]["pixels"]["disagreement"] <= 1
        assert sum(content["networks"]["patches"]["counts"].values()) > 0
        assert drain(replay(content, slide)).is_equal


def test_nothing_installed_is_nothing_asked(monkeypatch):
    from napari_celldetr.nets import registry

    monkeypatch.setattr(registry, "model_folders", lambda: [])
    found = installed_networks("cpu", tumour=True, others=True)
    assert (found.tumour, found.stain, found.pixels) == (None, None, None)
