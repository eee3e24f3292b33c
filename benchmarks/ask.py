"""Clicks answered by the detector: the first one somewhere against the next one nearby.

Usage: python benchmarks/ask.py [SLIDE ...] [--clicks N] [--model NAME]
Without a slide an H&E slide of 0.25 µm/px is drawn first. Three kinds of click are timed, each at
places no other click has touched: one on a tile that must be read, one in a new window of a tile
that is known, and a second one in the same window. With 2 threads and with 1. Before that, answers
of kept windows are compared with fresh ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _turns import print_machine

from napari_celldetr import load_model, open_slide
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.pipeline.ask import Asker
from napari_celldetr.slides.slide import Slide
from napari_celldetr.slides.synthetic import make_he_slide

KINDS = ("first click on a tile", "new window of a known tile", "second click in a window")
WARM_UP = 2


def places_of(slide: Slide, model: Predictor, count: int) -> np.ndarray:
    """Up to `count` points (N, 2), each on a tile of its own, with room for a second window."""
    assert slide.mpp is not None
    step = round(832 * model.card.mpp / slide.mpp[0])
    chance = np.random.default_rng(0)
    grid = np.mgrid[0 : slide.size[1] : step, 0 : slide.size[0] : step].reshape(2, -1).T[:, ::-1]
    points = chance.permutation(grid) + step * chance.uniform(0.1, 0.4, (len(grid), 2))
    return points[(points + step / 2 < slide.size).all(axis=1)][:count]


def seconds(asker: Asker, point: np.ndarray) -> float:
    """How long one click takes."""
    start = time.perf_counter()
    asker.ask(point[None])
    return time.perf_counter() - start


def clicks(slide: Slide, model: Predictor, points: np.ndarray) -> dict[str, list[float]]:
    """Milliseconds of each kind of click."""
    assert slide.mpp is not None
    um = 1 / slide.mpp[0]
    asker = Asker(slide, model)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number, point in enumerate(points):
        turns = (point, point + 100 * um, point + 101 * um)
        for kind, place in zip(KINDS, turns, strict=True):
            taken = 1000 * seconds(asker, place)
            if number >= WARM_UP:
                times[kind].append(taken)
    return times


def check(slide: Slide, model: Predictor, points: np.ndarray) -> None:
    """A kept window must answer as a fresh one does."""
    asker = Asker(slide, model)
    asker.ask(points[:4])
    kept, fresh = asker.ask(points[:4]), Asker(slide, model).ask(points[:4])
    assert np.allclose(kept.boxes, fresh.boxes, atol=1e-3), "kept windows answer otherwise"


def compare(path: Path, name: str, count: int) -> None:
    """Check and time clicks on one slide."""
    with open_slide(path) as slide:
        model = load_model(name, device="cpu")
        points = places_of(slide, model, count + WARM_UP)
        if len(points) <= WARM_UP:
            print(f"\n{slide.name} is too small: {len(points)} tiles")
            return
        check(slide, model, points)
        print(f"\n{slide.name}: {slide.mpp[0]:.4g} µm/px, {name} at {model.card.mpp:g} µm/px")
        for threads in (2, 1):
            torch.set_num_threads(threads)
            for kind, values in clicks(slide, model, points).items():
                middle, most = np.median(values), np.quantile(values, 0.9)
                print(
                    f"  {threads} thread(s), {kind:27s} median {middle:6.0f} ms, "
                    f"nine of ten within {most:6.0f} ms  ({len(values)} clicks)"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slides", nargs="*", type=Path)
    parser.add_argument("--clicks", type=int, default=30)
    parser.add_argument("--model", default="celldetr-he")
    options = parser.parse_args()
    print_machine("float32")
    print("target: well under a second")
    with tempfile.TemporaryDirectory() as folder:
        paths = options.slides
        if not paths:
            paths = [Path(folder) / "drawn.ome.tif"]
            make_he_slide(paths[0], size=(12288, 10240), mpp=0.25, seed=1)
        for path in paths:
            compare(path, options.model, options.clicks)


if __name__ == "__main__":
    main()
