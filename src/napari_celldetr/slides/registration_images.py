"""What registration looks at: how much a slide absorbs in red light, and where its tissue is.

Haematoxylin absorbs red, eosin hardly, DAB in between: in red light nuclei are dark in an H&E and
in an H-DAB section alike, without any stain having to be estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import optical_density
from napari_celldetr.slides.tissue import find_tissue

CLOSE_UM = 24.0
MOST_OD = 1.5
MASK_PX = 1024
"""Longest side of the picture in which tissue is looked for."""
BAND_ROWS = 256
"""Rows that are turned into densities at once."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class DensityImage:
    """A whole slide as a small picture.

    Attributes
    ----------
    density : (h, w) float32
        Optical density in red light above glass, at least 0.
    tissue : (h, w) bool
    step : (x, y)
        µm per px. Pixel (row, column) has its centre at ``(column + 0.5, row + 0.5) · step``.
    """

    density: Floats
    tissue: NDArray[np.bool_]
    step: tuple[float, float]

    @property
    def mpp(self) -> float:
        """µm per px, mean of both axes."""
        return sum(self.step) / 2

    @property
    def extent_um(self) -> tuple[float, float]:
        """Width and height in µm."""
        return self.density.shape[1] * self.step[0], self.density.shape[0] * self.step[1]

    def halved(self) -> DensityImage:
        """The picture at half the resolution; an odd last row or column is repeated."""
        pads = tuple((0, side % 2) for side in self.density.shape)
        density = np.pad(self.density, pads, mode="edge")
        tissue = np.pad(self.tissue, pads, mode="edge")
        height, width = density.shape[0] // 2, density.shape[1] // 2
        shape = (height, 2, width, 2)
        return DensityImage(
            density.reshape(shape).mean(axis=(1, 3)),
            tissue.reshape(shape).mean(axis=(1, 3)) >= 0.5,
            (2 * self.step[0], 2 * self.step[1]),
        )

    def coarser(self, mpp: float) -> DensityImage:
        """The picture at `mpp` µm/px; as it is when it is no finer."""
        image = self
        while image.mpp * 2 <= mpp * 1.001:
            image = image.halved()
        ratio = mpp / image.mpp
        return image if ratio <= 1.001 else image._shrunk(ratio)

    def _shrunk(self, ratio: float) -> DensityImage:
        """The picture with pixels `ratio` (1 to 2) times as large."""
        shape = tuple(max(1, round(side / ratio)) for side in self.density.shape)
        exact = [old / new for old, new in zip(self.density.shape, shape, strict=True)]
        at = np.meshgrid(
            *((np.arange(n) + 0.5) * r - 0.5 for n, r in zip(shape, exact, strict=True)),
            indexing="ij",
        )
        smooth = ndimage.gaussian_filter(self.density, 0.35 * (ratio - 1) + 0.1)
        density = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
        tissue = ndimage.map_coordinates(self.tissue.astype(np.uint8), at, order=0, mode="nearest")
        step = (self.step[0] * exact[1], self.step[1] * exact[0])
        return DensityImage(density, tissue.astype(bool), step)


def density_image(slide: Slide, mpp: float) -> DensityImage:
    """`slide` at about `mpp` µm/px. `SlideError` without a pixel size, or if unreadable."""
    extent = extent_um(slide)
    width, height = (max(1, round(side / mpp)) for side in extent)
    tissue, glass = _tissue(slide, extent)
    rgb = slide.render(slide.region, width, height)
    density = np.empty((height, width), np.float32)
    for top in range(0, height, BAND_ROWS):
        band = optical_density(rgb[top : top + BAND_ROWS], glass)[..., 0]
        density[top : top + BAND_ROWS] = np.clip(band, 0, MOST_OD)
    return DensityImage(
        density, _resized(tissue, (height, width)), (extent[0] / width, extent[1] / height)
    )


def density_of(rgb: NDArray[np.uint8], step: tuple[float, float]) -> DensityImage:
    """A picture (h, w, 3) with `step` (x, y) µm per px."""
    tissue, glass, _ = find_tissue(rgb, close_px=max(2.0, CLOSE_UM / step[0]))
    red = np.clip(optical_density(rgb, glass)[..., 0], 0, MOST_OD)
    return DensityImage(red, tissue, step)


def extent_um(slide: Slide) -> tuple[float, float]:
    """Width and height of a slide in µm. `SlideError` without a pixel size."""
    x, y = slide.known_mpp()
    return slide.size[0] * x, slide.size[1] * y


def _tissue(
    slide: Slide, extent: tuple[float, float]
) -> tuple[NDArray[np.bool_], tuple[float, float, float]]:
    thumbnail = slide.thumbnail(MASK_PX)
    um_per_px = extent[0] / thumbnail.shape[1]
    mask, glass, _ = find_tissue(thumbnail, close_px=max(2.0, CLOSE_UM / um_per_px))
    return mask, glass


def _resized(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    rows = (np.arange(shape[0]) + 0.5) * mask.shape[0] / shape[0]
    columns = (np.arange(shape[1]) + 0.5) * mask.shape[1] / shape[1]
    return mask[rows.astype(np.intp)[:, None], columns.astype(np.intp)]
