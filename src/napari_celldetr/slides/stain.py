"""Optical density, and stains told apart in it.

Optical density is ``-log10(max(v, 1) / white)``. scikit-image's ``rgb2hed`` uses another
logarithm (a sixth of this) and another third vector, so cut-offs from the literature do not
carry over to it; they do to these functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

HAEMATOXYLIN = (0.650, 0.704, 0.286)
DAB = (0.268, 0.570, 0.776)
EOSIN = (0.2159, 0.8012, 0.5581)


def stain_vectors(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Rows (3, 3): two stains as unit vectors, and the residual at right angles to both."""
    pair = np.array([first, second], np.float64)
    pair /= np.linalg.norm(pair, axis=1, keepdims=True)
    residual = np.cross(pair[0], pair[1])
    vectors = np.vstack([pair, residual / np.linalg.norm(residual)])
    vectors.flags.writeable = False
    return vectors


H_DAB = stain_vectors(HAEMATOXYLIN, DAB)
H_E = stain_vectors(HAEMATOXYLIN, EOSIN)

MACENKO_IO = 240.0
MACENKO_ALPHA = 1.0
MACENKO_BETA = 0.15
FEWEST_PIXELS = 100
SMALLEST_ANGLE_DEG = 5.0
_LEAST = 0.01


def optical_density(rgb: NDArray[np.uint8], white: float | tuple[float, ...] = 255) -> Floats:
    """Optical density (…, 3) float32 of 8-bit colours (…, 3); `white` is one level or one each."""
    levels = np.maximum(np.arange(256, dtype=np.float64), 1)
    whites = np.broadcast_to(np.asarray(white, np.float64), 3)
    tables = -np.log10(levels[None, :] / whites[:, None]).astype(np.float32)
    pixels = np.asarray(rgb, np.uint8)
    # 256 values a channel: looking them up is several times faster than a logarithm a pixel.
    return np.stack([tables[c][pixels[..., c]] for c in range(3)], axis=-1)


def unmix(
    rgb: NDArray[np.uint8],
    vectors: NDArray[np.float64] = H_DAB,
    white: float | tuple[float, ...] = 255,
) -> Floats:
    """Amount of each stain (…, 3) in optical density; negative where a colour lacks it.

    `vectors` are rows as `stain_vectors` makes them.
    """
    inverse = np.linalg.inv(vectors).astype(np.float32)
    amounts: Floats = optical_density(rgb, white) @ inverse
    return amounts


def dab_od(
    rgb: NDArray[np.uint8],
    white: float | tuple[float, ...] = 255,
    vectors: NDArray[np.float64] = H_DAB,
) -> Floats:
    """DAB optical density (…) of H-DAB colours (…, 3)."""
    column = np.linalg.inv(vectors)[:, 1].astype(np.float32)
    amounts: Floats = optical_density(rgb, white) @ column
    return amounts


def haematoxylin_od(
    rgb: NDArray[np.uint8],
    vectors: NDArray[np.float64] = H_E,
    white: float | tuple[float, ...] = 255,
) -> Floats:
    """Haematoxylin optical density (…) of colours (…, 3)."""
    column = np.linalg.inv(vectors)[:, 0].astype(np.float32)
    amounts: Floats = optical_density(rgb, white) @ column
    return amounts


@dataclass(frozen=True, slots=True)
class StainEstimate:
    """Stain vectors (3, 3) of one slide; `reason` says why the defaults were kept, else ''."""

    vectors: NDArray[np.float64]
    reason: str = ""

    @property
    def is_estimated(self) -> bool:
        """Whether the vectors come from the pixels."""
        return not self.reason


def estimate_stains(rgb: NDArray[np.uint8], defaults: NDArray[np.float64] = H_E) -> StainEstimate:
    """Macenko's estimate of two stains from pixels (…, 3), first the bluer of the two.

    Natural logarithm, Io 240, α 1, β 0.15 (Macenko et al., ISBI 2009). With under 100 tissue
    pixels, or when the two come out near each other or not positive, `defaults` are kept.
    """
    pixels = np.asarray(rgb, np.uint8).reshape(-1, 3).astype(np.float64)
    density = -np.log(np.maximum(pixels, 1) / MACENKO_IO)
    tissue = density[(density >= MACENKO_BETA).all(axis=1)]
    if len(tissue) < FEWEST_PIXELS:
        return StainEstimate(defaults, f"only {len(tissue)} tissue pixels")
    _, axes = np.linalg.eigh(np.cov(tissue.T))
    plane = axes[:, [2, 1]]
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    along = tissue @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    ends = np.percentile(angles, [MACENKO_ALPHA, 100 - MACENKO_ALPHA])
    pair = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane.T
    if (pair < -0.05).any() or np.degrees(ends[1] - ends[0]) < SMALLEST_ANGLE_DEG:
        return StainEstimate(defaults, "the two stains are nearly the same colour")
    # Haematoxylin absorbs more red than its partner, eosin or DAB.
    first, second = sorted(np.maximum(pair, 0), key=lambda v: -v[0] / np.linalg.norm(v))
    return StainEstimate(stain_vectors(_triple(first), _triple(second)))


@dataclass(frozen=True, slots=True)
class StainStatistics:
    """What one picture's stain is, as two methods of normalisation describe it.

    Densities are ``-log10(max(v, 1) / 240)``, of tissue pixels alone (every channel's natural
    density is at least β).

    Attributes
    ----------
    vectors : (3, 3)
        Macenko's two stains and the residual, as rows.
    strength : (2,)
        99th percentile of either stain's amount, at least 0.01.
    mean, std : (3,)
        Reinhard's statistics, of density instead of Lab colour; `std` is at least 0.01.
    pixels : int
        Tissue pixels they come from; with fewer than 100, all are those of no stain.
    reason : str
        Why `vectors` are the defaults, else ''.
    """

    vectors: NDArray[np.float64]
    strength: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    pixels: int
    reason: str = ""


def measure_stain(rgb: NDArray[np.uint8], defaults: NDArray[np.float64] = H_E) -> StainStatistics:
    """Statistics of the stain of a picture's tissue, colours (…, 3).

    Vectors and strengths are Macenko's (ISBI 2009), mean and spread Reinhard's (IEEE CG&A 2001).
    `defaults` are the vectors of a picture from which none can be told; see `estimate_stains`.
    """
    estimate = estimate_stains(rgb, defaults)
    density = optical_density(np.asarray(rgb).reshape(-1, 3), MACENKO_IO).astype(np.float64)
    tissue = density[(density * math.log(10) >= MACENKO_BETA).all(axis=1)]
    if len(tissue) < FEWEST_PIXELS:
        zero, least = np.zeros(3), np.full(3, _LEAST)
        return StainStatistics(defaults, least[:2], zero, least, len(tissue), estimate.reason)
    amounts = tissue @ np.linalg.inv(estimate.vectors)[:, :2]
    return StainStatistics(
        estimate.vectors,
        np.maximum(np.percentile(amounts, 99, axis=0), _LEAST),
        tissue.mean(axis=0),
        np.maximum(tissue.std(axis=0), _LEAST),
        len(tissue),
        estimate.reason,
    )


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(vector[0]), float(vector[1]), float(vector[2])
