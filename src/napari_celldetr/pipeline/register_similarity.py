"""How alike two sections are under a transform, in measures that survive a change of stain.

Two of them: mutual information of the densities, over the whole picture, and the agreement of
local structure inside tissue (density against its surroundings, and the direction of edges
whatever their sign: normalised gradients). Their sum decides between candidates and stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.slides.registration_images import DensityImage

BINS = 24
SMOOTH_PX = 1.0
SURROUND_PX = 12.0
LEAST_SPREAD = 0.02
"""Optical density; flatter surroundings are not stretched to full contrast."""
NODE_PX = 8
EDGE_SHARE = 0.5
"""Weight of edge directions beside densities."""

Floats = NDArray[np.float32]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Likeness:
    """Mutual information in nats, and mean agreement of structure (-1..1); `sum` ranks."""

    information: float
    structure: float

    @property
    def sum(self) -> float:
        """Both measures: each alone can be fooled, by outlines or by chance."""
        return self.information + self.structure


def likeness(
    he: DensityImage, ihc: DensityImage, transform: SlideTransform, own: Floats | None = None
) -> Likeness:
    """How alike the pictures are when `transform` lays the IHC over the H&E.

    `own` is the structure of the H&E, where it is known already.
    """
    warped = resampled(ihc, transform, he)
    return likeness_of(he, warped, structure(he) if own is None else own)


def likeness_of(he: DensityImage, warped: DensityImage, own: Floats) -> Likeness:
    """How alike two pictures of one frame are; `own` is the structure of the first."""
    information = mutual_information(
        ndimage.gaussian_filter(he.density, SMOOTH_PX),
        ndimage.gaussian_filter(warped.density, SMOOTH_PX),
    )
    other = structure(warped)
    # Where one of them has no tissue there is nothing that agrees.
    energy = np.sqrt(float((own**2).sum()) * float((other**2).sum()))
    return Likeness(information, float((own * other).sum() / max(energy, 1e-9)))


def mutual_information(first: Floats, second: Floats, bins: int = BINS) -> float:
    """Mutual information in nats of two pictures of equal shape, from a joint histogram."""
    a, b = (_binned(v, bins) for v in (first.ravel(), second.ravel()))
    joint = np.bincount(a * bins + b, minlength=bins * bins).reshape(bins, bins) / max(len(a), 1)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def _binned(values: Floats, bins: int) -> NDArray[np.int64]:
    low, high = np.percentile(values, [1, 99])
    scale = (bins - 1) / max(high - low, 1e-6)
    return np.clip(np.rint((values - low) * scale), 0, bins - 1).astype(np.int64)


def structure(image: DensityImage, *, surround_px: float = SURROUND_PX) -> Floats:
    """What tissue looks like locally (3, h, w), 0 outside: density, and edges' double angle.

    Density is that above its surroundings in units of their spread; an edge's direction counts
    with twice its angle, so that dark against light and light against dark are alike.
    """
    tissue = image.tissue.astype(np.float32)
    density = ndimage.gaussian_filter(image.density, SMOOTH_PX)
    weight = _around(tissue, surround_px) + 1e-3
    mean = _around(density * tissue, surround_px) / weight
    square = _around(density**2 * tissue, surround_px) / weight
    spread = np.sqrt(np.maximum(square - mean**2, 0)) + LEAST_SPREAD
    local = np.clip((density - mean) / spread, -3, 3)
    gy, gx = np.gradient(ndimage.gaussian_filter(local, 1.0))
    strength = gx**2 + gy**2
    scale = _around(strength * tissue, surround_px) / weight + 1e-4
    edges = np.stack([gx**2 - gy**2, 2 * gx * gy]) / (strength + scale)
    return np.asarray(np.stack([local, *(edges * (2 * EDGE_SHARE))]) * tissue, np.float32)


def _around(values: Floats, sigma_px: float) -> Floats:
    """Mean of the surroundings: two boxes, nearly a Gaussian, at a cost without `sigma_px`."""
    side = max(3, round(sigma_px * np.sqrt(6)))
    once = ndimage.uniform_filter(values, side, mode="constant")
    return np.asarray(ndimage.uniform_filter(once, side, mode="constant"), np.float32)


def resampled(ihc: DensityImage, transform: SlideTransform, he: DensityImage) -> DensityImage:
    """The IHC picture in the H&E picture's frame; glass where there is no IHC slide."""
    x, y = places(transform, he)
    at = np.stack([y / ihc.step[1] - 0.5, x / ihc.step[0] - 0.5])
    density = ndimage.map_coordinates(ihc.density, at, order=1, mode="constant")
    tissue = ndimage.map_coordinates(
        ihc.tissue.astype(np.uint8), at, order=0, mode="constant"
    ).astype(bool)
    return DensityImage(np.asarray(density, np.float32), tissue, he.step)


def places(transform: SlideTransform, he: DensityImage) -> tuple[Floats, Floats]:
    """IHC µm x and y (h, w) of every pixel: exact every NODE_PX pixels, linear between."""
    height, width = he.density.shape
    rows, columns = (np.arange(-(-side // NODE_PX) + 1) * NODE_PX for side in (height, width))
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2) + 0.5
    found = transform.forward_um(nodes * he.step).reshape(len(rows), len(columns), 2)
    return _between(found[..., 0], height, width), _between(found[..., 1], height, width)


def _between(nodes: Points, height: int, width: int) -> Floats:
    """Values at every pixel (height, width) from those at every NODE_PX-th."""
    place = np.arange(max(height, width)) / NODE_PX
    base = place.astype(np.intp)
    part = place - base
    i, j, t, u = base[:height], base[:width], part[:height, None], part[None, :width]
    rows = nodes[i] * (1 - t) + nodes[i + 1] * t
    return np.asarray(rows[:, j] * (1 - u) + rows[:, j + 1] * u, np.float32)
