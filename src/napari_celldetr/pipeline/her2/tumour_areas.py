"""Where the invasive tumour is on an IHC slide, who says so, and where that is too uncertain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.pipeline.her2.patch_shares import PatchShares
from napari_celldetr.pipeline.her2.zone_shapes import Zone, contained

DRAWN, CARRIED, NETWORK, ASSUMED, NOBODY = "drawn", "carried", "network", "assumed", "none"
WORDS = {
    DRAWN: "drawn by a person on the IHC slide",
    CARRIED: "drawn by a person on the H&E slide and carried across by registration",
    NETWORK: "found by a network on the H&E slide and carried across by registration; "
    "no person drew it",
    ASSUMED: "assumed: a person said that all that was measured is invasive tumour",
    NOBODY: "not confirmed",
}
IHC, HE = "IHC", "H&E"
"""What the two slides are called."""
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
