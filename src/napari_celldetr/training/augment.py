"""Random crops of annotated fields and changes of their colour, fast enough for two CPU cores.

Colour is changed in optical density, ``-log10(max(v, 1) / 255)``, along the stains' own axes, as
one 3 × 3 matrix; geometry is one affine map, by slicing where it is a quarter turn. Everything
is drawn from the generator that is passed in, so a seed repeats a crop exactly.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.slides.stain import H_DAB, H_E
from napari_celldetr.training.datasets import Field

KNOWN_UM = 4.0
"""Around a point of an incomplete field, what is seen within this distance is known."""


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied; a probability of 0 switches a change off.

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
        Recompression, quality between the two limits.
    noise_p, noise_std
        Gaussian noise, grey levels.
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

    def __post_init__(self) -> None:
        for item in fields(self):
            self._check(item.name, getattr(self, item.name))

    def _check(self, name: str, value: Any) -> None:
        low, high = 0.0, math.inf
        if name.endswith("_p") or name in ("hed_strength", "brightness", "contrast"):
            high = 1.0
        if name == "scale":
            low, high = 0.1, 10.0
        if name == "jpeg_quality":
            low, high = 1, 100
        limits = value if isinstance(value, tuple | list) else (value, value)
        if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
            raise ConfigError(
                f"Augmentation setting {name!r} is not valid.",
                expected=f"{low:g}..{high:g}, the lower limit first",
                found=repr(value),
                remedy=f"change {name!r}",
            )

    @classmethod
    def none(cls) -> Augmentation:
        """Random crops whose pixels are those of the field."""
        return cls(
            flip=False, warp_p=0.0, hed_p=0.0, light_p=0.0, blur_p=0.0, jpeg_p=0.0, noise_p=0.0
        )


@dataclass(frozen=True, eq=False)
class Crop:
    """A square piece of a field, as training sees it.

    Attributes
    ----------
    image : (S, S, 3) uint8
    points : (N, 2) float32
        Centres x, y in crop px, all inside the crop; pixel 0 spans 0..1.
    sizes : (N, 2) float32
        Width and height of the whole nucleus, also where the crop cuts it; NaN where unknown.
    class_ids : (N,) int16
    valid : (S, S) bool
        False where nothing may be learned: in mirrored padding, and in a field that is not
        `complete` everywhere but within `KNOWN_UM` of a point (8 px where mpp is unknown).
    complete : bool
        The field's own word on whether places without a point are background.
    rows : (N,) intp
        Row of the field that each point is; -1 for a cell pasted from elsewhere.
    composition : (K,) float32 or None
        The field's class shares, where only those are known.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    sizes: NDArray[np.float32]
    class_ids: NDArray[np.int16]
    valid: NDArray[np.bool_]
    complete: bool
    rows: NDArray[np.intp]
    composition: NDArray[np.float32] | None = None


def sample_crop(
    field: Field, size: int, rng: np.random.Generator, augmentation: Augmentation | None = None
) -> Crop:
    """One random crop of `size` px, changed as `augmentation` (default: its defaults) says.

    The crop lies inside the field as far as its size allows; corners that a rotation turns out
    of it, and what a small field lacks, are mirrored and not `valid`.
    """
    plan = Augmentation() if augmentation is None else augmentation
    crop = random_crop(field, size, rng, plan)
    image = recolour(crop.image, rng, plan)
    return Crop(
        image, crop.points, crop.sizes, crop.class_ids, crop.valid, crop.complete, crop.rows
    )


# --- geometry --------------------------------------------------------------------------------


def random_crop(
    field: Field, size: int, rng: np.random.Generator, augmentation: Augmentation
) -> Crop:
    """The geometric half of `sample_crop`: place, mirror, turn, scale."""
    if size < 1 or not field.image.size:
        raise DataError(
            f"No crop of {size} px can be taken from field {field.name!r}.",
            expected="at least 1 px and an image that is not empty",
            found=f"image {field.image.shape}",
            remedy="choose another size or remove the field",
        )
    turn = _quarter_turn(rng) if augmentation.flip else np.eye(2)
    free = augmentation.warp_p > 0 and rng.random() < augmentation.warp_p
    if free:
        low, high = augmentation.scale
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        angle = rng.uniform(-math.pi / 4, math.pi / 4)  # quarter turns do the rest
        if not augmentation.flip:
            angle *= 4
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        matrix = np.array([[cos, -sin], [sin, cos]]) @ turn
    else:
        scale, matrix = 1.0, turn
    height, width = field.image.shape[:2]
    spread = float(np.abs(matrix[0]).sum()) * scale  # 1 unturned, √2 on the diagonal
    centre = np.array([_place(n, size / scale, spread, rng) for n in (width, height)])
    if free:
        image, valid = _warp(field.image, matrix, centre, size)
    else:
        corner = np.rint(centre - size / 2).astype(int)
        centre = corner + size / 2
        image, valid = _slice(field.image, matrix.astype(int), corner, size)
    points, sizes = _moved(field, matrix, centre, size, exact=not free)
    if not field.complete:
        reach = KNOWN_UM / field.mpp if field.mpp else 8.0
        valid &= _near(points, reach * scale, size)
    rows = np.flatnonzero(((points >= 0) & (points < size)).all(axis=1))
    return Crop(
        image,
        points[rows].astype(np.float32),
        sizes[rows].astype(np.float32),
        field.class_ids[rows],
        valid,
        field.complete,
        rows,
    )


def _quarter_turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """One of the eight symmetries of the square, crop to field."""
    a, b = 1 - 2 * rng.integers(0, 2, 2)
    return np.array([[a, 0], [0, b]] if rng.random() < 0.5 else [[0, a], [b, 0]], np.float64)


def _place(length: int, covered: float, spread: float, rng: np.random.Generator) -> float:
    """Centre of a crop of `covered` px on a line of `length`: inside it, or over it if longer.

    A turned crop reaches less far along the axes than its side; a field smaller than it is
    kept off its corners by `spread`, or it could be turned out of sight.
    """
    if covered > length:
        covered = max(length, covered / spread)
    low, high = sorted((covered / 2, length - covered / 2))
    return float(rng.uniform(low, high))


def _window(image: NDArray[np.uint8], x0: int, y0: int, x1: int, y1: int) -> NDArray[np.uint8]:
    """A part of the image, mirrored where it reaches outside; some of it must lie inside."""
    height, width = image.shape[:2]
    inside = image[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    if inside.shape[:2] == (y1 - y0, x1 - x0):
        return inside
    lacking = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0))
    return np.pad(inside, lacking, mode="symmetric")


def _slice(
    image: NDArray[np.uint8], matrix: NDArray[Any], corner: NDArray[Any], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Crop with its corner (x, y) on whole px, mirrored and turned by quarters."""
    height, width = image.shape[:2]
    x0, y0 = int(corner[0]), int(corner[1])
    inside_x = (np.arange(x0, x0 + size) >= 0) & (np.arange(x0, x0 + size) < width)
    inside_y = (np.arange(y0, y0 + size) >= 0) & (np.arange(y0, y0 + size) < height)
    valid = inside_y[:, None] & inside_x[None, :]
    window = _window(image, x0, y0, x0 + size, y0 + size)
    (a, b), (c, d) = matrix.tolist()
    if b == 0:
        turned, mask = window[::d, ::a], valid[::d, ::a]
    else:
        turned, mask = window.transpose(1, 0, 2)[::b, ::c], valid.T[::b, ::c]
    # A copy also where nothing turned: a crop must never write into its field.
    return np.array(turned, order="C"), np.ascontiguousarray(mask)


def _warp(
    image: NDArray[np.uint8], matrix: NDArray[Any], centre: NDArray[Any], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Crop under a free map, bilinear; shrinking far is preceded by a blur against aliasing."""
    from PIL import Image

    reach = np.abs(matrix).sum(axis=1) * size / 2 + 2
    x0, y0 = np.floor(centre - reach).astype(int).tolist()
    x1, y1 = np.ceil(centre + reach).astype(int).tolist()
    window = _window(image, x0, y0, x1, y1)
    step = math.hypot(*matrix[:, 0])  # field px a crop px
    if step > 1.5:
        # Bilinear taps spread like a box of √2 px, which suits a step up to about there.
        window = blur(window, math.sqrt((step**2 - 2) / 12))
    offset = centre - matrix @ np.full(2, size / 2)
    (a, b), (c, d) = matrix.tolist()
    coefficients = (a, b, offset[0] - x0, c, d, offset[1] - y0)
    picture = Image.fromarray(np.ascontiguousarray(window))
    made = picture.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.array(made), _covered(image.shape, matrix, offset, size)


def _covered(
    shape: tuple[int, ...], matrix: NDArray[Any], offset: NDArray[Any], size: int
) -> NDArray[np.bool_]:
    """Crop px (size, size) whose centre lies in the field."""
    limit = np.array([shape[1], shape[0]])
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]]) @ matrix.T + offset
    if (corners >= 0).all() and (corners <= limit).all():
        return np.ones((size, size), bool)
    place = np.arange(size, dtype=np.float32) + 0.5
    inside = np.ones((size, size), bool)
    for row, start, length in zip(matrix, offset, limit, strict=True):
        along = (row[0] * place + start)[None, :] + (row[1] * place)[:, None]
        inside &= (along >= 0) & (along < length)
    return inside


def _near(points: NDArray[np.floating], reach: float, size: int) -> NDArray[np.bool_]:
    """Crop px (size, size) whose centre is at most `reach` from a point."""
    near = np.zeros((size, size), bool)
    for x, y in points:
        x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 1, size)
        y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 1, size)
        if x0 < x1 and y0 < y1:
            across = np.arange(x0, x1) + 0.5 - x
            down = np.arange(y0, y1) + 0.5 - y
            near[y0:y1, x0:x1] |= down[:, None] ** 2 + across**2 <= reach**2
    return near


def _moved(
    field: Field, matrix: NDArray[Any], centre: NDArray[Any], size: int, *, exact: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and sizes of a whole field in crop px.

    Under quarter turns sizes swap and stay exact. Under a free rotation they are the box of the
    turned nucleus where the field has an instance map, and the centre is that box's; without a
    map, a nucleus is taken for an ellipse with the axes of its box. NaN stays NaN.
    """
    inverse = np.linalg.inv(matrix)
    points = (field.points - centre) @ inverse.T + size / 2
    sizes = np.sqrt(field.sizes.astype(np.float64) ** 2 @ (inverse.T**2))
    if exact or field.instances is None or not len(points):
        return points, sizes
    rows, starts, corners = _outlines(field)
    known = np.isfinite(sizes[rows]).all(axis=1)
    turned = (corners - centre) @ inverse.T + size / 2
    low, high = np.minimum.reduceat(turned, starts), np.maximum.reduceat(turned, starts)
    rows, low, high = rows[known], low[known], high[known]
    points[rows], sizes[rows] = (low + high) / 2, high - low
    return points, sizes


_outline_cache: WeakKeyDictionary[Field, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = (
    WeakKeyDictionary()
)


def _outlines(field: Field) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Rows with pixels, the start of each in the list of corners, and the corners (K, 2).

    The left and right ends of every line of pixels have the same hull as the whole nucleus.
    """
    if field not in _outline_cache:
        _outline_cache[field] = _trace(field)
    return _outline_cache[field]


def _trace(field: Field) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    ids = field.instances
    assert ids is not None
    y, x = np.nonzero(ids)
    if not len(y):
        return np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2))
    line = (ids[y, x].astype(np.int64) - 1) * ids.shape[0] + y
    order = np.lexsort((x, line))
    line, x = line[order], x[order]
    first = np.flatnonzero(np.diff(line, prepend=-1))
    last = np.append(first[1:], len(line)) - 1
    rows, top = np.divmod(line[first], ids.shape[0])
    left, right = x[first], x[last] + 1
    corners = np.stack(
        [
            np.stack(pair, axis=1)
            for pair in ((left, top), (right, top), (left, top + 1), (right, top + 1))
        ],
        axis=1,
    ).reshape(-1, 2)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    return rows[starts], starts * 4, corners.astype(np.float64)


# --- colour ----------------------------------------------------------------------------------


def recolour(
    image: NDArray[np.uint8], rng: np.random.Generator, augmentation: Augmentation
) -> NDArray[np.uint8]:
    """The photometric half of `sample_crop`: stain, light, blur, noise, compression."""
    plan = augmentation
    if rng.random() < plan.hed_p:
        image = hed_jitter(image, rng, plan.hed_strength)
    if rng.random() < plan.light_p:
        gain = 1 + rng.uniform(-plan.contrast, plan.contrast)
        image = change_light(image, gain, 255 * rng.uniform(-plan.brightness, plan.brightness))
    if rng.random() < plan.blur_p:
        image = blur(image, rng.uniform(*plan.blur_sigma))
    if rng.random() < plan.noise_p:
        image = add_noise(image, rng, rng.uniform(*plan.noise_std))
    if rng.random() < plan.jpeg_p:
        image = recompress(image, int(rng.integers(plan.jpeg_quality[0], plan.jpeg_quality[1] + 1)))
    return image


@cache
def _density_table() -> NDArray[np.float32]:
    """Optical density of the 256 grey levels."""
    return (-np.log10(np.maximum(np.arange(256), 1) / 255)).astype(np.float32)


def _density(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density as planes (3, H, W)."""
    table = _density_table()
    planes = np.empty((3, *image.shape[:2]), np.float32)
    for k in range(3):
        np.take(table, np.ascontiguousarray(image[..., k]), mode="clip", out=planes[k])
    return planes


def _mix(planes: NDArray[np.float32], matrix: NDArray[np.floating]) -> NDArray[np.float32]:
    """Planes (K, H, W) times `matrix` (K, J), as rows: planes (J, H, W).

    Plain sums of planes, because a threaded matrix product of three columns costs more in waking
    threads than in work, most of all in loader processes that share the cores.
    """
    mixed = np.empty((matrix.shape[1], *planes.shape[1:]), np.float32)
    term = np.empty(planes.shape[1:], np.float32)
    for j, out in enumerate(mixed):
        np.multiply(planes[0], np.float32(matrix[0, j]), out=out)
        for k in range(1, len(planes)):
            np.multiply(planes[k], np.float32(matrix[k, j]), out=term)
            out += term
    return mixed


def _to_rgb(planes: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of density planes, which are overwritten."""
    planes *= np.float32(-math.log(10))
    np.exp(planes, out=planes)
    planes *= np.float32(255)
    planes += np.float32(0.5)
    np.clip(planes, 0, 255, out=planes)
    image = np.empty((*planes.shape[1:], 3), np.uint8)
    for k in range(3):
        image[..., k] = planes[k]
    return image


def hed_jitter(
    image: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """Change the amount of haematoxylin, eosin and the residual, each on its own.

    Every stain's density is multiplied by 1 ± `strength` and shifted by ± 0.15 · `strength`
    (which also tints the background a little), drawn uniformly.
    """
    factor = 1 + rng.uniform(-strength, strength, 3)
    shift = 0.15 * rng.uniform(-strength, strength, 3)
    matrix = (np.linalg.inv(H_E) * factor) @ H_E
    planes = _mix(_density(image), matrix)
    planes += (shift @ H_E).astype(np.float32)[:, None, None]
    return _to_rgb(planes)


def change_light(image: NDArray[np.uint8], gain: float, shift: float) -> NDArray[np.uint8]:
    """``128 + gain · (v - 128) + shift`` for every value."""
    table = np.clip(np.rint(128 + gain * (np.arange(256) - 128) + shift), 0, 255).astype(np.uint8)
    return np.take(table, image)


def blur(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Gaussian blur, px."""
    from scipy import ndimage

    soft = ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), mode="nearest", truncate=2.5
    )
    return np.asarray(soft + 0.5).astype(np.uint8)


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


def recompress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What JPEG of that quality leaves of the image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as picture:
        return np.array(picture)


# --- from H&E to H-DAB -----------------------------------------------------------------------


def restain_to_hdab(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    points: NDArray[np.floating] | None = None,
    instances: NDArray[np.integer] | None = None,
    positive: tuple[float, float] = (0.0, 1.0),
    radius_px: float = 6.0,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An H&E image as if stained with haematoxylin and a nuclear DAB marker.

    Haematoxylin is unmixed and kept, eosin is left as a faint blue-grey counterstain, and a
    random share of the nuclei is painted with DAB of random strength that follows their own
    texture, over a faint unspecific brown.

    Parameters
    ----------
    image : (H, W, 3) uint8
    points : (N, 2), with pixel 0 spanning 0..1
        Nuclei by their centre; they are painted where haematoxylin is dense within about
        `radius_px`.
    instances : (H, W) integer
        Nuclei by their mask, id i + 1 for row i; used instead of `points` where given.
    positive : (float, float)
        Limits of the share of nuclei that become positive.

    Returns
    -------
    image : (H, W, 3) uint8
    positive : (N,) bool
        Which nuclei carry DAB.

    Raises
    ------
    DataError
        Neither points nor instances.
    """
    count = _count_nuclei(points, instances)
    is_positive = np.asarray(rng.random(count) < rng.uniform(*positive))
    usual = rng.uniform(0.45, 1.1)
    strength = np.clip(usual * rng.lognormal(0.0, 0.35, count), 0.25, 1.8)
    strength[~is_positive] = 0.0
    blue, pink = np.maximum(_mix(_density(image), np.linalg.inv(H_E)[:, :2]), 0)
    relative = blue / (np.percentile(blue[::2, ::2], 90) + 1e-3)
    if instances is not None:
        paint = _paint_masks(instances, strength)
    else:
        paint = _paint_points(np.asarray(points), strength, relative, radius_px)
    brown = paint * (0.55 + 0.45 * np.minimum(relative, 1.5))
    brown += rng.uniform(0.0, 0.06) * (1 + pink)
    # DAB hides part of the haematoxylin beneath it.
    blue = blue * rng.uniform(0.45, 0.9) / (1 + 0.8 * paint) + pink * rng.uniform(0.05, 0.25)
    planes = np.stack([blue, brown]).astype(np.float32, copy=False)
    return _to_rgb(_mix(planes, H_DAB[:2])), is_positive


def _count_nuclei(points: Any, instances: Any) -> int:
    if instances is not None:
        return int(instances.max(initial=0))
    if points is not None:
        return len(points)
    raise DataError(
        "There are no nuclei to restain.",
        expected="points or an instance map",
        found="neither",
        remedy="give one of them",
    )


def _paint_masks(
    instances: NDArray[np.integer], strength: NDArray[np.float64]
) -> NDArray[np.float32]:
    from scipy import ndimage

    table = np.concatenate([[0.0], strength]).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(np.take(table, instances), 0.7, truncate=2.5))


def _paint_points(
    points: NDArray[np.floating],
    strength: NDArray[np.float64],
    relative_blue: NDArray[np.floating],
    radius_px: float,
) -> NDArray[np.float32]:
    """Strength of the nearest nucleus, faded out by distance and by lack of haematoxylin."""
    from scipy import ndimage

    height, width = relative_blue.shape
    column = np.clip(points[:, 0].astype(int), 0, width - 1)
    row = np.clip(points[:, 1].astype(int), 0, height - 1)
    mass, painted = np.zeros((2, height, width), np.float32)
    np.add.at(mass, (row, column), 1)
    np.add.at(painted, (row, column), strength)
    sigma = radius_px / 2
    mass = ndimage.gaussian_filter(mass, sigma, mode="constant", truncate=3)
    painted = ndimage.gaussian_filter(painted, sigma, mode="constant", truncate=3)
    edge = math.exp(-2.0) / (2 * math.pi * sigma**2)  # mass of one nucleus at radius_px
    near = mass / (mass + edge)
    dark = 1 / (1 + np.exp(-10 * (relative_blue - 0.45)))
    return np.asarray(painted / np.maximum(mass, 1e-9) * near * dark, np.float32)
