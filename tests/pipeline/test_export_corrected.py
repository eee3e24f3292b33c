"""Corrected cells to every format and back: who said what of which cell is never lost."""

from __future__ import annotations

import csv
import json
import uuid
from dataclasses import replace
from pathlib import Path

import corrected_cells
import numpy as np
import pytest
from corrected_cells import AREAS, assert_same, corrected

from napari_celldetr.core.annotations import SAID, CorrectedCells, Status
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.cell_ids import as_text, cell_ids, from_text
from napari_celldetr.pipeline.export import (
    READABLE,
    SUFFIXES,
    export,
    read_cells,
    read_corrected,
    read_detections,
)

COUNT = 100_000


class Slide:
    """A slide whose scanned part does not begin at its corner."""

    bounds = Region(1000, 2000, 98_000, 97_000)
    size = (100_000, 100_000)


class SmallSlide:
    bounds = Region(100, 200, 9_700, 9_600)
    size = (10_000, 10_000)


@pytest.fixture(scope="module")
def many() -> CorrectedCells:
    return corrected(COUNT)


@pytest.fixture(scope="module")
def few() -> CorrectedCells:
    return corrected(300, side=9_000)


@pytest.mark.parametrize("suffix", READABLE)
def test_what_was_corrected_comes_back(many, few, tmp_path, suffix):
    # A label image of 100,000 px a side is drawn for minutes.
    cells, slide = (few, SmallSlide()) if suffix == ".ome.zarr" else (many, Slide())
    path = export(cells, tmp_path / f"c{suffix}", slide=slide, check=False)
    assert_same(read_corrected(path), cells)


@pytest.mark.parametrize("suffix", READABLE)
def test_a_few_cells_areas_alone_and_nothing(few, tmp_path, suffix):
    empty = replace(
        few,
        cells=few.cells.select(slice(0, 0)),
        ids=few.ids[:0],
        status=few.status[:0],
        authors=few.authors[:0],
    )
    for number, cells in enumerate((few, empty, replace(empty, areas={}))):
        path = export(cells, tmp_path / f"{number}{suffix}", slide=SmallSlide())
        back = read_corrected(path)
        assert dict(back.areas) == dict(cells.areas)
        np.testing.assert_array_equal(back.ids, cells.ids)
        assert isinstance(read_cells(path), CorrectedCells)
        # Areas are no cells.
        assert len(read_detections(path)) == len(cells)


def test_writing_what_was_read_changes_nothing(few, tmp_path):
    """From format to format and around: after the first, nothing is rounded again."""
    cells = few
    for suffix in (*READABLE, *READABLE[:1]):
        path = export(cells, tmp_path / f"c{suffix}", slide=SmallSlide())
        cells = read_cells(path)
    assert_same(cells, few)


@pytest.mark.parametrize("suffix", READABLE)
def test_a_plain_result_reads_as_claims(few, tmp_path, suffix):
    path = export(few.cells, tmp_path / f"c{suffix}", slide=SmallSlide())
    back = read_corrected(path)
    assert isinstance(read_cells(path), Detections)
    assert (back.status == Status.CLAIMED).all()
    assert (back.authors == "").all()
    if suffix != ".csv":
        # CSV says nothing of the slide, which ids depend on.
        np.testing.assert_array_equal(back.ids, cell_ids(few.cells))


def test_sizes_of_cells_that_a_person_moved_are_made_again(few, tmp_path):
    sizes = np.full(len(few), np.nan, np.float32)
    sizes[::2] = 7.0
    cells = replace(few, cells=few.cells.with_columns(diameter_um=sizes))
    back = read_corrected(export(cells, tmp_path / "c.parquet")).cells
    assert (back.columns["diameter_um"][::2] == 7).all()
    width, height = (few.cells.boxes[1, 2:] - few.cells.boxes[1, :2]) * 0.25
    assert back.columns["diameter_um"][1] == pytest.approx((width * height) ** 0.5, rel=1e-5)


def test_the_command_line_converts_without_losing_what_people_said(few, tmp_path):
    from napari_celldetr.cli import main

    source = export(few, tmp_path / "c.parquet")
    assert main(["export", str(source), str(tmp_path / "d.geojson")]) == 0
    assert_same(read_corrected(tmp_path / "d.geojson"), few)
    assert main(["export", str(source), str(tmp_path / "e.csv"), "--threshold", "0.6"]) == 0
    back = read_corrected(tmp_path / "e.csv")
    kept = SAID[few.status] | (few.cells.scores >= 0.6)
    # No score takes away what a person vouches for.
    assert 0 < kept.sum() < len(few)
    np.testing.assert_array_equal(back.ids, few.ids[kept])


# What each program wants to see -----------------------------------------------------------


def qupath_faults(text: str, slide_px: tuple[int, int]) -> list[str]:
    """Everything that QuPath's reader, or a person in QuPath, would stumble over."""
    faults = []

    def constant(word: str) -> None:
        faults.append(f"{word} is not JSON")

    whole = json.loads(text, parse_constant=constant)
    if whole.get("type") != "FeatureCollection":
        faults.append("not a FeatureCollection")
    ids = set()
    for number, feature in enumerate(whole["features"]):
        at, properties = f"feature {number}: ", feature["properties"]
        try:
            ids.add(uuid.UUID(feature["id"]))
        except (KeyError, ValueError):
            faults.append(at + "id is no UUID")
        if feature["type"] != "Feature":
            faults.append(at + "not a Feature")
        if properties.get("objectType") not in ("detection", "cell", "annotation"):
            faults.append(at + "objectType")
        geometry = feature["geometry"]
        if geometry["type"] != "Polygon":
            faults.append(at + "geometry")
        for ring in geometry["coordinates"]:
            xy = np.array(ring, np.float64)
            if len(ring) < 4 or ring[0] != ring[-1]:
                faults.append(at + "ring is not closed")
            if not np.isfinite(xy).all():
                faults.append(at + "not finite")
            if (xy < -0.01).any() or (xy > np.array(slide_px) + 0.01).any():
                faults.append(at + "outside the image as QuPath shows it")
        classification = properties.get("classification")
        if classification is not None:
            color = classification.get("color")
            if not isinstance(color, list) or [type(c) for c in color] != [int] * 3:
                faults.append(at + "classification without colour")
            elif min(color) < 0 or max(color) > 255:
                faults.append(at + "colour")
            if not isinstance(classification.get("name"), str):
                faults.append(at + "classification without name")
        for value in properties.get("measurements", {}).values():
            if not isinstance(value, int | float) or not np.isfinite(value):
                faults.append(at + "measurement")
        for value in properties.get("metadata", {}).values():
            if not isinstance(value, str):
                faults.append(at + "metadata are texts")
        if not isinstance(properties.get("name", ""), str):
            faults.append(at + "name")
    if len(ids) != len(whole["features"]):
        faults.append("ids come twice")
    return faults


@pytest.fixture(scope="module")
def inside(few) -> CorrectedCells:
    """The cells within the scanned part."""
    x, y = few.cells.boxes[:, 0] > 101, few.cells.boxes[:, 1] > 201
    rows = np.flatnonzero(x & y)
    return CorrectedCells(
        few.cells.select(rows), few.ids[rows], few.status[rows], few.authors[rows], few.areas
    )


def test_geojson_keeps_every_rule_of_qupath(inside, tmp_path):
    path = export(inside, tmp_path / "c.geojson", slide=SmallSlide())
    text = path.read_text(encoding="utf-8")
    assert qupath_faults(text, (9_700, 9_600)) == []
    features = json.loads(text)["features"]
    kinds = [f["properties"]["objectType"] for f in features]
    assert kinds == ["annotation"] * len(AREAS) + ["detection"] * len(inside)
    cells = features[len(AREAS) :]
    assert [f["id"] for f in cells] == as_text(inside.ids)
    first = np.array(cells[0]["geometry"]["coordinates"][0])
    corner = inside.cells.boxes[0, :2] - (100, 200)
    np.testing.assert_allclose(first.min(axis=0), corner, atol=0.01)
    for feature, word, author in zip(cells, inside.words(), inside.authors, strict=True):
        said = feature["properties"]["metadata"]
        assert said == {"status": word, **({"author": author} if author else {})}
    areas = {f["properties"]["metadata"]["area"]: f for f in features[: len(AREAS)]}
    assert areas.keys() == AREAS.keys()
    ring = np.array(areas["first"]["geometry"]["coordinates"][0])
    np.testing.assert_allclose(ring[:-1] + np.array([100, 200]), AREAS["first"].corners, atol=1e-9)
    assert areas["first"]["properties"]["name"] == "=A"
    assert areas["first"]["properties"]["classification"]["name"] == "Region*"


def test_the_validator_finds_faults(inside, tmp_path):
    """Each rule can fail, or it would not be one."""
    path = export(inside, tmp_path / "c.geojson", slide=SmallSlide())
    whole = json.loads(path.read_text(encoding="utf-8"))

    def faults(change) -> list[str]:
        broken = json.loads(json.dumps(whole))
        change(broken["features"][-1])
        return qupath_faults(json.dumps(broken), (9_700, 9_600))

    def ring(feature):
        return feature["geometry"]["coordinates"][0]

    changes = {
        "id is no UUID": lambda f: f.update(id="7"),
        "ids come twice": lambda f: f.update(id=whole["features"][-2]["id"]),
        "not closed": lambda f: ring(f).pop(),
        "outside": lambda f: ring(f)[3].__setitem__(0, 9_800),
        "not JSON": lambda f: ring(f)[3].__setitem__(0, float("nan")),
        "without colour": lambda f: f["properties"]["classification"].pop("color"),
        "measurement": lambda f: f["properties"]["measurements"].update(a=None),
        "metadata": lambda f: f["properties"].update(metadata={"a": 1}),
    }
    for what, change in changes.items():
        assert any(what in fault for fault in faults(change)), what


def test_csv_is_safe_in_a_spreadsheet_and_has_its_areas_beside(few, tmp_path):
    path = export(few, tmp_path / "c.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[8:11] == ["id", "status", "author"]
    assert [r["id"] for r in rows] == as_text(few.ids)
    assert [r["status"] for r in rows] == list(few.words())
    dangerous = tuple("=+-@\t\r")
    texts = [r[name] for r in rows for name in ("class", "author", "status", "id")]
    assert not any(t.startswith(dangerous) for t in texts)
    assert {"'=1+1"} <= {r["class"] for r in rows}
    assert {"Ann", "''=Böb", "'-", ""} <= {r["author"] for r in rows}
    with (tmp_path / "c.areas.csv").open(newline="", encoding="utf-8") as file:
        corners = list(csv.DictReader(file))
    assert [c["area"] for c in corners] == ["first"] * 3 + [list(AREAS)[1]] * 4
    assert corners[0] | {"x": "", "y": ""} == {
        "area": "first", "kind": "complete", "name": "'=A", "x": "", "y": "",
    }  # fmt: skip
    assert float(corners[1]["x"]) == AREAS["first"].polygon[1][0]


def test_areas_of_an_earlier_csv_do_not_stay(few, tmp_path):
    path = export(few, tmp_path / "c.csv")
    export(replace(few, areas={}), path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.csv"]
    assert dict(read_corrected(path).areas) == {}


def test_a_file_that_is_no_areas_is_not_replaced(few, tmp_path):
    (tmp_path / "c.areas.csv").write_text("my,own\n1,2\n")
    for cells in (few, few.cells):
        with pytest.raises(ExportError, match=r"c\.areas\.csv is there and would be replaced"):
            export(cells, tmp_path / "c.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["c.areas.csv"]


def test_numbers_and_dates_as_class_names_stay_texts(tmp_path):
    names = ("01", "1e5", "true", "2024-01-01", "NA", "")
    boxes = np.array([[i, 0, i + 5, 5] for i in range(6)], np.float32)
    cells = Detections(boxes, np.ones(6), np.arange(6), names)
    both = CorrectedCells(
        cells, cell_ids(cells), np.full(6, Status.CONFIRMED, np.uint8), np.array(names)
    )
    back = read_corrected(export(both, tmp_path / "c.csv"))
    assert back.cells.class_labels.tolist() == list(names)
    assert back.authors.tolist() == list(names)


def test_anndata_says_who_said_what(few, tmp_path):
    anndata = pytest.importorskip("anndata")
    table = anndata.read_h5ad(export(few, tmp_path / "c.h5ad"))
    assert list(table.obs_names) == as_text(few.ids)
    assert list(table.obs["status"].astype(str)) == list(few.words())
    assert list(table.obs["author"].astype(str)) == few.authors.tolist()
    assert set(json.loads(table.uns["areas"])) == set(AREAS)


def test_parquet_has_columns_that_pandas_can_group(few, tmp_path):
    import pandas

    table = pandas.read_parquet(export(few, tmp_path / "c.parquet"))
    assert table["id"].tolist() == as_text(few.ids)
    counts = table.groupby("status").size()
    assert counts["added"] == (few.status == Status.ADDED).sum()


# What cannot be written --------------------------------------------------------------------


def wrong(few: CorrectedCells):
    twice = few.ids.copy()
    twice[1] = twice[0]
    yield "id", replace(few, ids=twice)
    yield "ids", replace(few, ids=few.ids[:-1])
    yield "status", replace(few, status=np.full(len(few), Status.ABSENT, np.uint8))
    yield "number", replace(few, status=np.full(len(few), 77, np.uint8))
    yield "authors", replace(few, authors=few.authors[:5])
    yield "name", replace(few, cells=few.cells.with_columns(author=np.ones(len(few))))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_that_do_not_fit_together_are_refused(few, tmp_path, suffix):
    for what, cells in wrong(few):
        with pytest.raises(ExportError):
            export(cells, tmp_path / f"{what}{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_ids_as_texts_and_back():
    ids = corrected_cells.corrected(50).ids
    texts = as_text(ids)
    assert [uuid.UUID(t).int for t in texts] == [int(a) << 64 | int(b) for a, b in ids]
    np.testing.assert_array_equal(from_text([t.upper() for t in texts]), ids)
    assert from_text([]).shape == (0, 2)
    for bad in ("", "x" * 36, texts[0] + "0", texts[0].replace("-", "0"), "é" + texts[0][1:]):
        with pytest.raises(ValueError, match=r"UUID|ascii"):
            from_text([texts[1], bad])


def test_a_source_without_a_pixel_size_is_no_obstacle(few, tmp_path):
    bare = replace(few, cells=few.cells.with_source(Source()))
    for suffix in READABLE:
        assert_same(read_corrected(export(bare, tmp_path / f"c{suffix}")), bare)
    assert Path(tmp_path / "c.ome.zarr" / "cells.parquet").is_file()
