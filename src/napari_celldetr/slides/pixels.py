"""Whatever samples a file holds, as 8-bit RGB on an opaque background."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
WHITE: Rgb = (255, 255, 255)


def to_8bit(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Unsigned integers scaled by their full range, floats taken as 0..1; anything else is refused.

    Raises `TypeError` for signed or complex samples.
    """
    if samples.dtype == np.uint8:
        return samples
    if samples.dtype == np.bool_:
        return samples.astype(np.uint8) * np.uint8(255)
    if samples.dtype == np.uint16:
        # round(v / 257) in integers: exact at both ends, no float copy of a large tile.
        return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if samples.dtype == np.uint32:
        return (samples >> np.uint32(24)).astype(np.uint8)
    if samples.dtype.kind == "f":
        clean = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0)
        return np.asarray(np.rint(np.clip(clean, 0, 1) * 255), dtype=np.uint8)
    raise TypeError(f"samples of type {samples.dtype}")


def over_background(
    rgb: NDArray[np.uint8],
    alpha: NDArray[np.uint8],
    background: Rgb,
    *,
    premultiplied: bool = False,
) -> NDArray[np.uint8]:
    """`rgb` (H, W, 3) seen through `alpha` (H, W) on a background colour."""
    if alpha.size == 0 or alpha.min() == 255:
        return rgb
    a = alpha[..., None].astype(np.uint32)
    under = np.array(background, np.uint32) * (255 - a)
    top = rgb.astype(np.uint32) * (255 if premultiplied else a)
    return np.minimum((top + under + 127) // 255, 255).astype(np.uint8)


def to_rgb(
    samples: NDArray[Any],
    background: Rgb = WHITE,
    *,
    has_alpha: bool | None = None,
    premultiplied: bool = False,
) -> NDArray[np.uint8]:
    """Samples (H, W) or (H, W, C) as (H, W, 3) uint8.

    1 or 2 channels are grey (+ alpha), 3 or more RGB (+ alpha). `has_alpha` says whether the
    channel after the colours is alpha; None takes it as alpha when there is exactly one more.
    """
    pixels = to_8bit(samples)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    colours = 3 if channels >= 3 else 1
    if has_alpha is None:
        has_alpha = channels == colours + 1
    rgb = pixels[..., :colours]
    if colours == 1:
        rgb = np.repeat(rgb, 3, axis=2)
    if has_alpha and channels > colours:
        alpha = pixels[..., colours]
        return over_background(rgb, alpha, background, premultiplied=premultiplied)
    return np.ascontiguousarray(rgb)


def filled(height: int, width: int, colour: Rgb) -> NDArray[np.uint8]:
    """A (height, width, 3) picture of one colour."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = colour
    return picture


ORIENTATIONS = range(1, 9)


def swaps_axes(orientation: int) -> bool:
    """Whether an EXIF/TIFF orientation exchanges width and height."""
    return orientation >= 5


def oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (H, W, 3) turned the way tag 274 asks them to be seen."""
    flip_x = orientation in (2, 3, 6, 7)
    flip_y = orientation in (3, 4, 7, 8)
    if swaps_axes(orientation):
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


def stored_box(
    box: tuple[int, int, int, int], size: tuple[int, int], orientation: int
) -> tuple[int, int, int, int]:
    """The stored x, y, w, h behind a box of the oriented picture, whose size is `size` (w, h)."""
    x, y, w, h = box
    width, height = size
    if orientation in (2, 3, 6, 7):
        x = width - x - w
    if orientation in (3, 4, 7, 8):
        y = height - y - h
    return (y, x, h, w) if swaps_axes(orientation) else (x, y, w, h)
