"""Work for child processes that tests kill: runs and exports with nothing left to chance."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from fakes import FakePredictor, FakeSlide, Faults, cell_field

from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.pipeline import ledger
from napari_celldetr.pipeline.detect import detect
from napari_celldetr.pipeline.export import export

SIZE = (2000, 1900)
TILES = 110
CONFIG = DetectConfig(tile_px=256, halo_px=32, tissue_only=False)


class Counting(FakePredictor):
    """Appends a byte to a file per tile it is asked for; kills cannot lose it."""

    path = ""

    def predict(self, tiles):
        handle = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        os.write(handle, b"." * len(tiles))
        os.close(handle)
        return super().predict(tiles)


PRELOAD = [
    "napari_celldetr.nets.card",
    "napari_celldetr.pipeline.detect",
    "napari_celldetr.pipeline.export",
    "napari_celldetr.pipeline.parquet",
    "napari_celldetr.pipeline.export_check",
    "anndata",
    "scipy.ndimage",
    "zarr",
]
"""What a fork server imports once for all its children (installed modules only: it does not
get the test run's import path)."""


def start_method() -> str:
    """Forking from a clean server where there is one; never from the test run itself."""
    return "spawn" if sys.platform == "win32" else "forkserver"


def processes():
    """A context whose children start in milliseconds, where the system can."""
    context = multiprocessing.get_context(start_method())
    if start_method() == "forkserver":
        context.set_forkserver_preload(PRELOAD)
    return context


def fixed_code() -> str:
    """One code version for parent and child, even where somebody edits the source meanwhile."""
    return "test"


def make_slide() -> FakeSlide:
    return FakeSlide(cell_field(SIZE, seed=3))


def make_job(workspace: str, count_file: str, slide: FakeSlide):
    model = Counting(faults=Faults(seconds=0.002))
    model.path = count_file
    return detect(slide, CONFIG, predictor=model, workspace=workspace)


def run_job(pixels_file: str, workspace: str, count_file: str) -> None:
    """Run to the end, or until somebody kills us; says when it has begun."""
    ledger.code_version = fixed_code
    job = make_job(workspace, count_file, FakeSlide(np.load(pixels_file)))
    for _ in job:
        Path(count_file + ".begun").touch()


def table(count: int, seed: int, scale: float = 1.0) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50_000 * scale, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(4, 40, (count, 2))], axis=1)
    return Detections(
        boxes,
        rng.random(count),
        rng.integers(-1, 2, count),
        ("a", "b"),
        None,
        {"dab_od_mean": rng.random(count).astype(np.float32)},
        Source(slide="s", mpp=(0.5, 0.5)),
    ).ordered()


def keep_exporting(path: str, count: int, scale: float = 1.0) -> None:
    """Write two different tables to the same name, again and again, until killed."""
    tables = [table(count, seed, scale) for seed in (1, 2)]
    for turn in range(10_000):
        export(tables[turn % 2], path)
        time.sleep(0.001)
