"""The ablation that CellDETR's paper lacks, on the first fold by patient."""

from __future__ import annotations

from typing import Any

from methods import BREAST, FINE, Places, cross_config

from napari_celldetr.core.progress import drain
from napari_celldetr.training.ablate import ablate
from napari_celldetr.training.config import AblateConfig
from napari_celldetr.training.crossval import crossvalidate

STEPS = 400


def run_ablation(places: Places) -> dict[str, Any]:
    """Every variant of the network, trained and measured alike."""
    report = drain(crossvalidate(cross_config(FINE, "group", places, only="1")))
    config = AblateConfig(
        data=places.breast_words,
        split="all",
        output=str(places.runs / "ablation"),
        hold_out=",".join(report.folds[0]),
        mpp=FINE.changes["mpp"],
        steps=STEPS,
        backbone_weights=places.backbone,
        validation=f"points:{places.data / BREAST}@0.5",
        device="cpu",
        precision="float32",
        workers=0,
    )
    found = drain(ablate(config))
    return found.as_dict() | {"markdown": found.as_markdown()}
