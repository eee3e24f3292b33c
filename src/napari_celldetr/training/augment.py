"""Random crops of annotated fields and changes of their colour, fast enough for two CPU cores.

Everything is drawn from the generator that is passed in, so a seed repeats a crop exactly.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.augment_settings import MIX_KINDS, PRESETS, Augmentation
from napari_celldetr.training.colour import change_light, hed_jitter
from napari_celldetr.training.crops import KNOWN_UM, Crop, random_crop
from napari_celldetr.training.datasets import Field
from napari_celldetr.training.restain import restain_to_hdab
from napari_celldetr.training.scanner import (
    add_noise,
    blur,
    change_colours,
    change_tone,
    colour_matrix,
    recompress,
    resample_down_up,
    shade,
    sharpen,
)

__all__ = [
    "KNOWN_UM",
    "MIX_KINDS",
    "PRESETS",
    "Augmentation",
    "Crop",
    "add_noise",
    "blur",
    "change_light",
    "hed_jitter",
    "random_crop",
    "recolour",
    "recompress",
    "restain_to_hdab",
    "sample_crop",
]


def sample_crop(
    field: Field, size: int, rng: np.random.Generator, augmentation: Augmentation | None = None
) -> Crop:
    """One random crop of `size` px, changed as `augmentation` (default: its defaults) says.

    What needs other fields (mixed stains, mosaics, pasted nuclei) is `CropMaker`'s.
    """
    plan = Augmentation() if augmentation is None else augmentation
    crop = random_crop(field, size, rng, plan)
    return replace(crop, image=recolour(crop.image, rng, plan))


def recolour(
    image: NDArray[np.uint8], rng: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """The photometric half of `sample_crop`: stain, light, optics, camera, file.

    The order is that of a scanner's parts: what is in the glass, the lamp, the lens, the
    camera's noise, colours, curve and sharpening, and the file's compression.
    """
    plan = augmentation

    def happens(probability: float) -> bool:
        # What is switched off must not draw, so that new parts leave old seeds alone.
        return probability > 0 and bool(rng.random() < probability)

    if happens(plan.hed_p):
        image = hed_jitter(image, rng, plan.hed_strength)
    if happens(plan.light_p):
        gain = 1 + rng.uniform(-plan.contrast, plan.contrast)
        image = change_light(image, gain, 255 * rng.uniform(-plan.brightness, plan.brightness))
    if happens(plan.shade_p):
        image = _shade(image, rng, plan.shade)
    if happens(plan.resample_p):
        image = resample_down_up(image, rng.uniform(*plan.resample))
    if happens(plan.blur_p):
        image = blur(image, rng.uniform(*plan.blur_sigma))
    if happens(plan.noise_p):
        image = add_noise(image, rng, rng.uniform(*plan.noise_std))
    if happens(plan.matrix_p):
        mixing = rng.uniform(-plan.matrix, plan.matrix, (3, 3))
        image = change_colours(image, colour_matrix(rng.uniform(*plan.saturation), mixing))
    if happens(plan.tone_p):
        image = _tone(image, rng, plan)
    if happens(plan.sharpen_p):
        image = sharpen(image, rng.uniform(*plan.sharpen))
    if happens(plan.jpeg_p):
        low, high = plan.jpeg_quality
        quality = int(rng.integers(low, high + 1))
        image = recompress(image, quality, full_colour=happens(plan.jpeg_444_p))
    return image


def _tone(
    image: NDArray[np.uint8], rng: np.random.Generator, plan: Augmentation
) -> NDArray[np.uint8]:
    half = plan.gamma / 2
    gamma = np.exp(rng.uniform(-half, half) + rng.uniform(-half, half, 3))
    return change_tone(image, gamma, 1 + rng.uniform(-plan.balance, plan.balance, 3))


def _shade(
    image: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    angle, share = rng.uniform(0, 2 * math.pi), rng.uniform(0, 1)
    most = rng.uniform(0, strength)
    slope = share * most / math.sqrt(2)
    return shade(image, (slope * math.cos(angle), slope * math.sin(angle)), (1 - share) * most)
