"""Do drawn areas belong to this slide? Those beside it are refused, those that reach out are named.

Outlines of another slide, or in the pixels of another stored level, often lie partly or wholly
outside, and would otherwise only show as cells that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_celldetr.core.errors import DataError
from napari_celldetr.pipeline.her2.zone_area import share_on_slide
from napari_celldetr.pipeline.her2.zone_shapes import Zone

ALL = 0.999
"""Share of an area on the slide from which on a stroke beyond its edge is not worth a word."""
HINT = "they may belong to another slide, or be in the pixels of another level"


def refuse_elsewhere(zones: Sequence[Zone], size: tuple[int, int], name: str) -> None:
    """`DataError` where none of the zones touches a slide of `size` (width, height), level-0 px."""
    if not zones or any(share_on_slide(zone, size) > 0 for zone in zones):
        return
    corners = np.concatenate([zone.outline.corners for zone in zones])
    (x0, y0), (x1, y1) = corners.min(axis=0), corners.max(axis=0)
    raise DataError(
        f"No tumour area lies on the slide {name!r}.",
        expected=f"outlines in level-0 px, x 0 to {size[0]} and y 0 to {size[1]}",
        found=f"{len(zones)} outlined, x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}",
        remedy=f"give the areas of this slide in its level-0 px: {HINT}",
    )


def reaching_out(zones: Sequence[Zone], size: tuple[int, int], which: str) -> str:
    """What lies outside a slide of `size` (width, height), in a sentence; '' for nothing.

    `which` is ``IHC`` or ``H&E``.
    """
    shares = [share_on_slide(zone, size) for zone in zones]
    out = sum(share < ALL for share in shares)
    if not out:
        return ""
    whole = sum(zone.area_px for zone in zones)
    on = sum(zone.area_px * share for zone, share in zip(zones, shares, strict=True))
    lost = f"{1 - on / whole:.1%} of their area" if whole else "part of their area"
    beside = sum(share == 0 for share in shares)
    more = f", {beside} of them wholly" if beside else ""
    return (
        f"{out} of {len(zones)} tumour areas reach beyond the {which} slide{more}: {lost} is "
        f"not on it. Look at them: {HINT}."
    )
