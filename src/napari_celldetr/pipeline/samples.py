"""Generated slides for trying things out: a HER2 slide with its tumour, and a pair to align.

The same bytes each time, in the viewer and on the command line. The pair's pixels are too coarse
for cells: it can be aligned, and its IHC never scored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from napari_celldetr.core.her2 import Pattern
from napari_celldetr.pipeline.atomic import not_written, replacing
from napari_celldetr.slides.synthetic import BLOCK_PX, write_pyramid
from napari_celldetr.slides.synthetic_her2 import Her2Slide, make_her2_slide
from napari_celldetr.slides.synthetic_pair import PairSettings, make_pair

HER2_SIZE = (2048, 2048)
HER2_SEED = 3
HER2_MIX = {
    Pattern.COMPLETE_INTENSE: 0.08,
    Pattern.COMPLETE_WEAK_MODERATE: 0.22,
    Pattern.FAINT_INCOMPLETE: 0.25,
    Pattern.STRONG_INCOMPLETE: 0.05,
}
"""Of everything something: 2+ by the guideline, not far from 3+."""
HER2_FILES = ("generated-her2.ome.tif", "generated-her2-tumour.geojson")
PAIR_SEED = 11
PAIR_SIZE_UM = (2400.0, 2000.0)
PAIR_MPP = (1.5, 1.6)
PAIR_TURN_DEG = 140.0
PAIR_FILES = ("generated-pair-HE.ome.tif", "generated-pair-IHC.ome.tif")


def write_her2(path: Path) -> Her2Slide:
    """Write the HER2 slide as OME-TIFF; its cells and tumour are known."""
    return make_her2_slide(path, HER2_MIX, size=HER2_SIZE, seed=HER2_SEED)


def write_pair(folder: Path) -> tuple[Path, Path]:
    """Write two sections of one tissue into a folder, the IHC mirrored, turned and stretched.

    `ExportError` when that is not possible.
    """
    settings = PairSettings(
        size_um=PAIR_SIZE_UM, mpp=PAIR_MPP, angle_deg=PAIR_TURN_DEG, flip=True, scale=1.02
    )
    pair = make_pair(PAIR_SEED, settings)
    paths = folder / PAIR_FILES[0], folder / PAIR_FILES[1]
    for path, pixels, mpp in zip(paths, (pair.he, pair.ihc), pair.mpp, strict=True):
        height, width = pixels.shape[:2]
        bands = [pixels[y : y + BLOCK_PX] for y in range(0, height, BLOCK_PX)]
        with _written(), replacing(path) as fresh:
            write_pyramid(fresh, lambda b=bands: iter(b), size=(width, height), mpp=mpp)  # type: ignore[misc]
    return paths


def write_her2_folder(folder: Path) -> tuple[Path, Path]:
    """Write the HER2 slide and its tumour's outline, GeoJSON in level-0 px, into a folder.

    `ExportError` when that is not possible.
    """
    slide, outline = folder / HER2_FILES[0], folder / HER2_FILES[1]
    with _written(), replacing(slide) as fresh:
        truth = write_her2(fresh)
    with _written(), replacing(outline) as fresh:
        fresh.write_text(_geojson(truth), encoding="utf-8")
    return slide, outline


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise not_written("The sample", error) from error


def _geojson(truth: Her2Slide) -> str:
    ring = [[float(x), float(y)] for x, y in truth.tumour]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": {"classification": {"name": "Tumor"}},
    }
    return json.dumps({"type": "FeatureCollection", "features": [feature]})
