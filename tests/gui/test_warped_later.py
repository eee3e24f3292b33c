"""Chunks of a warped picture made beside the window's thread."""

import gc
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from aligned_pair import HE_SIZE, IHC_MPP, known_transform, no_threads

from napari_celldetr.core.progress import drain
from napari_celldetr.gui.align_job import Aligned, make_veil
from napari_celldetr.gui.align_places import Look
from napari_celldetr.gui.warp_masks import Checker
from napari_celldetr.gui.warped import WarpedPyramid
from napari_celldetr.gui.warped_later import ChunkMaker, Wishes, making_job
from napari_celldetr.gui.warped_level import CHUNK_PX
from napari_celldetr.pipeline.warp import Mover

SCALE, FINE_MPP = 4, 0.25


class Source:
    """A picture that says which threads read it, and that can be slow, or break."""

    def __init__(self, pixels, *, seconds=0.0):
        self.pixels, self.seconds, self.broken = pixels, seconds, False
        self.shape, self.dtype, self.ndim = pixels.shape, pixels.dtype, 3
        self.readers = []

    def __getitem__(self, key):
        self.readers.append(threading.current_thread())
        time.sleep(self.seconds)
        if self.broken:
            raise OSError("the disk is gone")
        return self.pixels[key]


def picture(scale=SCALE, seed=1):
    """Noise (h, w, 3), `scale` times the size of the pair's H&E."""
    small = np.random.default_rng(seed).integers(0, 256, (*HE_SIZE[::-1], 3), dtype=np.uint8)
    return small.repeat(scale, axis=0).repeat(scale, axis=1)


def pyramid_of(source, *, limit_um=50.0):
    """The H&E at four pixels per µm, prepared as the job does it, in a thread of its own."""
    pyramid = WarpedPyramid([source], Mover(fine_transform(limit_um)))
    worker = threading.Thread(target=lambda: drain(pyramid.prepare()))
    worker.start()
    worker.join()
    return pyramid


def fine_transform(limit_um=50.0):
    t = known_transform(limit_um=limit_um)
    he = replace(t.he, size=(HE_SIZE[0] * SCALE, HE_SIZE[1] * SCALE), mpp=(FINE_MPP, FINE_MPP))
    return replace(t, he=he)


@pytest.fixture
def maker(qtbot):
    maker = ChunkMaker()
    yield maker
    maker.stop()
    no_threads(qtbot)


def wait(qtbot, maker):
    qtbot.waitUntil(lambda: not maker.running, timeout=20_000)


def box(n=700):
    """Rows and columns of the finest level, amid the tissue, over several chunks."""
    return slice(2 * CHUNK_PX, 2 * CHUNK_PX + n), slice(2 * CHUNK_PX, 2 * CHUNK_PX + n)


def test_the_window_never_reads_and_the_picture_comes_later(maker, qtbot):
    source = Source(picture())
    pyramid = pyramid_of(source)
    exact = WarpedPyramid([source.pixels], Mover(fine_transform())).levels[0][box()]
    pyramid.later = maker
    source.readers.clear()
    told = []
    maker.made.connect(lambda: told.append(1))
    first = pyramid.levels[0][box()]
    assert first.shape == exact.shape
    assert not np.array_equal(first, exact)
    wait(qtbot, maker)
    assert told
    np.testing.assert_array_equal(pyramid.levels[0][box()], exact)
    assert source.readers
    assert threading.main_thread() not in source.readers
    # What is there is not made again.
    assert not maker.running


def test_a_stand_in_shows_the_same_places(maker):
    y, x = np.mgrid[0 : HE_SIZE[1] * SCALE, 0 : HE_SIZE[0] * SCALE]
    ramps = np.stack([x / 10, y / 10, 0 * x], axis=-1).round().astype(np.uint8)
    pyramid = pyramid_of(Source(ramps))
    exact = WarpedPyramid([ramps], Mover(fine_transform())).levels[0][box()].astype(float)
    pyramid.later = maker
    rough = pyramid.levels[0][box()].astype(float)
    inside = (exact[..., 3] == 255) & (rough[..., 3] == 255)
    assert inside.mean() > 0.9
    # A grey level is 10 px of the H&E.
    assert np.abs(exact - rough)[inside].mean() < 1.0


def test_what_was_drawn_finer_or_coarser_before_stands_in(maker, qtbot):
    source = Source(picture())
    pyramid = pyramid_of(source)
    pyramid.later = maker
    half = tuple(slice(s.start // 2, s.stop // 2) for s in box())
    pyramid.levels[1][half]
    wait(qtbot, maker)
    source.broken = True
    near = pyramid.levels[0][box()]
    exact = WarpedPyramid([source.pixels], Mover(fine_transform())).levels[0][box()]
    far = pyramid_of(Source(source.pixels)).stand_in(0, 2, 2)
    part = slice(0, CHUNK_PX), slice(0, CHUNK_PX)
    errors = [np.abs(a[part].astype(float) - exact[part]).mean() for a in (near, far)]
    assert errors[0] < 0.6 * errors[1]


def test_a_newer_view_is_made_first_and_the_older_one_not(maker, qtbot):
    pyramid = pyramid_of(Source(picture()))
    pyramid.later = maker
    wishes = Wishes()
    asked = [(0, column, row) for row in range(3) for column in range(3)]
    wishes.set("picture", [(pyramid, key) for key in asked])
    job = making_job(wishes)
    next(job)
    newer = (0, 4, 3)
    wishes.set("picture", [(pyramid, newer)])
    drain(job)
    there = [key for key in [*asked, newer] if pyramid.known(*key) is not None]
    assert there == [*asked[:2], newer]


def test_the_loupe_and_the_picture_do_not_cancel_each_other():
    pyramid = WarpedPyramid([picture(1)], Mover(known_transform()))
    wishes = Wishes()
    wishes.set("picture", [(pyramid, (0, 0, 0)), (pyramid, (0, 1, 0))])
    wishes.set("loupe", [(pyramid, (0, 1, 0))])
    wishes.set("loupe", [])
    assert wishes.take(9) == [(pyramid, (0, 0, 0)), (pyramid, (0, 1, 0))]
    assert not wishes


def test_whoever_takes_the_whole_picture_or_has_no_window_gets_it_exactly(maker):
    pixels = picture()
    pyramid = pyramid_of(Source(pixels))
    exact = WarpedPyramid([pixels], Mover(fine_transform())).levels[0]
    pyramid.later = maker
    found = []
    worker = threading.Thread(target=lambda: found.append(pyramid.levels[0][box()]))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(found[0], exact[box()])
    np.testing.assert_array_equal(
        np.asarray(pyramid.levels[1]),
        np.asarray(WarpedPyramid([pixels], Mover(fine_transform())).levels[1]),
    )


def test_a_chunk_that_cannot_be_read_is_told_once_and_stays_blurred(maker, qtbot):
    source = Source(picture())
    pyramid = pyramid_of(source)
    pyramid.later = maker
    source.broken = True
    told = []
    maker.failed.connect(told.append)
    for _ in range(3):
        shown = pyramid.levels[0][box(10)]
        wait(qtbot, maker)
    assert shown.shape == (10, 10, 4)
    assert len(told) == 1
    assert "stays blurred" in told[0].message
    assert "the disk is gone" in told[0].found


def aligned_from(source):
    transform = fine_transform(2000.0)
    veil = drain(make_veil(transform, transform.error_map))
    return Aligned(transform, veil, pyramid_of(source))


@pytest.fixture
def slow(open_pair, notes, qtbot):
    """A dock whose H&E is slow to read, and just shown laid on the IHC."""
    viewer, dock = open_pair(picture(), picture(1), mpp=(FINE_MPP, IHC_MPP), show=True)
    source = Source(picture())
    aligned = aligned_from(source)
    source.seconds, source.readers = 0.15, []
    dock.take(dock.view, aligned)
    dock.show_look(Look.BLEND)
    viewer.scene.camera.zoom = 6.0
    qtbot.waitUntil(lambda: bool(source.readers), timeout=5000)
    return viewer, dock, source


def test_in_the_viewer_the_window_reads_nothing_itself(slow, qtbot):
    _, dock, source = slow
    maker = dock.pairs._maker
    wait(qtbot, maker)
    qtbot.wait(100)
    wait(qtbot, maker)
    layer = dock.view.picture
    level = layer.data_level
    at = [slice(int(a), int(b)) for a, b in zip(*layer.corner_pixels[:, :2], strict=True)]
    shown = layer.data[level][tuple(at)]
    assert not maker.running
    exact = WarpedPyramid([source.pixels], Mover(fine_transform())).levels[level][tuple(at)]
    np.testing.assert_array_equal(shown, exact)
    # Masks act on what is there at once.
    dock.show_look(Look.CHECKER)
    assert isinstance(dock.view.pyramid.mask, Checker)
    assert threading.main_thread() not in source.readers


@pytest.mark.parametrize("how", ["window", "dock", "slide", "pair"])
def test_closing_while_the_picture_is_being_made(slow, qtbot, how):
    viewer, dock, source = slow
    assert dock.pairs._maker.running
    if how == "window":
        viewer.close()
        assert dock._is_shut
    elif how == "dock":
        viewer.window.remove_dock_widget(dock)
        dock.close()
        assert dock.view is None
    elif how == "slide":
        viewer.layers.remove("he.svs")
        assert dock.view is None
    else:
        dock.choice.swap()
        assert dock.view.transform is None
    del dock, viewer
    gc.collect()
    no_threads(qtbot)
    before = len(source.readers)
    qtbot.wait(200)
    # A picture that stays without its dock is drawn as any other: whole, by the window.
    assert len(source.readers) == before or how == "dock"
