import numpy as np
import pytest
from fakes import FakePredictor, FakeSlide, draw_cells, fake_card, spaced_centres

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.detect import detect
from napari_celldetr.pipeline.measure import apply_class_rule, size_columns, stain_columns
from napari_celldetr.slides.stain import H_DAB


def stained(amount_h, amount_dab):
    density = (
        np.asarray(amount_h)[..., None] * H_DAB[0] + np.asarray(amount_dab)[..., None] * H_DAB[1]
    )
    return np.rint(255 * 10**-density).clip(0, 255).astype(np.uint8)


def slow_stain(tile, boxes):
    """Cell by cell and pixel by pixel."""
    inverse = np.linalg.inv(H_DAB)
    out = np.zeros((len(boxes), 2))
    for i, (x0, y0, x1, y1) in enumerate(boxes.astype(float)):
        inside = [
            -np.log10(np.maximum(tile[y, x].astype(float), 1) / 255) @ inverse
            for y in range(max(int(y0) - 1, 0), min(int(y1) + 2, tile.shape[0]))
            for x in range(max(int(x0) - 1, 0), min(int(x1) + 2, tile.shape[1]))
            if ((x + 0.5 - (x0 + x1) / 2) / max((x1 - x0) / 2, 0.5)) ** 2
            + ((y + 0.5 - (y0 + y1) / 2) / max((y1 - y0) / 2, 0.5)) ** 2
            <= 1
        ]
        if inside:
            out[i] = np.mean(inside, axis=0)[:2]
    return out


def test_stain_of_every_cell_equals_the_slow_way():
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    low = rng.uniform(-15, 110, (80, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.2, 40, (80, 2))], 1).astype(np.float32)
    found = stain_columns(tile, boxes)
    expected = slow_stain(tile, boxes)
    np.testing.assert_allclose(found["hematoxylin_od_mean"], expected[:, 0], atol=1e-4)
    np.testing.assert_allclose(found["dab_od_mean"], expected[:, 1], atol=1e-4)


def test_known_densities_come_back():
    tile = stained(np.full((64, 64), 0.3), np.full((64, 64), 0.25))
    found = stain_columns(tile, np.array([[10, 10, 40, 30.0]]))
    assert found["dab_od_mean"][0] == pytest.approx(0.25, abs=0.01)
    assert found["hematoxylin_od_mean"][0] == pytest.approx(0.3, abs=0.01)


def test_no_cells_no_columns_missing():
    found = stain_columns(np.zeros((8, 8, 3), np.uint8), np.zeros((0, 4)))
    assert {k: v.shape for k, v in found.items()} == {
        "dab_od_mean": (0,),
        "hematoxylin_od_mean": (0,),
        "dab_share": (0,),
    }


def test_the_share_of_dab_is_the_same_on_a_scanner_of_less_contrast():
    h, dab = np.array([0.5, 0.3, 0.0, 0.02]), np.array([0.0, 0.3, 0.6, 0.01])
    for contrast in (1.0, 0.5):
        tile = stained(np.repeat(h, 16)[None] * contrast, np.repeat(dab, 16)[None] * contrast)
        tile = np.repeat(tile, 16, axis=0)
        boxes = np.array([[16 * i, 0, 16 * i + 16, 16.0] for i in range(4)])
        share = stain_columns(tile, boxes)["dab_share"]
        np.testing.assert_allclose(share[:3], [0, 0.5, 1], atol=0.03)
        # Next to no stain is no share: glass is not positive.
        assert share[3] < 0.3


def test_sizes():
    found = size_columns(np.array([[0, 0, 20, 10.0]]), (0.5, 0.25))
    assert found["diameter_um"][0] == pytest.approx(5.0)
    assert found["area_um2"][0] == pytest.approx(np.pi / 4 * 25)


def cells(values):
    count = len(values)
    boxes = np.tile([0, 0, 4, 4], (count, 1))
    return Detections(
        boxes, np.ones(count), np.zeros(count), ("neg", "pos"), None, {"dab_od_mean": values}
    )


def test_the_rule_includes_its_threshold():
    rule = {"measure": "dab_od_mean", "threshold": 0.2}
    ruled = apply_class_rule(cells(np.array([0.1, 0.2, 0.3], np.float32)), rule)
    assert ruled.class_ids.tolist() == [0, 1, 1]


@pytest.mark.parametrize("rule", [{}, {"measure": "x", "threshold": 1}, {"measure": "dab_od_mean"}])
def test_an_incomplete_rule_is_refused(rule):
    with pytest.raises(ModelError, match="class rule"):
        apply_class_rule(cells(np.zeros(2, np.float32)), rule)


def test_classes_are_measured_through_the_whole_flow():
    centres = spaced_centres((600, 500), pitch=30)
    field = draw_cells((600, 500), centres, 7)
    dark = (field < 255).any(axis=2)
    brown = dark & (np.arange(600) < 300)[None]
    field[dark & ~brown] = stained(0.6, 0.02)
    field[brown] = stained(0.3, 0.5)
    card = fake_card(
        class_names=("negative", "positive"),
        class_rule={"measure": "dab_od_mean", "threshold": 0.2},
        stain="H-DAB",
    )
    config = DetectConfig(tile_px=256, halo_px=32, tissue_only=False, threshold=0.1)
    found = drain(detect(FakeSlide(field), config, predictor=FakePredictor(card=card)))
    away = np.abs(found.centres[:, 0] - 300) > 10
    expected = found.centres[:, 0] < 300
    np.testing.assert_array_equal(found.class_ids[away], expected[away])
    assert set(found.columns) == {
        "dab_od_mean",
        "hematoxylin_od_mean",
        "dab_share",
        "diameter_um",
        "area_um2",
    }
