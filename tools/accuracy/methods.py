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
    """A recipe by name, how its networks are scored, and which ways it is cross-validated.

    Methods of one `folder` share their trainings. `overview` names the method whose networks
    join in the classes; `beside` those it is compared with.
    """

    name: str
    words: str
    changes: dict[str, Any]
    folder: str = ""
    overview: str = ""
    flips: bool = False
    beside: tuple[str, ...] = ("dense",)
    ways: tuple[By, ...] = ("group", "site")

    @property
    def runs(self) -> str:
        """Name of the folder of its trainings."""
        return self.folder or self.name


DENSE = Method(
    "dense",
    "plain dense baseline at 0.5 µm/px: heatmap and class map of the same trunk without "
    "decoders, its own light augmentation (turns, scale, stain and brightness jitter, blur)",
    {"architecture": "dense", "mpp": 0.5, "steps": 1000, "augmentation": "light"},
    beside=(),
)
DENSE_FLIPS = replace(
    DENSE,
    name="dense, flips",
    words="the same, four mirrored views averaged",
    folder=DENSE.name,
    flips=True,
)
ALONE = Method(
    "celldetr-he-hr, no overview",
    "CellDETR, fast network at 0.25 µm/px, alone; default augmentation (light, plus recompression "
    "and noise) and soft negatives (an unannotated place where the network is sure of a nucleus "
    "counts little as background)",
    {"architecture": "small", "mpp": 0.25, "steps": 1200, "soft_negatives": True},
    folder="celldetr-he-hr",
)
FINE = replace(
    ALONE,
    name="celldetr-he-hr",
    words="the same network joined with the dense one of its fold as an overview (so two "
    "trainings). The shipped model of that name differs: no soft negatives, and another 1000 steps "
    "on crops of 384 px. It was itself not cross-validated",
    overview=DENSE.name,
    beside=(DENSE.name, ALONE.name),
)
FINE_FLIPS = replace(
    FINE,
    name="celldetr-he-hr, flips",
    words="the same as the last, four mirrored views averaged",
    flips=True,
    beside=(DENSE_FLIPS.name,),
)
FAST = Method(
    "celldetr-he",
    "CellDETR, fast network at 0.5 µm/px",
    {"architecture": "small", "mpp": 0.5, "steps": 1000, "soft_negatives": True},
    ways=(),
)
METHODS = {m.name: m for m in (DENSE, DENSE_FLIPS, FAST, ALONE, FINE, FINE_FLIPS)}
"""In an order in which overviews come before those that need them."""


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
        output=str(places.runs / "cross" / method.runs),
        overview_from=str(places.runs / "cross" / method.overview) if method.overview else "",
        flips=method.flips,
        by=by,
        backbone_weights=places.backbone,
        radii_um=RADII_UM,
        device="cpu",
        precision="float32",
        workers=0,
    )
    return replace(base, **(method.changes | changes))
