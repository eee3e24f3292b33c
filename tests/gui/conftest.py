"""Real viewers for docks, and fakes for what is slow behind them."""

from __future__ import annotations

import gc
import os
import sys
import warnings

import numpy as np
import pytest
from fakes import FakePredictor, Faults, cell_field

sys.path.insert(0, os.path.dirname(__file__))
with warnings.catch_warnings():
    # napari's own imports raise deprecation warnings of its dependencies.
    warnings.simplefilter("ignore")
    from viewer_fakes import FakeModels, slide_image

HAS_DISPLAY = sys.platform != "linux" or any(
    os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
)
# Raised inside napari, vispy and Qt while a real viewer runs; nothing here can change them.
FOREIGN = (
    "ignore::DeprecationWarning:napari.*",
    "ignore::DeprecationWarning:vispy.*",
    "ignore::DeprecationWarning:app_model.*",
    "ignore::DeprecationWarning:in_n_out.*",
    "ignore::pydantic.warnings.PydanticDeprecatedSince20",
    "ignore::pytest.PytestUnraisableExceptionWarning:zmq.*",
)


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)
    for item in items:
        if not str(item.path).startswith(here):
            continue
        for line in FOREIGN:
            item.add_marker(pytest.mark.filterwarnings(line))
        if not HAS_DISPLAY and "qtbot" in item.fixturenames:
            item.add_marker(pytest.mark.skip(reason="no display: run under xvfb-run"))


SMALL = {"tile_px": 256, "halo_px": 32, "tissue_only": False}


@pytest.fixture(autouse=True)
def _own_project(tmp_path, monkeypatch):
    """What docks keep goes into a project of the test's own."""
    monkeypatch.setenv("CELLDETR_PROJECT", str(tmp_path / "project"))


@pytest.fixture
def field_image():
    """A drawn field (720, 960, 3) with a cell about every 24 px."""
    return cell_field((960, 720))


@pytest.fixture
def make_dock(make_napari_viewer_proxy, tmp_path, qtbot):
    """A dock in a real viewer: ``make_dock(pixels, mpp=, models=, show=) -> (viewer, dock)``."""
    from napari_celldetr.gui.detect_dock import DetectDock

    def make(pixels=None, *, mpp=0.5, models=None, show=False):
        viewer = make_napari_viewer_proxy(show=show)
        if pixels is not None:
            viewer.add_layer(slide_image(pixels, mpp=mpp))
        dock = DetectDock(viewer, models=models or FakeModels(), workspace=tmp_path / "runs")
        for name in ("tile_px", "halo_px"):
            dock.form.editor(name).setValue(SMALL[name])
        dock.form.editor("tissue_only").setChecked(False)
        viewer.window.add_dock_widget(dock, name="Detect cells")
        return viewer, dock

    yield make
    gc.collect()


@pytest.fixture
def run_whole(qtbot):
    """Run a dock on the whole slide until it has ended."""

    def run(dock, *, timeout=20_000):
        dock.choose_where("whole")
        dock.run()
        qtbot.waitUntil(lambda: not dock.runner.running, timeout=timeout)

    return run


@pytest.fixture
def notes(monkeypatch):
    """Texts of the notifications a test caused."""
    from napari_celldetr.gui import (
        align_files,
        align_marks,
        align_pairs,
        align_regions,
        align_runs,
        contributions,
        detect_dock,
        files,
        her2_dock,
        her2_runs,
        review_dock,
    )

    told = []
    docks = (
        align_files,
        align_marks,
        align_pairs,
        align_regions,
        align_runs,
        detect_dock,
        her2_dock,
        her2_runs,
        review_dock,
    )
    for module in (contributions, files, *docks):
        for name in ("show_error", "show_warning", "show_info"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, told.append)
    return told


@pytest.fixture
def slow_models():
    """A model that takes a while for each batch, for tests that interrupt it."""
    return FakeModels(FakePredictor(faults=Faults(seconds=0.05)))


@pytest.fixture
def two_cells():
    """A field (300, 400, 3) with a 9 × 9 square of px 100..108 x, 60..68 y, and another one."""
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[60:69, 100:109] = (40, 40, 180)
    pixels[200:209, 301:310] = (180, 40, 40)
    return pixels


@pytest.fixture
def make_her2(make_napari_viewer_proxy, qtbot):
    """A viewer with a layer and the HER2 dock."""
    from napari_celldetr.gui.her2_dock import Her2Dock

    def make(layer=None, *, models=None):
        viewer = make_napari_viewer_proxy()
        if layer is not None:
            viewer.add_layer(layer)
        dock = Her2Dock(viewer, models=models or FakeModels())
        viewer.window.add_dock_widget(dock, name="HER2")
        if layer is not None:
            qtbot.waitUntil(lambda: dock.session.state != "opening", timeout=10_000)
        return viewer, dock

    yield make
    gc.collect()


@pytest.fixture
def her2_layer():
    """The generated HER2 slide as a layer."""
    from her2_docks import new_layer

    return new_layer()


@pytest.fixture
def her2_measured(make_her2, her2_layer):
    """A viewer whose slide's nuclei are known and measured."""
    from her2_docks import hold_nuclei
    from her2_fakes import her2_state

    viewer, dock = make_her2(her2_layer)
    hold_nuclei(dock)
    dock.take(her2_state())
    return viewer, dock


@pytest.fixture
def open_pair(make_napari_viewer_proxy, qtbot):
    """A dock in a real viewer: ``open_pair(he, ihc, mpp=(…)) -> (viewer, dock)``."""
    from aligned_pair import HE_MPP, IHC_MPP

    from napari_celldetr.gui.align_dock import AlignDock

    def make(he=None, ihc=None, *, mpp=(HE_MPP, IHC_MPP), show=False):
        viewer = make_napari_viewer_proxy(show=show)
        if he is not None:
            for name, pixels, size in (("he.svs", he, mpp[0]), ("ihc.svs", ihc, mpp[1])):
                layer = slide_image(pixels, mpp=size)
                layer.name = name
                viewer.add_layer(layer)
        dock = AlignDock(viewer)
        viewer.window.add_dock_widget(dock, name="Align slides")
        return viewer, dock

    yield make
    gc.collect()


@pytest.fixture
def known(open_pair, notes):
    """A dock that shows a pair whose alignment is known."""
    from aligned_pair import known_alignment, pictures

    viewer, dock = open_pair(*pictures())
    dock.take(dock.view, known_alignment())
    return viewer, dock
