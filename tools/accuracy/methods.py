"""What is compared, and the data it is compared on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from napari_celldetr.training.config import CrossvalidateConfig

RADII_UM = (3.0, 2.0, 5.0)
"""6, 4 and 10 px at 0.5 µm/px."""
By = Literal["group", "site"]
BREAST, TNBC, ENDONUKE = "he_brca_m2c", "he_tnbc", "ihc_endonuke"


@dataclass(frozen=True)
class Method:
    """A recipe by name: what of the settings is its own, and which ways it is cross-validated."""

    name: str
    words: str
    changes: dict[str, Any]
    ways: tuple[By, ...] = ("group", "site")


FINE = Method(
    "celldetr-he-hr",
    "CellDETR, fast network at 0.25 µm/px",
    {"architecture": "small", "mpp": 0.25, "steps": 1200, "soft_negatives": True},
    ways=("site",),
)
FAST = Method(
    "celldetr-he",
    "CellDETR, fast network at 0.5 µm/px",
    {"architecture": "small", "mpp": 0.5, "steps": 1000, "soft_negatives": True},
)
DENSE = Method(
    "dense",
    "plain dense baseline at 0.5 µm/px: heatmap and class map of the same trunk without "
    "decoders, its own light augmentation (turns, scale, stain and brightness jitter, blur)",
    {"architecture": "dense", "mpp": 0.5, "steps": 1000, "augmentation": "light"},
)
METHODS = {m.name: m for m in (FAST, FINE, DENSE)}


@dataclass(frozen=True)
class Places:
    """Where data, runs and results are."""

    data: Path
    runs: Path
    out: Path

    @property
    def backbone(self) -> str:
        """ImageNet weights that every network starts from."""
        return str(next((self.data / "weights" / "mobilenetv2_100").glob("*.npz")))

    @property
    def breast_words(self) -> str:
        """The H&E sets with their shares, as one setting."""
        return f"points:{self.data / BREAST}@0.5*0.8 instances:{self.data / TNBC}@0.25*0.2"


def cross_config(method: Method, by: By, places: Places, **changes: Any) -> CrossvalidateConfig:
    """The cross-validation of a method."""
    base = CrossvalidateConfig(
        data=places.breast_words,
        output=str(places.runs / "cross" / method.name),
        by=by,
        backbone_weights=places.backbone,
        radii_um=RADII_UM,
        device="cpu",
        precision="float32",
        workers=0,
    )
    return replace(base, **(method.changes | changes))
