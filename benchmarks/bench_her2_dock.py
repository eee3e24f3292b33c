"""How long the HER2 dock takes to follow the view and the cut-offs, on a 1080p view at 0.25 µm/px.

    xvfb-run -a -s "-screen 0 2800x1300x24" python benchmarks/bench_her2_dock.py [--side 9000]

Times are from the last movement of the camera to figures and layers, and to a painted window; the
session waits 150 ms of that to see whether the view rests. The other side of the comparison is the
same view of the slide alone. Processor time of the window's thread stands beside the wall clock,
which a busy machine stretches.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

MOVES = 12
ZOOMS = (4.0, 2.0, 1.0, 0.4)
"""Screen px per µm: 4 is a screen pixel for each of the slide's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=9000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CELLDETR_PROJECT"] = folder
        run(Path(folder) / "her2.ome.tif", given.side)


def run(path: Path, side: int) -> None:
    import napari
    from napari.layers import Layer

    from napari_celldetr.gui.her2_dock import Her2Dock
    from napari_celldetr.gui.layers import slide_layer
    from napari_celldetr.gui.overlay import canvas_size_of
    from napari_celldetr.slides.readers import open_slide

    state = measured(path, side)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1920 + 760, 1080 + 120)
    viewer.add_layer(Layer.create(*slide_layer(open_slide(path, probe=False))))
    dock = Her2Dock(viewer)
    viewer.window.add_dock_widget(dock, name="HER2", area="right")
    settle(1.0)
    size = canvas_size_of(viewer)
    print(f"{len(state):,} cells, canvas {size[1]} × {size[0]}, {os.cpu_count()} cores, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}")
    alone = {zoom: moved(viewer, dock, zoom) for zoom in ZOOMS}
    dock.where.ask = lambda _: True
    dock.take(state)
    dock.where.choose("all")
    settle(1.0)
    print("median (longest) ms:        figures       painted    thread   slide alone     thread")
    for zoom in ZOOMS:
        figures, wall, thread = moved(viewer, dock, zoom)
        assert dock.layers is not None
        kind = "outlines" if dock.layers.layer("outlines").visible else "map"
        print(
            f"{1 / zoom:5.2f} µm/px, {kind:<10} {spread(figures)} {spread(wall)} "
            f"{statistics.median(thread):8.0f}   {spread(alone[zoom][1])} "
            f"{statistics.median(alone[zoom][2]):7.0f}"
        )
    sliders(dock)
    viewer.close()


def measured(path: Path, side: int) -> Any:
    """A generated slide, measured with its true nuclei."""
    from napari_celldetr.core.her2 import Pattern
    from napari_celldetr.core.progress import drain
    from napari_celldetr.gui.her2_state import Her2State
    from napari_celldetr.pipeline.her2.measure import measure_cells
    from napari_celldetr.pipeline.her2.reading import Her2Reading
    from napari_celldetr.slides.readers import open_slide
    from napari_celldetr.slides.synthetic_her2 import make_her2_slide

    mix = {
        Pattern.COMPLETE_INTENSE: 0.08,
        Pattern.COMPLETE_WEAK_MODERATE: 0.2,
        Pattern.FAINT_INCOMPLETE: 0.25,
        Pattern.STRONG_INCOMPLETE: 0.05,
    }
    truth = make_her2_slide(path, mix, size=(side, side), seed=3)
    with open_slide(path, probe=False) as slide:
        cells = drain(measure_cells(slide, truth.cells))
    return Her2State(Her2Reading(cells, np.zeros(len(truth.cells), np.int8), 0.25))


def moved(viewer: Any, dock: Any, zoom: float) -> tuple[list[float], list[float], list[float]]:
    """Wall ms from a movement to figures and layers, and to the painted window; thread ms."""
    from napari_celldetr.gui.overlay import camera_of

    camera, session = camera_of(viewer), dock.session
    rng = np.random.default_rng(0)
    middle = session.size[0] * 0.25 / 2
    camera.zoom = zoom
    settle(0.6)
    told_ms, wall, thread = [], [], []
    rested: list[float] = []
    see = rested.append
    for _ in range(MOVES):
        rested.clear()
        camera.center = (0.0, *(middle + rng.uniform(-0.2, 0.2, 2) * middle))
        started, busy = time.perf_counter(), time.thread_time()
        # Connected last, it is called after the dock.
        told = session.view_changed.connect(lambda: see(time.perf_counter()))
        while not rested:
            turn()
        turn()
        session.view_changed.disconnect(told)
        told_ms.append(1000 * (rested[0] - started))
        wall.append(1000 * (time.perf_counter() - started))
        thread.append(1000 * (time.thread_time() - busy))
    return told_ms, wall, thread


def sliders(dock: Any) -> None:
    """All that follows a cut-off, after the slider has rested for 50 ms."""
    from napari_celldetr.core.her2 import Cutoffs

    def use(**values: float) -> Callable[[], None]:
        def call() -> None:
            dock.body.cutoffs.use(replace(Cutoffs(), **values))
            dock._rejudge.stop()
            dock._judge()

        return call

    for name, start in (("intense", 0.5), ("complete", 0.6), ("weak", 0.08)):
        wall, thread = [], []
        for k in range(MOVES):
            call = use(**{name: round(start + 0.01 * k, 3)})
            started, busy = time.perf_counter(), time.thread_time()
            call()
            wall.append(1000 * (time.perf_counter() - started))
            thread.append(1000 * (time.thread_time() - busy))
        print(f"cut-off {name:<13} {spread(wall)} {'':>13} {statistics.median(thread):8.0f}")


def spread(times: list[float]) -> str:
    """Median and longest."""
    return f"{statistics.median(times):6.0f} ({max(times):4.0f})"


def turn() -> None:
    from qtpy.QtWidgets import QApplication

    QApplication.processEvents()
    time.sleep(0.001)


def settle(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        turn()


if __name__ == "__main__":
    main()
