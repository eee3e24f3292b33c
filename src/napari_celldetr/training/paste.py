"""Nuclei of one field pasted into another: rare kinds in new company, at known places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.training.colour import density_planes, planes_to_rgb
from napari_celldetr.training.crops import Crop
from napari_celldetr.training.datasets import Field

_MARGIN = 3
_SIDES = (7.0, 80.0)
"""Nuclei whose box has another side, px, are not taken: dust, and clumps marked as one."""
_TRIES = 12
_SIZE_SPREAD = 0.1
_NEIGHBOURS = 8
_NUCLEAR = 0.6
"""A place with more than this share of the red density of nuclei may hold an unmarked one."""
_GLASS = 0.2
"""A place with less than this share of the green density of nuclei is no tissue."""


@dataclass(frozen=True)
class Sprite:
    """One nucleus cut out.

    `density` planes (3, h, w); `alpha` (h, w), its soft mask in 0..1; `box`, x0, y0, x1, y1 of
    the px that are at least half its own, in the sprite.
    """

    density: NDArray[np.float32]
    alpha: NDArray[np.float32]
    box: tuple[float, float, float, float]
    class_id: int


class NucleusLibrary:
    """The nuclei of all fields that have an instance map, whole ones alone."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = [f for f in fields if f.instances is not None and len(f)]
        self.rows = [_usable_rows(f) for f in self.fields]
        self._ends = np.cumsum([len(r) for r in self.rows])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def draw(
        self, rng: np.random.Generator, scale: float, class_names: tuple[str, ...]
    ) -> Sprite | None:
        """A random nucleus, mirrored, turned by quarters, `scale` times its size or about.

        Its class is -1 where the field it comes from has other `class_names`. None where
        nothing is left of it at that scale.
        """
        number = int(rng.integers(len(self)))
        source = int(np.searchsorted(self._ends, number, side="right"))
        field, rows = self.fields[source], self.rows[source]
        row = int(rows[number - self._ends[source]])
        image, mask = _cut_out(field, row)
        flips = rng.integers(0, 2, 3)
        scale *= math.exp(rng.uniform(-_SIZE_SPREAD, _SIZE_SPREAD))
        image, share = _scaled(image, mask, scale)
        if flips[0]:
            image, share = image.transpose(1, 0, 2), share.T
        down, right = (1 - 2 * flips[1:]).tolist()
        image, share = image[::down, ::right], share[::down, ::right]
        x, y = (np.flatnonzero((share >= 0.5).any(axis=axis)) for axis in (0, 1))
        if not len(x):
            return None
        box = float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)
        known = field.class_names == class_names
        class_id = int(field.class_ids[row]) if known else -1
        return Sprite(density_planes(image), _softened(share), box, class_id)


def _usable_rows(field: Field) -> NDArray[np.intp]:
    """Nuclei that do not touch the field's border and are as large as nuclei are."""
    height, width = field.image.shape[:2]
    first, last = field.points - field.sizes / 2, field.points + field.sizes / 2
    inside = (first >= 1).all(axis=1) & (last <= (width - 1, height - 1)).all(axis=1)
    low, high = _SIDES
    return np.flatnonzero(inside & ((field.sizes >= low) & (field.sizes <= high)).all(axis=1))


def _cut_out(field: Field, row: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    assert field.instances is not None
    height, width = field.image.shape[:2]
    x0, y0 = np.floor(field.points[row] - field.sizes[row] / 2).astype(int) - _MARGIN
    x1, y1 = np.ceil(field.points[row] + field.sizes[row] / 2).astype(int) + _MARGIN
    part = (slice(max(y0, 0), min(y1, height)), slice(max(x0, 0), min(x1, width)))
    return field.image[part], field.instances[part] == row + 1


def _scaled(
    image: NDArray[np.uint8], mask: NDArray[np.bool_], scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The picture at `scale`, and how much (h, w) of each px is the nucleus's."""
    from PIL import Image

    height, width = mask.shape
    side = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = Image.fromarray(np.ascontiguousarray(image))
    made = np.asarray(picture.resize(side, Image.Resampling.BILINEAR))
    levels = Image.fromarray(mask.astype(np.uint8) * 255)
    share = np.asarray(levels.resize(side, Image.Resampling.BILINEAR), np.float32)
    return made, share / np.float32(255)


def _softened(share: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask whose edge fades over about a px to either side."""
    wide = np.pad(share, 1)
    down = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    soft = (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 16
    return np.asarray(soft, np.float32)


def paste_nuclei(
    crop: Crop,
    library: NucleusLibrary,
    rng: np.random.Generator,
    *,
    count: int,
    reach: float,
    class_names: tuple[str, ...],
) -> Crop:
    """The crop with up to `count` more nuclei, where no nucleus is known or looks to be.

    Each is brought to the mean density of the nuclei around it, channel by channel, and laid
    over the tissue with a soft edge. It becomes a target with its own box, `rows` -1. Nothing
    is pasted where labels are not complete, on glass, or into a crop with fewer than three
    nuclei, whose stain would be a guess. Nuclei of unknown size are kept `reach` px clear of.
    """
    if not crop.complete or len(crop.points) < 3 or not len(library):
        return crop
    image = crop.image.copy()
    nuclei = _density_at(image, crop.points)
    points = crop.points.astype(np.float64)
    sizes = np.where(np.isfinite(crop.sizes), crop.sizes, 2 * reach).astype(np.float64)
    pasted: list[tuple[float, ...]] = []
    for _ in range(count):
        sprite = library.draw(rng, crop.scale, class_names)
        if sprite is None:
            continue
        corner = _find_place(sprite, image, crop.valid, points, sizes, nuclei, rng)
        if corner is None:
            continue
        x, y = corner
        x0, y0, x1, y1 = sprite.box
        centre = np.array([x + (x0 + x1) / 2, y + (y0 + y1) / 2])
        near = np.argsort(((crop.points - centre) ** 2).sum(axis=1))[:_NEIGHBOURS]
        _lay(image, sprite, corner, nuclei[near].mean(axis=0), rng)
        points = np.vstack([points, centre])
        sizes = np.vstack([sizes, (x1 - x0, y1 - y0)])
        pasted.append((*centre, x1 - x0, y1 - y0, sprite.class_id))
    if not pasted:
        return crop
    added = np.array(pasted)
    return replace(
        crop,
        image=image,
        points=np.concatenate([crop.points, added[:, :2].astype(np.float32)]),
        sizes=np.concatenate([crop.sizes, added[:, 2:4].astype(np.float32)]),
        class_ids=np.concatenate([crop.class_ids, added[:, 4].astype(np.int16)]),
        rows=np.concatenate([crop.rows, np.full(len(added), -1, np.intp)]),
    )


def _density_at(image: NDArray[np.uint8], points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean density (N, 3) of the 3 × 3 px about each point."""
    height, width = image.shape[:2]
    step = np.arange(-1, 2)
    x = np.clip(points[:, 0].astype(int)[:, None] + step, 0, width - 1)
    y = np.clip(points[:, 1].astype(int)[:, None] + step, 0, height - 1)
    colours = image[y[:, :, None], x[:, None, :]].reshape(len(points), 9, 3)
    return np.asarray(density_planes(colours).mean(axis=2).T)


def _find_place(
    sprite: Sprite,
    image: NDArray[np.uint8],
    valid: NDArray[np.bool_],
    points: NDArray[np.float64],
    sizes: NDArray[np.float64],
    nuclei: NDArray[np.float32],
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """Upper left corner x, y of a free place for a sprite; None when none was met."""
    height, width = valid.shape
    h, w = sprite.alpha.shape
    if h >= height or w >= width:
        return None
    x0, y0, x1, y1 = sprite.box
    middle, half = np.array([x0 + x1, y0 + y1]) / 2, np.array([x1 - x0, y1 - y0]) / 2
    gaps = sizes / 2 + half + 1
    centres = points - middle
    dark, glass, _ = np.median(nuclei, axis=0) * (_NUCLEAR, _GLASS, 0)
    tries = rng.integers(0, (width - w, height - h), (_TRIES, 2))
    near = np.abs(centres - tries[:, None]) < gaps
    taken = np.any(np.all(near, axis=2), axis=1)
    for x, y in tries[~taken].tolist():
        part = (slice(y, y + h), slice(x, x + w))
        if not valid[part].all():
            continue
        red, green, _ = density_planes(image[part])
        if float(red.mean()) < dark and float(green.mean()) > glass:
            return x, y
    return None


def _lay(
    image: NDArray[np.uint8],
    sprite: Sprite,
    corner: tuple[int, int],
    wanted: NDArray[np.floating],
    rng: np.random.Generator,
) -> None:
    """Put a sprite into the image, its mean density made about `wanted` (3,)."""
    x, y = corner
    h, w = sprite.alpha.shape
    own = (sprite.density * sprite.alpha).sum(axis=(1, 2)) / sprite.alpha.sum()
    ratio = wanted / np.maximum(own, 0.02)
    common = float(np.exp(np.log(np.maximum(ratio, 1e-3)).mean()))
    gain = np.clip(ratio / common, 0.6, 1.6) * np.clip(common, 0.4, 2.0)
    gain *= math.exp(rng.normal(0, 0.08))
    under = density_planes(image[y : y + h, x : x + w])
    over = sprite.density * gain.astype(np.float32)[:, None, None]
    image[y : y + h, x : x + w] = planes_to_rgb(under + (over - under) * sprite.alpha)
