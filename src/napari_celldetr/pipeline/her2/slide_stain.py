"""What a slide's light and stains are: read from its glass and tissue, or the defaults, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.her2 import Cutoffs
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.tissue_sample import (
    PATCHES,
    in_words,
    look_over,
    tissue_pixels,
)
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import (
    H_DAB,
    Floats,
    dab_od,
    estimate_stains,
    stain_vectors,
    unmix,
)

White = tuple[float, float, float]
Rgb = NDArray[np.uint8]
FULL_LIGHT: White = (255.0, 255.0, 255.0)

CROPPED_WHITE = 240.0
"""Without glass in sight no less than this is taken, the usual value (Macenko et al., 2009)."""

PATCH_MPP = 0.5
FEWEST = 200
LEAST_OD = 0.15
"""A pixel with less of a stain says nothing of its colour."""
HAEMATOXYLIN_SHARE = 0.01
"""Share of tissue pixels in which haematoxylin must prevail to be estimated."""
DAB_OD, DAB_SHARE = 0.3, 0.1
"""Share of tissue pixels in which DAB must prevail and be this dark to be estimated.

It lies over haematoxylin nearly everywhere. On generated slides its estimate is 3° to 6° off where
this share is over a tenth, and 6° to 20° below.
"""
LEAST_TURNS_DEG = (4.5, 6.0)
"""Up to this the estimate of either stain may be off, and the usual one is kept."""
MOST_TURN_DEG = 15.0
"""A stain farther from its usual colour is something else: pigment, another chromogen."""

CONTROL_MPP, BLOCK_UM = 0.25, 512.0
LEAST_CONTROL_UM2 = 2000.0
"""Stained area that a control needs: the membranes of about a hundred cells."""
STAINS = ("haematoxylin", "DAB")
LOWEST_GAIN, HIGHEST_GAIN = 0.5, 2.0


@dataclass(frozen=True, slots=True, eq=False)
class SlideStain:
    """How colours of one H-DAB slide become amounts of stain.

    Attributes
    ----------
    white : level (3,)
        Light through glass, 0 to 255.
    vectors : (3, 3)
        Rows haematoxylin, DAB, residual: unit vectors of optical density.
    gain : float
        Factor on DAB optical density; 1 unless calibrated.
    notes : tuple of str
        Where each of these came from, or why the default was kept.
    """

    white: White = FULL_LIGHT
    vectors: NDArray[np.float64] = field(default_factory=lambda: H_DAB)
    gain: float = 1.0
    notes: tuple[str, ...] = ()

    def amounts(self, rgb: Rgb) -> Floats:
        """Haematoxylin and DAB (…, 2) of colours (…, 3), gain applied to DAB."""
        both = unmix(rgb, self.vectors, self.white)[..., :2]
        both[..., 1] *= np.float32(self.gain)
        return both

    def dab(self, rgb: Rgb) -> Floats:
        """DAB optical density (…) of colours (…, 3), gain applied."""
        return np.asarray(dab_od(rgb, self.white, self.vectors) * np.float32(self.gain), np.float32)


def estimate_slide_stain(slide: Slide, *, patches: int = PATCHES) -> SlideStain:
    """White and stain vectors of an H-DAB slide, each kept at its default where it cannot be told.

    Parameters
    ----------
    slide : Slide
        Open, with known pixel size.
    patches : int
        Pieces of tissue, 256 µm wide, that the stains are estimated from.

    Raises
    ------
    SlideError
        The slide cannot be read, or its pixel size is not known.
    """
    sample = look_over(slide)
    glass, reason = sample.glass()
    if glass is None:
        bright = np.clip(sample.brightest(), CROPPED_WHITE, 255)
        said = f"White: {in_words(bright)} is assumed, for {reason}."
        told = "Stains: the usual ones, for colours cannot be told without the colour of glass."
        return SlideStain(_triple(bright), notes=(said, told))
    white = _triple(glass)
    vectors, told = _vectors(tissue_pixels(slide, sample, PATCH_MPP, count=patches), white)
    return SlideStain(white, vectors, notes=(f"White: {in_words(glass)}, {reason}.", told))


def _triple(values: NDArray[np.floating]) -> White:
    return float(values[0]), float(values[1]), float(values[2])


def _vectors(pixels: Rgb, white: White) -> tuple[NDArray[np.float64], str]:
    """Macenko's stains of tissue pixels (N, 3), or the usual ones."""
    scaled = np.clip(np.rint(pixels / np.array(white) * 240.0), 0, 255).astype(np.uint8)
    found = estimate_stains(scaled, H_DAB)
    if not found.is_estimated:
        return H_DAB, f"Stains: the usual ones, for {found.reason}."
    return _believed(found.vectors, _enough(pixels, white, found.vectors))


def _enough(pixels: Rgb, white: White, vectors: NDArray[np.float64]) -> tuple[bool, bool]:
    """Whether there is enough of haematoxylin alone, and of dark DAB, to tell their colours."""
    blue, brown = unmix(pixels, white=white)[:, :2].T
    seen = max(int((np.maximum(blue, brown) > LEAST_OD).sum()), 1)
    alone = int(((blue > LEAST_OD) & (blue > 2 * brown)).sum())
    below, over = unmix(pixels, vectors, white)[:, :2].T
    dark = int(((over > DAB_OD) & (over > below)).sum())
    enough_blue = alone >= max(HAEMATOXYLIN_SHARE * seen, FEWEST)
    return enough_blue, dark >= max(DAB_SHARE * seen, FEWEST)


def _believed(
    found: NDArray[np.float64], enough: Sequence[bool]
) -> tuple[NDArray[np.float64], str]:
    """Each of the two stains found, if there is enough of it and it differs, but not too much."""
    taken, told, kept = [], [], 0
    for k, turn in enumerate(_angles(found)):
        keep = _kept(turn, LEAST_TURNS_DEG[k]) if enough[k] else "too little of it is alone"
        taken.append(H_DAB[k] if keep else found[k])
        kept += bool(keep)
        told.append(
            f"{STAINS[k]} is the usual one ({keep})"
            if keep
            else f"{STAINS[k]} is estimated from tissue, {turn:.1f}° from the usual one"
        )
    said = f"Stains: {'; '.join(told)}."
    if kept == len(STAINS):
        return H_DAB, said
    return stain_vectors(_triple(taken[0]), _triple(taken[1])), said


def _kept(turn: float, least: float) -> str:
    """Why a stain found `turn` degrees from the usual one is not taken; '' if it is."""
    if turn > MOST_TURN_DEG:
        return f"what was found is {turn:.1f}° from it, too far to be believed"
    return f"what was found agrees, {turn:.1f}° from it" if turn < least else ""


def _angles(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Degrees (2,) between each stain and its usual colour."""
    cosine = (vectors[:2] * H_DAB[:2]).sum(axis=1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))), np.float64)


def control_od(stain: SlideStain, slide: Slide, region: Region) -> float:
    """DAB optical density of a control region (level-0 px): what `calibrate` compares.

    Of all pixels with at least the lowest cut-off for a membrane, the most stained tenth; of
    these the median. Read at 0.25 µm/px, or as fine as the slide is.

    Raises
    ------
    DataError
        Too little in `region` is stained.
    """
    dab = _control_pixels(stain, slide, region)
    return _level(dab, _control_area(slide))


def calibrate(stain: SlideStain, slide: Slide, region: Region, *, expected_od: float) -> SlideStain:
    """`stain` with the gain that makes an on-slide control as dark as a reference lot's.

    Parameters
    ----------
    stain : SlideStain
        Its own gain is replaced.
    slide : Slide
    region : Region
        The control tissue, level-0 px.
    expected_od : float
        `control_od` of the same control on a slide of the reference lot.

    Raises
    ------
    DataError
        Too little in `region` is stained, or it would take a gain beyond 0.5 to 2.
    SlideError
        The region cannot be read.
    """
    dab = _control_pixels(replace(stain, gain=1.0), slide, region)
    area, gain = _control_area(slide), 1.0
    # Which pixels count as stained depends on the gain a little.
    for _ in range(12):
        gain = expected_od / max(_level(dab * np.float32(gain), area) / gain, 1e-6)
        if not LOWEST_GAIN <= gain <= HIGHEST_GAIN:
            raise DataError(
                f"The control of {slide.name!r} is too far from what is expected of it.",
                expected=f"a DAB optical density of {expected_od:g}, by a factor of "
                f"{LOWEST_GAIN:g} to {HIGHEST_GAIN:g}",
                found=f"{expected_od / gain:.3f}",
                remedy="check the marked region and the reference value, or stain the slide again",
            )
    note = f"Gain: {gain:.3f}; the control's DAB is {expected_od / gain:.3f}, not {expected_od:g}."
    kept = tuple(n for n in stain.notes if not n.startswith("Gain:"))
    return replace(stain, gain=gain, notes=(*kept, note))


def _control_area(slide: Slide) -> float:
    """µm² of each pixel that a control is read with."""
    return max(CONTROL_MPP, max(slide.known_mpp())) ** 2


def _control_pixels(stain: SlideStain, slide: Slide, region: Region) -> Floats:
    """DAB (N,) of the region's pixels with any stain worth speaking of."""
    mpp = max(CONTROL_MPP, max(slide.known_mpp()))
    inside = region.intersect(slide.region)
    parts = [np.zeros(0, np.float32)]
    if inside is not None:
        step = max(1, round(BLOCK_UM / min(slide.known_mpp())))
        for y in range(inside.y, inside.y1, step):
            for x in range(inside.x, inside.x1, step):
                part = Region(x, y, min(step, inside.x1 - x), min(step, inside.y1 - y))
                dab = stain.dab(slide.read(part, mpp))
                parts.append(dab[dab > Cutoffs().weak / HIGHEST_GAIN])
    return np.concatenate(parts)


def _level(dab: Floats, area: float) -> float:
    """The median of the most stained tenth of stained pixels, each of `area` µm²."""
    stained = dab[dab >= Cutoffs().weak]
    if len(stained) * area < LEAST_CONTROL_UM2:
        raise DataError(
            "The marked control has too little stained tissue.",
            expected=f"{LEAST_CONTROL_UM2:g} µm² with a DAB optical density from "
            f"{Cutoffs().weak:g}",
            found=f"{len(stained) * area:.0f} µm²",
            remedy="mark more of the control, or its stained part",
        )
    return float(np.percentile(stained, 95))
