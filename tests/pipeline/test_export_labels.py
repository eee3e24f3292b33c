"""Label images: every cell where it is, at every level, in files that others can open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import zarr
from corrected_cells import corrected

from napari_celldetr.core.annotations import CorrectedCells, Status
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline import atomic_folder
from napari_celldetr.pipeline.atomic_folder import replacing_folder
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids
from napari_celldetr.pipeline.ellipse_raster import Grid, Spans, count_pixels, draw_block
from napari_celldetr.pipeline.export import export
from napari_celldetr.pipeline.label_raster import LabelOptions
from napari_celldetr.slides.readers import open_slide

SIZE = (3000, 2500)


SMALL = (1300, 1100)


class Slide:
    size = SIZE
    bounds = None


class SmallSlide:
    size = SMALL
    bounds = None


def table(boxes, **changes) -> Detections:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    source = Source("s.svs", "a" * 64, (0.25, 0.5))
    made = Detections(boxes, np.ones(n), np.arange(n) % 2, ("a", "b"), None, {}, source)
    return replace(made, **changes)


def random_table(count=400, seed=0, sides=(4, 40), size=SIZE) -> Detections:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, np.array(size) - sides[1] - 1, (count, 2))
    return table(np.concatenate([low, low + rng.uniform(*sides, (count, 2))], axis=1)).ordered()


def slow_labels(boxes, size, step=1) -> np.ndarray:
    """Every sampled pixel asks every cell, in order."""
    grid = [np.arange(step // 2, side, step) for side in size]
    y, x = np.meshgrid(grid[1], grid[0], indexing="ij")
    out = np.zeros(y.shape, np.uint32)
    for number, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, np.float64), 1):
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        inside = ((x + 0.5 - cx) / ((x1 - x0) / 2)) ** 2 + (
            (y + 0.5 - cy) / ((y1 - y0) / 2)
        ) ** 2 <= 1
        inside |= (x == np.floor(cx)) & (y == np.floor(cy))
        out[inside] = number
    return out


def levels(path, version="0.4"):
    root = zarr.open_group(str(path / "labels" / "cells"), mode="r")
    about = root.attrs if version == "0.4" else root.attrs["ome"]
    return [root[d["path"]][:] for d in about["multiscales"][0]["datasets"]]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_level_is_what_asking_every_pixel_gives(tmp_path, version):
    cells = random_table(40, sides=(0.3, 150), size=SMALL)
    path = export(
        cells, tmp_path / "c.ome.zarr", slide=SmallSlide(), labels=LabelOptions(version=version)
    )
    found = levels(path, version)
    assert [a.shape for a in found] == [(1100, 1300), (550, 650), (275, 325)]
    for k, array in enumerate(found):
        assert array.dtype == np.uint32
        np.testing.assert_array_equal(array, slow_labels(cells.boxes, SMALL, 2**k))


def test_the_pyramid_is_level_0_sampled_in_the_middle(tmp_path):
    found = levels(export(random_table(3000), tmp_path / "c.ome.zarr", slide=Slide()))
    for k in range(1, len(found)):
        step = 2**k
        np.testing.assert_array_equal(found[k], found[0][step // 2 :: step, step // 2 :: step])


def test_each_cell_has_its_number_under_its_centre_and_lies_where_it_is(tmp_path):
    cells = random_table(2000)
    array = levels(export(cells, tmp_path / "c.ome.zarr", slide=Slide()))[0]
    x, y = np.floor(cells.centres.astype(np.float64)).astype(int).T
    under = array[y, x]
    own = np.arange(1, len(cells) + 1)
    # Where cells overlap, the later is seen.
    assert (under >= own).all()
    assert (under == own).mean() > 0.9
    boxes = cells.boxes.astype(np.float64)
    drawn = np.bincount(array.ravel(), minlength=len(cells) + 1)[1:]
    whole = np.flatnonzero(drawn == count_pixels(boxes, SIZE))
    assert len(whole) > 1500
    rows, columns = np.nonzero(array)
    numbers = array[rows, columns]
    for axis, where in ((0, columns), (1, rows)):
        sums = np.bincount(numbers, where + 0.5, minlength=len(cells) + 1)[1:]
        middle = sums[whole] / drawn[whole]
        true = (boxes[whole, axis] + boxes[whole, axis + 2]) / 2
        assert np.abs(middle - true).max() <= 0.5
    # As many pixels as the ellipse has, within its edge.
    width, height = (boxes[whole, 2:] - boxes[whole, :2]).T
    assert (np.abs(drawn[whole] - np.pi / 4 * width * height) <= width + height).all()


def test_blocks_do_not_show_and_huge_cells_are_whole():
    """Any cut into blocks gives the same picture, cells of many blocks included."""
    boxes = np.array([[10, 10, 290, 190], [100, 100, 103.2, 101], [250, 5, 400, 60]], np.float64)
    size = (300, 200)
    truth = slow_labels(boxes, size)
    for block in (7, 64, 512):
        out = np.zeros((200, 300), np.uint32)
        for step, expected in ((1, truth), (4, truth[2::4, 2::4])):
            grid = Grid.levels(size, block, smallest=1)[{1: 0, 4: 2}[step]]
            spans = Spans.of(boxes, grid)
            out = np.zeros(grid.size[::-1], np.uint32)
            for number, members in spans.by_block(grid):
                place, rows = grid.place(number), spans.rows[members]
                out[place[1] : place[3], place[0] : place[2]] = draw_block(
                    boxes[rows],
                    (rows + 1).astype(np.uint32),
                    spans.first[members],
                    spans.last[members],
                    place,
                    step,
                )
            np.testing.assert_array_equal(out, expected)


def test_only_chunks_that_cells_touch_are_written(tmp_path):
    class Huge:
        size = (100_000, 100_000)
        bounds = None

    cells = table([[5000, 5000, 5020, 5020], [99_970, 99_980, 99_990, 100_005]])
    path = export(cells, tmp_path / "c.ome.zarr", slide=Huge())
    level = path / "labels" / "cells" / "0"
    assert {str(p.relative_to(level)) for p in level.glob("*/*")} == {"4/4", "97/97"}
    array = zarr.open_array(str(level), mode="r")
    assert array.shape == (100_000, 100_000)
    assert array[5010, 5010] == 1
    assert array[99_999, 99_980] == 2
    assert array[50_000, 50_000] == 0
    assert sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) < 300_000


def test_metadata_is_what_readers_of_0_4_look_for(tmp_path):
    cells = corrected(50, side=2000)
    path = export(cells, tmp_path / "c.ome.zarr", slide=Slide(), colors={"alpha": (1, 2, 3)})
    assert json.loads((path / ".zgroup").read_text()) == {"zarr_format": 2}
    assert json.loads((path / "labels" / ".zattrs").read_text()) == {"labels": ["cells"]}
    root = json.loads((path / ".zattrs").read_text())
    inner = json.loads((path / "labels" / "cells" / ".zattrs").read_text())
    for about, folder in ((root, path), (inner, path / "labels" / "cells")):
        (scales,) = about["multiscales"]
        assert scales["version"] == "0.4"
        assert scales["axes"] == [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
        for k, level in enumerate(scales["datasets"]):
            stored = json.loads((folder / level["path"] / ".zarray").read_text())
            assert stored["zarr_format"] == 2
            assert stored["dtype"] == "<u4"
            assert stored["dimension_separator"] == "/"
            assert stored["compressor"]["id"] == "blosc"
            (step,) = level["coordinateTransformations"]
            assert step == {"type": "scale", "scale": [0.25 * 2**k] * 2}
        label = about["image-label"]
        assert label["version"] == "0.4"
        assert [p["label-value"] for p in label["properties"]] == list(range(1, 51))
        assert [p["id"] for p in label["properties"]] == as_text(cells.ids)
        assert [p["status"] for p in label["properties"]] == list(cells.words())
        labels = cells.cells.class_labels.tolist()
        assert [p["class"] for p in label["properties"]] == labels
        alpha = labels.index("alpha")
        assert label["colors"][alpha] == {"label-value": alpha + 1, "rgba": [1, 2, 3, 255]}
    assert inner["image-label"]["source"] == {"image": "../../"}
    assert root["celldetr"]["note"].startswith("Research use only")


def test_metadata_of_0_5(tmp_path):
    options = LabelOptions(version="0.5")
    path = export(random_table(20), tmp_path / "c.ome.zarr", slide=Slide(), labels=options)
    about = json.loads((path / "labels" / "cells" / "zarr.json").read_text())["attributes"]["ome"]
    assert about["version"] == "0.5"
    assert "version" not in about["multiscales"][0]
    level = json.loads((path / "labels" / "cells" / "0" / "zarr.json").read_text())
    assert level["zarr_format"] == 3
    assert level["dimension_names"] == ["y", "x"]
    scales = about["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert scales == [{"type": "scale", "scale": [1.0, 0.5]}]


def test_our_own_reader_opens_it_as_a_picture(tmp_path):
    path = export(random_table(20), tmp_path / "c.ome.zarr", slide=Slide())
    with open_slide(path, mpp=0.25, probe=False) as slide:
        assert slide.size == SIZE
        assert len(slide.downsamples) == 4


def test_another_pixel_size(tmp_path):
    """At twice the µm per pixel in x and the slide's own in y."""
    cells = random_table(60, size=SMALL)
    path = export(
        cells, tmp_path / "c.ome.zarr", slide=SmallSlide(), labels=LabelOptions(mpp=0.5), check=True
    )
    scaled = cells.boxes.astype(np.float64) / [2, 1, 2, 1]
    np.testing.assert_array_equal(levels(path)[0], slow_labels(scaled, (650, 1100)))
    about = json.loads((path / "labels" / "cells" / ".zattrs").read_text())
    step = about["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert step["scale"] == [0.5, 0.5]
    bare = cells.with_source(Source())
    with pytest.raises(ExportError, match="another µm per pixel"):
        export(bare, tmp_path / "d.ome.zarr", slide=Slide(), labels=LabelOptions(mpp=0.5))


def test_deleted_cells_keep_their_number_and_are_not_drawn(tmp_path):
    cells = random_table(30)
    status = np.zeros(30, np.uint8)
    status[::3] = Status.DELETED
    both = CorrectedCells(cells, cell_ids(cells), status, np.full(30, ""))
    array = levels(export(both, tmp_path / "c.ome.zarr", slide=Slide()))[0]
    drawn = set(np.unique(array)) - {0}
    assert drawn == set(np.flatnonzero(status == 0) + 1)


def test_many_cells_are_listed_in_the_table_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_celldetr.pipeline.label_raster.MOST_LISTED", 10)
    path = export(random_table(11), tmp_path / "c.ome.zarr", slide=Slide())
    label = json.loads((path / ".zattrs").read_text())["image-label"]
    assert label == {"version": "0.4"}
    import pyarrow.parquet as pq

    assert pq.read_table(path / "cells.parquet").num_rows == 11


# Whole or not there ---------------------------------------------------------------------------


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    slide = tmp_path / "slide.ome.zarr"
    zarr.open_group(str(slide), mode="w", zarr_format=2).attrs["multiscales"] = []
    before = sorted(p.name for p in slide.rglob("*"))
    with pytest.raises(ExportError, match="would be replaced"):
        export(random_table(3), slide)
    assert sorted(p.name for p in slide.rglob("*")) == before
    own = export(random_table(3), tmp_path / "own.ome.zarr")
    export(random_table(5), own)
    assert json.loads((own / ".zattrs").read_text())["celldetr"]["cells"] == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own.ome.zarr", "slide.ome.zarr"]


@pytest.mark.parametrize("exchange", [True, False])
def test_the_old_folder_stays_until_the_new_one_is_whole(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic_folder, "_renameat2", lambda: None)
    path = tmp_path / "f"
    for text in ("old", "new"):
        with replacing_folder(path) as temporary:
            (temporary / "deep").mkdir()
            (temporary / "deep" / "a").write_text(text)
    assert (path / "deep" / "a").read_text() == "new"

    def fail(temporary):
        (temporary / "a").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing_folder(path) as temporary:
        fail(temporary)
    assert (path / "deep" / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_where_the_new_folder_cannot_take_its_place_the_old_one_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic_folder, "_renameat2", lambda: None)
    path = tmp_path / "f"
    path.mkdir()
    (path / "a").write_text("old")
    # The new one is gone when its turn comes.
    monkeypatch.setattr(atomic_folder, "_flush_all", shutil.rmtree)
    with pytest.raises(FileNotFoundError), replacing_folder(path):
        pass
    assert (path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


LIMITED = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import killable
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.export import export
path, scale = sys.argv[2], 0.02 if sys.argv[2].endswith("zarr") else 1.0
export(killable.table(20, 1, scale), path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export(killable.table(40_000, 2, scale), path)
except ExportError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes there")
@pytest.mark.parametrize("suffix", [".coco.json", ".h5ad", ".ome.zarr", ".parquet"])
def test_a_disk_that_takes_no_more_is_said_and_keeps_the_old(tmp_path, suffix):
    """A real refusal of the system in the middle of writing, not one that we raise."""
    here = os.path.dirname(__file__)
    path = tmp_path / f"c{suffix}"
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, here, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert f"{path.name} cannot be written" in ran.stdout
    assert "File too large" in ran.stdout
    from napari_celldetr.pipeline.export import read_detections

    assert len(read_detections(path)) == 20
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
