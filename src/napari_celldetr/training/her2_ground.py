"""What lies under drawn membranes: a real field's counterstain, a softened one, or a drawn one.

Membranes on real tissue alone teach a network to find lines among texture; on a smooth section
it then calls what is barely there a stained membrane. So a part of the grounds is smooth.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.stain import H_DAB
from napari_celldetr.training.colour import mix_planes, planes_to_rgb

Floats = NDArray[np.float32]
Ground = Literal["real", "soft", "drawn"]
GROUNDS: tuple[Ground, ...] = get_args(Ground)
SHARES = (0.5, 0.15, 0.35)
"""How often each is taken."""
SOFT_UM = (0.3, 1.0)
"""Standard deviation of the blur of softened grounds."""


def soften(image: NDArray[np.uint8], rng: np.random.Generator, *, mpp: float) -> NDArray[np.uint8]:
    """The image (H, W, 3) with its texture blurred away by some of `SOFT_UM`."""
    from scipy import ndimage

    sigma = rng.uniform(*SOFT_UM) / mpp
    soft = ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), mode="nearest", truncate=2.5
    )
    return np.asarray(np.rint(soft), np.uint8)


def draw_ground(
    centres: Floats,
    axes: Floats,
    angle: Floats,
    rng: np.random.Generator,
    *,
    side: int,
    mpp: float,
    brown: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.uint8]:
    """Blue ellipses (S, S, 3) on a pale smooth ground, in place of a real field's tissue.

    Parameters
    ----------
    centres, axes, angle : (N, 2), (N, 2), (N,)
        Nuclei: x, y and half axes in px, radians.
    rng : Generator
    side : int
        px
    mpp : float
    brown : (float, float)
        Limits of the share of nuclei that are DAB-brown.
    """
    coarse, fine = (smooth_noise(side, rng, um / mpp) for um in (8.0, rng.uniform(0.5, 1.5)))
    blue = rng.uniform(0.0, 0.14) * (1 + 0.3 * coarse) + rng.uniform(0, 0.02) * fine
    haze = rng.uniform(0.0, 0.05) * (1 + 0.3 * coarse)
    strength = rng.uniform(0.18, 0.5) * rng.lognormal(0, 0.2, len(centres))
    is_brown = rng.random(len(centres)) < rng.uniform(*brown)
    dab = np.where(is_brown, rng.uniform(0.4, 1.1, len(centres)), 0)
    texture = 1 + rng.uniform(0.05, 0.25) * fine
    rim = rng.uniform(0, 0.4)
    for i in range(len(centres)):
        box, radius = _ellipse(centres[i], axes[i], float(angle[i]), side)
        if not radius.size:
            continue
        cover = np.clip((1 - radius) * axes[i, 1] + 0.5, 0, 1)
        inside = cover * texture[box] * (1 - rim + rim * np.minimum(radius, 1) ** 3)
        blue[box] = np.maximum(blue[box], strength[i] * inside)
        haze[box] = np.maximum(haze[box], dab[i] * inside)
    planes = np.maximum(np.stack([blue, haze]), 0).astype(np.float32)
    image = planes_to_rgb(mix_planes(planes, H_DAB[:2]))
    white = rng.uniform(232, 255, 3) / 255
    return np.asarray(np.rint(image * white), np.uint8)


def _ellipse(
    centre: Floats, axes: Floats, angle: float, side: int
) -> tuple[tuple[slice, slice], Floats]:
    """The box of an ellipse in the picture, and there the distance from its centre, 1 on it."""
    reach = float(axes[0]) + 2
    x0, x1 = max(int(centre[0] - reach), 0), min(int(centre[0] + reach) + 2, side)
    y0, y1 = max(int(centre[1] - reach), 0), min(int(centre[1] + reach) + 2, side)
    if x0 >= x1 or y0 >= y1:
        return (slice(0), slice(0)), np.zeros((0, 0), np.float32)
    dx = np.arange(x0, x1, dtype=np.float32)[None, :] + 0.5 - centre[0]
    dy = np.arange(y0, y1, dtype=np.float32)[:, None] + 0.5 - centre[1]
    cos, sin = np.cos(angle), np.sin(angle)
    radius = np.hypot((dx * cos + dy * sin) / axes[0], (dy * cos - dx * sin) / axes[1])
    return (slice(y0, y1), slice(x0, x1)), np.asarray(radius, np.float32)


def smooth_noise(side: int, rng: np.random.Generator, sigma: float) -> Floats:
    """Noise (S, S) of mean 0 and deviation 1 whose patches are about `sigma` px wide."""
    from scipy import ndimage

    noise = rng.standard_normal((side, side), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=2)
    return np.asarray(noise / (float(noise.std()) or 1.0), np.float32)
