"""Where the invasive tumour is on an IHC slide, who says so, and where that is too uncertain.

Drawn on the IHC slide, drawn on the H&E slide and carried across, found by a network on the H&E
slide and carried across, or assumed to be everywhere. What is carried across does not count where
the registration's error is over its limit, and how much that is is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.predictor import PatchPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.core.transform import SlideTransform, TransformError
from napari_celldetr.pipeline.her2.patch_shares import PatchShares, read_patches
from napari_celldetr.pipeline.her2.zones import Zone, contained, zones_of_mask
from napari_celldetr.pipeline.register import (
    RegisterConfig,
    RegistrationError,
    measure,
    register,
)
from napari_celldetr.pipeline.warp import denser
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.tissue import tissue_mask

DRAWN, CARRIED, NETWORK, ASSUMED, NOBODY = "drawn", "carried", "network", "assumed", "none"
WORDS = {
    DRAWN: "drawn by a person on the IHC slide",
    CARRIED: "drawn by a person on the H&E slide and carried across by registration",
    NETWORK: "found by a network on the H&E slide and carried across by registration; "
    "no person drew it",
    ASSUMED: "assumed: a person said that all that was measured is invasive tumour",
    NOBODY: "not confirmed",
}
TUMOUR_CLASS = "tumour"
SAMPLES = 16
"""Points across a square of the error map that are looked for in tumour."""
DRAW_IT = (
    "draw the invasive tumour and give it with --regions, give the H&E slide with --he, or say "
    "with --assume-tumour that all tissue is invasive tumour"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no score, and what to do."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Alignment:
    """The registration that carried areas across.

    `error_um` is the median over the H&E's tissue, None where nobody measured; `excluded_share`
    is that of the H&E's tissue, `excluded_um2` the carried tumour that does not count for it.
    """

    he_name: str
    he_identity: str
    method: str
    limit_um: float
    error_um: float | None
    excluded_share: float | None
    excluded_um2: float
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Tumour:
    """Invasive tumour of an IHC slide; all outlines in its level-0 px.

    Attributes
    ----------
    source : str
        One of the keys of `WORDS`.
    zones : tuple of Zone
        Empty where all tissue is meant.
    cut_out : tuple of Zone
        What a person took out: in situ, necrosis, artefacts.
    untrusted : tuple of Zone
        Where the registration is not good enough.
    refusal : Refusal or None
        Why there is none.
    alignment : Alignment or None
    map : PatchShares or None
        The network's answer on the H&E slide.
    """

    source: str = NOBODY
    zones: tuple[Zone, ...] = ()
    cut_out: tuple[Zone, ...] = ()
    untrusted: tuple[Zone, ...] = ()
    refusal: Refusal | None = None
    alignment: Alignment | None = None
    map: PatchShares | None = None

    @property
    def confirmed(self) -> bool:
        """Whether a score may be given."""
        return self.source != NOBODY and self.refusal is None

    @property
    def words(self) -> str:
        """Who says so."""
        return WORDS[self.source]

    def inside(self, xy: NDArray[Any], zone: Zone | None = None) -> NDArray[np.bool_]:
        """Which points (N, 2) count: of the tumour, or of one of its zones."""
        meant = (zone,) if zone is not None else self.zones
        found = contained(meant, xy) if meant else np.ones(len(xy), bool)
        return found & ~contained((*self.cut_out, *self.untrusted), xy)

    def misplaced(self, xy: NDArray[Any]) -> NDArray[np.bool_]:
        """Which points (N, 2) would count, were the registration better there."""
        if not self.untrusted:
            return np.zeros(len(xy), bool)
        within = contained(self.zones, xy) & ~contained(self.cut_out, xy)
        return within & contained(self.untrusted, xy)


def unconfirmed(reason: str = "", remedy: str = DRAW_IT) -> Tumour:
    """No tumour, and why."""
    said = reason or "no invasive tumour is confirmed"
    return Tumour(refusal=Refusal(said, remedy))


def drawn_tumour(zones: Sequence[Zone], cut_out: Sequence[Zone] = ()) -> Tumour:
    """What a person drew on the IHC slide."""
    return Tumour(DRAWN, tuple(zones), tuple(cut_out)) if zones else unconfirmed()


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
    lost = _lost_um2(zones, cut_out, transform)
    found = Tumour(
        source,
        tuple(moved),
        tuple(carry(zone, transform) for zone in cut_out),
        tuple(carry(zone, transform) for zone in bad),
        alignment=alignment_of(transform, lost),
        map=answers,
    )
    whole = sum(z.area_px for z in zones) * float(np.prod(transform.he.mpp))
    if lost < whole * (1 - 1e-6):
        return found
    said = f"no tumour lies where the two slides match to within {transform.limit_um:g} µm"
    return replace(
        found, refusal=Refusal(said, "register again with landmarks, or draw on the IHC")
    )


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


def _lost_um2(zones: Sequence[Zone], cut_out: Sequence[Zone], transform: SlideTransform) -> float:
    """Area of the zones, on the H&E slide, that is not to be trusted, by points on a grid."""
    if transform.error_map is None:
        return 0.0
    corners = np.concatenate([z.outline.corners for z in zones])
    low, high = corners.min(axis=0), corners.max(axis=0)
    step = max(float((high - low).max()) / 400, 1.0)
    x, y = np.arange(low[0], high[0], step), np.arange(low[1], high[1], step)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) + step / 2
    points = points[contained(zones, points) & ~contained(cut_out, points)]
    if not len(points):
        return 0.0
    share = 1 - float(transform.trusted(points).mean())
    whole = sum(z.area_px for z in zones) * float(np.prod(transform.he.mpp))
    return share * whole


def alignment_of(transform: SlideTransform, lost_um2: float = 0.0) -> Alignment:
    """What a report says of a registration; `lost_um2` is the carried tumour left out for it."""
    errors = None if transform.error_map is None else transform.error_map
    typical = None
    if errors is not None and (known := np.isfinite(errors.error_um) & (errors.tissue > 0)).any():
        typical = float(np.median(errors.error_um[known]))
    notes = transform.notes
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
