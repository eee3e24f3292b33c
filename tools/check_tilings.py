"""Is tiled equal to whole? Six tilings of one 2048² H&E field beside a single pass, same weights.

Usage: python tools/check_tilings.py SLIDE [--x X --y Y --side N] [--halo PX]

Prints, per tile size, the number of cells, its difference from the single pass, the cells without
a partner within 3 µm on either side (faint ones that cross the score threshold), and how many of
those lie in a seam band; plus pairs of cells nearer than the model's own duplicate distance. Exit
status 1 when a count is more than 0.2 % off or a pair is doubled.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
from scipy.spatial import cKDTree

from napari_celldetr import DetectConfig, Region, detect, drain, load_model, open_slide

TILES = (512, 640, 768, 1024, 1280, 1536)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide")
    parser.add_argument("--x", type=int, default=96)
    parser.add_argument("--y", type=int, default=704)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--halo", type=int, default=DetectConfig().halo_px)
    parser.add_argument("--model", default="celldetr-he")
    given = parser.parse_args()
    model = load_model(given.model, device="cpu")
    # A third of a typical nucleus, in slide px: of nearer cells only one may stay.
    near_um = 2.0
    bad = 0
    with open_slide(given.slide) as slide:
        region = Region(given.x, given.y, given.side, given.side)
        found = model.predict(slide.read(region)[None])[0].detections
        whole = found.moved((1, 1), (region.x, region.y)).above(model.card.threshold)
        print(f"single pass: {len(whole)} cells")
        for tile in TILES:
            config = DetectConfig(tile_px=tile, halo_px=given.halo, tissue_only=False)
            with tempfile.TemporaryDirectory() as folder:
                cells = drain(
                    detect(slide, config, predictor=model, region=region, workspace=folder)
                )
            off = 100 * (len(cells) / len(whole) - 1)
            core = tile - 2 * given.halo
            lost = without_partner(whole.centres, cells.centres)
            extra = without_partner(cells.centres, whole.centres)
            seam = sum(int(in_seam(points, core).sum()) for points in (lost, extra))
            doubled = len(cKDTree(cells.centres).query_pairs(0.75 * near_um / slide.mpp[0]))
            print(
                f"tile {tile:5d} (core {core}): {len(cells)} cells ({off:+.3f} %), "
                f"only in the single pass {len(lost)}, only tiled {len(extra)}, "
                f"of these in a seam band {seam}, doubled {doubled}"
            )
            bad += abs(off) > 0.2 or doubled > 0
    return int(bad > 0)


def without_partner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points of `a` with no point of `b` within 6 px."""
    return a[cKDTree(b).query(a)[0] > 6]


def in_seam(points: np.ndarray, core: int) -> np.ndarray:
    """Whether points lie within 8 px of a border between cores."""
    apart = points % core
    return (np.minimum(apart, core - apart) < 8).any(axis=1)


if __name__ == "__main__":
    raise SystemExit(main())
