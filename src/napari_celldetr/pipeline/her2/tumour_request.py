"""How the invasive tumour of a slide is to be known, and whether the slides fit what is asked."""

from __future__ import annotations

from dataclasses import dataclass

from napari_celldetr.core.progress import Job
from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.pipeline.her2.networks import Networks
from napari_celldetr.pipeline.her2.placement import refuse_elsewhere
from napari_celldetr.pipeline.her2.result import too_coarse
from napari_celldetr.pipeline.her2.settings import Her2Config
from napari_celldetr.pipeline.her2.stain_kind import StainKind, require_stain
from napari_celldetr.pipeline.her2.tumour import carried_tumour
from napari_celldetr.pipeline.her2.tumour_areas import (
    ASSUMED,
    HE,
    IHC,
    Tumour,
    drawn_tumour,
    unconfirmed,
)
from napari_celldetr.pipeline.her2.zone_shapes import Zone
from napari_celldetr.pipeline.slide_pair import refuse_other_pair, refuse_same
from napari_celldetr.slides.slide import Slide


@dataclass(frozen=True, slots=True)
class TumourRequest:
    """How the invasive tumour is to be known; the first that is given counts.

    Attributes
    ----------
    zones, cut_out : tuple of Zone
        Drawn by a person, on the H&E slide if `on_he`.
    on_he : bool
    he : Slide or None
        An open H&E slide of the same block; without `zones` a network looks for tumour there.
    transform : SlideTransform or None
        From the H&E slide; without it the slides are registered.
    assumed : bool
        A person says that all tissue is invasive tumour.
    """

    zones: tuple[Zone, ...] = ()
    cut_out: tuple[Zone, ...] = ()
    on_he: bool = False
    he: Slide | None = None
    transform: SlideTransform | None = None
    assumed: bool = False


def require_stains(ihc: Slide, he: Slide | None = None) -> tuple[tuple[str, StainKind], ...]:
    """What the slides look stained with; `SlideError` where one is surely the other kind."""
    found = [(IHC, require_stain(ihc, "H-DAB"))]
    if he is not None:
        found.append((HE, require_stain(he, "H&E")))
    return tuple(found)


def refuse_no_pair(asked: TumourRequest, ihc: Slide) -> None:
    """`SlideError` where the H&E is the IHC itself, `TransformError` where the pair is another."""
    if asked.he is not None:
        refuse_same(asked.he, ihc)
    if asked.transform is not None and not asked.assumed:
        refuse_other_pair(asked.transform, asked.he, ihc)


def refuse_tumour_elsewhere(asked: TumourRequest, ihc: Slide) -> None:
    """`DataError` where the drawn areas lie beside the slide that they were drawn on."""
    if asked.assumed:
        return
    if not asked.on_he:
        refuse_elsewhere(asked.zones, ihc.size, ihc.name)
    elif asked.he is not None:
        refuse_elsewhere(asked.zones, asked.he.size, asked.he.name)
    elif (pair := asked.transform) is not None:
        refuse_elsewhere(asked.zones, pair.he.size, pair.he.name)


def find_tumour(
    ihc: Slide, asked: TumourRequest, config: Her2Config, networks: Networks
) -> Job[Tumour]:
    """The tumour that was asked for, carried across if need be; or why there is none."""
    if asked.assumed:
        return Tumour(ASSUMED)
    if asked.zones and not asked.on_he:
        return drawn_tumour(asked.zones, asked.cut_out)
    if asked.he is None and asked.transform is None:
        return unconfirmed()
    refusal = None if ihc.mpp else too_coarse(ihc)
    if refusal is not None:
        return Tumour(refusal=refusal)
    return (
        yield from carried_tumour(
            asked.he,
            ihc,
            asked.transform,
            zones=asked.zones,
            cut_out=asked.cut_out,
            predictor=networks.tumour,
            tumour_from=config.tumour_from,
            limit_um=config.limit_um,
        )
    )
