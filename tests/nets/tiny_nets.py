"""Networks small enough to build by the dozen, and targets to train them on."""

from __future__ import annotations

import numpy as np
import torch

from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR, CellDETRConfig
from napari_celldetr.nets.matching import Targets

NAMES = ("round", "long", "odd")


def tiny_config(**changes) -> CellDETRConfig:
    """A CellDETR with every part, a thousand times smaller; sigmoid geometry unless changed."""
    values = {
        "num_classes": 3,
        "backbone": "mobilenetv2_050",
        "fold_norm": True,
        "strides": (8, 16),
        "extra_levels": 1,
        "size": 16,
        "heads": 2,
        "points": 2,
        "feed_forward": 16,
        "dropout": 0.0,
        "encoder_layers": 1,
        "detection_layers": 2,
        "representation_layers": 2,
        "queries": 12,
        "window": 64,
        "pyramid_size": 8,
    }
    return CellDETRConfig(**(values | changes))


def small_config(**changes) -> CellDETRConfig:
    """The shipped configuration's form (heatmap, pixels, no encoder), narrower."""
    values = {
        "backbone": "mobilenetv2_050",
        "size": 16,
        "heads": 2,
        "points": 2,
        "feed_forward": 16,
        "pyramid_size": 8,
    }
    return CellDETRConfig.small(3, **(values | changes))


def tiny(seed: int = 0, **changes) -> CellDETR:
    """A tiny network with weights from `seed`, awake: its heads do not start at zero."""
    return awake(tiny_config(**changes), seed)


def small(seed: int = 0, **changes) -> CellDETR:
    """A narrow network of the shipped form, awake."""
    return awake(small_config(**changes), seed)


def awake(config: CellDETRConfig, seed: int = 0) -> CellDETR:
    """A network in which every parameter has an effect on the result."""
    torch.manual_seed(seed)
    model = CellDETR(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model


def cells(points=((10, 12), (40, 30), (50, 50)), sizes=None, ids=(0, 2, -1), valid=None) -> Targets:
    """Annotated cells of a 64 px crop; the last has no known extent unless `sizes` are given."""
    centres = torch.tensor(points, dtype=torch.float32).reshape(-1, 2)
    if sizes is None:
        sizes = [[8.0, 9.0], [10.0, 12.0], [float("nan")] * 2][: len(centres)]
    extents = torch.tensor(sizes, dtype=torch.float32).reshape(-1, 2)
    class_ids = torch.tensor(ids, dtype=torch.int64)[: len(centres)]
    return Targets(centres, extents, class_ids, valid)


def no_cells() -> Targets:
    """An image in which there is nothing."""
    return cells((), [], ())


def card(config: CellDETRConfig, **changes) -> ModelCard:
    """A card that fits `config`."""
    from dataclasses import asdict

    names = NAMES[: config.num_classes]
    values = {
        "name": "tiny",
        "title": "Tiny",
        "description": "For tests.",
        "architecture": "celldetr",
        "arguments": asdict(config),
        "class_names": names,
        "class_colors": tuple((i, 100, 200) for i in range(len(names))),
        "mpp": 0.5,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "stain": "H&E",
        "threshold": 0.4,
        "score_floor": 0.01,
        "weights_sha256": "0" * 64,
        "licence": "BSD-3-Clause",
        "data": [],
        "metrics": {},
        "intended_use": "tests",
        "limits": "none",
    }
    return ModelCard(**(values | changes))


def pictures(count: int, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """Noise with soft structure, uint8 (count, height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 8 + 1, width // 8 + 1, 3))
    fine = coarse.repeat(8, 1).repeat(8, 2)[:, :height, :width]
    return np.clip(fine + rng.integers(-20, 20, fine.shape), 0, 255).astype(np.uint8)
