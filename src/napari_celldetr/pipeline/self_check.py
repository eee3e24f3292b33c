"""Is the pixel size right? What the slide says on opening, and what the first cells say after it.

A wrong pixel size spoils everything in silence, and two times off is how it is usually wrong: the
value of another objective, or of another level. Findings are plain sentences; one that is clear
enough for a button says which pixel size to try.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_celldetr.core.detections import Detections
from napari_celldetr.pipeline.measure import DIAMETER, size_columns
from napari_celldetr.slides.backend import Facts
from napari_celldetr.slides.pixel_size import (
    HIGHEST_MPP,
    LOWEST_MPP,
    OBJECTIVE_TIMES_MPP,
    judge,
)

if TYPE_CHECKING:
    from napari_celldetr.slides.slide import Slide

Level = Literal["ok", "note", "doubt"]

USUAL_UM, CLEAR_UM = (5.0, 9.0), (4.5, 9.5)
"""Median box of a field's nuclei: the usual range, and beyond which it looks two times off.

The detector looks for nuclei of the size it knows, and bends what it finds towards that: twice
the pixel size makes its median box 1.6 times as wide, half of it 0.65 times. Measured on 44 H&E
fields with at least 50 cells, median boxes were 5.2 to 8.8 µm in nine of ten; read at half the
pixel size 3.6 to 5.1, at twice the pixel size 9.0 to 12.5. The clear limits find 70 % of the
halved and 87 % of the doubled, at 0 and 5 % of the right ones; the usual limits 92 % and 93 %, at
2 and 5 %. In H-DAB the ranges overlap more: 80 % of the halved are found and 21 % of the doubled,
at 8 and 0 % of the right ones.
"""
FEWEST = 50
"""Fewer cells say nothing."""
FAR_UM = 3.5, 12.0
"""Median box beyond which the pixel size is wrong, and not the tissue odd; see `SURE`."""
SURE = 0.10
"""How far above the model's score threshold the median nucleus lies at least, in H-DAB.

Measured with the shipped model on 24 fields of endometrium (8 of them seen in training) and two
Ki67 slides, at least 50 nuclei each. Outside `FAR_UM` or less sure than this were 1 of 25 at the
true pixel size (8 fields more are outside `CLEAR_UM`), 20 of 24 at half of it, for their size; of
the endometrium 3 of 24 at twice and 24 of 24 at four times, for the scores alone: median scores
there were .40 to .44, against .44 to .83 at the true size.
"""
_NUCLEUS_UM = 6.0
"""What the ranges above belong to; a card may name another typical nucleus."""
_TESTED_MPP = 1.0
"""On H&E fields shrunk to it, 3 of 100 cells fewer are found than at 0.5; beyond is untested."""
_PLACES = {
    "user": "given by you",
    "openslide": "from the slide's scanner data",
    "ome-xml": "from the file's OME data",
    "ome-zarr": "from the file's OME-Zarr data",
    "tiff tag": "from the file's resolution tag",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    `level` is ``ok``, ``note`` (worth knowing) or ``doubt`` (probably wrong); `text` one plain
    sentence; `suggested_mpp` µm per level-0 px to try instead, where there is something to try.
    """

    level: Level
    text: str
    suggested_mpp: float | None = None


def check_slide(slide: Slide) -> list[Finding]:
    """What a slide's own data says of its pixel size and its frame."""
    return [*_check_mpp(slide), *_check_bounds(slide)]


def check_cells(table: Detections, mpp: tuple[float, float], *, card: Any) -> list[Finding]:
    """What found nuclei say of the pixel size with which they were found.

    Parameters
    ----------
    table : Detections
        Cells in level-0 px, above the score threshold.
    mpp : (x, y)
        µm per level-0 px, as used to find them.
    card
        Of the model that found them. A ``nucleus_px`` among its arguments moves what is usual.

    Returns
    -------
    list of Finding
        One, or none where there are too few cells to say anything.
    """
    if len(table) < FEWEST:
        return []
    median = _median_um(table, mpp)
    share = _typical_um(card) / _NUCLEUS_UM
    low, high = (share * limit for limit in USUAL_UM)
    said = f"The median nucleus is {median:.1f} µm wide"
    if low <= median <= high:
        return [Finding("ok", f"{said}, as usual ({low:.3g} to {high:.3g} µm).")]
    small = median < low
    clear_low, clear_high = (share * limit for limit in CLEAR_UM)
    if clear_low <= median <= clear_high:
        side = "smaller" if small else "larger"
        return [
            Finding(
                "note",
                f"{said}, a little {side} than usual ({low:.3g} to {high:.3g} µm): compare the "
                "scale bar with a lymphocyte (about 7 µm) to be sure of the pixel size.",
            )
        ]
    now = math.sqrt(mpp[0] * mpp[1])
    better = now * 2 if small else now / 2
    side = "small" if small else "large"
    text = (
        f"{said}; {low:.3g} to {high:.3g} µm is usual: check the pixel size, {now:.4g} µm looks "
        f"about two times too {side}."
    )
    return [Finding("doubt", text, _plausible(better))]


def is_far(table: Detections, mpp: tuple[float, float], *, card: Any) -> bool:
    """Whether nuclei are so small or large that the pixel size must be wrong, not the tissue odd.

    Parameters are those of `check_cells`, whose limits are for a word in passing.
    """
    if len(table) < FEWEST:
        return False
    share = _typical_um(card) / _NUCLEUS_UM
    low, high = (share * limit for limit in FAR_UM)
    return not low <= _median_um(table, mpp) <= high


def _median_um(table: Detections, mpp: tuple[float, float]) -> float:
    diameters = table.columns.get(DIAMETER)
    if diameters is None:
        diameters = size_columns(table.boxes, mpp)[DIAMETER]
    return float(np.median(diameters))


def check_sureness(table: Detections, mpp: tuple[float, float], *, card: Any) -> list[Finding]:
    """Whether a model knows what it found: at many times the true pixel size it is never sure.

    Sizes alone do not tell, for what is found is always about as large as a nucleus: on a slide
    read many times too fine, that is a group of cells or a gland.

    Parameters
    ----------
    table : Detections
        Nuclei of an H-DAB slide with the model's own scores, above its score threshold.
    mpp : (x, y)
        µm per level-0 px, as used to find them.
    card
        Of the model that found them; its threshold is what scores are compared with.

    Returns
    -------
    list of Finding
        One where the model is not sure; none else, or where there are too few nuclei.
    """
    known = table.scores[table.scores >= card.threshold]
    if len(known) < FEWEST:
        return []
    median, least = float(np.median(known)), card.threshold + SURE
    if median >= least:
        return []
    text = (
        f"The nuclei were found with little confidence: median score {median:.2f}, {least:.2f} and "
        f"more is usual. Check the pixel size ({math.sqrt(mpp[0] * mpp[1]):.4g} µm may be several "
        "times too large or too small), the stain and the focus: what is outlined may be no cells."
    )
    return [Finding("doubt", text)]


def _typical_um(card: Any) -> float:
    # Other packages' networks have arguments of their own.
    side = getattr(card, "arguments", {}).get("nucleus_px")
    if not isinstance(side, int | float) or side <= 0:
        return _NUCLEUS_UM
    return float(side) * float(card.mpp)


def _plausible(mpp: float) -> float | None:
    return float(f"{mpp:.4g}") if LOWEST_MPP <= mpp <= HIGHEST_MPP else None


def _check_mpp(slide: Slide) -> Iterator[Finding]:
    power = slide.objective
    fitting = _plausible(OBJECTIVE_TIMES_MPP / power) if power else None
    if slide.mpp is None:
        hint = f"; its {power:g}× objective suggests about {fitting:g} µm" if fitting else ""
        why = "" if slide.mpp_source == "missing" else f" that can be believed ({slide.mpp_source})"
        yield Finding(
            "doubt",
            f"The slide states no pixel size{why}, and without one nothing can be measured{hint}.",
            fitting,
        )
        return
    mpp = math.sqrt(slide.mpp[0] * slide.mpp[1])
    place = _PLACES.get(slide.mpp_source, f"from {slide.mpp_source}")
    # The rule of what goes with an objective stands where slides are opened.
    facts = Facts((slide.size,), slide.mpp, slide.mpp_source, power)
    if judge(facts, None).warnings and fitting:
        yield Finding(
            "doubt",
            f"The pixel size of {mpp:.4g} µm ({place}) does not go with the {power:g}× objective, "
            f"which suggests about {fitting:g} µm.",
            fitting,
        )
    elif mpp > _TESTED_MPP:
        yield Finding(
            "note",
            f"The pixel size is {mpp:.4g} µm ({place}), coarser than detection was tested with "
            f"({_TESTED_MPP:g} µm): a nucleus is only a few pixels wide, and some will be missed.",
        )
    else:
        agrees = f", which goes with the {power:g}× objective" if fitting else ""
        yield Finding("ok", f"The pixel size is {mpp:.4g} µm ({place}){agrees}.")


def _check_bounds(slide: Slide) -> Iterator[Finding]:
    bounds, (width, height) = slide.bounds, slide.size
    if (bounds.width, bounds.height) != (width, height):
        yield Finding(
            "note",
            f"Only {bounds.width} × {bounds.height} of {width} × {height} pixels were scanned, "
            f"from x {bounds.x}, y {bounds.y} on; positions count from the corner of the whole "
            "frame.",
        )
