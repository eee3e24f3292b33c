"""H&E or H-DAB? Told from colour: only DAB is dark brown, only eosin pink.

Every pixel's optical densities in red, green and blue are taken as shares of their sum. DAB
absorbs more blue than green, eosin more green than blue, and both little red; haematoxylin absorbs
red. A slide on which neither is seen is not named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import SlideError
from napari_celldetr.pipeline.her2.tissue_sample import look_over, tissue_pixels
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import optical_density

Kind = Literal["H&E", "H-DAB", "unknown"]

SAMPLE_MPP = 1.0
LOWEST_WHITE = 200.0
STAINED_OD = 0.35
"""Sum of a pixel's three densities from which on its colour can be told."""
DARK_OD = 0.9
"""DAB gets this dark; saffron, pigments of fibres and yellowed glue do not."""
BLACK = 40
LITTLE_RED = 0.30
"""Share of red in the density: of eosin .14, of DAB .17, of haematoxylin .40."""
BROWN, PINK = -0.05, 0.10
"""Green less blue share: DAB is at -.13, eosin at +.15; haematoxylin is not judged by it."""
FEWEST_PIXELS = 500
DAB_SHARE = 0.002
"""Share of stained pixels that are dark brown on a slide with DAB."""
EOSIN_SHARE = 0.10
"""Share of stained pixels that are pink on most slides with eosin."""
TURN = 0.02
"""On a paler one, how much the share of green grows from the bluest tenth to the least blue."""


@dataclass(frozen=True, slots=True)
class StainKind:
    """What a slide is stained with, and what that was told from.

    Attributes
    ----------
    kind : 'H&E', 'H-DAB' or 'unknown'
    why : str
        One plain sentence.
    brown, pink : float
        Shares of stained pixels that are dark brown, and pink.
    """

    kind: Kind
    why: str
    brown: float = 0.0
    pink: float = 0.0


def guess_stain(slide: Slide) -> StainKind:
    """What `slide` is stained with. `SlideError` if it cannot be read."""
    over = look_over(slide)
    white = np.maximum(over.brightest(), LOWEST_WHITE)
    glass, _ = over.glass()
    pixels = tissue_pixels(slide, over, SAMPLE_MPP)
    return judge_colours(pixels, white if glass is None else glass)


def judge_colours(pixels: NDArray[np.uint8], white: NDArray[np.floating]) -> StainKind:
    """What tissue pixels (N, 3) under light of colour `white` (3,) are stained with."""
    density = np.maximum(optical_density(pixels, (white[0], white[1], white[2])), 0)
    total = density.sum(axis=1)
    stained = (total >= STAINED_OD) & (pixels.max(axis=1, initial=0) > BLACK)
    count = int(stained.sum())
    if count < FEWEST_PIXELS:
        return StainKind("unknown", f"only {count} px of tissue are stained")
    share = density[stained] / total[stained, None]
    dark = _little_red(share) & (_leaning(share) < BROWN) & (total[stained] >= DARK_OD)
    return _named(float(dark.mean()), share)


def _leaning(share: NDArray[np.floating]) -> NDArray[np.floating]:
    """Green less blue (N,)."""
    return np.asarray(share[:, 1] - share[:, 2])


def _little_red(share: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.asarray(share[:, 0] < LITTLE_RED)


def _named(dark: float, share: NDArray[np.floating]) -> StainKind:
    leaning = _leaning(share)
    pink = float((_little_red(share) & (leaning > PINK)).mean())
    brown = float((_little_red(share) & (leaning < BROWN)).mean())
    said = f"{dark:.1%} of the stained tissue is dark brown, {pink:.1%} pink"
    if dark >= DAB_SHARE and dark > pink / 5:
        return StainKind("H-DAB", f"{said}: DAB", dark, pink)
    if dark < DAB_SHARE and pink >= EOSIN_SHARE and pink > brown:
        return StainKind("H&E", f"{said}: eosin", dark, pink)
    if dark < DAB_SHARE and _turns_pink(share):
        return StainKind("H&E", f"{said}, and what is less blue is pinker: eosin", dark, pink)
    return StainKind("unknown", f"{said}: neither DAB nor eosin is sure", dark, pink)


def _turns_pink(share: NDArray[np.floating]) -> bool:
    """Whether the least blue tenth has more green than the bluest, and leans to pink."""
    red = share[:, 0]
    least, bluest = np.percentile(red, [10, 90])
    pale, blue = share[red <= least], share[red >= bluest]
    more = pale[:, 1].mean() - blue[:, 1].mean()
    return bool(more >= TURN and _leaning(pale).mean() >= PINK)


def require_stain(slide: Slide, wanted: Literal["H&E", "H-DAB"]) -> StainKind:
    """The guess, if it is not surely the other stain.

    Raises
    ------
    SlideError
        `slide` is surely stained with the other, or cannot be read.
    """
    found = guess_stain(slide)
    if found.kind not in ("unknown", wanted):
        raise SlideError(
            f"The slide {slide.name!r} has another stain.",
            expected=wanted,
            found=f"{found.kind} ({found.why})",
            remedy=f"choose the {wanted} slide, or check that the two were not exchanged",
        )
    return found
