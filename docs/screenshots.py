"""Make the README's pictures of the docks on a real slide, without a screen.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/screenshots.py SLIDE [FOLDER] [MODEL]
    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/screenshots.py her2 [FOLDER]

SLIDE is any slide the viewer opens (the README's are of OpenSlide's CMU-1-Small-Region.svs, CC0).
With `align` in place of SLIDE: the pictures of *Align slides*, on generated sections.
With `her2`: those of *HER2*, on a generated slide. With `embedding`: those of *Embedding*, a
sequence from a lasso to a lesson and back, on a generated slide.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.layers import Layer
from PIL import Image
from qtpy.QtWidgets import QApplication

from napari_celldetr.core.annotations import Status
from napari_celldetr.core.edits import confirm
from napari_celldetr.gui.align_dock import AlignDock
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.contributions import sample_he, sample_her2, sample_pair
from napari_celldetr.gui.detect_dock import DetectDock
from napari_celldetr.gui.embedding_dock import EmbeddingDock
from napari_celldetr.gui.her2_body import WHOLE
from napari_celldetr.gui.her2_dock import Her2Dock
from napari_celldetr.gui.her2_layers import Show
from napari_celldetr.gui.her2_tumour import LAYER_KEY
from napari_celldetr.gui.review_dock import ReviewDock
from napari_celldetr.gui.tool_kinds import Tool
from napari_celldetr.pipeline.her2.palette import NOT_COUNTED, SCORE_COLORS

WIDTH, HEIGHT = 1400, 860
LONGEST_RUN_S = 900
MAX_BYTES = 600_000
NEAR_ZOOM = 5.0
LIVELY_PX = 600
HER2_ZOOM = 3.0
MAX_HER2_BYTES = 300_000


def settle(seconds: float) -> None:
    """Let the viewer draw and answer for a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        QApplication.processEvents()
        time.sleep(0.01)


def save(viewer: Any, path: Path, keep: Any, *, most: int = MAX_BYTES) -> None:
    """The whole window as a PNG that a README may carry, the colours in `keep` exact."""
    settle(1.0)
    picture = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    for colors in (250, 120, 60, 30, 16):
        few = picture.quantize(colors).getpalette()[: 3 * colors]
        # Class colours are rare in the picture but the ones a reader compares.
        palette = Image.new("P", (1, 1))
        palette.putpalette([*few, *np.ravel(keep).tolist()])
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size < most:
            return
    raise SystemExit(f"{path.name} stays larger than {most} bytes")


def wait_for(dock: DetectDock, enough: Any) -> None:
    """Until `enough()` or the end of the run."""
    until = time.monotonic() + LONGEST_RUN_S
    while dock.runner.running and not enough() and time.monotonic() < until:
        settle(0.1)


def busiest_place(dock: DetectDock) -> tuple[float, float]:
    """Centre (y, x) in the viewer of the field with the most cells."""
    session = dock.session
    assert session is not None
    cells = session.cells.centres[session.cells.kept]
    bins = np.floor(cells / LIVELY_PX).astype(int)
    fields, counts = np.unique(bins, axis=0, return_counts=True)
    best = (fields[counts.argmax()] + 0.5) * LIVELY_PX
    y, x = session.frame.to_world(best[None].astype(float))[0]
    return float(y), float(x)


def main(slide: str, folder: str = "docs/images", model: str = "celldetr-he") -> None:
    """Before, during, after, and near."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(WIDTH, HEIGHT)
    viewer.open(slide, plugin="napari-celldetr")
    with tempfile.TemporaryDirectory() as work:
        os.environ["CELLDETR_PROJECT"] = str(Path(work) / "project")
        dock = DetectDock(viewer, workspace=Path(work))
        viewer.window.add_dock_widget(dock, name="Detect cells", area="right")
        names = [dock.model_box.itemData(i).name for i in range(dock.model_box.count())]
        dock.model_box.setCurrentIndex(names.index(model))
        colors = dock.model_box.currentData().class_colors
        dock.choose_where("whole")
        # Smaller tiles than usual, so that a small slide shows how results arrive.
        dock.form.editor("tile_px").setValue(512)
        settle(0.5)
        viewer.reset_view()
        save(viewer, out / "detect-before.png", colors)
        dock.run()
        wait_for(dock, lambda: dock.run_bar.bar.value() > 0.35 * dock.run_bar.bar.maximum() > 0)
        save(viewer, out / "detect-during.png", colors)
        wait_for(dock, lambda: False)
        save(viewer, out / "detect-after.png", colors)
        print(dock.run_bar.status.text())
        viewer.scene.camera.center = busiest_place(dock)
        viewer.scene.camera.zoom = NEAR_ZOOM
        save(viewer, out / "detect-near.png", colors)
        session = dock.session
        assert session is not None
        assert session.overlay is not None
        print("level shown near:", session.overlay.level)
        review(viewer, out / "review-near.png", colors)
        dock.shut_down()
        viewer.close()


def review(viewer: Any, path: Path, colors: Any) -> None:
    """Some cells corrected, some selected with the lasso."""
    dock = ReviewDock(viewer)
    viewer.window.add_dock_widget(dock, name="Review cells", area="right", tabify=True)
    settle(1.0)
    session, tools = dock.session, dock.tools
    assert session is not None
    assert tools is not None
    view = session.view()
    assert view is not None
    rows = session.cells.rows_in(view.grow(-view.height // 8))
    x = session.cells.centres[rows, 0]
    left = rows[x < view.centre[0] - view.width / 12]
    dock.use_tool(Tool.SELECT)
    session.select(left[:6])
    tools.use_class(session.cells.class_names[1])
    session.select(left[6:12])
    tools.accept()
    session.select(left[12:14])
    tools.delete()
    dock.use_tool(Tool.LASSO)
    cx, cy, side = view.centre[0] + view.width / 6, view.centre[1], view.height / 6
    ring = [(cx - side, cy - side), (cx + side, cy - side), (cx + side, cy + side)]
    tools.stroke(ring[0]).to(*ring[1:], (cx - side, cy + side)).end()
    save(viewer, path, [*colors, (255, 235, 0), (255, 255, 255)])
    dock.shut_down()


def her2(folder: str = "docs/images") -> None:
    """A generated HER2 slide: the whole score, and one branch of it lit up near."""
    from napari.layers import Layer

    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    colors = [*SCORE_COLORS.values(), NOT_COUNTED, (0, 229, 255)]
    viewer = napari.Viewer(show=True)
    viewer.window.resize(WIDTH, HEIGHT)
    with tempfile.TemporaryDirectory() as work:
        os.environ["CELLDETR_PROJECT"] = str(Path(work) / "project")
        for data in sample_her2():
            viewer.add_layer(Layer.create(*data))
        tumour = viewer.layers[-1].name
        dock = Her2Dock(viewer, workspace=Path(work))
        viewer.window.add_dock_widget(dock, name="HER2", area="right")
        settle(1.0)
        viewer.reset_view()
        body = dock.body
        body.where.setCurrentIndex(body.where.findData(WHOLE))
        dock.run()
        until = time.monotonic() + LONGEST_RUN_S
        while dock.runs.running and time.monotonic() < until:
            settle(0.1)
        dock.where.choose(LAYER_KEY + tumour)
        body.show_box.setCurrentIndex(body.show_box.findData(Show.MAP))
        settle(1.0)
        save(viewer, out / "her2-score.png", colors, most=MAX_HER2_BYTES)
        body.show_box.setCurrentIndex(body.show_box.findData(Show.AUTO))
        body.tree_fold.button.setChecked(True)
        viewer.scene.camera.zoom = HER2_ZOOM
        body.tree.row("unusual").click()
        settle(1.0)
        save(viewer, out / "her2-branch.png", colors, most=MAX_HER2_BYTES)
        dock.shut_down()
        viewer.close()


def align(folder: str = "docs/images") -> None:
    """The generated pair of sections: landmarks side by side, swipe, chequerboard."""
    # Landmarks are kept: those of an earlier run must not stand in the picture.
    os.environ["CELLDETR_PROJECT"] = tempfile.mkdtemp()
    Path(folder).mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(WIDTH, HEIGHT)
    for pixels, options, _ in sample_pair():
        viewer.add_image(pixels, **options)
    dock = AlignDock(viewer)
    viewer.window.add_dock_widget(dock, name="Align slides", area="right")
    settle(0.5)
    dock.run()
    until = time.monotonic() + LONGEST_RUN_S
    while dock.runs.running and time.monotonic() < until:
        settle(0.1)
    view = dock.view
    assert view is not None
    assert view.transform is not None
    print(dock.result.result_label.text(), dock.result.share_label.text())
    dock.result.loupe_fold.button.setChecked(True)
    dock.show_look(Look.BESIDE)
    dock.landmark_fold.button.setChecked(True)
    dock.landmark_box.set_button.setChecked(True)
    middle = np.array(view.transform.he.size) / 2
    for shift in ((-250, 60), (120, -120), (60, 240)):
        place = (middle + shift)[None]
        dock.marks.click(tuple(view.world_of_he(place)[0]))
        dock.marks.click(tuple(view.world_of_ihc(view.transform.forward(place))[0]))
    on_ihc = view.transform.forward(middle[None])
    point_at(dock, view.world_of_ihc(on_ihc)[0])
    save(viewer, Path(folder) / "align-beside.png", KEPT_COLORS)
    dock.landmark_fold.button.setChecked(False)
    for look in (Look.SWIPE, Look.CHECKER):
        dock.show_look(look)
        camera = viewer.scene.camera
        camera.center, camera.zoom = (0, *view.world_of_ihc(on_ihc)[0]), 1.0
        settle(0.3)
        point_at(dock, view.world_of_ihc(on_ihc)[0])
        save(viewer, Path(folder) / f"align-{look}.png", KEPT_COLORS)
    dock.shut_down()
    viewer.close()


KEPT_COLORS = [(255, 212, 0), (0, 200, 255)]


def point_at(dock: AlignDock, world: Any) -> None:
    """As if the mouse were there."""
    view = dock.view
    assert view is not None

    class Moved:
        position = tuple(world)

    dock._on_move(dock.viewer, Moved())
    settle(0.2)


def embedding(folder: str = "docs/images") -> None:
    """From a lasso to a lesson, what it changed, and back."""
    os.environ["CELLDETR_PROJECT"] = tempfile.mkdtemp()
    viewer = napari.Viewer(show=True)
    viewer.window.resize(WIDTH, HEIGHT)
    for data in sample_he():
        viewer.add_layer(Layer.create(*data))
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    finder = DetectDock(viewer)
    viewer.window.add_dock_widget(finder, name="Detect cells")
    settle(1.0)
    finder.choose_where("whole")
    finder.run()
    wait_for(finder, lambda: False)
    dock = EmbeddingDock(viewer)
    viewer.window.add_dock_widget(dock, name="Embedding")
    until(lambda: dock.plot.placed is not None)
    plot, session = dock.plot, dock.session
    assert session is not None
    assert plot.placed is not None
    keep = np.array(list(session.colors))
    stromal = session.cells.class_ids == session.cells.class_names.index("stromal")
    middle = np.median(plot.placed.points[plot.placed.places(np.flatnonzero(stromal))], axis=0)
    x0, y0, x1, y1 = plot.canvas.bounds
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring = middle + np.stack((np.cos(turn) * (x1 - x0), np.sin(turn) * (y1 - y0)), 1) * 0.1
    plot.canvas.enclosed.emit(ring, False)
    until(lambda: len(dock.similar.gallery.thumbnails) > 5)
    save(viewer, path / "embedding-lasso.png", keep)
    session.select(session.selected[:40])
    dock.similar.give_class("fibroblast")
    others = np.flatnonzero(session.cells.kept & (session.cells.status == Status.CLAIMED))
    session.edit(confirm(session.cells, others[:: max(len(others) // 80, 1)]))
    session.select(np.zeros(0, np.int64))
    keep = np.array(list(session.colors))
    dock.tabs.setCurrentWidget(dock.teach)
    dock.teach.learn()
    until(lambda: not dock.teach.runner.running)
    save(viewer, path / "embedding-taught.png", keep)
    dock.teach.use("")
    until(lambda: not dock.teach.runner.running)
    save(viewer, path / "embedding-back.png", keep)
    dock.tabs.setCurrentWidget(dock.next)
    dock.next.start()
    until(lambda: dock.next.row is not None)
    save(viewer, path / "embedding-next.png", keep)
    viewer.close()


def until(done: Any) -> None:
    """Let the viewer work until something is so."""
    latest = time.monotonic() + LONGEST_RUN_S
    while not done() and time.monotonic() < latest:
        settle(0.1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["align"]:
        align(*sys.argv[2:])
    elif sys.argv[1:2] == ["embedding"]:
        embedding(*sys.argv[2:])
    elif sys.argv[1:2] == ["her2"]:
        her2(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
