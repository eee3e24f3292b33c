"""Generated slides made worse on purpose, with the truth of what was done.

A slide is read whole, changed in optical density and written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import DAB, H_DAB, Floats, optical_density
from napari_celldetr.slides.synthetic import BLOCK_PX, GLASS_LEVEL, write_pyramid

Rgb = NDArray[np.uint8]
White = tuple[float, float, float]


def rewrite(
    slide: Slide,
    path: str | os.PathLike[str],
    change: Callable[[Rgb], Rgb],
    *,
    compression: str = "deflate",
) -> None:
    """Write what `change` makes of the whole of a small `slide` (h, w, 3) to an OME-TIFF."""
    picture = change(slide.read(slide.region))
    height, width = picture.shape[:2]

    def bands() -> Iterator[Rgb]:
        for top in range(0, height, BLOCK_PX):
            yield picture[top : top + BLOCK_PX]

    mpp = slide.known_mpp()[0]
    write_pyramid(path, bands, size=(width, height), mpp=mpp, compression=compression)


def recoloured(
    rgb: Rgb, vectors: NDArray[np.float64], white: White, *, glass: float = GLASS_LEVEL
) -> Rgb:
    """H-DAB colours of the usual stains on `glass` as other stains (3, 3) in another light."""
    amounts = optical_density(rgb, glass) @ np.linalg.inv(H_DAB)
    light = np.array(white) * np.power(10.0, -(amounts @ vectors))
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Damaged:
    """A picture (h, w, 3) and where it was changed (h, w) bool."""

    picture: Rgb
    where: NDArray[np.bool_]


def _painted(rgb: Rgb, density: Floats, share: Floats, where: NDArray[np.bool_]) -> Damaged:
    """`density` (h, w, 3) laid over `rgb` as far as `share` (h, w) says."""
    before = optical_density(rgb, GLASS_LEVEL)
    mixed = before + share[..., None] * (density - before)
    light = GLASS_LEVEL * np.power(np.float32(10), -mixed)
    return Damaged(np.asarray(np.clip(np.rint(light), 0, 255), np.uint8), where)


def _grid(rgb: Rgb, mpp: float) -> tuple[Floats, Floats]:
    """x and y (h, w) of every pixel in µm."""
    rows, columns = np.indices(rgb.shape[:2], np.float32)
    x, y = (np.asarray((at + 0.5) * mpp, np.float32) for at in (columns, rows))
    return x, y


def folded(
    rgb: Rgb,
    mpp: float,
    *,
    middle: tuple[float, float],
    angle: float,
    size: tuple[float, float] = (240.0, 60.0),
) -> Damaged:
    """A strip in which tissue lies double and out of focus.

    `middle` x, y and `size` (length, width) are in µm, `angle` of its length in radians.
    """
    x, y = _grid(rgb, mpp)
    dx, dy = x - middle[0], y - middle[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = -dx * np.sin(angle) + dy * np.cos(angle)
    where = (np.abs(along) < size[0] / 2) & (np.abs(across) < size[1] / 2)
    density = optical_density(rgb, GLASS_LEVEL)
    shift = size[1] * np.array([np.cos(angle), -np.sin(angle)]) / mpp
    # What lies on top is the tissue next to the strip.
    beside = np.roll(density, np.rint(shift).astype(int), axis=(0, 1))
    double = ndimage.gaussian_filter(density + beside, (1.2 / mpp, 1.2 / mpp, 0))
    share = ndimage.gaussian_filter(where.astype(np.float32), 1.0 / mpp)
    return _painted(rgb, double, share, where)


def crushed(
    rgb: Rgb,
    mpp: float,
    *,
    middle: tuple[float, float],
    angle: float,
    size: tuple[float, float] = (200.0, 90.0),
    darker: float = 1.7,
) -> Damaged:
    """An ellipse in which everything is smeared along `angle` (radians) and darker; µm."""
    x, y = _grid(rgb, mpp)
    dx, dy = x - middle[0], y - middle[1]
    along = dx * np.cos(angle) + dy * np.sin(angle)
    across = -dx * np.sin(angle) + dy * np.cos(angle)
    where = np.hypot(along / size[0] * 2, across / size[1] * 2) < 1
    density = optical_density(rgb, GLASS_LEVEL)
    step = np.array([np.sin(angle), np.cos(angle)]) / mpp
    smear = np.zeros_like(density)
    offsets = np.arange(-9.0, 9.1, 1.0)
    for k in offsets:
        smear += np.roll(density, np.rint(k * step).astype(int), axis=(0, 1))
    share = ndimage.gaussian_filter(where.astype(np.float32), 2.0 / mpp)
    dark = np.asarray(darker * smear / len(offsets), np.float32)
    return _painted(rgb, dark, share, where)


def edge_stained(rgb: Rgb, mpp: float, *, width_um: float = 20.0, dab: float = 0.4) -> Damaged:
    """DAB gathered along the border between tissue and glass."""
    density = optical_density(rgb, GLASS_LEVEL)
    tissue = ndimage.gaussian_filter(density.max(axis=2), 8 / mpp) > 0.03
    depth = ndimage.distance_transform_edt(tissue) * mpp
    where = np.asarray(tissue & (depth < width_um))
    share = (where * (1 - depth / width_um / 2)).astype(np.float32)
    return _painted(rgb, density + dab * np.array(DAB, np.float32), share, where)


def speckled(
    rgb: Rgb,
    mpp: float,
    places: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    colour: tuple[float, float, float] = (0.55, 0.57, 0.60),
    density: float = 1.6,
    radius_um: float = 2.5,
) -> Damaged:
    """Grains of pigment about `places` (N, 2), x, y in px; `colour` is one of optical density."""
    where = np.zeros(rgb.shape[:2], bool)
    grains = np.repeat(places, 3, axis=0) + rng.normal(0, 1.2 / mpp, (3 * len(places), 2))
    reach = int(np.ceil(radius_um / mpp)) + 1
    for x, y in grains:
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        window = where[top : int(y) + reach + 1, left : int(x) + reach + 1]
        rows, columns = np.indices(window.shape)
        window |= np.hypot(columns + left + 0.5 - x, rows + top + 0.5 - y) < radius_um / mpp
    share = ndimage.gaussian_filter(where.astype(np.float32), 0.3 / mpp)
    unit = np.array(colour, np.float32) / np.linalg.norm(colour)
    grain = np.asarray(np.broadcast_to(density * unit, rgb.shape), np.float32)
    return _painted(rgb, grain, share, where)
