"""A stored run belongs to one calibration: the same weights with another are computed anew."""

from __future__ import annotations

from fakes import FakePredictor, FakeSlide, cell_field, fake_card

from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.progress import drain
from napari_celldetr.pipeline.detect import detect


def reused(workspace, card):
    steps = []
    slide = FakeSlide(cell_field((600, 500)))
    config = DetectConfig(model="fake", tile_px=256, halo_px=32, tissue_only=False)
    drain(detect(slide, config, predictor=FakePredictor(card), workspace=workspace), steps.append)
    return steps[-1].report.reused


def test_another_calibration_or_floor_is_another_run(tmp_path):
    plain = fake_card()
    assert reused(tmp_path, plain) == 0
    assert reused(tmp_path, plain) > 0
    assert reused(tmp_path, fake_card(score_floor=0.05)) == 0
    calibrated = plain.calibrated(Calibration(0.8, -0.5))
    assert reused(tmp_path, calibrated) == 0
    assert reused(tmp_path, calibrated) > 0
