"""Region reads: `Slide.read` against openslide-python, one thread, the same file, one process.

Usage: python benchmarks/bench_read.py [SLIDE ...]
Without arguments a JPEG-tiled TIFF is made first. Both sides read the same random 1024² regions
in turns, so that a busy machine slows both; pixels are compared before anything is timed.
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


def compare(path: Path) -> None:
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:

        def theirs(region: Region) -> np.ndarray:
            picture = reference.read_region((region.x, region.y), 0, (SIDE, SIDE))
            return np.asarray(picture)[..., :3]

        chance = np.random.default_rng(0)
        high = np.array(slide.size) - SIDE
        corners = chance.integers(0, high, (REGIONS, 2))
        regions = [Region(int(x), int(y), SIDE, SIDE) for x, y in corners]
        worst = max(int(np.abs(slide.read(r).astype(int) - theirs(r)).max()) for r in regions[:6])
        speeds: dict[str, list[float]] = {"celldetr": [], "openslide": []}
        for _ in range(ROUNDS):
            speeds["celldetr"].append(timed(slide.read, regions))
            speeds["openslide"].append(timed(theirs, regions))
    print(
        f"\n{path.name}: {REGIONS} regions of {SIDE}², {ROUNDS} rounds, largest difference {worst}"
    )
    for name, values in speeds.items():
        middle = statistics.median(values)
        print(f"  {name:10s} {middle:7.1f} Mpx/s  (range {min(values):.1f}–{max(values):.1f})")
    pairs = zip(speeds["celldetr"], speeds["openslide"], strict=True)
    ratios = [ours / their for ours, their in pairs]
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
