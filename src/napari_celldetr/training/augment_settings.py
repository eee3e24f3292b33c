"""Settings of augmentation: one object, stored in the card, and its named presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from napari_celldetr.core.errors import ConfigError

PRESETS = ("none", "light", "default", "strong")
"""Names that `Augmentation.named` knows."""
MIX_KINDS = ("macenko", "reinhard", "both")
_MOST = {
    "mix_beyond": 2.0,
    "mix_degrees": 15.0,
    "gamma": 2.0,
    "sharpen": 4.0,
    "elastic_px": 5.0,
}
_SHARES = {"hed_strength", "brightness", "contrast", "balance", "matrix", "shade"}
_LIMITS = {"scale": (0.1, 10.0), "jpeg_quality": (1, 100), "resample": (0.1, 1.0)}


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied; a probability (``…_p``) of 0 switches a change off.

    The first probabilities drawn are those of the crop's content (mosaic, place, mixed stain,
    paste), then those of its colours, in the order of the scanner's parts.

    Attributes
    ----------
    flip : bool
        Mirror and turn by quarter turns (always exact, pixel for pixel).
    warp_p, scale
        Probability of a free rotation with a scale drawn log-uniformly from the two limits.
    hed_p, hed_strength
        Stain jitter, see `hed_jitter`.
    light_p, brightness, contrast
        Factor 1 ± contrast about mid-grey, shift ± brightness · 255.
    blur_p, blur_sigma
        Gaussian blur, px.
    jpeg_p, jpeg_quality
        Recompression, quality between the two limits, colour at half resolution (4:2:0).
    noise_p, noise_std
        Gaussian noise, grey levels.
    jpeg_444_p : float
        Share of the recompressions that keep colour at full resolution (4:4:4).
    elastic_p, elastic_px
        Smooth random displacement, of at most that many px along each axis.
    mix_p, mix_kind
        The field's stain is moved to another one, measured in another field or beyond:
        ``macenko``, ``reinhard``, or ``both`` (either, with even odds). See `StainBank`.
    mix_random_p, mix_beyond, mix_degrees
        Share of the mixes whose stain is not another field's but lies between two fields'
        (0) and the second (1) or beyond it, up to `mix_beyond`, its vectors turned by about
        `mix_degrees`.
    tone_p, gamma, balance
        A camera's curve: every channel to the power of ``exp(± gamma)``, half of it drawn for
        all channels alike; then times 1 ± balance, each on its own.
    matrix_p, saturation, matrix
        A camera's colours: saturation between the two limits; a 3 × 3 matrix whose entries
        beside the diagonal are ± matrix and whose rows add up to 1, which keeps grey as it is.
    sharpen_p, sharpen
        Unsharp mask of σ 1 px, amount between the two limits.
    resample_p, resample
        Shrunk by a factor between the two limits and enlarged again, as by weaker optics.
    shade_p, shade
        Uneven light: a slope and a fall towards the corners, together at most that share.
    mosaic_p : float
        Probability that a crop is put together from parts of four fields.
    paste_p, paste_count
        Probability that nuclei of other fields are pasted in, and how many.
    """

    flip: bool = True
    warp_p: float = 0.7
    scale: tuple[float, float] = (0.7, 1.4)
    hed_p: float = 0.8
    hed_strength: float = 0.2
    light_p: float = 0.5
    brightness: float = 0.06
    contrast: float = 0.15
    blur_p: float = 0.15
    blur_sigma: tuple[float, float] = (0.4, 1.2)
    jpeg_p: float = 0.15
    jpeg_quality: tuple[int, int] = (40, 90)
    noise_p: float = 0.15
    noise_std: tuple[float, float] = (1.0, 5.0)
    jpeg_444_p: float = 0.0
    elastic_p: float = 0.0
    elastic_px: float = 3.0
    mix_p: float = 0.0
    mix_kind: str = "both"
    mix_random_p: float = 0.5
    mix_beyond: float = 1.3
    mix_degrees: float = 2.0
    tone_p: float = 0.0
    gamma: float = 0.15
    balance: float = 0.04
    matrix_p: float = 0.0
    saturation: tuple[float, float] = (0.8, 1.2)
    matrix: float = 0.03
    sharpen_p: float = 0.0
    sharpen: tuple[float, float] = (0.2, 0.8)
    resample_p: float = 0.0
    resample: tuple[float, float] = (0.5, 1.0)
    shade_p: float = 0.0
    shade: float = 0.08
    mosaic_p: float = 0.0
    paste_p: float = 0.0
    paste_count: tuple[int, int] = (1, 8)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):  # as JSON gives a pair back
                value = tuple(value)
                object.__setattr__(self, item.name, value)
            _check(item.name, value)

    @classmethod
    def none(cls) -> Augmentation:
        """Random crops whose pixels are those of the field."""
        return cls(
            flip=False, warp_p=0.0, hed_p=0.0, light_p=0.0, blur_p=0.0, jpeg_p=0.0, noise_p=0.0
        )

    @classmethod
    def light(cls) -> Augmentation:
        """Flips, rotations, scale, stain and brightness jitter, blur."""
        return cls(jpeg_p=0.0, noise_p=0.0)

    @classmethod
    def strong(cls) -> Augmentation:
        """All there is, for laboratories and scanners that no training field came from."""
        return cls(
            hed_p=0.5,
            hed_strength=0.1,
            blur_p=0.15,
            jpeg_p=0.3,
            jpeg_444_p=0.4,
            noise_p=0.2,
            elastic_p=0.2,
            mix_p=0.6,
            tone_p=0.4,
            gamma=0.12,
            balance=0.03,
            matrix_p=0.4,
            sharpen_p=0.2,
            resample_p=0.2,
            shade_p=0.2,
            mosaic_p=0.15,
            paste_p=0.2,
        )

    @classmethod
    def named(cls, name: str) -> Augmentation:
        """The preset of that name, one of `PRESETS`; `ConfigError` when there is none."""
        if name not in PRESETS:
            raise ConfigError(
                f"There is no augmentation named {name!r}.",
                expected=", ".join(PRESETS),
                found=repr(name),
                remedy="choose one of these names",
            )
        return cls() if name == "default" else getattr(cls, name)()


def _check(name: str, value: Any) -> None:
    if name == "mix_kind":
        expected, good = ", ".join(MIX_KINDS), value in MIX_KINDS
    elif name == "flip":
        expected, good = "true or false", isinstance(value, bool)
    else:
        low, high = _LIMITS.get(name, (0.0, _MOST.get(name, math.inf)))
        if name.endswith("_p") or name in _SHARES:
            high = 1.0
        expected = f"{low:g}..{high:g}, the lower limit first"
        limits = value if isinstance(value, tuple) else (value, value)
        good = len(limits) == 2 and low <= limits[0] <= limits[1] <= high
    if not good:
        raise ConfigError(
            f"Augmentation setting {name!r} is not valid.",
            expected=expected,
            found=repr(value),
            remedy=f"change {name!r}",
        )
