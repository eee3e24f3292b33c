"""Other programs' GeoJSON is read; hostile GeoJSON is refused quickly and cheaply."""

import json
import time
import tracemalloc

import pytest

from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.export import read_detections

SQUARE = [[[0, 0], [4, 0], [4, 2], [0, 2], [0, 0]]]


def feature(geometry=None, **members):
    geometry = geometry or {"type": "Polygon", "coordinates": SQUARE}
    return {"type": "Feature", "geometry": geometry, "properties": {}, **members}


def read(tmp_path, content):
    path = tmp_path / "a.geojson"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return read_detections(path)


def collection(*features, **members):
    return {"type": "FeatureCollection", **members, "features": list(features)}


def test_a_bare_list_and_a_spread_out_file_are_read(tmp_path):
    assert len(read(tmp_path, [feature(), feature()])) == 2
    assert len(read(tmp_path, json.dumps(collection(feature(), feature()), indent=3))) == 2
    assert len(read(tmp_path, "\ufeff" + json.dumps(collection(feature())))) == 1


def test_classes_scores_and_measurements_of_qupath(tmp_path):
    cells = read(
        tmp_path,
        collection(
            feature(
                properties={
                    "classification": {"name": "Tumor", "color": [1, 2, 3]},
                    "measurements": {"Area µm^2": 7.5, "note": "text"},
                }
            ),
            feature(properties={"measurements": [{"name": "score", "value": 0.25}]}),
            feature(
                {"type": "MultiPolygon", "coordinates": [SQUARE, [[[9, 9], [10, 9], [9, 11]]]]}
            ),
        ),
    )
    assert cells.class_labels.tolist() == ["Tumor", "unknown", "unknown"]
    assert cells.scores.tolist() == [1, 0.25, 1]
    assert cells.columns["Area µm^2"][0] == 7.5
    assert cells.boxes.tolist() == [[0, 0, 4, 2], [0, 0, 4, 2], [0, 0, 10, 11]]


def test_characters_cut_by_the_buffer_survive(tmp_path):
    name = "µ" * 300
    features = [feature(properties={"classification": {"name": name}}) for _ in range(4000)]
    cells = read(tmp_path, json.dumps(collection(*features), ensure_ascii=False))
    assert cells.class_names == (name,)


def hostile():
    ring = "[0,0]," * 3_000_000 + "[1,1]"
    many = '{"type":"Polygon","coordinates":[[' + ring + "]]}"
    yield "depth", '{"type":"FeatureCollection","features":[' + "[" * 100_000
    yield "deep", '{"type":"FeatureCollection","features":[{"a":' + "[" * 100_000 + "]" * 100_000
    yield "deep-head", '{"a":' * 100_000 + '"features":['
    yield "vertices", '{"type":"FeatureCollection","features":[{"geometry":' + many + "}]}"
    yield (
        "nan",
        json.dumps(collection(feature({"type": "Polygon", "coordinates": [[[float("nan"), 0]]]}))),
    )
    yield "huge", json.dumps(collection(feature())).replace("4, 2", "1e400, 2")
    yield "big-int", json.dumps(collection(feature())).replace("4, 2", "9" * 500 + ", 2")
    yield "twice", json.dumps(collection(feature(id="a"), feature(id="a")))
    yield "point", json.dumps(collection(feature({"type": "Point", "coordinates": [1, 2]})))
    yield "empty-ring", json.dumps(collection(feature({"type": "Polygon", "coordinates": [[]]})))
    yield "no-ring", json.dumps(collection(feature({"type": "Polygon", "coordinates": []})))
    yield (
        "strings",
        json.dumps(collection(feature({"type": "Polygon", "coordinates": [[["a", "b"]]]}))),
    )
    yield "no-geometry", json.dumps(collection({"type": "Feature", "geometry": None}))
    yield "not-features", json.dumps(collection(1, 2))
    yield "score", json.dumps(collection(feature(properties={"measurements": {"score": 7}})))
    yield "classes", json.dumps(collection(feature(properties={"classification": "x"})))
    yield "offset", json.dumps(collection(feature(), celldetr={"offset": "far"}))
    yield "truncated", json.dumps(collection(feature(), feature()))[:-60]
    yield "not-json", "hello"
    yield "nothing", ""
    yield "other", '{"type":"Topology","features":[]}'


@pytest.mark.parametrize(("content"), [pytest.param(c, id=i) for i, c in hostile()])
def test_hostile_files_are_refused_quickly_and_cheaply(tmp_path, content):
    path = tmp_path / "a.geojson"
    path.write_text(content)
    start = time.monotonic()
    with pytest.raises(ExportError):
        read_detections(path)
    # Two seconds are promised; the rest is for a machine that is busy with other things.
    assert time.monotonic() - start <= 10
    tracemalloc.start()
    with pytest.raises(ExportError):
        read_detections(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 512 * 2**20


def test_bytes_that_are_not_text_are_refused(tmp_path):
    (tmp_path / "a.geojson").write_bytes(
        b'{"type":"FeatureCollection","features":[{"a":"\xff\xfe"}]}'
    )
    with pytest.raises(ExportError, match="UTF-8"):
        read_detections(tmp_path / "a.geojson")
