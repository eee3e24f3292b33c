"""The shipped model on a slide with known cells: tiles agree with each other and the truth."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from napari_celldetr import DetectConfig, detect, drain, load_model, open_slide
from napari_celldetr.core.metrics import detection_f1
from napari_celldetr.slides.synthetic import make_he_slide


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "drawn.ome.tif"
    return path, make_he_slide(path, size=(1100, 1100), mpp=0.4975, seed=3)


@pytest.fixture(scope="module")
def model():
    return load_model("celldetr-he", device="cpu")


def run(path, model, tmp_path, **changes):
    config = DetectConfig(tissue_only=False, **changes)
    with open_slide(path) as slide:
        return drain(detect(slide, config, predictor=model, workspace=tmp_path))


def test_drawn_cells_are_found_whatever_the_tiling(drawn, model, tmp_path):
    path, truth = drawn
    tables = [run(path, model, tmp_path, tile_px=tile) for tile in (512, 768, 1536)]
    counts = [len(t) for t in tables]
    assert max(counts) - min(counts) <= max(0.004 * len(truth), 2)
    for cells in tables:
        assert detection_f1(truth.centres, cells.centres, 6) > 0.85
        assert not cKDTree(cells.centres).query_pairs(3)


def test_a_pixel_size_near_the_models_is_read_as_it_is(drawn, model, tmp_path, monkeypatch):
    shapes = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda t: shapes.append(t.copy()) or predict(t))
    run(drawn[0], model, tmp_path, tile_px=512)
    with open_slide(drawn[0]) as slide:
        whole = slide.read_level(0, 0, 0, 300, 300)
    halo = DetectConfig().halo_px
    assert any(np.array_equal(t[0, halo : halo + 300, halo : halo + 300], whole) for t in shapes)
