"""Generated slides made worse on purpose, with the truth of what was done.

A slide is read whole, changed in optical density and written again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.stain import H_DAB, optical_density
from napari_celldetr.slides.synthetic import BLOCK_PX, write_pyramid

Rgb = NDArray[np.uint8]
White = tuple[float, float, float]


def rewrite(
    slide: Slide,
    path: str | os.PathLike[str],
    change: Callable[[Rgb], Rgb],
    *,
    compression: str = "deflate",
) -> None:
    """Write what `change` makes of the whole of a small `slide` (h, w, 3) to an OME-TIFF."""
    picture = change(slide.read(slide.region))
    height, width = picture.shape[:2]

    def bands() -> Iterator[Rgb]:
        for top in range(0, height, BLOCK_PX):
            yield picture[top : top + BLOCK_PX]

    mpp = slide.known_mpp()[0]
    write_pyramid(path, bands, size=(width, height), mpp=mpp, compression=compression)


def recoloured(
    rgb: Rgb, vectors: NDArray[np.float64], white: White, *, glass: float = 244.0
) -> Rgb:
    """H-DAB colours of the usual stains on `glass` as other stains (3, 3) in another light."""
    amounts = optical_density(rgb, glass) @ np.linalg.inv(H_DAB)
    light = np.array(white) * np.power(10.0, -(amounts @ vectors))
    return np.asarray(np.clip(np.rint(light), 0, 255), np.uint8)
