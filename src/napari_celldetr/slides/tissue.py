"""Where there is tissue, at thumbnail scale. Generous: a tile left out is never looked at.

A pixel is tissue when it absorbs light or is coloured more than the glass around it. Otsu's
threshold finds the border between glass and tissue, but only within bounds: a blank slide, a
field full of tissue and a pale stain each mislead it in their own way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import optical_density

THUMBNAIL_UM_PER_PX = 8.0
SMALLEST_SIDE, LARGEST_SIDE = 1024, 3072
LOWEST_OD, HIGHEST_OD = 0.02, 0.05
"""Bounds of the threshold, in optical density above glass."""
BLACK = 12
"""Never-scanned areas are at most this bright in every channel; dark ink and tissue are not."""
GLASS_LOWEST = 160
CLOSE_UM = 32.0
"""Gaps up to twice this, between cells or in pale stroma, belong to the tissue."""
USUAL_MPP = 0.5
GROW_UM = 32.0
GROW_PX = 2


@dataclass(frozen=True, eq=False)
class TissueMask:
    """A mask (h, w) bool over a slide whose every pixel is `scale` (x, y) level-0 px.

    `threshold` is the optical density from which on a pixel counts, above glass of colour
    `glass`; `mpp` is the slide's.
    """

    array: NDArray[np.bool_]
    scale: tuple[float, float]
    glass: tuple[float, float, float]
    threshold: float
    mpp: tuple[float, float] | None = None

    @property
    def downsample(self) -> float:
        """Level-0 px per mask pixel, mean of both axes."""
        return sum(self.scale) / 2

    @property
    def area_px(self) -> float:
        """Tissue area in level-0 px²."""
        return float(self.array.sum()) * self.scale[0] * self.scale[1]

    @property
    def area_um2(self) -> float | None:
        """Tissue area in µm², None without a pixel size."""
        return None if self.mpp is None else self.area_px * self.mpp[0] * self.mpp[1]

    def covers(self, region: Region) -> bool:
        """Whether any tissue lies in `region` grown by a margin (32 µm, at least 2 mask px)."""
        margin = GROW_PX * max(self.scale)
        if self.mpp is not None:
            margin = max(margin, GROW_UM / min(self.mpp))
        return bool(self._window(region.grow(int(np.ceil(margin)))).any())

    def fraction(self, region: Region) -> float:
        """Share of `region` that is tissue, 0..1; what lies outside the slide is not."""
        window = self._window(region)
        cells = max(region.area / (self.scale[0] * self.scale[1]), window.size, 1)
        return float(window.sum() / cells)

    def _window(self, region: Region) -> NDArray[np.bool_]:
        """The mask pixels a region touches."""
        height, width = self.array.shape
        x0 = min(max(int(np.floor(region.x / self.scale[0])), 0), width)
        y0 = min(max(int(np.floor(region.y / self.scale[1])), 0), height)
        x1 = min(max(int(np.ceil(region.x1 / self.scale[0])), x0), width)
        y1 = min(max(int(np.ceil(region.y1 / self.scale[1])), y0), height)
        return self.array[y0:y1, x0:x1]


def tissue_mask(slide: Slide) -> TissueMask:
    """The tissue of a slide, from a thumbnail of about 8 µm/px. `SlideError` if unreadable."""
    width, height = slide.size
    longest = max(width, height)
    wanted = longest * max(slide.mpp) / THUMBNAIL_UM_PER_PX if slide.mpp else 0
    thumbnail = slide.thumbnail(int(np.clip(wanted, SMALLEST_SIDE, LARGEST_SIDE)))
    um_per_px = width / thumbnail.shape[1] * (max(slide.mpp) if slide.mpp else USUAL_MPP)
    array, glass, threshold = find_tissue(thumbnail, close_px=max(2.0, CLOSE_UM / um_per_px))
    scale = (width / array.shape[1], height / array.shape[0])
    return TissueMask(array, scale, glass, threshold, slide.mpp)


def find_tissue(
    rgb: NDArray[np.uint8], *, close_px: float = 4.0
) -> tuple[NDArray[np.bool_], tuple[float, float, float], float]:
    """Mask (h, w), glass colour and threshold of a thumbnail (h, w, 3).

    Gaps narrower than ``2 · close_px`` are closed.
    """
    scanned = _scanned(rgb)
    glass = _glass(rgb[scanned])
    # The strongest channel sees a pale blue counterstain as well as a faint pink one.
    density = ndimage.gaussian_filter(_above_glass(rgb, glass), 1.0)
    threshold = _threshold(density[scanned])
    mask = (density > threshold) & scanned & ~_green_ink(rgb)
    return _closed(_without_specks(mask), close_px), glass, threshold


def _scanned(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """False in large black areas; single dark pixels are tissue or dirt."""
    black = ndimage.binary_opening(rgb.max(axis=2) <= BLACK, iterations=2, border_value=0)
    return ~ndimage.binary_dilation(black, iterations=3, mask=rgb.max(axis=2) <= 64)


def _glass(pixels: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Colour of light through glass: the commonest bright, colourless grey, else white."""
    if not len(pixels):
        return 255.0, 255.0, 255.0
    low, high = pixels.min(axis=1), pixels.max(axis=1)
    plain = pixels[(low >= GLASS_LOWEST) & (high - low <= 14)]
    if len(plain) < max(50, len(pixels) // 500):
        # No glass in sight: full light is the one safe guess, so that pale tissue stays in.
        return 255.0, 255.0, 255.0
    grey = plain.mean(axis=1).astype(np.int64)
    tally = np.convolve(np.bincount(grey, minlength=256), np.ones(5), mode="same")
    peak = int(tally.argmax())
    near = plain[np.abs(grey - peak) <= 4]
    colour = np.median(near, axis=0)
    return float(colour[0]), float(colour[1]), float(colour[2])


def _above_glass(rgb: NDArray[np.uint8], glass: tuple[float, float, float]) -> NDArray[np.float32]:
    """Optical density (h, w) against glass, strongest channel, plus what colour adds."""
    density = np.maximum(optical_density(rgb, glass), 0)
    return np.asarray(density.max(axis=2), np.float32)


def _threshold(density: NDArray[np.float32]) -> float:
    if density.size < 2 or density.max() - density.min() < LOWEST_OD:
        return HIGHEST_OD if density.size and density.max() < HIGHEST_OD else LOWEST_OD
    return float(np.clip(_otsu(np.minimum(density, 0.5)), LOWEST_OD, HIGHEST_OD))


def _otsu(values: NDArray[np.float32]) -> float:
    """The value that parts `values` into two classes with the least variance inside them."""
    tally, edges = np.histogram(values, bins=256)
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(tally)[:-1]
    above = values.size - below
    mass = np.cumsum(tally * middle)
    gap = mass[:-1] / np.maximum(below, 1) - (mass[-1] - mass[:-1]) / np.maximum(above, 1)
    return float(middle[:-1][np.argmax(below * above * gap**2)])


def _green_ink(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Green pen: no stain in use transmits green best."""
    r, g, b = (rgb[..., c].astype(np.int16) for c in range(3))
    return np.asarray((g > r + 25) & (g > b + 15))


def _without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without single pixels of noise."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        return mask
    sizes = np.bincount(labels.ravel())
    keep = sizes >= 4
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _closed(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Morphological closing with a disc; the picture's edge counts as a mirror."""
    margin = int(np.ceil(radius)) + 1
    padded = np.pad(mask, margin, mode="symmetric")
    if not padded.any():
        return mask
    grown = ndimage.distance_transform_edt(~padded) <= radius
    if grown.all():
        return np.ones_like(mask)
    shrunk = ndimage.distance_transform_edt(grown) > radius
    inner = shrunk[margin:-margin, margin:-margin]
    return np.asarray(inner | mask, np.bool_)
