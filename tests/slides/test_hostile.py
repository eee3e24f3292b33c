"""Damaged and hostile files: a clear SlideError, quickly, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slide_files
from slide_files import halves, long, picture, tiff_bytes

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides import probe as probing
from napari_celldetr.slides.readers import open_slide

MUTANTS = int(os.environ.get("CELLDETR_MUTANTS", "500"))
"""10,000 on demand."""
LIMIT_S = 200 + MUTANTS // 2


def whole_slides(folder: Path) -> Path:
    folder.mkdir()
    levels = halves(picture(300, 260), 1)
    slide_files.write_tiff(folder / "jpeg.tif", levels, compression="jpeg")
    chosen = ("jpeg2000.tif", "plain_lzw.tif", "plain_zstd.tif", "big.tif", "big_endian.tif")
    for name in (*chosen, "ome_deflate.ome.tif", "planes.tif", "old.zarr", "new.zarr"):
        slide_files.write(folder, name, levels)
    slide_files.write(folder, "picture.png", levels)
    (folder / "picture.jpg").write_bytes(slide_files.imagecodecs.jpeg8_encode(levels[0]))
    return folder


def run_mutants(whole: Path, work: Path, first: int, count: int) -> list[dict[str, object]]:
    """Reports of `count` mutants; a child that dies is replaced and the death reported."""
    work.mkdir()
    script = Path(__file__).with_name("mutants.py")
    reports: list[dict[str, object]] = []
    seed = first
    while seed < first + count:
        left = str(first + count - seed)
        command = [sys.executable, str(script), str(whole), str(work), str(seed), left]
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        reports += [line for line in lines if "outcome" in line]
        if child.returncode == 0:
            break
        assert lines, child.stderr[-2000:]
        seed = int(lines[-1]["seed"]) + 1
        reports.append({"seed": seed - 1, "outcome": f"died {child.returncode}", "s": 0, "gib": 0})
    return reports


@pytest.mark.timeout(LIMIT_S + 60)
def test_r1_mutated_slides_are_read_or_refused_and_nothing_else(tmp_path):
    whole = whole_slides(tmp_path / "whole")
    reports = run_mutants(whole, tmp_path / "work", 0, MUTANTS)
    assert len(reports) == MUTANTS
    bad = [r for r in reports if r["outcome"] not in ("read", "refused")]
    assert not bad, bad[:5]
    assert max(float(r["s"]) for r in reports) < 20
    assert max(float(r["gib"]) for r in reports) <= 1.0
    # Damage must really reach the reader, and not everything may be refused out of hand.
    outcomes = [r["outcome"] for r in reports]
    assert outcomes.count("refused") > MUTANTS // 5
    assert outcomes.count("read") > MUTANTS // 20


SHORT, LONG = 3, 4
HEADER = [
    (258, SHORT, 1, long(8)),
    (259, SHORT, 1, long(1)),
    (262, SHORT, 1, long(2)),
    (277, SHORT, 1, long(3)),
]


def tiled(width: int, height: int, tile: int) -> bytes:
    return tiff_bytes(
        [
            *HEADER,
            (256, LONG, 1, long(width)),
            (257, LONG, 1, long(height)),
            (322, LONG, 1, long(tile)),
            (323, LONG, 1, long(tile)),
            (324, LONG, 1, long(8)),
            (325, LONG, 1, long(100)),
        ]
    )


def loop() -> bytes:
    return tiff_bytes([(256, LONG, 1, long(10)), (257, LONG, 1, long(10))], following=8)


def many_directories() -> bytes:
    count, size = 200_000, 2 + 2 * 12 + 4
    parts = [b"II*\0" + long(8)]
    for i in range(count):
        tags = struct.pack("<HHII", 256, LONG, 1, 10) + struct.pack("<HHII", 257, LONG, 1, 10)
        parts.append(struct.pack("<H", 2) + tags + long(8 + size * (i + 1)))
    return b"".join(parts)


def huge_tag() -> bytes:
    return tiff_bytes(
        [*HEADER, (256, LONG, 1, long(100)), (257, LONG, 1, long(100)), (273, LONG, 2**31, long(8))]
    )


BOMBS = {
    "tile of 2**31": lambda: tiled(2**20, 2**20, 2**31),
    "2**40 px": lambda: tiled(2**20, 2**20, 256),
    "no size": lambda: tiled(0, 0, 256),
    "tile of nothing": lambda: tiled(1000, 1000, 0),
    "loop": loop,
    "directories without end": many_directories,
    "tag of 8 GiB": huge_tag,
    "header alone": lambda: b"II*\0" + long(8),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_r2_header_bombs_are_refused_at_once(tmp_path, name):
    path = tmp_path / "bomb.tif"
    path.write_bytes(BOMBS[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with pytest.raises(SlideError):
        open_slide(path, probe=False)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


def test_a_stream_larger_than_its_tile_is_refused(tmp_path):
    path = slide_files.write_tiff(tmp_path / "a.tif", [picture(64, 64)], compression="jpeg")
    data = bytearray(path.read_bytes())
    frame = data.find(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(data)
    with open_slide(path, probe=False) as slide, pytest.raises(SlideError, match="tile 0"):
        slide.read(Region(0, 0, 32, 32))


def test_entities_in_ome_xml_are_refused(tmp_path):
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>'
    path = tmp_path / "entity.ome.tif"
    slide_files.tifffile.imwrite(path, picture(64, 64), description=text, metadata=None)
    with pytest.raises(SlideError, match="DOCTYPE"):
        open_slide(path, probe=False)


@pytest.mark.parametrize(
    "name", ["broken.svs", "notanimage.txt", "unopenable.tiff"], ids=lambda n: n
)
def test_files_that_are_no_slides(shared_data, name):
    with pytest.raises(SlideError) as caught:
        open_slide(shared_data / "readers" / name)
    assert caught.value.expected
    assert caught.value.remedy


def test_missing_files_pipes_and_empty_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "folder.zarr").mkdir()
    for name in ("pipe.svs", "folder.zarr", "absent.svs"):
        with pytest.raises(SlideError):
            open_slide(tmp_path / name)


def test_a_bad_tile_does_not_spoil_the_others(shared_data, tmp_path):
    original = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    page = slide_files.tifffile.TiffFile(shared_data / "slides" / "CMU-1-Small-Region.svs").pages[0]
    offset = page.dataoffsets[57]
    page.parent.close()
    path = tmp_path / "one_bad.svs"
    path.write_bytes(original[:offset] + b"\0" * 200 + original[offset + 200 :])
    with (
        open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs", probe=False) as good,
        open_slide(path, probe=False) as slide,
    ):
        row, column = divmod(57, 10)
        bad = Region(column * 240 + 10, row * 240 + 10, 100, 100)
        whole = Region(0, 0, 480, 480)
        for _ in range(2):
            with pytest.raises(SlideError):
                slide.read(bad)
            assert np.array_equal(slide.read(whole), good.read(whole))
        assert slide.levels[0][: bad.y1, : bad.x1].compute().shape == (bad.y1, bad.x1, 3)


def test_latched_openslide_errors_are_recovered_from(shared_data, tmp_path):
    from napari_celldetr.slides.openslide_slide import OpenSlideBackend

    source = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with slide_files.tifffile.TiffFile(source) as tif:
        offset = tif.pages[0].dataoffsets[57]
    data = source.read_bytes()
    path = tmp_path / "latched.svs"
    path.write_bytes(data[:offset] + b"\0" * 200 + data[offset + 200 :])
    backend = OpenSlideBackend(path)
    good = OpenSlideBackend(source)
    with pytest.raises(SlideError):
        backend.read(0, 7 * 240, 5 * 240, 100, 100)
    assert np.array_equal(backend.read(0, 0, 0, 300, 300), good.read(0, 0, 0, 300, 300))
    backend.close()
    with pytest.raises(SlideError):
        backend.read(0, 0, 0, 10, 10)
    good.close()


def test_unreadable_svs_opens_and_only_its_tile_fails(shared_data):
    with open_slide(shared_data / "readers" / "unreadable.svs") as slide:
        with pytest.raises(SlideError):
            slide.read(Region(0, 0, 16, 16))
        outside = slide.read(Region(-100, -100, 50, 50))
        assert (outside == 255).all()


def test_the_trial_opening_runs_once_a_file(tmp_path, monkeypatch):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture(100, 80)])
    calls = []
    run = probing._run_child
    monkeypatch.setattr(probing, "_run_child", lambda p: calls.append(p) or run(p))
    open_slide(path).close()
    open_slide(path).close()
    assert len(calls) == 1
    slide_files.write(tmp_path, "plain_lzw.tif", [picture(120, 80)])
    open_slide(path).close()
    assert len(calls) == 2


def test_a_crash_in_the_trial_opening_is_an_error_here(tmp_path, monkeypatch):
    path = slide_files.write(tmp_path, "plain_lzw.tif", [picture(100, 80)])
    monkeypatch.setattr(probing.sys, "executable", "/bin/false")
    with pytest.raises(SlideError, match="trial opening"):
        open_slide(path)


def test_the_trial_opening_has_limits_and_loads_no_torch():
    code = (
        "import resource, sys\n"
        "from napari_celldetr.slides import probe, formats\n"
        "probe._limit_self()\n"
        "assert resource.getrlimit(resource.RLIMIT_AS)[0] == 2 * 2**30\n"
        "assert resource.getrlimit(resource.RLIMIT_CPU)[0] <= 20\n"
        "assert not {'torch', 'napari', 'qtpy', 'dask'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
