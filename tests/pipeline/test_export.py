"""Every format out and in, whole or not at all."""

import csv
import errno
import gzip
import json
import os
import sys
import time
import uuid
from dataclasses import replace

import killable
import numpy as np
import pytest

from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids
from napari_celldetr.pipeline.export import READABLE, SUFFIXES, export, read_detections, suffix_of

COUNT = 20_000


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 99_000, (COUNT, 2))
    boxes = np.concatenate([low, low + rng.uniform(3, 60, (COUNT, 2))], axis=1)
    source = Source("slide.svs", "a" * 64, (0.25, 0.25), "celldetr-ihc", "b" * 64, "{}", "0.1")
    return Detections(
        boxes,
        rng.random(COUNT),
        rng.integers(-1, 3, COUNT),
        ("alpha", 'be"ta, x', "γ"),
        None,
        {"dab_od_mean": rng.normal(0.2, 0.2, COUNT).astype(np.float32)},
        source,
    ).ordered()


def few(**changes):
    table = killable.table(6, 0)
    return replace(table, **changes)


def assert_same(back, cells):
    """Row by row: places to 0.01 px, scores and measurements to four decimals, classes by name."""
    assert len(back) == len(cells)
    np.testing.assert_allclose(back.boxes, cells.boxes, atol=0.0101)
    np.testing.assert_allclose(back.scores, cells.scores, atol=5.1e-5)
    np.testing.assert_array_equal(back.class_labels, cells.class_labels)
    for name, values in cells.columns.items():
        np.testing.assert_allclose(back.columns[name], values, atol=6e-5)
    assert {"diameter_um", "area_um2"} <= set(back.columns)


def contents(path):
    """All bytes of a file, or of the files of a folder."""
    if path.is_file():
        return path.read_bytes()
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("suffix", READABLE)
def test_out_and_in(cells, tmp_path, suffix):
    if suffix == ".ome.zarr":
        # A label image of 100,000 px a side is drawn for minutes.
        cells = cells.moved((0.05, 0.05), (0, 0)).select(slice(0, 2000))
    path = export(cells, tmp_path / f"cells{suffix}")
    assert_same(read_detections(path), cells)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_parquet_is_lossless(cells, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(COUNT, 8))
    full = replace(
        cells, embeddings=vectors, columns={"n": np.arange(COUNT), "t": cells.class_labels}
    )
    back = read_detections(export(full, tmp_path / "cells.parquet"))
    assert back.select(slice(None)).source == cells.source
    bare = replace(back, columns={k: back.columns[k] for k in ("n", "t")})
    assert bare == full


@pytest.mark.parametrize("suffix", READABLE)
def test_an_empty_table(tmp_path, suffix):
    empty = Detections.empty(("a",), source=Source(mpp=(0.5, 0.5)))
    assert len(read_detections(export(empty, tmp_path / f"none{suffix}"))) == 0


def test_geojson_is_what_qupath_wants(cells, tmp_path):
    path = export(cells, tmp_path / "c.geojson", colors={"alpha": (1, 2, 3)})
    text = path.read_text(encoding="utf-8")
    assert "NaN" not in text
    whole = json.loads(text)
    assert whole["type"] == "FeatureCollection"
    assert whole["celldetr"]["note"].startswith("Research use only")
    assert len(whole["features"]) == COUNT
    ids = {uuid.UUID(f["id"]) for f in whole["features"]}
    assert len(ids) == COUNT
    for feature, box in list(zip(whole["features"], cells.boxes, strict=True))[:300]:
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert len(ring) == 17
        xy = np.array(ring)
        np.testing.assert_allclose([*xy.min(0), *xy.max(0)], box, atol=0.0101)
        side = box[2:] - box[:2]
        unit = (xy - (box[:2] + box[2:]) / 2) / (side / 2)
        np.testing.assert_allclose(np.hypot(*unit.T), 1, atol=0.02 / min(side) * 2 + 0.001)
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert len(properties["classification"]["color"]) == 3
        assert set(properties["measurements"]) == {
            "score", "dab_od_mean", "diameter_um", "area_um2",
        }  # fmt: skip
    colors = {
        f["properties"]["classification"]["name"]: f["properties"]["classification"]["color"]
        for f in whole["features"]
    }
    assert colors["alpha"] == [1, 2, 3]
    assert set(colors) == {"alpha", 'be"ta, x', "γ", "unknown"}


def test_geojson_gz_is_the_same_text(cells, tmp_path):
    plain = export(cells, tmp_path / "c.geojson").read_bytes()
    assert gzip.decompress(export(cells, tmp_path / "c.geojson.gz").read_bytes()) == plain


def test_scanned_bounds_are_subtracted_and_come_back(cells, tmp_path):
    class Slide:
        bounds = Region(1000, 2000, 90_000, 90_000)

    path = export(cells, tmp_path / "c.geojson", slide=Slide())
    ring = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0]
    assert np.min(ring, axis=0) == pytest.approx(cells.boxes[0, :2] - (1000, 2000), abs=0.0101)
    assert_same(read_detections(path), cells)


def test_missing_measurements_are_left_out_of_geojson(tmp_path):
    gaps = few(columns={"a": np.array([1, np.nan, np.inf, 2, 3, 4.0])})
    path = export(gaps, tmp_path / "c.geojson")
    features = json.loads(path.read_text())["features"]
    assert ["a" in f["properties"]["measurements"] for f in features] == [
        True, False, False, True, True, True,
    ]  # fmt: skip
    back = read_detections(path).columns["a"]
    assert np.isnan(back).tolist() == [False, True, True, False, False, False]


def test_csv_columns_are_as_documented(cells, tmp_path):
    path = export(cells, tmp_path / "c.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    leading = ["x", "y", "x0", "y0", "x1", "y1", "score", "class"]
    assert rows[0] == [*leading, "x_um", "y_um", "dab_od_mean", "diameter_um", "area_um2"]
    assert len(rows) == COUNT + 1
    x, y = cells.centres[5]
    assert [float(v) for v in rows[6][:2]] == pytest.approx([x, y], abs=0.0101)
    mpp_x, mpp_y = cells.source.mpp
    um = [float(v) for v in rows[6][8:10]]
    assert um == pytest.approx([x * mpp_x, y * mpp_y], abs=0.00101)
    back = read_detections(path)
    assert "x_um" not in back.columns
    assert back.source.mpp == pytest.approx(cells.source.mpp, rel=1e-4)
    bare = replace(cells, source=Source(), columns={})
    first = export(bare, tmp_path / "b.csv").read_text().splitlines()[0]
    assert first == "x,y,x0,y0,x1,y1,score,class"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_csv_text_cannot_become_a_formula(tmp_path, start):
    evil = start + 'HYPERLINK("http://x","y")'
    table = few(class_names=(evil, "b"), class_ids=np.zeros(6), columns={evil: np.ones(6)})
    path = export(table, tmp_path / "c.csv")
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][7] == "'" + evil
    assert rows[0][10] == "'" + evil
    back = read_detections(path)
    assert back.class_names == (evil,)
    assert evil in back.columns


def test_anndata_has_what_scanpy_and_squidpy_need(cells, tmp_path):
    anndata = pytest.importorskip("anndata")
    vectors = np.random.default_rng(1).normal(size=(COUNT, 8))
    path = export(replace(cells, embeddings=vectors), tmp_path / "c.h5ad")
    table = anndata.read_h5ad(path)
    assert table.shape == (COUNT, 3)
    assert list(table.var_names) == ["dab_od_mean", "diameter_um", "area_um2"]
    np.testing.assert_allclose(table.obsm["spatial"], cells.centres)
    assert table.obsm["embedding"].shape == (COUNT, 8)
    assert table.obs_names.is_unique
    assert list(table.obs["class"].astype(str)) == cells.class_labels.tolist()
    assert Source.from_json(table.uns["source"]) == cells.source
    assert table.uns["note"].startswith("Research use only")


def test_anndata_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ExportError, match="not installed"):
        export(few(), tmp_path / "c.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_ids_depend_on_the_cell_and_are_unique(cells):
    ids = as_text(cell_ids(cells))
    assert len(set(ids)) == COUNT
    relabelled = replace(cells, class_ids=np.zeros(COUNT), scores=np.ones(COUNT))
    assert as_text(cell_ids(relabelled)) == ids
    assert as_text(cell_ids(cells.select(slice(10, 20)))) == ids[10:20]
    other = cells.with_source(Source(slide_id="z" * 64))
    assert not set(as_text(cell_ids(other))) & set(ids)
    same_place = cells.select(np.zeros(500, int))
    assert len(set(as_text(cell_ids(same_place)))) == 500
    assert all(uuid.UUID(i).version == 8 for i in ids[:100])


@pytest.mark.parametrize("name", ["cells", "cells.txt", "cells.json", ".csv", "cells.csv.gz"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(ExportError, match="not known"):
        export(few(), tmp_path / name)


def test_suffixes_in_capitals_are_fine():
    from pathlib import Path

    assert suffix_of(Path("A.GeoJSON.GZ")) == ".geojson.gz"
    assert suffix_of(Path("a.tar.csv")) == ".csv"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_folder_is_an_export_error(tmp_path, suffix):
    with pytest.raises(ExportError, match="cannot be written"):
        export(few(), tmp_path / "no" / f"c{suffix}")


def test_a_read_only_folder_is_an_export_error(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    # As root no folder is read-only, so the system's answer is given in its place.
    monkeypatch.setattr("pathlib.Path.open", refused)
    with pytest.raises(ExportError, match="no permission"):
        export(few(), tmp_path / "c.csv")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, suffix):
    path = export(few(), tmp_path / f"c{suffix}")
    before = contents(path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ExportError, match="disk is full"):
            export(killable.table(9, 5), path)
    assert contents(path) == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_overwriting_can_be_refused(tmp_path):
    path = export(few(), tmp_path / "c.csv")
    with pytest.raises(ExportError, match="exists"):
        export(few(), path, overwrite=False)
    export(few(), path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"a,b\n1,2\n"),
        ("a.csv", b""),
        ("a.csv", b"x0,y0,x1,y1,score,class\n5,5,1,1,0.5,a\n"),
        ("a.csv", b"x0,y0,x1,y1,score,class\n1,1,5,5,high,a\n"),
        ("a.parquet", b"PAR1 not really PAR1"),
        ("a.geojson.gz", b"not gzip"),
        ("a.geojson.gz", gzip.compress(b'{"type":"FeatureCollection","features":[')[:-12]),
        ("a.h5ad", b"not HDF5"),
        ("a.h5ad", b"\x89HDF\r\n\x1a\n" + bytes(100)),
        ("a.coco.json", b"[]"),
        ("a.ome.zarr", b"a file"),
    ],
)
def test_reading_something_else_is_an_export_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError):
        read_detections(tmp_path / name)


def test_reading_nothing_is_an_export_error(tmp_path):
    with pytest.raises(ExportError, match="does not exist"):
        read_detections(tmp_path / "gone.csv")
    (tmp_path / "empty.ome.zarr").mkdir()
    with pytest.raises(ExportError, match="cannot be read"):
        read_detections(tmp_path / "empty.ome.zarr")
    with pytest.raises(ExportError, match="not known"):
        read_detections(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("suffix", "kills"),
    [(".csv", 15), (".geojson", 15), (".coco.json", 10), (".h5ad", 10), (".ome.zarr", 20)],
)
def test_an_export_killed_leaves_the_old_file_or_the_new_one(tmp_path, suffix, kills):
    # Few tiles of a label image, so that kills meet the moment of taking the old one's place.
    count, scale = (100, 0.02) if suffix == ".ome.zarr" else (2000, 1.0)
    context = killable.processes()
    path = tmp_path / f"c{suffix}"
    rng = np.random.default_rng()
    whole = {}
    for seed in (1, 2):
        export(killable.table(count, seed, scale), path)
        whole[_digest(path)] = seed
    seen = set()
    for _ in range(kills):
        child = context.Process(target=killable.keep_exporting, args=(str(path), count, scale))
        child.start()
        time.sleep(float(rng.uniform(0.05, 0.25)))
        child.kill()
        child.join()
        child.close()
        seen.add(whole[_digest(path)])
    assert seen <= {1, 2}


def _digest(path):
    """Of the bytes; of the cells in HDF5, which notes the time of writing."""
    if path.suffix == ".h5ad":
        return read_detections(path).digest()
    return repr(sorted(contents(path).items())) if path.is_dir() else path.read_bytes()


@pytest.mark.large
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_million_cells_within_one_gigabyte(tmp_path, suffix):
    script = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]); import killable; "
        "from napari_celldetr.pipeline.export import export, read_detections; "
        "t = killable.table(1_000_000, 0); p = export(t, sys.argv[2]); "
        "assert len(read_detections(p)) == 1_000_000; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    import subprocess

    here = os.path.dirname(killable.__file__)
    done = subprocess.run(
        [sys.executable, "-c", script, here, str(tmp_path / f"c{suffix}")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) <= 1024
