"""Fine-tuning as a job: a whole model folder at the end, or nothing at all."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from fakes import draw_cells, spaced_centres
from nets.tiny_nets import card, small, small_config
from PIL import Image

from napari_celldetr.core.annotations import Annotations, Area, CorrectedCells, Status, new_keys
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import (
    AnnotationError,
    CellDETRError,
    ConfigError,
    ModelError,
)
from napari_celldetr.core.progress import drain
from napari_celldetr.core.user_folders import new_model_folder, user_models_folder
from napari_celldetr.nets.card import read_card
from napari_celldetr.nets.registry import file_sha256, list_models, load_model, save_model
from napari_celldetr.nets.running import Normalizer
from napari_celldetr.pipeline.corrections import corrections_from_geojson
from napari_celldetr.pipeline.export import export
from napari_celldetr.pipeline.finetune import finetune
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.training.fields import Field
from napari_celldetr.training.finetune_cache import see_crops
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.rehearsal import NAME, write_rehearsal

SIDE = 380
PLACES = spaced_centres((SIDE, SIDE), pitch=40)


def coloured(colour):
    """The drawn field with cells of one colour."""
    pixels = draw_cells((SIDE, SIDE), PLACES)
    pixels[(pixels < 255).any(axis=2)] = colour
    return pixels


@pytest.fixture
def slide(tmp_path):
    Image.fromarray(coloured((120, 90, 180))).save(tmp_path / "drawn.png")
    with open_slide(tmp_path / "drawn.png", mpp=0.5, probe=False) as slide:
        yield slide


@pytest.fixture
def parent(tmp_path):
    save_model(tmp_path / "parent", small(), card(small_config()))
    return tmp_path / "parent"


@pytest.fixture
def config(parent):
    return FinetuneConfig(model=str(parent), steps=2, batch=2, guard_steps=1)


def corrected(
    places=PLACES, *, names=("round", "long", "odd"), ids=0, status=Status.ADDED, **about
):
    low = np.asarray(places, np.float32) - 6
    cells = Detections(
        np.concatenate((low, low + 12), axis=1),
        np.ones(len(low)),
        np.broadcast_to(np.asarray(ids), len(low)),
        names,
        source=Source(**about),
    )
    area = Area(((0, 0), (SIDE, 0), (SIDE, SIDE), (0, SIDE)), "complete", "all")
    states = np.full(len(low), status, np.uint8)
    return CorrectedCells(cells, new_keys(len(low)), states, np.full(len(low), "Ann"), {"a": area})


def test_corrections_become_a_model(slide, parent, config, tmp_path):
    ids = np.arange(len(PLACES)) % 2
    job = finetune(slide, corrected(ids=ids), config, output=tmp_path / "taught", author="Bea")
    result = drain(job)
    known, old = read_card(tmp_path / "taught"), read_card(parent)
    assert result.card.to_json() == known.to_json()
    assert known.parent == old.weights_sha256
    assert known.weights_sha256 == file_sha256(tmp_path / "taught" / "weights.safetensors")
    assert known.class_names == old.class_names
    entry = known.data[-1]
    assert entry["slide_id"] == slide.identity()
    assert entry["cells"] == len(PLACES)
    assert entry["taught_by"] == "Bea"
    assert entry["tiles"] + entry["tiles_held_aside"] == 4
    figures = known.metrics["corrected tiles held aside"]
    assert set(figures) == {"before", "after"}
    assert figures["after"]["intervals"]["detection"]
    found = load_model(tmp_path / "taught", device="cpu").predict(
        np.zeros((1, 64, 64, 3), np.uint8)
    )
    assert found[0].detections.class_names == known.class_names
    assert "Research use only" in result.as_text()


def test_new_classes_come_behind_the_old_ones(slide, config, tmp_path):
    names = ("odd", "mitosis", "round", "unused")
    ids = np.arange(len(PLACES)) % 3
    result = drain(finetune(slide, corrected(names=names, ids=ids), config, output=tmp_path / "m"))
    assert result.card.class_names == ("round", "long", "odd", "mitosis")
    assert len(result.card.class_colors) == 4
    assert any("mitosis" in note for note in result.notes)
    load_model(tmp_path / "m", device="cpu")


def test_a_closed_job_leaves_nothing(slide, parent, config, tmp_path):
    before = {p.name: p.read_bytes() for p in parent.iterdir()}
    total = len(list(finetune(slide, corrected(), config, output=tmp_path / "whole")))
    for stop in (1, total - 1):
        with closing(finetune(slide, corrected(), config, output=tmp_path / "m")) as job:
            for _ in range(stop):
                next(job)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn.png", "parent", "whole"]
    assert {p.name: p.read_bytes() for p in parent.iterdir()} == before


def test_one_class_is_said(slide, config, tmp_path):
    result = drain(finetune(slide, corrected(), config, output=tmp_path / "m"))
    assert any("of one class" in note for note in result.notes)


def test_the_rehearsal_sample_goes_along(slide, parent, config, tmp_path):
    model, known = small().eval(), read_card(parent)
    field = Field(
        "old",
        "old",
        draw_cells((96, 96), spaced_centres((96, 96))),
        0.5,
        spaced_centres((96, 96)),
        np.full((9, 2), 12),
        np.zeros(9, np.int16),
        known.class_names,
    )
    normalize = Normalizer(known.mean, known.std)
    crops = drain(see_crops(model, normalize, [field], side=64, count=3, seed=0))
    about = write_rehearsal(parent, crops, {})
    raw = json.loads((parent / "card.json").read_text()) | {"training": {"rehearsal": about}}
    (parent / "card.json").write_text(json.dumps(raw))
    result = drain(finetune(slide, corrected(), config, output=tmp_path / "m"))
    assert result.card.training["rehearsal"]["sha256"] == file_sha256(tmp_path / "m" / NAME)
    again = replace(config, model=str(tmp_path / "m"))
    twice = drain(finetune(slide, corrected(), again, output=tmp_path / "m2"))
    assert twice.card.parent == result.card.weights_sha256
    assert set(result.card.training["guard"]) <= set(twice.card.training["guard"])
    (parent / NAME).unlink()
    with pytest.raises(ModelError, match="rehearsal"):
        drain(finetune(slide, corrected(), config, output=tmp_path / "m3"))


def test_deleted_cells_count_as_corrections(slide, config, tmp_path):
    now = corrected(PLACES[:6])
    now = CorrectedCells(now.cells, now.ids, now.status, now.authors)
    with pytest.raises(AnnotationError, match="too few"):
        drain(finetune(slide, now, config, output=tmp_path / "m"))
    gone = corrected(PLACES[6:12] + 15, status=Status.DELETED)
    said = Annotations(now.cells.class_names)
    both = CorrectedCells(
        Detections(
            np.concatenate((now.cells.boxes, gone.cells.boxes)),
            np.ones(12),
            np.zeros(12),
            now.cells.class_names,
        ),
        new_keys(12),
        np.concatenate((now.status, gone.status)),
        np.full(12, "Ann"),
    )
    result = drain(finetune(slide, both, config, output=tmp_path / "m", annotations=said))
    assert result.corrections == 12
    assert result.card.data[-1]["deleted"] == 6


# --- what is refused -------------------------------------------------------------------------


def refused(slide, cells, config, tmp_path, kind, match):
    with pytest.raises(kind, match=match) as caught:
        drain(finetune(slide, cells, config, output=tmp_path / "m"))
    assert isinstance(caught.value, CellDETRError)
    assert caught.value.remedy
    assert not (tmp_path / "m").exists()


def test_corrections_of_another_slide(slide, config, tmp_path):
    cells = corrected(slide="other.svs", slide_id="a" * 64)
    refused(slide, cells, config, tmp_path, AnnotationError, "another slide")


def test_corrections_at_another_pixel_size(slide, config, tmp_path):
    cells = corrected(mpp=(0.25, 0.25))
    refused(slide, cells, config, tmp_path, AnnotationError, "pixel size")


def test_cells_beyond_the_slide(slide, config, tmp_path):
    refused(slide, corrected(PLACES + 200), config, tmp_path, AnnotationError, "outside")


def test_two_boxes_on_one_cell(slide, config, tmp_path):
    cells = corrected(np.concatenate((PLACES, PLACES[:1] + 1)))
    refused(slide, cells, config, tmp_path, AnnotationError, "same cell")


def test_cells_of_impossible_sizes(slide, config, tmp_path):
    now = corrected()
    boxes = now.cells.boxes.copy()
    boxes[:, 2:] = boxes[:, :2] + 2
    small_ones = Detections(boxes, now.cells.scores, now.cells.class_ids, now.cells.class_names)
    cells = CorrectedCells(small_ones, now.ids, now.status, now.authors)
    refused(slide, cells, config, tmp_path, AnnotationError, "size")


def test_a_folder_that_is_there_already(slide, config, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError, match="already"):
        drain(finetune(slide, corrected(), config, output=tmp_path / "there"))


def test_another_stain_unless_it_is_meant(tmp_path, config):
    Image.fromarray(coloured((90, 55, 30))).save(tmp_path / "brown.png")
    with open_slide(tmp_path / "brown.png", mpp=0.5, probe=False) as slide:
        refused(slide, corrected(), config, tmp_path, ConfigError, "another stain")
        meant = replace(config, other_stain=True, steps=1)
        assert drain(finetune(slide, corrected(), meant, output=tmp_path / "m")).folder.is_dir()


# --- files and folders -----------------------------------------------------------------------


def test_corrections_come_out_of_our_own_geojson(slide, tmp_path):
    now = corrected(slide="drawn.png", slide_id=slide.identity(), mpp=(0.5, 0.5))
    export(now, tmp_path / "c.geojson", slide=slide)
    back = corrections_from_geojson(tmp_path / "c.geojson", slide, class_names=("round",))
    assert len(back) == len(now)
    assert back.cells.source.slide_id == slide.identity()
    assert [a.kind for a in back.areas.values()] == ["complete"]
    assert sorted(back.status.tolist()) == sorted(now.status.tolist())


def test_qupaths_regions_are_complete_and_points_have_no_size(slide, tmp_path):
    square = [[[0, 0], [300, 0], [300, 300], [0, 300], [0, 0]]]
    region = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": square},
        "properties": {"objectType": "annotation", "classification": {"name": "Region*"}},
    }
    points = {
        "type": "Feature",
        "geometry": {"type": "MultiPoint", "coordinates": [[50, 60], [100, 120]]},
        "properties": {"objectType": "annotation", "classification": {"name": "long"}},
    }
    file = tmp_path / "q.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [region, points]}))
    back = corrections_from_geojson(file, slide, class_names=("round", "long"))
    assert [a.kind for a in back.areas.values()] == ["complete"]
    assert back.cells.columns["only_a_point"].tolist() == [1, 1]
    assert back.cells.class_ids.tolist() == [1, 1]


def test_a_users_models_are_listed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    home = user_models_folder()
    assert new_model_folder("mine") == home / "mine"
    save_model(home / "mine", small(), replace(card(small_config()), name="mine"))
    assert new_model_folder("mine") == home / "mine-2"
    assert "mine" in {c.name for c in list_models()}
