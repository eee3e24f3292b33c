"""What optics, camera and file format of a scanner do to an image.

All functions take and give (H, W, 3) uint8 and leave their argument alone. What is random is
drawn by the caller, but for noise.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def change_tone(
    image: NDArray[np.uint8], gamma: NDArray[np.floating], balance: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """``255 · balance · (v / 255) ** gamma``, `gamma` and `balance` (3,) one per channel."""
    levels = (np.arange(256) / 255)[:, None] ** gamma * balance
    tables = np.clip(np.rint(255 * levels), 0, 255).astype(np.uint8)
    made = np.empty_like(image)
    for k in range(3):
        made[..., k] = np.take(tables[:, k], image[..., k])
    return made


def colour_matrix(saturation: float, mixing: NDArray[np.floating]) -> NDArray[np.float64]:
    """Matrix (3, 3) that changes saturation, then lets channels run into each other.

    `mixing` (3, 3) holds the shares of the other channels; its diagonal is ignored. Rows of the
    result add up to 1, so that grey stays grey.
    """
    grey = np.full((3, 3), 1 / 3)
    share = np.where(np.eye(3, dtype=bool), 0.0, mixing)
    share -= np.diag(share.sum(axis=1))
    return np.asarray((np.eye(3) + share) @ (grey + saturation * (np.eye(3) - grey)))


def change_colours(image: NDArray[np.uint8], matrix: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Every colour times `matrix` (3, 3), whose rows make red, green and blue."""
    rows = np.hstack([matrix, np.zeros((3, 1))]).ravel().tolist()
    return np.array(_picture(image).convert("RGB", tuple(rows)))


def blur(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Gaussian blur, px."""
    from scipy import ndimage

    soft = ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), mode="nearest", truncate=2.5
    )
    return np.asarray(soft + 0.5).astype(np.uint8)


def sharpen(image: NDArray[np.uint8], amount: float) -> NDArray[np.uint8]:
    """Unsharp mask: ``v + amount · (v - blurred)``, blurred with σ 1 px."""
    # The binomial 1 4 6 4 1 has the variance 1, and 16 · 16 · 255 just fits into 16 bits.
    soft = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge").astype(np.uint16)
    for _ in range(2):
        soft = soft[:-4] + soft[4:] + 4 * (soft[1:-3] + soft[3:-1]) + 6 * soft[2:-2]
        soft = soft.transpose(1, 0, 2)
    edges = np.multiply(image, np.float32(1 + amount), dtype=np.float32)
    edges -= np.multiply(soft, np.float32(amount / 256), dtype=np.float32)
    edges += np.float32(0.5)
    return np.clip(edges, 0, 255, out=edges).astype(np.uint8)


def resample_down_up(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Shrunk to `scale` (0..1) of its size with antialiasing, and enlarged again."""
    from PIL import Image

    height, width = image.shape[:2]
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    shrunk = _picture(image).resize(small, Image.Resampling.BILINEAR)
    return np.array(shrunk.resize((width, height), Image.Resampling.BICUBIC))


def shade(
    image: NDArray[np.uint8], slope: tuple[float, float], corners: float
) -> NDArray[np.uint8]:
    """Uneven light: 1 in the middle, ± `slope` (x, y) at the edges, less by `corners` there."""
    height, width = image.shape[:2]
    x = (np.linspace(-1, 1, width) * slope[0]).astype(np.float32)
    y = (np.linspace(-1, 1, height) * slope[1]).astype(np.float32)
    x2 = (np.linspace(-1, 1, width) ** 2 * corners / 2).astype(np.float32)
    y2 = (np.linspace(-1, 1, height) ** 2 * corners / 2).astype(np.float32)
    light = (1 + x - x2)[None, :] + (y - y2)[:, None]
    made = np.multiply(image, light[..., None], dtype=np.float32) + np.float32(0.5)
    return np.clip(made, 0, 255, out=made).astype(np.uint8)


@cache
def _noise_pool() -> NDArray[np.float32]:
    """A fixed stretch of normal numbers: drawing them anew would take longer than all the rest."""
    return np.random.default_rng(20).standard_normal(1 << 20, dtype=np.float32)


def add_noise(image: NDArray[np.uint8], rng: np.random.Generator, std: float) -> NDArray[np.uint8]:
    """Gaussian noise of `std` grey levels, alike in no two channels."""
    pool = _noise_pool()
    start = int(rng.integers(len(pool)))
    noise = np.take(pool, np.arange(start, start + image.size), mode="wrap").reshape(image.shape)
    noise *= np.float32(std)
    noise += image
    noise += np.float32(0.5)
    return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


def recompress(
    image: NDArray[np.uint8], quality: int, *, full_colour: bool = False
) -> NDArray[np.uint8]:
    """What JPEG of that quality leaves of the image; 4:2:0, or 4:4:4 with `full_colour`."""
    from PIL import Image

    buffer = io.BytesIO()
    _picture(image).save(buffer, "JPEG", quality=quality, subsampling=0 if full_colour else 2)
    with Image.open(buffer) as picture:
        return np.array(picture)


def _picture(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image))
