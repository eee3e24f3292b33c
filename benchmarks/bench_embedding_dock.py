"""A million cells in the embedding dock: laid out, redrawn, selected, taught, and gone back.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/bench_embedding_dock.py [--cells N]

"longest" is the longest time for which the window did not react, "until" the time from the click
until the last change is painted. The other side of the comparison: the same points handed to one
napari Points layer and recoloured, and the same selection by matplotlib's Path where it is
installed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bench_review import MPP, SIZE, cells, pyramid, rss, settle

CELLS, DEPTH, SAID = 1_000_000, 256, 5_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=CELLS)
    parser.add_argument("--depth", type=int, default=DEPTH)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CELLDETR_PROJECT"] = folder
        run(given.cells, given.depth)


def run(count: int, depth: int) -> None:
    import napari

    from napari_celldetr.core.edits import confirm, relabel
    from napari_celldetr.gui.embedding_dock import EmbeddingDock
    from napari_celldetr.gui.prepared import prepare

    load = os.getloadavg()[0]
    print(f"napari {napari.__version__}, {os.cpu_count()} cores, load {load:.1f}")
    print(f"{count:,} cells, {depth} numbers each")
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1500, 950)
    viewer.add_image(
        pyramid(), rgb=True, multiscale=True, scale=(MPP, MPP), units=("um", "um"),
        axis_labels=("y", "x"), name="generated",
    )  # fmt: skip
    dock = EmbeddingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Embedding")
    session = dock.session
    wait(lambda: session.state != "opening")
    table = embedded(count, depth)
    session.weights = table.source.weights_sha256
    session.start_over(table.class_names, ((0, 114, 178), (213, 94, 0), (0, 158, 115)), 0.0)
    ready = prepare(table, (SIZE, SIZE), mpp=MPP)
    session.take(ready, keep=False)
    dock.plot._place.stop()
    timed("lay out (PCA), to the picture", dock.plot.renew, lambda: dock.plot.placed is not None)
    at_once("redraw", dock.plot.draw)
    at_once("colour by score", lambda: dock.plot.colour_by("score"))
    at_once("colour by class", lambda: dock.plot.colour_by("class"))
    x0, y0, x1, y1 = dock.plot.canvas.bounds
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    of_one_kind = dock.plot.placed.points[np.asarray(table.columns["truth"]) == 0]
    middle, half = of_one_kind.mean(axis=0), np.array([x1 - x0, y1 - y0]) / 6
    ring = middle + half * (1 + 0.3 * np.sin(7 * turn)[:, None]) * np.stack(
        (np.cos(turn), np.sin(turn)), 1
    )
    at_once("lasso, marked here and on the slide", lambda: dock.plot._on_enclosed(ring, False))
    print(f"{'':<38} {len(session.selected):,} cells selected")
    matplotlib_lasso(dock.plot.placed.points, ring)
    at_once("select one on the slide", lambda: session.select(np.array([7])))
    timed("similar cells", dock.similar.find_similar, lambda: dock.similar._apart is not None)
    steps = iter((300, 500, 400))
    at_once("move the distance", lambda: dock.similar.slider.setValue(next(steps)))
    dock.similar.leave()
    rows = np.random.default_rng(2).choice(count, SAID, replace=False)
    truth = np.asarray(table.columns["truth"])[rows]
    for class_id in range(3):
        mine = np.sort(rows[truth == class_id])
        right = session.cells.class_ids[mine] == class_id
        session.edit(confirm(session.cells, mine[right]))
        session.edit(relabel(session.cells, mine[~right], table.class_names[class_id]))
    settle(1.0)
    before = session.cells.class_ids.copy()
    learned: list[Any] = []
    dock.teach.changed.connect(learned.append)
    timed(f"learn from {SAID:,}, all named and painted", dock.teach.learn, lambda: bool(learned))
    print(f"{'':<38} {dock.teach.change.text()}")
    print(f"{'':<38} {dock.teach.verdict.text()}")
    learned.clear()
    timed("go back", lambda: dock.teach.use(""), lambda: bool(learned))
    assert np.array_equal(session.cells.class_ids, before)
    print(f"whole process {rss():,.0f} MB")
    points_layer(viewer, dock.plot.placed.points, session.cells.class_ids)
    viewer.close()


def embedded(count: int, depth: int) -> Any:
    """Cells of three kinds, which the claims name wrongly in one of five cells."""
    from dataclasses import replace

    rng = np.random.default_rng(0)
    plain = cells(count)
    truth = rng.integers(0, 3, count).astype(np.int16)
    middles = rng.normal(size=(3, depth)).astype(np.float32)
    vectors = np.empty((count, depth), np.float16)
    for start in range(0, count, 50_000):
        part = slice(start, start + 50_000)
        noise = rng.standard_normal((len(truth[part]), depth), np.float32)
        vectors[part] = middles[truth[part]] + noise
    wrong = rng.random(count) < 0.2
    claimed = np.where(wrong, (truth + 1) % 3, truth).astype(np.int16)
    p = np.full((count, 3), 0.15, np.float32)
    p[np.arange(count), claimed] = 0.7
    names = plain.class_names
    columns = {f"probability_{name}": p[:, i] for i, name in enumerate(names)}
    columns |= {"class_probability": p.max(axis=1), "truth": truth.astype(np.float32)}
    return replace(
        plain, class_ids=claimed, embeddings=vectors, columns=columns,
        scores=np.ones(count, np.float32),
    )  # fmt: skip


def wait(done: Callable[[], bool], seconds: float = 300.0) -> float:
    """Let the event loop run until something is so; the longest single turn of it."""
    from qtpy.QtWidgets import QApplication

    until, longest = time.perf_counter() + seconds, 0.0
    while not done() and time.perf_counter() < until:
        started = time.perf_counter()
        QApplication.processEvents()
        longest = max(longest, time.perf_counter() - started)
        time.sleep(0.001)
    assert done(), "it took too long"
    return longest


def timed(what: str, start: Callable[[], Any], done: Callable[[], bool]) -> None:
    """From the click until it is painted, and the longest block of the window."""
    from qtpy.QtWidgets import QApplication

    began = time.perf_counter()
    start()
    longest = max(time.perf_counter() - began, wait(done))
    QApplication.processEvents()
    until = time.perf_counter() - began
    print(f"{what:<38} until {1000 * until:7.0f} ms, longest {1000 * longest:6.0f} ms", flush=True)
    settle(1.0)


def at_once(what: str, call: Callable[[], Any]) -> None:
    """Three times; the middle one of the longest blocks, and of the call alone."""
    alone, whole = [], []
    for _ in range(3):
        began = time.perf_counter()
        call()
        alone.append(time.perf_counter() - began)
        whole.append(max(alone[-1], settle(0.4)))
    call_ms, block_ms = (1000 * sorted(times)[1] for times in (alone, whole))
    print(f"{what:<38} call  {call_ms:7.0f} ms, longest {block_ms:6.0f} ms", flush=True)


def matplotlib_lasso(points: Any, ring: Any) -> None:
    """The other side of the lasso."""
    try:
        from matplotlib.path import Path
    except ImportError:
        print(f"{'lasso by matplotlib':<38} not installed")
        return
    began = time.perf_counter()
    Path(ring).contains_points(points)
    took = 1000 * (time.perf_counter() - began)
    print(f"{'lasso by matplotlib, without drawing':<38} call  {took:7.0f} ms")


def points_layer(viewer: Any, points: Any, class_ids: Any) -> None:
    """The other side of the plot: the same points as a layer."""
    import napari

    colors = np.array([[0, 0.45, 0.7, 1], [0.84, 0.37, 0, 1], [0, 0.62, 0.45, 1]])
    viewer.layers.clear()
    made: list[Any] = []

    def add() -> None:
        made.append(napari.layers.Points(points, size=0.1, face_color=colors[class_ids]))
        viewer.add_layer(made[-1])

    began = time.perf_counter()
    add()
    print(f"{'plain Points layer: add':<38} call  {1000 * (time.perf_counter() - began):7.0f} ms")
    began = time.perf_counter()
    made[0].face_color = colors[(class_ids + 1) % 3]
    print(
        f"{'plain Points layer: recolour':<38} call  {1000 * (time.perf_counter() - began):7.0f} ms"
    )


if __name__ == "__main__":
    main()
