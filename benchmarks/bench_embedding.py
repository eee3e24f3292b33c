"""A million embeddings: principal components, lasso, density, likeness; landmark UMAP of many.

    python benchmarks/bench_embedding.py [--cells 1000000] [--umap 200000] [--json OUT]

Each beside the usual tool where that is installed: scikit-learn's PCA (otherwise numpy's full
decomposition), matplotlib's Path, numpy's histogram, umap-learn. The embeddings are made: a
mixture of kinds of cells whose variance falls off along the axes as that of a network's does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.progress import drain
from napari_celldetr.core.space.density import bounds_of, histogram
from napari_celldetr.core.space.lasso import inside_polygon
from napari_celldetr.core.space.pca import Pca, fit_pca
from napari_celldetr.core.space.similar import cosine_distances, nearest_rows

SIZE, KINDS, FACTORS = 256, 12, 48
VERTICES = 500
BINS = (512, 512)
SAMPLE = 3000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--umap", type=int, default=0, help="cells to lay out, e.g. 200000")
    parser.add_argument("--side", default="", help="only layouts whose name holds this word")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{os.cpu_count()} cores{load}, numpy {np.__version__}, float16 × {SIZE}", flush=True)
    found: dict[str, Any] = {"cells": given.cells, "load": load, "numpy": np.__version__}
    if given.cells:
        million(made(given.cells), given.rounds, found)
    if given.umap:
        layouts(made(given.umap, seed=1), found, given.side)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def made(cells: int, *, seed: int = 0) -> NDArray[np.float16]:
    """Embeddings (N, 256): kinds of cells that overlap, on axes of falling variance, and noise."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0][:FACTORS]
    axes *= (1 / np.arange(1, FACTORS + 1) ** 0.7)[:, None]
    middles = 1.6 * rng.standard_normal((KINDS, FACTORS))
    shares = rng.dirichlet(np.full(KINDS, 1.5))
    out = np.empty((cells, SIZE), np.float16)
    for start in range(0, cells, 50_000):
        part = out[start : start + 50_000]
        kind = rng.choice(KINDS, len(part), p=shares)
        factors = middles[kind] + rng.standard_normal((len(part), FACTORS))
        part[:] = factors @ axes + 0.05 * rng.standard_normal((len(part), SIZE))
    return out


def million(vectors: NDArray[np.float16], rounds: int, found: dict[str, Any]) -> None:
    """Everything but UMAP."""

    def timed(name: str, run: Callable[[], Any], times: int = rounds) -> Any:
        walls, works, result = [], [], None
        for _ in range(times):
            wall, work = time.perf_counter(), time.process_time()
            result = run()
            walls.append(time.perf_counter() - wall)
            works.append(time.process_time() - work)
        found[name] = {"wall_s": walls, "cpu_s": works}
        print(
            f"{name:44s} {1000 * statistics.median(walls):9.1f} ms "
            f"[{1000 * min(walls):.1f} .. {1000 * max(walls):.1f}], "
            f"processor time {1000 * statistics.median(works):.1f} ms",
            flush=True,
        )
        return result

    pca: Pca = timed("PCA, all cells: fit", lambda: fit_pca(vectors))
    timed("PCA, a sample of 200,000: fit", lambda: fit_pca(vectors, sample=200_000))
    places = timed("PCA: positions", lambda: pca.project(vectors))
    name, whole = usual_pca(vectors)
    theirs = timed(name, whole, 1)
    agree = np.abs(np.corrcoef(theirs[:, 0], places[:, 0])[0, 1])
    print(f"    first axis: correlation of positions {agree:.6f}")

    angle = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    radius = 0.9 * (1 + 0.3 * np.sin(7 * angle)) * places.std(axis=0).mean()
    line = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None]
    line += np.median(places, axis=0)
    ours = timed(f"lasso of {VERTICES} vertices", lambda: inside_polygon(places, line))
    if importlib.util.find_spec("matplotlib"):
        from matplotlib.path import Path as Outline

        other = timed("  matplotlib Path", lambda: Outline(line).contains_points(places), 3)
        print(f"    {ours.sum():,} inside, {(ours != other).sum()} differ")

    bounds = bounds_of(places)
    x0, y0, x1, y1 = bounds
    counts = timed("density, 512 × 512", lambda: histogram(places, bounds, BINS))
    usual = timed(
        "  numpy histogram2d",
        lambda: np.histogram2d(places[:, 1], places[:, 0], BINS, ((y0, y1), (x0, x1)))[0],
        3,
    )
    print(f"    {int(counts.sum()):,} counted, {int(np.abs(counts - usual).sum() // 2)} differ")

    apart = timed("similar: distances to one cell", lambda: cosine_distances(vectors, vectors[7]))
    timed("similar: the 100 nearest", lambda: nearest_rows(apart, 100))
    timed("similar: a new limit", lambda: apart <= 0.3)

    def plainly() -> Any:
        wide = vectors.astype(np.float32)
        return 1 - wide @ wide[7] / (np.linalg.norm(wide, axis=1) * np.linalg.norm(wide[7]))

    timed("  numpy in one piece", plainly, 3)


def usual_pca(vectors: NDArray[np.float16]) -> tuple[str, Callable[[], Any]]:
    """The other side: a fit and the positions, from float32 that it is given."""
    wide = vectors.astype(np.float32)
    if importlib.util.find_spec("sklearn"):
        from sklearn.decomposition import PCA

        return "  scikit-learn PCA(2)", lambda: PCA(2).fit_transform(wide)

    def full() -> Any:
        centred = wide - wide.mean(axis=0)
        return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T

    return "  numpy, full decomposition", full


def layouts(vectors: NDArray[np.float16], found: dict[str, Any], only: str) -> None:
    """Landmark UMAP and umap-learn on the same embeddings: time and trustworthiness."""
    from napari_celldetr.pipeline.landmark_umap import UmapConfig, landmark_umap, umap_installed

    if not umap_installed():
        print("umap-learn is not installed: no layouts")
        return
    from sklearn.manifold import trustworthiness
    from umap import UMAP

    rows = np.random.default_rng(3).permutation(len(vectors))[:SAMPLE]
    sides = {
        "landmark UMAP, 10,000 landmarks": lambda: drain(landmark_umap(vectors, UmapConfig())),
        "principal components": lambda: fit_pca(vectors).project(vectors),
        "umap-learn, all cells": lambda: UMAP().fit_transform(vectors.astype(np.float32)),
    }
    for name, run in sides.items():
        if only not in name:
            continue
        wall, work = time.perf_counter(), sum(os.times()[:4])
        places = run()
        # The child's processor time is among these once it has ended.
        seconds, worked = time.perf_counter() - wall, sum(os.times()[:4]) - work
        kept = trustworthiness(vectors[rows].astype(np.float32), places[rows], n_neighbors=15)
        figures = {"wall_s": seconds, "cpu_s": worked, "trustworthiness": float(kept)}
        found[name] = {"cells": len(vectors), **figures}
        print(
            f"{name:44s} {seconds:9.1f} s, processor time {worked:.1f} s, "
            f"trustworthiness {kept:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
