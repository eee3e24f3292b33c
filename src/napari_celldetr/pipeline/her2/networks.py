"""The networks that have a say beside the measurement: which are installed, and what they said."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import SCORES, JudgedCells, maximum_rule
from napari_celldetr.core.predictor import PatchPredictor, PixelPredictor
from napari_celldetr.core.progress import Progress
from napari_celldetr.pipeline.her2.outline import Outlines
from napari_celldetr.pipeline.her2.patch_shares import PatchShares, read_patches
from napari_celldetr.pipeline.her2.pixel_agreement import PixelAgreement, compare_pixels
from napari_celldetr.pipeline.her2.settings import PIXEL_MODEL, STAIN_MODEL, TUMOUR_MODEL
from napari_celldetr.pipeline.her2.tumour import Tumour
from napari_celldetr.slides.slide import Slide


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """Loaded networks; None for those that are not installed or not wanted.

    `tumour` finds tumour in H&E, `stain` names a patch's score in IHC, `pixels` names the score
    of the cell that a pixel belongs to.
    """

    tumour: PatchPredictor | None = None
    stain: PatchPredictor | None = None
    pixels: PixelPredictor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class NetworkReadings:
    """What the networks said of the same tumour that was measured; None of those not asked."""

    patches: PatchShares | None = None
    pixels: PixelAgreement | None = None

    @property
    def maximum(self) -> str | None:
        """The paper's rule on the network's patches: the highest score of any."""
        if self.patches is None:
            return None
        found = self.patches.counts()
        return maximum_rule([s for s in SCORES if found.get(s)])


def installed_networks(device: str = "auto", *, tumour: bool, others: bool) -> Networks:
    """Load what is installed of what is wanted. `ModelError` for one that is broken."""
    from napari_celldetr.nets.registry import (
        load_patch_predictor,
        load_pixel_predictor,
        model_places,
    )

    there = model_places()
    return Networks(
        load_patch_predictor(TUMOUR_MODEL, device=device)
        if tumour and TUMOUR_MODEL in there
        else None,
        load_patch_predictor(STAIN_MODEL, device=device)
        if others and STAIN_MODEL in there
        else None,
        load_pixel_predictor(PIXEL_MODEL, device=device)
        if others and PIXEL_MODEL in there
        else None,
    )


def ask_networks(
    slide: Slide,
    networks: Networks,
    tumour: Tumour,
    outlines: Outlines,
    judged: JudgedCells,
    counted: NDArray[np.bool_],
) -> Generator[Progress, None, NetworkReadings]:
    """Ask the networks for stain and pixels about the cells that count.

    `counted` (N,) are the cells of `outlines` and `judged` that do.
    """
    patches, pixels = None, None
    if networks.stain is not None:
        patches = yield from _patches(slide, networks.stain, tumour, judged.centres[counted])
    if networks.pixels is not None:
        pixels = yield from compare_pixels(
            slide, networks.pixels, outlines, judged.scores, counted, tumour.zones
        )
    return NetworkReadings(patches, pixels)


def _patches(
    slide: Slide, predictor: PatchPredictor, tumour: Tumour, cells: NDArray[np.float32]
) -> Generator[Progress, None, PatchShares]:
    """Squares whose centre is in the tumour and which hold a cell that counts."""
    cell = np.array(predictor.patch_px * predictor.card.mpp) / np.array(slide.known_mpp())
    held = set(map(tuple, np.unique(np.floor(cells / cell).astype(int), axis=0).tolist()))

    def wanted(centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        place = np.floor(centres / cell).astype(int)
        with_cells = np.array([(x, y) in held for x, y in place.tolist()], bool)
        return with_cells & tumour.inside(centres)

    message = "asking the network for stain"
    return (yield from read_patches(slide, predictor, wanted, message=message))
