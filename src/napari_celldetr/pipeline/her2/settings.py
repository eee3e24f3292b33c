"""Settings of a HER2 reading, and the limits within which a slide is scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from napari_celldetr.core.config import DetectConfig, Field

SCORED_UP_TO_MPP = 0.55
"""A membrane is 1 µm wide: on coarser slides its completeness cannot be seen."""
CELLS_UP_TO_MPP = 1.0
"""On coarser slides nuclei are not looked for, either."""
TUMOUR_MODEL = "celldetr-her2-tumour"
STAIN_MODEL = "celldetr-her2-stain"
PIXEL_MODEL = "celldetr-her2-pixels"


@dataclass(frozen=True)
class Her2Config:
    """Settings of *Score HER2* that have to do with reading; the rules have their own.

    A None threshold or mpp means "as the model or slide says".
    """

    model: Annotated[
        str, Field("Nuclei", "Name of an installed model that finds nuclei in IHC, or its folder")
    ] = "celldetr-ihc"
    threshold: Annotated[
        float | None,
        Field("Score threshold", "Nuclei scored lower are left out", ge=0.0, le=1.0),
    ] = None
    mpp: Annotated[
        float | None,
        Field("Pixel size", "Replaces the IHC slide's µm per pixel", ge=0.1, le=2.0, unit="µm/px"),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field("Device", "Where networks run; auto takes a GPU when there is one"),
    ] = "auto"
    networks: Annotated[
        bool,
        Field("Networks", "Also ask the networks for stain and pixels that are installed"),
    ] = True
    limit_um: Annotated[
        float,
        Field(
            "Error limit",
            "Where the H&E slide lies less exactly on this one, its tumour areas do not count",
            ge=1.0,
            le=2000.0,
            unit="µm",
            advanced=True,
        ),
    ] = 50.0
    tumour_from: Annotated[
        float,
        Field(
            "Tumour from",
            "Probability from which on a patch of the H&E slide is tumour",
            ge=0.05,
            le=0.95,
            advanced=True,
        ),
    ] = 0.5

    def detecting(self) -> DetectConfig:
        """What finds the nuclei."""
        return DetectConfig(
            model=self.model, threshold=self.threshold, mpp=self.mpp, device=self.device
        )
