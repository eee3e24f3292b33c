"""One network for several µm/px, and the plain dense detector that is left without decoders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_nets import awake, card, cells, pictures

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.matching import MatchCosts, match
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.slots import clamp_boxes

NARROW = {"backbone": "mobilenetv2_035", "size": 16, "heads": 2, "points": 2, "feed_forward": 16}


def test_small_network_keeps_its_grid_in_um() -> None:
    coarse, fine = CellDETRConfig.small(3), CellDETRConfig.small(3, mpp=0.25)
    assert coarse.nucleus_px == 12
    assert fine.nucleus_px == 24
    for name in ("heat_stride", "class_stride", "window"):
        assert getattr(fine, name) * 0.25 == getattr(coarse, name) * 0.5, name
    assert [s * 0.25 for s in fine.strides] == [s * 0.5 for s in coarse.strides]
    # As many queries on the same tissue.
    assert fine.queries == coarse.queries
    # Between the two, the nucleus follows and the grid stays that of the nearer.
    assert CellDETRConfig.small(3, mpp=0.4).nucleus_px == pytest.approx(15)
    assert CellDETRConfig.small(3, mpp=0.4).strides == coarse.strides


def test_pixel_units_grow_with_the_nucleus() -> None:
    image = (240, 240)
    box = torch.tensor([[0.5, 0.5, 0.001, 0.9]])
    assert (clamp_boxes(box, image, 24)[0, 2:] * 240).tolist() == pytest.approx([12, 144])
    assert (clamp_boxes(box, image, 12)[0, 2:] * 240).tolist() == pytest.approx([6, 72])
    # A query 15 px from its cell: too far for nuclei of 12 px, near enough for those of 24.
    query = torch.tensor([[115 / 240, 0.5, 0.05, 0.05]])
    target = cells([(100, 120)], [[24.0, 24.0]], [0])
    for nucleus, pairs in ((12, 0), (24, 1)):
        costs = MatchCosts.pixel(nucleus)
        found, _ = match(torch.zeros(1), query, target, image, costs=costs)
        assert len(found) == pairs, nucleus
    assert MatchCosts.pixel() == MatchCosts.pixel(12)


def test_centres_move_and_sizes_start_by_the_nucleus() -> None:
    for nucleus in (12.0, 24.0):
        config = CellDETRConfig.small(3, nucleus_px=nucleus, **NARROW)
        torch.manual_seed(0)
        model = CellDETR(config)
        references = torch.tensor([[[0.5, 0.5, 0.1, 0.1]]])
        delta = torch.tensor([[[1.0, -1.0, 0.0, 0.0]]])
        moved = model.detection._refine(references, delta, (96, 96))[0, 0] * 96
        assert moved[:2].tolist() == pytest.approx([48 + nucleus / 3, 48 - nucleus / 3])
        encoded = model.encode(torch.zeros(1, 3, 64, 64))
        places = (torch.tensor([[[0.5, 0.5]]]), torch.zeros(1, 1), torch.ones(1, 1).bool())
        queries = model.proposer.at(encoded, *places)
        assert (queries.references[0, 0, 2:] * 64).tolist() == pytest.approx([nucleus] * 2)


def test_dense_detector_learns_heatmap_and_classes_alone() -> None:
    model = awake(CellDETRConfig.dense(3, window=64, queries=60, **NARROW))
    own = {name.split(".")[0] for name, _ in model.named_parameters() if ".layers." in name}
    assert own == set()
    loss, parts = Criterion.for_model(model)(
        model,
        torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        [cells([(12, 12), (40, 40)], None, [0, 2])],
    )
    assert set(parts) == {"heat", "dense"}
    loss.backward()
    assert model.encoder.heat_head[-1].weight.grad.abs().sum() > 0
    assert model.encoder.class_head[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("flips", [False, True])
def test_dense_detector_finds_the_peaks_of_its_heatmap(flips: bool) -> None:
    model = awake(CellDETRConfig.dense(3, window=64, queries=60, **NARROW))
    # Nothing teaches it sizes: they stay those of a typical nucleus.
    for parameter in model.proposer.log_size.parameters():
        torch.nn.init.zeros_(parameter)
    words = card(model.config, threshold=0.3, score_floor=0.001)
    found = CellDETRPredictor(model, words, flips=flips).predict(pictures(1))[0].detections
    assert len(found)
    assert np.allclose(found.boxes[:, 2:] - found.boxes[:, :2], 12, atol=1e-3)
    assert found.embeddings is not None
    assert found.embeddings.shape == (len(found), 16)
    if not flips:
        # Peaks stand on the middle of heatmap pixels, 2 px wide.
        assert np.allclose(found.centres % 2, 1, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"detection_layers": 0},
        {"representation_layers": 0, "dense_class_weight": 0.0},
    ],
)
def test_networks_without_a_source_of_cells_or_classes_are_refused(changes: dict) -> None:
    with pytest.raises(ConfigError):
        CellDETRConfig(**changes)


@pytest.mark.parametrize("nucleus", [0, 1.5, 501, float("nan"), "12"])
def test_impossible_nuclei_are_refused(nucleus: object) -> None:
    with pytest.raises(ConfigError, match="cannot be built"):
        CellDETRConfig.small(3, nucleus_px=nucleus)
