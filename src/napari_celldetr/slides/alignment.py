"""How many level-0 px a pixel of a stored level really is: measured where sizes leave it open.

A side of 2,967 px halved is 1,483 or 1,484. Most writers drop or repeat the odd row, so a pixel
is exactly 2; some squeeze the whole side into the level, so it is 2.0007. At the far edge the two
differ by up to a whole level pixel. Sizes cannot tell them apart, pictures can: both are compared
with the level above, where there is something to see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import SlideError
from napari_celldetr.slides.resample import Axis, resample

Read = Callable[[int, int, int, int], NDArray[np.uint8]]
"""Pixels (h, w, 3) of a box x, y, w, h inside one level."""

PATCH_PX = 48
PLACES = 9
COMPARED = 3
FLAT = 0.2
"""Mean step between neighbouring pixels, in grey levels, below which a patch shows nothing."""
CLEARLY = 0.9
"""A rarer candidate must fit this much better than the usual one."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One stored level: its size (w, h) and how to read it."""

    size: tuple[int, int]
    read: Read


def relative_scale(above: Stored, level: Stored) -> tuple[float, float]:
    """Pixels of `above` per pixel of `level`, (x, y)."""
    usual = _usual(above.size[0], level.size[0]), _usual(above.size[1], level.size[1])
    fitted = above.size[0] / level.size[0], above.size[1] / level.size[1]
    squeezed = ((fitted[0], usual[1]), (usual[0], fitted[1]))
    found = list(usual)
    for axis in (0, 1):
        if usual[axis] == fitted[axis]:
            continue
        try:
            errors = _errors(above, level, axis, [usual, squeezed[axis]])
        except SlideError:
            continue  # an unreadable tile: keep what most writers do
        if errors is not None and errors[1] < CLEARLY * errors[0]:
            found[axis] = fitted[axis]
    return found[0], found[1]


def _usual(above: int, level: int) -> float:
    """The whole factor that explains both sizes by a dropped or added remainder, else the ratio."""
    factor = round(above / level)
    return float(factor) if abs(factor * level - above) < factor else above / level


def _errors(
    above: Stored, level: Stored, axis: int, candidates: list[tuple[float, float]]
) -> list[float] | None:
    """Squared difference under each candidate, None where there is nothing to compare."""
    patches = []
    for box in _boxes(level.size, axis):
        patch = level.read(*box)
        steps = np.abs(np.diff(patch.astype(np.int16).mean(axis=2), axis=1 - axis)).mean()
        patches.append((float(steps), box, patch))
    telling = [p for p in sorted(patches, key=lambda p: -p[0])[:COMPARED] if p[0] >= FLAT]
    if not telling:
        return None
    return [
        sum(_difference(above, patch, box, scale) for _, box, patch in telling)
        for scale in candidates
    ]


def _boxes(size: tuple[int, int], axis: int) -> list[tuple[int, int, int, int]]:
    """Boxes spread along the far edge of an axis, where candidates differ most."""
    width, height = min(PATCH_PX, size[0]), min(PATCH_PX, size[1])
    far = [size[0] - width, size[1] - height]
    along = np.linspace(0, far[1 - axis], PLACES).astype(int)
    boxes = []
    # Scanned tissue seldom touches the edge, so a little further in is looked at too.
    for share in (1.0, 0.85, 0.7):
        across = int(far[axis] * share)
        for place in along:
            x, y = (across, int(place)) if axis == 0 else (int(place), across)
            boxes.append((x, y, width, height))
    return list(dict.fromkeys(boxes))


def _difference(
    above: Stored,
    patch: NDArray[np.uint8],
    box: tuple[int, int, int, int],
    scale: tuple[float, float],
) -> float:
    x, y = Axis(box[0] * scale[0], scale[0], box[2]), Axis(box[1] * scale[1], scale[1], box[3])
    (x0, x1), (y0, y1) = x.source_range, y.source_range
    inside = (min(x1, above.size[0]), min(y1, above.size[1]))
    source = above.read(x0, y0, inside[0] - x0, inside[1] - y0)
    pads = ((0, y1 - inside[1]), (0, x1 - inside[0]), (0, 0))
    whole = resample(np.pad(source, pads, mode="edge"), x, y)
    return float(((whole.astype(np.float32) - patch) ** 2).mean())
