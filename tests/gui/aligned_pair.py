"""A small pair of slides with a known transform, for tests of *Align slides*."""

from __future__ import annotations

import threading

import numpy as np

from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import ErrorMap, SlideFrame, SlideTransform, SplineWarp
from napari_celldetr.gui.align_job import Aligned, make_veil

HE_SIZE, IHC_SIZE = (600, 400), (700, 500)
HE_MPP, IHC_MPP = 1.0, 0.8
GRID_UM = 50.0


def known_transform(*, bent=True, limit_um=50.0):
    """Turned by 30°, mirrored, bent; the error is 10 µm, over 100 in the right third."""
    chance = np.random.default_rng(1)
    angle = np.radians(30)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([-1.0, 1.0])
    middle = np.array([300.0, 200.0])
    shift = np.array([280.0, 200.0]) - matrix @ middle
    warp = SplineWarp((-300.0, -300.0), (120.0, 120.0), chance.normal(0, 5, (9, 10, 2)))
    error = np.full((8, 12), 10.0)
    error[:, 8:] = 120.0
    error[0, 0] = np.nan
    return SlideTransform(
        SlideFrame("he.svs", "1", HE_SIZE, (HE_MPP, HE_MPP)),
        SlideFrame("ihc.svs", "2", IHC_SIZE, (IHC_MPP, IHC_MPP)),
        np.column_stack([matrix, shift]),
        warp if bent else None,
        ErrorMap((GRID_UM, GRID_UM), error, np.ones((8, 12))),
        limit_um,
    )


def known_alignment(**options):
    """The same, ready to be shown."""
    transform = known_transform(**options)
    return Aligned(transform, drain(make_veil(transform, transform.error_map)))


def pictures(seed=0):
    """Two pictures (h, w, 3) of noise, in the sizes of the transform."""
    chance = np.random.default_rng(seed)
    return [
        chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        for size in (HE_SIZE, IHC_SIZE)
    ]


def our_threads():
    """Names of our threads that run."""
    return [t.name for t in threading.enumerate() if t.name.startswith("celldetr")]


def no_threads(qtbot):
    """Wait until none runs."""
    qtbot.waitUntil(lambda: not our_threads(), timeout=10_000)
