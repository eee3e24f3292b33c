"""GeoJSON into corrections: added, confirmed, changed; nothing doubled, no claim confirmed."""

from __future__ import annotations

import gzip
import json
import time
import uuid
from dataclasses import replace

import numpy as np
import pytest
from corrected_cells import AREAS, corrected
from test_geojson_reading import hostile

from napari_celldetr.core.annotations import (
    Annotations,
    Area,
    CorrectedCells,
    Status,
    new_keys,
)
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import AnnotationError, ExportError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.cell_ids import as_text
from napari_celldetr.pipeline.export import export
from napari_celldetr.pipeline.import_geojson import edit_from_geojson

NAMES = ("tumour", "lymphocyte")
PX = 20.0


def square(x, y, side=PX):
    """A square around a point."""
    a, b = x - side / 2, x + side / 2
    c, d = y - side / 2, y + side / 2
    return {"type": "Polygon", "coordinates": [[[a, c], [b, c], [b, d], [a, d], [a, c]]]}


def feature(geometry, name=None, kind="detection", **members):
    properties = {"objectType": kind, **members.pop("properties", {})}
    if name is not None:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


def run(tmp_path, *features, present=None, **options):
    path = tmp_path / "in.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    options = {"class_names": NAMES, "nucleus_px": PX, **options}
    return edit_from_geojson(path, present=present, **options)


def cells_at(*rows):
    """Present cells: x, y, class id, status."""
    boxes = np.array([[x - 10, y - 10, x + 10, y + 10] for x, y, _, _ in rows], np.float32)
    table = Detections(
        boxes.reshape(-1, 4),
        np.full(len(rows), 0.75, np.float32),
        np.array([r[2] for r in rows], np.int16),
        NAMES,
    )
    status = np.array([r[3] for r in rows], np.uint8)
    return CorrectedCells(table, new_keys(len(rows)), status, np.full(len(rows), ""))


def test_cells_are_added_with_their_ids_boxes_and_classes(tmp_path):
    key = str(uuid.uuid4())
    nucleus = square(300, 300, 12)
    edit, report = run(
        tmp_path,
        feature(square(100, 100, 16), "Tumour", id=key),
        feature(square(200, 200, 30), "LYMPHOCYTE", "annotation", id="PathAnnotationObject"),
        feature(square(300, 300, 60), "Stroma", "cell", nucleusGeometry=nucleus),
        feature(square(400, 400, 60), None, "cell"),
    )
    assert report.added == len(edit) == 4
    assert report.new_classes == ("Stroma",)
    assert edit.class_names == (*NAMES, "Stroma")
    assert as_text(edit.keys)[0] == key
    assert all(uuid.UUID(t).version == 4 for t in as_text(edit.keys))
    sides = edit.after.boxes[:, 2] - edit.after.boxes[:, 0]
    # A cell's outline without its nucleus says where the cell is, not how large a nucleus.
    assert sides.tolist() == [16, 30, 12, PX]
    assert edit.after.class_ids.tolist() == [0, 1, 2, -1]
    assert (edit.after.status == Status.ADDED).all()
    assert (edit.before.status == Status.ABSENT).all()
    assert (edit.after.scores == 1).all()


def test_points_are_cells_of_the_usual_size(tmp_path):
    one = {"type": "Point", "coordinates": [50.5, 60]}
    many = {"type": "MultiPoint", "coordinates": [[100, 100], [150, 160, 0]]}
    key = str(uuid.uuid4())
    edit, report = run(
        tmp_path,
        feature(one, "tumour", "annotation", id=key),
        feature(many, "lymphocyte", "annotation", id=str(uuid.uuid4())),
    )
    assert report.added == 3
    assert edit.after.boxes.tolist() == [
        [40.5, 50, 60.5, 70], [90, 90, 110, 110], [140, 150, 160, 170],
    ]  # fmt: skip
    assert as_text(edit.keys)[0] == key
    assert len(np.unique(edit.keys, axis=0)) == 3


def test_the_offset_is_added(tmp_path):
    edit, _ = run(
        tmp_path,
        feature(square(100, 100)),
        feature({"type": "Point", "coordinates": [0, 0]}, kind="annotation"),
        feature(square(500, 500, 400), "x", "annotation"),
        offset=(1000, 2000),
    )
    assert edit.after.boxes.tolist() == [[1090, 2090, 1110, 2110], [990, 1990, 1010, 2010]]
    assert edit.areas[0].after.corners.min(axis=0).tolist() == [1300, 2300]


def test_classes_are_mapped_and_left_out_by_name(tmp_path):
    names = ("Tumor", "Immune cells", "Ignore*", "Unclassified", None)
    features = [feature(square(100 * i, 0), name) for i, name in enumerate(names, 1)]
    edit, report = run(
        tmp_path,
        *features,
        class_map={"tumor": "tumour", "IMMUNE CELLS": "Lymphocyte", "ignore*": None},
    )
    assert edit.after.class_ids.tolist() == [0, 1, -1, -1]
    assert edit.class_names == NAMES
    assert report.left_out == {"of the class Ignore*": 1}
    two = {"names": ["Tumour", "Positive"], "color": [1, 2, 3]}
    edit, report = run(
        tmp_path, feature(square(9, 9), properties={"classification": two}), class_map=None
    )
    assert report.new_classes == ("Tumour: Positive",)


def test_large_annotations_are_areas_of_interest_and_no_more(tmp_path):
    key = str(uuid.uuid4())
    hole = square(500, 500, 800)
    hole["coordinates"].append(square(500, 500, 50)["coordinates"][0])
    parts = {
        "type": "MultiPolygon",
        "coordinates": [square(0, 0, 300)["coordinates"], square(900, 0, 300)["coordinates"]],
    }
    edit, report = run(
        tmp_path,
        feature(hole, "Region*", "annotation", id=key),
        feature(parts, "Tumour", "annotation", properties={"name": "nest"}),
        feature(square(50, 50, 300), "tumour"),
    )
    assert report.areas == len(edit.areas) == 3
    assert edit.areas[0].id == key
    # Who classed it in QuPath did not say that every cell in it is annotated.
    assert [c.after.kind for c in edit.areas] == ["region"] * 3
    assert [c.after.name for c in edit.areas] == ["Region*", "nest", "nest"]
    assert edit.areas[0].after.area_px == 800**2
    assert report.left_out == {"holes in areas": 1}
    # A detection is a cell whatever its size.
    assert report.added == 1


def test_cells_that_are_there_are_meant_and_not_doubled(tmp_path):
    present = cells_at(
        (100, 100, 0, Status.CLAIMED),
        (200, 200, 0, Status.CLAIMED),
        (300, 300, 0, Status.CLAIMED),
        (400, 400, 0, Status.CONFIRMED),
        (500, 500, 0, Status.ADDED),
        (600, 600, 0, Status.CLAIMED),
    )
    edit, report = run(
        tmp_path,
        feature(square(100, 100.3), "tumour"),
        feature(square(203, 200, PX), "lymphocyte", "annotation"),
        feature({"type": "Point", "coordinates": [306, 300]}, "Lymphocyte", "annotation"),
        feature(square(400, 400), "tumour"),
        feature(square(502, 500), "tumour"),
        feature(square(611, 600), "tumour"),
        present=present,
    )
    rows = [as_text(present.ids).index(k) for k in as_text(edit.keys)[:-1]]
    assert dict(zip(rows, edit.after.status.tolist(), strict=False)) == {
        0: Status.CONFIRMED,
        1: Status.MOVED,
        2: Status.RECLASSED,
        4: Status.ADDED,
    }
    assert (report.confirmed, report.moved, report.reclassed) == (1, 2, 1)
    assert (report.unchanged, report.added) == (1, 1)
    assert edit.before.scores[:-1].tolist() == [0.75] * 4
    after = dict(zip(rows, edit.after.boxes.tolist(), strict=False))
    assert after[0] == [90, 90, 110, 110]
    assert after[1] == [193, 190, 213, 210]
    assert after[2] == [290, 290, 310, 310]
    words = report.sentence()
    assert words.startswith("Cells: 1 added, 1 confirmed, 1 with another class, 2 moved")


def test_each_cell_is_meant_once_by_the_nearest(tmp_path):
    present = cells_at((100, 100, 0, Status.CLAIMED), (112, 100, 0, Status.CLAIMED))
    edit, report = run(
        tmp_path,
        feature(square(107, 100), "tumour"),
        feature(square(101, 100), "tumour"),
        feature(square(104, 100), "tumour"),
        present=present,
    )
    # 101 is 1 from the first, 107 is 5 from the second; 104 finds both taken.
    assert (report.moved, report.added) == (2, 1)
    assert edit.after.boxes[-1, 0] == 94
    assert run(tmp_path, feature(square(101, 100)), present=present, radius_px=0)[1].added == 1


def test_an_id_means_its_cell_wherever_it_went(tmp_path):
    present = cells_at((100, 100, 0, Status.CLAIMED), (300, 300, 1, Status.RECLASSED))
    first, second = as_text(present.ids)
    edit, report = run(
        tmp_path,
        feature(square(300, 300), "tumour", id=first),
        feature(square(700, 300), None, id=second.upper()),
        present=present,
    )
    assert (report.moved, report.added, len(edit)) == (2, 0, 2)
    np.testing.assert_array_equal(edit.keys, present.ids)
    # A cell without a class in the file keeps its own.
    assert edit.after.class_ids.tolist() == [0, 1]


def test_ids_that_come_twice_become_new_ones(tmp_path):
    key = str(uuid.uuid4())
    twice = [feature(square(100 * i, 100), id=key) for i in (1, 2, 3)]
    edit, _ = run(tmp_path, *twice)
    assert as_text(edit.keys).count(key) == 1
    assert len(np.unique(edit.keys, axis=0)) == 3


@pytest.fixture(scope="module")
def many():
    return corrected(3000, side=20_000)


def bounded():
    class Slide:
        bounds = Region(1000, 2000, 90_000, 90_000)

    return Slide()


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz"])
def test_our_own_export_changes_nothing(many, tmp_path, suffix):
    path = export(many, tmp_path / f"c{suffix}", slide=bounded())
    names = many.cells.class_names
    edit, report = edit_from_geojson(path, present=many, class_names=names, nucleus_px=PX)
    assert len(edit) == 0
    assert edit.areas == ()
    assert report.unchanged == len(many)


def test_our_own_export_into_an_empty_project(many, tmp_path):
    path = export(many, tmp_path / "c.geojson", slide=bounded())
    edit, report = edit_from_geojson(path, present=None, class_names=(), nucleus_px=PX)
    assert report.added == len(many)
    assert report.areas == len(AREAS)
    assert {c.id: c.after for c in edit.areas} == AREAS
    np.testing.assert_array_equal(edit.keys, many.ids)
    np.testing.assert_allclose(edit.after.boxes, many.cells.boxes, atol=0.01)
    words = np.array([*edit.class_names, "unknown"])[edit.after.class_ids]
    np.testing.assert_array_equal(words, many.cells.class_labels)
    held = Annotations()
    held.apply(edit)
    held.apply(edit.reversed())
    assert len(held) == 0
    assert held.areas == {}


def test_what_was_done_in_qupath_comes_back(many, tmp_path):
    path = export(many, tmp_path / "c.geojson", slide=bounded())
    whole = json.loads(path.read_text())
    cells = [f for f in whole["features"] if f["properties"]["objectType"] == "detection"]
    claims = np.flatnonzero(many.status == Status.CLAIMED)[:4]
    moved, relabelled, deleted, alone = (cells[i] for i in claims)
    ring = moved["geometry"]["coordinates"][0]
    moved["geometry"]["coordinates"][0] = [[x + 3, y] for x, y in ring]
    relabelled["properties"]["classification"] = {"name": "new one", "color": [1, 2, 3]}
    deleted["properties"]["metadata"] = {"status": "deleted"}
    # QuPath drops what it does not know: our head goes, so the offset must be given.
    del whole["celldetr"]
    path.write_text(json.dumps(whole))
    edit, report = edit_from_geojson(
        path,
        present=many,
        class_names=many.cells.class_names,
        nucleus_px=PX,
        offset=(1000, 2000),
    )
    np.testing.assert_array_equal(edit.keys, many.ids[claims[:3]])
    assert edit.after.status.tolist() == [Status.MOVED, Status.RECLASSED, Status.DELETED]
    assert edit.class_names[edit.after.class_ids[1]] == "new one"
    assert (report.moved, report.reclassed, report.deleted) == (1, 1, 1)
    assert alone["properties"]["metadata"] == {"status": "claimed"}


def test_areas_change_and_stay(tmp_path, many):
    path = export(many, tmp_path / "c.geojson")
    key, area = next(iter(AREAS.items()))
    other = Area(area.polygon[:3], "region", "old name")
    edit, report = edit_from_geojson(
        path, present=replace(many, areas={**AREAS, key: other}), class_names=(), nucleus_px=PX
    )
    assert report.areas == 1
    assert (edit.areas[0].id, edit.areas[0].before, edit.areas[0].after) == (key, other, area)


def test_what_is_no_cell_is_left_out_and_said(tmp_path):
    line = {"type": "LineString", "coordinates": [[0, 0], [5, 5]]}
    flat = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [0, 0]]]}
    gone = feature(square(50, 50), properties={"metadata": {"status": "deleted"}})
    other = feature(square(90, 90), properties={"metadata": {"status": "checked twice"}})
    edit, report = run(tmp_path, feature(line), feature(flat), gone, other)
    assert report.left_out == {
        "of the kind LineString": 1,
        "without area": 1,
        "deleted cells that are not there": 1,
    }
    assert len(edit) == 1
    assert "Left out: 1 of the kind LineString" in report.sentence()


def test_an_empty_file_is_an_empty_edit(tmp_path):
    edit, report = run(tmp_path)
    assert (len(edit), edit.areas, report.sentence()) == (0, (), "Cells: none.")


REFUSED_BY_READING_ONLY = {"twice", "point", "score"}


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in hostile()])
def test_hostile_files_are_refused(tmp_path, content, request):
    name = request.node.callspec.id
    for path, data in (
        (tmp_path / "a.geojson", content.encode()),
        (tmp_path / "a.geojson.gz", gzip.compress(content.encode(), 1)),
    ):
        path.write_bytes(data)
        start = time.monotonic()
        if name in REFUSED_BY_READING_ONLY:
            edit, _ = edit_from_geojson(path, present=None, class_names=(), nucleus_px=PX)
            assert len(np.unique(edit.keys, axis=0)) == len(edit) <= 2
        else:
            with pytest.raises(ExportError):
                edit_from_geojson(path, present=None, class_names=(), nucleus_px=PX)
        assert time.monotonic() - start <= 10


def test_thousands_of_class_names_are_refused(tmp_path):
    with pytest.raises(ExportError, match="new classes"):
        run(tmp_path, *(feature(square(i, i), f"class {i}") for i in range(1100)))


def test_sizes_that_cannot_be_are_refused(tmp_path):
    for options in ({"nucleus_px": 0.0}, {"nucleus_px": float("nan")}, {"radius_px": -1.0}):
        with pytest.raises(AnnotationError, match="no size"):
            run(tmp_path, **options)
    with pytest.raises(ExportError, match="cannot be imported"):
        edit_from_geojson(tmp_path / "gone.geojson", present=None, class_names=(), nucleus_px=PX)
