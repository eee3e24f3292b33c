"""Generated pairs of sections as slides, for the tests of registration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from napari_celldetr.core.transform import SlideTransform
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.synthetic_pair import PairSettings, SectionPair, make_pair

SMALL = PairSettings(size_um=(1800.0, 1500.0), shift_um=120.0)


def small_pair(seed: int, **changes: object) -> SectionPair:
    return make_pair(seed, replace(SMALL, **changes))


def write_pair(pair: SectionPair, folder: Path) -> tuple[Path, Path]:
    paths = folder / "he.png", folder / "ihc.png"
    for path, pixels in zip(paths, (pair.he, pair.ihc), strict=True):
        Image.fromarray(pixels).save(path, compress_level=1)
    return paths


@contextmanager
def opened(pair: SectionPair, folder: Path) -> Iterator[tuple[Slide, Slide]]:
    he, ihc = write_pair(pair, folder)
    with (
        open_slide(he, mpp=pair.mpp[0], probe=False) as first,
        open_slide(ihc, mpp=pair.mpp[1], probe=False) as second,
    ):
        yield first, second


def errors_px(pair: SectionPair, transform: SlideTransform, count: int = 2000) -> np.ndarray:
    """Errors in IHC px at landmarks that both sections have."""
    points = pair.landmarks(count)
    return np.hypot(*(transform.forward(points) - pair.truth.forward(points)).T)


def rtre(pair: SectionPair, transform: SlideTransform) -> float:
    """Median error as a share of the IHC picture's diagonal."""
    return float(np.median(errors_px(pair, transform)) / np.hypot(*pair.ihc.shape[:2]))
