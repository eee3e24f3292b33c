"""Tumour from the H&E slide: drawn there or found by a network, and carried across to the IHC.

What is carried across does not count where the registration's error is over its limit, and how
much that is is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.predictor import PatchPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.pipeline.her2.patch_shares import PatchShares, read_patches
from napari_celldetr.pipeline.her2.placement import reaching_out
from napari_celldetr.pipeline.her2.tumour_areas import (
    ASSUMED,
    CARRIED,
    DRAW_IT,
    DRAWN,
    HE,
    NETWORK,
    NOBODY,
    WORDS,
    Alignment,
    Refusal,
    Tumour,
    drawn_tumour,
    unconfirmed,
)
from napari_celldetr.pipeline.her2.zone_area import covered_px, share_on_slide
from napari_celldetr.pipeline.her2.zone_shapes import Zone, contained, zones_of_mask
from napari_celldetr.pipeline.register import (
    RegisterConfig,
    RegistrationError,
    measure,
    register,
)
from napari_celldetr.pipeline.warp import denser
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask

__all__ = [
    "ASSUMED",
    "CARRIED",
    "DRAWN",
    "DRAW_IT",
    "NETWORK",
    "NOBODY",
    "TUMOUR_CLASS",
    "WORDS",
    "Alignment",
    "Refusal",
    "Tumour",
    "carried_tumour",
    "carry",
    "drawn_tumour",
    "tumour_map",
    "tumour_zones",
    "unconfirmed",
]

TUMOUR_CLASS = "tumour"
SAMPLES = 16
"""Points across a square of the error map that are looked for in tumour."""
REGISTER_AGAIN = "register again with landmarks, or draw on the IHC"


def carried_tumour(
    he: Slide | None,
    ihc: Slide,
    transform: SlideTransform | None,
    *,
    zones: Sequence[Zone] = (),
    cut_out: Sequence[Zone] = (),
    predictor: PatchPredictor | None = None,
    tumour_from: float = 0.5,
    limit_um: float = 50.0,
) -> Job[Tumour]:
    """Carry tumour across from the H&E slide; without `zones` the network says where it is.

    Parameters
    ----------
    he : Slide or None
        Needed for all but drawn zones with a given transform.
    ihc : Slide
    transform : SlideTransform or None
        None registers the slides now, with `limit_um`.
    zones, cut_out : sequences of Zone
        Drawn on the H&E slide, its level-0 px.
    predictor : PatchPredictor or None
        Knows the class ``tumour``.
    tumour_from : float
        Probability from which on a patch is tumour.
    limit_um : float

    Returns
    -------
    Tumour
        With a `refusal` where there is none to be had.
    """
    if not zones and (he is None or predictor is None):
        lacks = "the H&E slide" if he is None else "a network that finds tumour in H&E"
        return unconfirmed(f"{lacks} is missing, and no tumour is drawn")
    try:
        found = yield from _transform(he, ihc, transform, limit_um)
    except (TransformError, RegistrationError) as error:
        return unconfirmed(_told(error), error.remedy or DRAW_IT)
    if zones:
        return _carried(CARRIED, zones, cut_out, found, None)
    assert he is not None
    assert predictor is not None
    answers = yield from tumour_map(he, predictor)
    seen = tumour_zones(answers, tumour_from)
    if not seen:
        return unconfirmed("the network finds no tumour on the H&E slide")
    return _carried(NETWORK, seen, (), found, answers)


def tumour_map(he: Slide, predictor: PatchPredictor) -> Job[PatchShares]:
    """The network's probability of tumour all over the tissue of an H&E slide."""
    mask = tissue_mask(he)

    def wanted(centres: NDArray[np.float64]) -> NDArray[np.bool_]:
        cell = np.floor(centres / mask.scale).astype(int)
        height, width = mask.array.shape
        x, y = np.clip(cell[:, 0], 0, width - 1), np.clip(cell[:, 1], 0, height - 1)
        return np.asarray(mask.array[y, x], np.bool_)

    found = yield from read_patches(he, predictor, wanted, message="looking for tumour in H&E")
    return found


def tumour_zones(answers: PatchShares, tumour_from: float = 0.5) -> list[Zone]:
    """Zones of the H&E slide where the network says tumour."""
    share = answers.shares[..., answers.class_names.index(TUMOUR_CLASS)]
    with np.errstate(invalid="ignore"):
        return zones_of_mask(share >= tumour_from, answers.cell, name="tumour (network)")


def _transform(
    he: Slide | None, ihc: Slide, given: SlideTransform | None, limit_um: float
) -> Generator[Progress, None, SlideTransform]:
    if given is not None:
        given.check_slides(None if he is None else he.identity(), ihc.identity())
        # The stricter of the two: that of the registration, and what is asked for now.
        given = replace(given, limit_um=min(given.limit_um, limit_um))
        if given.error_map is not None or he is None:
            return given
        return (yield from measure(he, ihc, given))
    if he is None:
        raise TransformError(
            "There is no H&E slide.",
            expected="the H&E slide, or a transform from it",
            found="neither",
            remedy="give the H&E slide",
        )
    return (yield from register(he, ihc, RegisterConfig(limit_um=limit_um)))


def _carried(
    source: str,
    zones: Sequence[Zone],
    cut_out: Sequence[Zone],
    transform: SlideTransform,
    answers: PatchShares | None,
) -> Tumour:
    moved = [carry(zone, transform) for zone in zones]
    bad = _untrusted(zones, transform)
    lost = _lost_share(zones, cut_out, transform)
    he = transform.he
    whole = covered_px(zones, he.size, cut_out) * float(np.prod(he.mpp))
    outside = reaching_out(zones, he.size, HE)
    found = Tumour(
        source,
        tuple(moved),
        tuple(carry(zone, transform) for zone in cut_out),
        tuple(carry(zone, transform) for zone in bad),
        alignment=alignment_of(transform, lost * whole, outside),
        map=answers,
    )
    if not any(share_on_slide(zone, transform.ihc.size) for zone in moved):
        beside = Refusal("the tumour carried across lies beside this slide", REGISTER_AGAIN)
        return replace(found, refusal=beside)
    if lost < 1 - 1e-6:
        return found
    said = f"no tumour lies where the two slides match to within {transform.limit_um:g} µm"
    return replace(found, refusal=Refusal(said, REGISTER_AGAIN))


def carry(zone: Zone, transform: SlideTransform) -> Zone:
    """A zone of the H&E slide as it lies on the IHC slide; long edges can bend."""

    def moved(area: Area) -> Area:
        line = denser(np.concatenate([area.corners, area.corners[:1]]))[:-1]
        after = np.round(transform.forward(line), 2)
        return Area(tuple(map(tuple, after.tolist())), area.kind, area.name)

    return Zone(moved(zone.outline), tuple(moved(hole) for hole in zone.holes))


def _untrusted(zones: Sequence[Zone], transform: SlideTransform) -> list[Zone]:
    """Squares of the error map, in the zones, whose error is over the limit or not known."""
    if transform.error_map is None:
        return []
    cell = np.array(transform.error_map.spacing) / transform.he.mpp
    rows, columns = np.nonzero(~(transform.error_map.error_um <= transform.limit_um))
    # Squares that reach into a zone, by points on a grid within each.
    share = (np.arange(SAMPLES) + 0.5) / SAMPLES
    within = np.stack(np.meshgrid(share, share), -1).reshape(-1, 2)
    points = (np.stack([columns, rows], 1)[:, None] + within) * cell
    meant = contained(zones, points.reshape(-1, 2)).reshape(len(rows), SAMPLES**2).any(axis=1)
    bad = np.zeros(transform.error_map.error_um.shape, bool)
    bad[rows[meant], columns[meant]] = True
    return zones_of_mask(bad, (float(cell[0]), float(cell[1])), name="alignment")


def _lost_share(zones: Sequence[Zone], cut_out: Sequence[Zone], transform: SlideTransform) -> float:
    """Share of the zones, on the H&E slide, that is not to be trusted, by points on a grid."""
    if transform.error_map is None:
        return 0.0
    corners = np.concatenate([z.outline.corners for z in zones])
    low, high = corners.min(axis=0), corners.max(axis=0)
    step = max(float((high - low).max()) / 400, 1.0)
    x, y = np.arange(low[0], high[0], step), np.arange(low[1], high[1], step)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) + step / 2
    points = points[contained(zones, points) & ~contained(cut_out, points)]
    return 1 - float(transform.trusted(points).mean()) if len(points) else 0.0


def alignment_of(transform: SlideTransform, lost_um2: float = 0.0, outside: str = "") -> Alignment:
    """What a report says of a registration; `lost_um2` is the carried tumour left out for it."""
    errors = None if transform.error_map is None else transform.error_map
    typical = None
    if errors is not None and (known := np.isfinite(errors.error_um) & (errors.tissue > 0)).any():
        typical = float(np.median(errors.error_um[known]))
    notes = (*transform.notes, *([outside] if outside else []))
    if errors is None:
        notes = (*notes, "Nobody measured how well the two slides match: nothing is excluded.")
    return Alignment(
        transform.he.name,
        transform.he.identity,
        transform.method,
        transform.limit_um,
        typical,
        transform.excluded_share,
        lost_um2,
        hashlib.sha256(transform.to_json().encode()).hexdigest(),
        notes,
    )


def _told(error: CellDETRError) -> str:
    text = error.message.rstrip(".")
    text = text[:1].lower() + text[1:]
    return f"{text}: {error.found}" if error.found else text
