"""One slide, many threads: the same pixels, and every descriptor given back."""

from __future__ import annotations

import gc
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import slide_files
from slide_files import halves, picture

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.openslide_slide import OpenSlideBackend
from napari_celldetr.slides.readers import open_slide

THREADS, READS = 8, 1000


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
@pytest.mark.parametrize("kind", ["tiff", "svs"])
def test_r4_threads_read_the_same_pixels(tmp_path, shared_data, kind):
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    if kind == "tiff":
        options = {"compression": "jpeg", "tile": (128, 128)}
        path = slide_files.write_tiff(tmp_path / "a.tif", halves(picture(1500, 1100), 2), **options)
    before = open_descriptors()
    with open_slide(path, mpp=0.5, probe=False) as slide:
        chance = np.random.default_rng(0)
        places = [
            (Region(int(x), int(y), 64, 64), mpp)
            for x, y in chance.integers(-40, min(slide.size) - 20, (250, 2))
            for mpp in (None, 1.0)
        ]
        expected = [hashlib.sha256(slide.read(*place)).digest() for place in places]

        def worker(seed: int) -> int:
            order = np.random.default_rng(seed).integers(0, len(places), READS)
            found = (hashlib.sha256(slide.read(*places[i])).digest() == expected[i] for i in order)
            return sum(not same for same in found)

        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(worker, range(THREADS))) == 0
    assert open_descriptors() <= before


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_openslide_errors_in_threads_leak_nothing_and_spoil_nothing(shared_data, tmp_path):
    source = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with slide_files.tifffile.TiffFile(source) as tif:
        offset = tif.pages[0].dataoffsets[57]
    data = source.read_bytes()
    path = tmp_path / "bad.svs"
    path.write_bytes(data[:offset] + b"\0" * 200 + data[offset + 200 :])
    before = open_descriptors()
    backend, good = OpenSlideBackend(path), OpenSlideBackend(source)
    expected = good.read(0, 100, 100, 200, 200)

    def worker(i: int) -> bool:
        if i % 4 == 0:
            with pytest.raises(SlideError):
                backend.read(0, 7 * 240, 5 * 240, 50, 50)
            return True
        return np.array_equal(backend.read(0, 100, 100, 200, 200), expected)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(worker, range(200)))
    backend.close()
    good.close()
    assert open_descriptors() <= before


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_slides_dropped_or_refused_give_their_descriptors_back(tmp_path, shared_data):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture(100, 100)])
    before = open_descriptors()
    for _ in range(20):
        open_slide(path, probe=False)
        with pytest.raises(SlideError):
            open_slide(shared_data / "readers" / "unopenable.tiff", probe=False)
    assert open_descriptors() <= before
