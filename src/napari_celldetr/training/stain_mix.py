"""A field's stain moved to that of another field, or to one nobody has measured.

Two published normalisations, turned round into augmentation: after Macenko (ISBI 2009), a
picture keeps its amounts of stain, scaled, and gets other stain vectors; after Reinhard (IEEE
CG&A 2001), every channel gets another mean and spread, here in optical density. Either is one
affine change of density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.stain import (
    DAB,
    EOSIN,
    H_DAB,
    HAEMATOXYLIN,
    MACENKO_BETA,
    MACENKO_IO,
    StainStatistics,
    measure_stain,
    stain_vectors,
)
from napari_celldetr.training.augment_settings import Augmentation
from napari_celldetr.training.colour import density_planes, mix_planes, planes_to_rgb
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.restain import nucleus_radius_px, random_marker, restain_to_hdab

Kind = Literal["macenko", "reinhard"]

_WHITE = math.log10(255 / MACENKO_IO)
"""Density of the white that statistics refer to, against 255."""
_TISSUE = MACENKO_BETA / math.log(10)
_STEP = 3
"""Statistics come from every third px of every third line."""
_TRIES = 4
_GREEN_TO_RED = (1.1, 2.4)
_GREEN_TO_BLUE = (1.0, 3.0)
"""How many times as much green as red and blue a field of H&E absorbs; near the limits
of what 119 fields of breast cancer show. Below lie green and brown, above neon pink."""
_EOSIN_GREEN_TO_BLUE = 1.15
"""The same for eosin alone: with less, stroma is as brown as DAB."""
_FARTHEST_DEG = 30.0
_NARROWEST_DEG = 12.0
_MOST_GAIN = {"H&E": 2.0, "H-DAB": 1.4}
"""A stain is made at most so much stronger or weaker. How much DAB a field holds says more about
its cells than about the laboratory, so that it is kept nearly as it is."""


@dataclass(frozen=True)
class StainChange:
    """Density D (of 255) becomes ``D @ matrix + shift``; `fades` leaves glass as it is."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]
    fades: bool = False

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image (H, W, 3) in its new stain."""
        density = density_planes(image)
        made = mix_planes(density, self.matrix)
        made += self.shift.astype(np.float32)[:, None, None]
        if self.fades:
            tissue = density.min(axis=0)
            tissue -= np.float32(_WHITE)
            tissue *= np.float32(1 / _TISSUE)
            np.clip(tissue, 0, 1, out=tissue)
            made -= density
            made *= tissue
            made += density
        return planes_to_rgb(made)


def move_stain(
    own: StainStatistics, other: StainStatistics, kind: Kind, *, most_gain: float = math.inf
) -> StainChange:
    """The change that gives a picture with statistics `own` those of `other`.

    `macenko` sets stain vectors and 99th percentiles and keeps what is neither stain;
    `reinhard` sets mean and spread of tissue and fades out towards glass. Amounts, or spreads,
    change by a factor of at most `most_gain`.
    """
    if kind == "macenko":
        gain = np.clip(other.strength / own.strength, 1 / most_gain, most_gain)
        matrix = (np.linalg.inv(own.vectors) * np.append(gain, 1.0)) @ other.vectors
        return StainChange(matrix, _WHITE - np.full(3, _WHITE) @ matrix)
    gain = np.clip(other.std / own.std, 1 / most_gain, most_gain)
    shift = other.mean + _WHITE - (own.mean + _WHITE) * gain
    return StainChange(np.diag(gain), shift, fades=True)


def random_stain(
    one: StainStatistics,
    two: StainStatistics,
    rng: np.random.Generator,
    *,
    beyond: float,
    degrees: float,
) -> StainStatistics:
    """A stain on the line from `one` (0) to `two` (1), drawn up to `beyond`, vectors turned.

    Turns are normal with a spread of `degrees`, in a random direction. Stains that would come
    out nearly alike, or with a negative colour, are kept as `two`'s.
    """
    t = rng.uniform(0, beyond)
    pair = (1 - t) * one.vectors[:2] + t * two.vectors[:2]
    pair /= np.linalg.norm(pair, axis=1, keepdims=True)
    pair += np.tan(np.radians(rng.normal(0, degrees, (2, 1)))) * _directions(pair, rng)
    first, second = np.maximum(pair, 0.01).tolist()
    vectors = stain_vectors(tuple(first), tuple(second))
    if _apart_deg(vectors[0], vectors[1]) < _NARROWEST_DEG:
        vectors = two.vectors
    return StainStatistics(
        vectors,
        np.exp((1 - t) * np.log(one.strength) + t * np.log(two.strength)),
        np.maximum((1 - t) * one.mean + t * two.mean, 0.0),
        np.exp((1 - t) * np.log(one.std) + t * np.log(two.std)),
        0,
    )


def _directions(pair: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A random unit vector at right angles to each row."""
    free = rng.normal(size=pair.shape)
    free -= (free * pair).sum(axis=1, keepdims=True) * pair
    return np.asarray(free / np.maximum(np.linalg.norm(free, axis=1, keepdims=True), 1e-9))


def _apart_deg(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return math.degrees(math.acos(float(np.clip(a @ b, -1, 1))))


class StainBank:
    """Stain statistics of every field of every pool, measured once.

    Fields are moved among their own kind: H&E, or haematoxylin and DAB, told by the second
    stain of most of a pool's fields. A pool that is shown re-stained counts as what it is shown
    as. Left out, as they are and as what others become, are fields whose stain cannot be told,
    and those whose stains are farther than 30° from the kind's usual ones or nearer than 12° to
    each other: what is moved to such a stain looks like no slide. `left_out` counts them.
    """

    def __init__(self, pools: Sequence[Pool], *, seed: int = 0) -> None:
        self.statistics: list[list[StainStatistics | None]] = []
        self.kinds: list[str] = []
        self.left_out = 0
        for number, pool in enumerate(pools):
            measured = [
                _measure(pool, i, np.random.default_rng([seed, number, i]))
                for i in range(len(pool.fields))
            ]
            kind = _kind(measured)
            usable = [m if _is_plausible(m, kind) else None for m in measured]
            self.kinds.append(kind)
            self.statistics.append(usable)
            self.left_out += sum(m is None for m in usable)
        self._donors = {
            kind: [
                m
                for own, pool in zip(self.kinds, self.statistics, strict=True)
                for m in pool
                if m is not None and own == kind
            ]
            for kind in set(self.kinds)
        }

    def draw(
        self, pool: int, field: int, rng: np.random.Generator, augmentation: Augmentation
    ) -> StainChange | None:
        """A random change for a crop of field `field` of pool `pool`; None leaves it as it is.

        A change that would give H&E a colour no laboratory does is drawn again, a few times.
        """
        own, kind = self.statistics[pool][field], self.kinds[pool]
        if not augmentation.mix_p or rng.random() >= augmentation.mix_p or own is None:
            return None
        for _ in range(_TRIES):
            change = self._draw_change(own, kind, rng, augmentation)
            if kind != "H&E" or _stays_pink(own, change):
                return change
        return None

    def _draw_change(
        self, own: StainStatistics, kind: str, rng: np.random.Generator, plan: Augmentation
    ) -> StainChange:
        donors = self._donors[kind]
        one, target = (donors[i] for i in rng.integers(len(donors), size=2))
        method: Kind = "macenko" if plan.mix_kind == "macenko" else "reinhard"
        # Mean and spread of density say how many cells are brown, not how the stain looks.
        if kind == "H-DAB" or (plan.mix_kind == "both" and rng.random() < 0.5):
            method = "macenko"
        if rng.random() < plan.mix_random_p:
            target = random_stain(
                one, target, rng, beyond=plan.mix_beyond, degrees=plan.mix_degrees
            )
        return move_stain(own, target, method, most_gain=_MOST_GAIN[kind])


def _stays_pink(own: StainStatistics, change: StainChange) -> bool:
    red, green, blue = ((own.mean + _WHITE) @ change.matrix + change.shift).tolist()
    ratios = ((green, red, _GREEN_TO_RED), (green, blue, _GREEN_TO_BLUE))
    eosin = own.vectors[1] @ change.matrix
    return bool(eosin[1] >= _EOSIN_GREEN_TO_BLUE * eosin[2]) and all(
        low * other <= this <= high * other for this, other, (low, high) in ratios
    )


def _measure(pool: Pool, index: int, rng: np.random.Generator) -> StainStatistics:
    field = pool.fields[index]
    if not pool.spec.restain:
        return measure_stain(field.image[::_STEP, ::_STEP])
    radius = nucleus_radius_px(field.mpp)
    marker = random_marker(rng) if pool.spec.restain == "any" else "nucleus"
    image, _ = restain_to_hdab(
        field.image, rng, points=field.points, radius_px=radius, marker=marker
    )
    return measure_stain(image[::_STEP, ::_STEP], H_DAB)


def _kind(measured: Sequence[StainStatistics]) -> str:
    """H-DAB where the second stain of most fields absorbs blue far more than green."""
    brown = [bool(m.vectors[1, 2] - m.vectors[1, 1] > 0.1) for m in measured if not m.reason]
    return "H-DAB" if brown and np.mean(brown) > 0.5 else "H&E"


def _is_plausible(found: StainStatistics, kind: str) -> bool:
    usual = np.array([HAEMATOXYLIN, DAB if kind == "H-DAB" else EOSIN])
    usual /= np.linalg.norm(usual, axis=1, keepdims=True)
    far = max(_apart_deg(a, b) for a, b in zip(found.vectors[:2], usual, strict=True))
    apart = _apart_deg(found.vectors[0], found.vectors[1])
    return not found.reason and far <= _FARTHEST_DEG and apart >= _NARROWEST_DEG
