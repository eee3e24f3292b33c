"""The ablation that CellDETR's paper lacks, on the first fold by patient."""

from __future__ import annotations

from typing import Any

from methods import BREAST, FINE, Places, cross_config

from napari_celldetr.core.progress import drain
from napari_celldetr.training.ablate import ablate
from napari_celldetr.training.config import AblateConfig
from napari_celldetr.training.crossval import held_out_groups

STEPS = 400


def run_ablation(places: Places) -> dict[str, Any]:
    """Every variant of the network, trained and measured alike."""
    held = held_out_groups(cross_config(FINE, "group", places))[0]
    config = AblateConfig(
        data=places.breast_words,
        split="all",
        output=str(places.runs / "ablation"),
        hold_out=",".join(sorted(held)),
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
