"""A million cells in the viewer: how long it takes to open, look around, select, correct, undo.

    xvfb-run -s "-screen 0 1600x1000x24" python benchmarks/bench_review.py [--pictures FOLDER]

Every figure is the longest time for which the window could not react. The other side of the
comparison is the same million points as one napari Points layer.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 100_000
CELLS = 1_000_000
SELECTED = 5_000
MPP = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--plain", action="store_true", help="also as one Points layer")
    given = parser.parse_args()
    os.environ["CELLDETR_PROJECT"] = tempfile.mkdtemp()
    import napari
    import torch  # the viewer's docks load it in real work; its memory belongs to the figure

    print(f"napari {napari.__version__}, torch {torch.__version__}, {platform.processor()}")
    print(f"{os.cpu_count()} cores, {given.cells:,} cells on {SIZE:,} × {SIZE:,} px")
    run(napari.Viewer(show=True), given)


def run(viewer: Any, given: argparse.Namespace) -> None:
    from napari_celldetr.core.annotations import Area
    from napari_celldetr.core.edits import delete, mark, relabel
    from napari_celldetr.gui.overlay import camera_of
    from napari_celldetr.gui.prepared import prepare
    from napari_celldetr.gui.review_dock import ReviewDock
    from napari_celldetr.gui.table_dock import TableDock

    viewer.window._qt_window.resize(1500, 900)
    viewer.add_image(
        pyramid(), rgb=True, multiscale=True, scale=(MPP, MPP), units=("um", "um"),
        axis_labels=("y", "x"), name="generated",
    )  # fmt: skip
    dock = ReviewDock(viewer)
    viewer.window.add_dock_widget(dock, name="Review cells")
    settle()
    camera = camera_of(viewer)
    middle = SIZE * MPP / 2
    places = {"far": 0.03, "mid": 0.9, "near": 6.0}
    # The viewer loads the slide's pixels in the same thread: without cells that is all it does.
    for name, zoom in places.items():
        camera.center, camera.zoom = (middle, middle), zoom
        settle()
        print_pans(f"pan the slide alone, {name}", camera, viewer)
    settle()
    table = cells(given.cells)
    session = dock.session
    memory = rss()
    started = time.perf_counter()
    ready = prepare(table, (SIZE, SIZE), mpp=MPP)
    print(f"prepare outside the GUI thread   {time.perf_counter() - started:8.2f} s")
    session.start_over(table.class_names, ((0, 114, 178), (213, 94, 0), (0, 158, 115)), 0.3)
    report("take over", lambda: session.take(ready, keep=False))
    print(f"memory for the cells             {rss() - memory:8.0f} MB (process {rss():.0f} MB)")
    for name, zoom in places.items():

        def look(zoom: float = zoom) -> None:
            camera.center, camera.zoom = (middle, middle), zoom

        report(f"zoom to {name}", look)
        assert str(session.overlay.level) == name, session.overlay.level
        print_pans(f"pan at {name}", camera, viewer)
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
            path = given.pictures / f"million-{name}.png"
            viewer.screenshot(str(path), canvas_only=False, flash=False)
            settle()
    # Somewhere else and back: only the overlay's own work, not the slide's pixels.
    camera.center = (middle / 2, middle / 2)
    settle()
    camera.center = (middle, middle)
    started = time.perf_counter()
    session.refresh()
    print(f"back to a computed view          {1000 * (time.perf_counter() - started):8.0f} ms")
    camera.zoom = 0.9
    settle()
    x, y = session.cells.centres.T
    rows = np.flatnonzero(session.cells.kept & (np.hypot(x - SIZE / 2, y - SIZE / 2) < 6000))
    rows = rows[:SELECTED]
    report(f"select {len(rows):,}", lambda: session.select(rows))
    report("relabel them", lambda: session.edit(relabel(session.cells, rows, "tumour")))
    report("delete them", lambda: session.edit(delete(session.cells, rows)))
    report("undo", lambda: session.undo())
    report("undo again", lambda: session.undo())
    spread = np.flatnonzero(session.cells.kept)[:: given.cells // SELECTED][:SELECTED]
    words = f"relabel {len(spread):,} all over the slide"
    report(words, lambda: session.edit(relabel(session.cells, spread, "tumour")))
    report("undo", lambda: session.undo())
    side = SIZE * (20_000 / max(int(session.cells.kept.sum()), 1)) ** 0.5 / 2
    low, high = SIZE / 2 - side, SIZE / 2 + side
    area = Area(((low, low), (high, low), (high, high), (low, high)))
    inside = len(session.cells.rows_within(area))
    report(f"mark {inside:,} as complete", lambda: session.edit(mark(session.cells, area)))
    report("undo", lambda: session.undo())
    report("threshold", lambda: session.set_threshold(0.5))
    docks: list[Any] = []

    def open_table() -> None:
        docks.append(TableDock(viewer))
        viewer.window.add_dock_widget(docks[0], name="Cell table", area="bottom")

    report("open the table of all cells", open_table)
    report("sort it by score", lambda: docks[0]._on_heading(1))
    print(f"whole process                    {rss():8.0f} MB")
    if given.plain:
        plain(viewer, table)
    viewer.close()


def plain(viewer: Any, table: Any) -> None:
    """The other side: the same cells as one layer of points."""
    import napari

    points = table.centres[:, ::-1]
    viewer.layers.clear()
    colors = np.array([[0, 0.45, 0.7, 1], [0.84, 0.37, 0, 1], [0, 0.62, 0.45, 1]])
    made: list[Any] = []

    def add() -> None:
        layer = napari.layers.Points(points, size=30, face_color=colors[table.class_ids])
        made.append(viewer.add_layer(layer))

    report("plain Points: add", add)


def report(what: str, call: Callable[[], Any]) -> None:
    """Do it and let the window settle; the longest time for which it did not react."""
    started = time.perf_counter()
    call()
    longest = time.perf_counter() - started
    longest = max(longest, settle())
    print(f"{what:<32} {1000 * longest:8.0f} ms", flush=True)


def print_pans(what: str, camera: Any, viewer: Any) -> None:
    """The longest block of twenty pans, and the usual one."""
    pans = sorted(pan(camera, viewer, share=0.4) for _ in range(20))
    print(f"{what:<32} {1000 * pans[-1]:8.0f} ms  (median {1000 * pans[10]:.0f})", flush=True)


def pan(camera: Any, viewer: Any, *, share: float) -> float:
    """One pan by a share of the view, and the longest block until it has settled."""
    height = viewer.window._qt_window.height()
    step = share * height / camera.zoom
    y, x = camera.center[-2:]
    started = time.perf_counter()
    camera.center = (y, x + step)
    return max(time.perf_counter() - started, settle(0.35))


def settle(seconds: float = 0.6) -> float:
    """Let the event loop run; the longest single turn of it."""
    from qtpy.QtWidgets import QApplication

    until, longest = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < until:
        started = time.perf_counter()
        QApplication.processEvents()
        longest = max(longest, time.perf_counter() - started)
        time.sleep(0.001)
    return longest


def pyramid() -> list[Any]:
    """A lazy slide of a repeated tissue-like texture, levels 4 apart."""
    import dask.array as da

    rng = np.random.default_rng(0)
    texture = np.clip(rng.normal((225, 190, 215), 12, (1024, 1024, 3)), 0, 255).astype(np.uint8)
    levels, side = [], SIZE
    while side >= 256:
        chunks = [1024] * (side // 1024) + ([side % 1024] if side % 1024 else [])
        levels.append(
            da.map_blocks(
                lambda block_info=None: texture[
                    : block_info[None]["chunk-shape"][0], : block_info[None]["chunk-shape"][1]
                ],
                chunks=(tuple(chunks), tuple(chunks), (3,)),
                dtype=np.uint8,
                meta=np.zeros((0, 0, 0), np.uint8),
            )
        )
        side //= 4
    return levels


def cells(count: int) -> Any:
    """Cells anywhere on the slide, in canonical order."""
    from napari_celldetr.core.detections import Detections, Source

    rng = np.random.default_rng(1)
    centres = rng.uniform(50, SIZE - 50, (count, 2))
    half = rng.uniform(10, 20, (count, 2))
    return Detections(
        np.column_stack((centres - half, centres + half)),
        rng.uniform(0.1, 1, count),
        rng.integers(0, 3, count),
        ("lymphocyte", "tumour", "stromal"),
        None,
        {"diameter_um": rng.uniform(5, 10, count).astype(np.float32)},
        Source(slide="generated", slide_id="g", mpp=(MPP, MPP), model="m", weights_sha256="w"),
    ).ordered()


def rss() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()
