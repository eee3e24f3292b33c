"""Region reads: `Slide.read` against openslide-python, one thread, the same file, one process.

Usage: python benchmarks/bench_read.py [SLIDE ...]
Without arguments a JPEG-tiled TIFF is made first. Both sides read the same 1024² regions in
turns, so that a busy machine slows both; pixels are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import tifffile

from napari_celldetr.core.regions import Region
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import make_he_slide

SIDE = 1024
REGIONS = 24
ROUNDS = 7
OFFSET = 100


def make_tiff(folder: Path) -> Path:
    """A plain JPEG-tiled TIFF (4:2:0, quality 90), which both sides read."""
    made, plain = folder / "made.ome.tif", folder / "jpeg_tiled.tif"
    make_he_slide(made, size=(6144, 6144), seed=1)
    with open_slide(made) as slide:
        pixels = slide.read(slide.region)
    options = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 90}}
    tifffile.imwrite(plain, pixels, photometric="rgb", subsampling=(2, 2), **options)
    return plain


def timed(read: Callable[[Region], object], regions: list[Region]) -> float:
    """Mpx per second."""
    start = time.perf_counter()
    for region in regions:
        read(region)
    return SIDE * SIDE * len(regions) / (time.perf_counter() - start) / 1e6


def regions_of(size: tuple[int, int]) -> list[Region]:
    """Regions that do not overlap, off the tile grid, in random order: no side gains by caching."""
    chance = np.random.default_rng(0)
    places = [
        Region(x, y, SIDE, SIDE)
        for y in range(OFFSET, size[1] - SIDE, SIDE)
        for x in range(OFFSET, size[0] - SIDE, SIDE)
    ]
    return [places[i] for i in chance.permutation(len(places))[:REGIONS]]


def ours(path: Path, regions: list[Region]) -> float:
    with open_slide(path) as slide:
        return timed(slide.read, regions)


def theirs(path: Path, regions: list[Region]) -> float:
    with openslide.OpenSlide(path) as slide:
        return timed(lambda r: read_theirs(slide, r), regions)


def read_theirs(slide: openslide.OpenSlide, region: Region) -> np.ndarray:
    return np.asarray(slide.read_region((region.x, region.y), 0, (SIDE, SIDE)))[..., :3]


def compare(path: Path) -> None:
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        regions = regions_of(slide.size)
        worst = max(
            int(np.abs(slide.read(r).astype(int) - read_theirs(reference, r)).max())
            for r in regions[:6]
        )
    # A new handle every round: nothing decoded in one round is there in the next.
    pairs = [(ours(path, regions), theirs(path, regions)) for _ in range(ROUNDS)]
    print(f"\n{path.name}: {len(regions)} regions of {SIDE}², {ROUNDS} rounds")
    print(f"  largest pixel difference {worst}")
    for name, values in zip(("celldetr", "openslide"), zip(*pairs, strict=True), strict=True):
        middle = statistics.median(values)
        print(f"  {name:10s} {middle:7.1f} Mpx/s  (range {min(values):.1f}–{max(values):.1f})")
    ratios = [a / b for a, b in pairs]
    print(f"  ratio      {statistics.median(ratios):.2f}×  ({min(ratios):.2f}–{max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="*", type=Path)
    given = parser.parse_args().slides
    print(f"{platform.processor() or platform.machine()}, {platform.system()}, one thread, uint8")
    print(
        f"python {platform.python_version()}, imagecodecs {imagecodecs.__version__}, "
        f"openslide {openslide.__library_version__}, openslide-python {openslide.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for path in given or [make_tiff(Path(folder))]:
            compare(path)


if __name__ == "__main__":
    main()
