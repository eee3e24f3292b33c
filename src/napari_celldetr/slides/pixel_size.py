"""µm per pixel: which claims are believed, and what to say when one is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.backend import Facts

LOWEST_MPP, HIGHEST_MPP = 0.1, 2.0
ANISOTROPY = 0.02
OBJECTIVE_TIMES_MPP = 10.0
"""0.25 µm/px belongs to 40×, 0.5 to 20×."""
OBJECTIVE_FACTOR = 1.5
ASK = "pass mpp= (--mpp on the command line) with the true µm per pixel"


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The judged pixel size: `mpp` (x, y) or None, where it is from, what to warn about."""

    mpp: tuple[float, float] | None
    source: str
    warnings: tuple[str, ...] = ()


def judge(facts: Facts, override: float | None) -> PixelSize:
    """Believe, refuse or replace what the file claims. `SlideError` for an absurd override."""
    if override is not None:
        if not _plausible(override):
            raise SlideError(
                "The given pixel size is not plausible.",
                expected=f"{LOWEST_MPP} to {HIGHEST_MPP} µm/px",
                found=f"{override}",
                remedy="give µm per level-0 pixel, e.g. 0.25 for 40× and 0.5 for 20×",
            )
        return PixelSize((override, override), "user", _objective_warning(override, facts))
    if facts.mpp is None:
        return PixelSize(
            None, "missing", (f"The slide states no pixel size; {ASK}.{_hint(facts)}",)
        )
    wrong = _what_is_wrong(*facts.mpp)
    if wrong:
        reason = f"{facts.mpp_source} refused: {wrong}"
        return PixelSize(None, reason, (f"Pixel size from {reason}; {ASK}.{_hint(facts)}",))
    mean = math.sqrt(facts.mpp[0] * facts.mpp[1])
    return PixelSize(facts.mpp, facts.mpp_source, _objective_warning(mean, facts))


def _plausible(mpp: float) -> bool:
    return math.isfinite(mpp) and LOWEST_MPP <= mpp <= HIGHEST_MPP


def _what_is_wrong(x: float, y: float) -> str:
    if not (_plausible(x) and _plausible(y)):
        return f"{x:.6g} × {y:.6g} µm/px is outside {LOWEST_MPP}–{HIGHEST_MPP}"
    if max(x, y) > min(x, y) * (1 + ANISOTROPY):
        return f"{x:.6g} × {y:.6g} µm/px differ by more than {ANISOTROPY:.0%}"
    return ""


def _believable_objective(facts: Facts) -> float | None:
    power = facts.objective
    return power if power is not None and 1 <= power <= 150 else None


def _hint(facts: Facts) -> str:
    power = _believable_objective(facts)
    if power is None:
        return ""
    return f" Its {power:g}× objective suggests about {OBJECTIVE_TIMES_MPP / power:.2g} µm/px."


def _objective_warning(mpp: float, facts: Facts) -> tuple[str, ...]:
    power = _believable_objective(facts)
    if power is None:
        return ()
    off = mpp / (OBJECTIVE_TIMES_MPP / power)
    if 1 / OBJECTIVE_FACTOR < off < OBJECTIVE_FACTOR:
        return ()
    return (
        f"{mpp:.3g} µm/px does not go with the {power:g}× objective "
        f"(about {OBJECTIVE_TIMES_MPP / power:.2g}); check the pixel size.",
    )
