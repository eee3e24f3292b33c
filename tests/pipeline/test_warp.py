"""Points, outlines and pictures land where the transform says, and come back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from napari_celldetr.core.errors import ExportError
from napari_celldetr.core.progress import drain
from napari_celldetr.core.transform import (
    ErrorMap,
    SlideFrame,
    SlideTransform,
    SplineWarp,
    TransformError,
)
from napari_celldetr.pipeline.register import frame_of
from napari_celldetr.pipeline.warp import WarpReport, warp_image, warp_points, warp_regions
from napari_celldetr.slides.readers import open_slide

HE = SlideFrame("he", "1", (4000, 3000), (0.5, 0.5))
IHC = SlideFrame("ihc", "2", (5000, 5000), (0.4, 0.4))


def transform(he: SlideFrame = HE, ihc: SlideFrame = IHC, *, flip: bool = True) -> SlideTransform:
    matrix = np.array([[0.0, -1.0], [-1.0, 0.0]]) if flip else np.eye(2)
    middle, there = np.array(he.extent_um) / 2, np.array(ihc.extent_um) / 2
    field = np.random.default_rng(0).uniform(-12, 12, (12, 12, 2))
    warp = SplineWarp((-400.0, -400.0), (300.0, 300.0), field)
    affine = np.column_stack([matrix, there - matrix @ middle])
    tissue = np.ones((6, 8))
    error = np.full((6, 8), 5.0)
    error[:, 0] = 400
    errors = ErrorMap((he.extent_um[0] / 8, he.extent_um[1] / 6), error, tissue)
    return SlideTransform(he, ihc, affine, warp, errors, limit_um=50)


def write_csv(path, names, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_points_move_and_other_columns_stay(tmp_path):
    at = [[1500.5, 1200.25], [100, 1500], [3900, 2900]]
    rows = [[f"cell, {i}", x, y, "=1+1"] for i, (x, y) in enumerate(at)]
    source = write_csv(tmp_path / "in.csv", ["name", "x", "y", "note"], rows)
    report = warp_points(source, tmp_path / "out.csv", transform())
    table = read_csv(tmp_path / "out.csv")
    assert list(table[0]) == [
        *("name", "x", "y", "note"),
        *("registration_error_um", "registration_excluded"),
    ]
    got = np.array([[float(r["x"]), float(r["y"])] for r in table])
    assert np.abs(got - transform().forward(np.array(at))).max() < 1e-3
    assert [r["name"] for r in table] == ["cell, 0", "cell, 1", "cell, 2"]
    assert [r["registration_excluded"] for r in table] == ["no", "yes", "no"]
    assert report == WarpReport(3, 1)
    assert "1 (33.3%) excluded" in report.sentence()


def test_points_come_back(tmp_path):
    at = np.random.default_rng(1).uniform(700, 2500, (40, 2))
    source = write_csv(tmp_path / "in.csv", ["x", "y"], at.tolist())
    warp_points(source, tmp_path / "there.csv", transform())
    warp_points(tmp_path / "there.csv", tmp_path / "back.csv", transform(), inverse=True)
    table = read_csv(tmp_path / "back.csv")
    got = np.array([[float(r["x"]), float(r["y"])] for r in table])
    assert np.abs(got - at).max() < 0.05
    assert len(table[0]) == 4


def test_boxes_and_micrometres_follow(tmp_path):
    names = ["x", "y", "x0", "y0", "x1", "y1", "score", "x_um", "y_um"]
    source = write_csv(
        tmp_path / "in.csv", names, [[1000, 800, 980, 790, 1020, 810, 0.9, 500, 400]]
    )
    warp_points(source, tmp_path / "out.csv", transform())
    row = {k: float(v) for k, v in read_csv(tmp_path / "out.csv")[0].items() if "excluded" not in k}
    # A quarter turn: what was wide is high, in px a quarter larger.
    assert row["x1"] - row["x0"] == pytest.approx(20 * 1.25, rel=0.1)
    assert row["y1"] - row["y0"] == pytest.approx(40 * 1.25, rel=0.1)
    assert row["x0"] < row["x"] < row["x1"]
    assert row["x_um"] == pytest.approx(row["x"] * 0.4, abs=1e-2)
    assert row["score"] == 0.9


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "x,y\n1,two\n", "x,y\n1\n", "x,y\nnan,1\n", "x,y\n1,2,3\n", "\x00\xff"],
)
def test_tables_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "in.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ExportError) as caught:
        warp_points(tmp_path / "in.csv", tmp_path / "out.csv", transform())
    assert caught.value.expected
    assert not (tmp_path / "out.csv").exists()


SQUARE = [[1200, 1000], [2200, 1000], [2200, 2000], [1200, 2000], [1200, 1000]]
GEOMETRIES = {
    "Point": [1500, 1500],
    "MultiPoint": [[1500, 1500], [1600, 1600]],
    "LineString": SQUARE[:3],
    "MultiLineString": [SQUARE[:2], SQUARE[2:]],
    "Polygon": [SQUARE, [[1400, 1400], [1500, 1500], [1400, 1500], [1400, 1400]]],
    "MultiPolygon": [[SQUARE]],
}


def feature(kind: str) -> dict:
    geometry = {"type": kind, "coordinates": GEOMETRIES[kind]}
    return {"type": "Feature", "id": kind, "geometry": geometry, "properties": {"name": kind}}


def flat(values) -> np.ndarray:
    if not isinstance(values[0], list):
        return np.array([values], float)
    return np.concatenate([flat(v) for v in values])


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def test_geometries_of_every_kind_move_and_come_back(tmp_path):
    features = [feature(kind) for kind in GEOMETRIES]
    features.append(
        {
            "type": "Feature",
            "geometry": {
                "type": "GeometryCollection",
                "geometries": [feature("Point")["geometry"], feature("Polygon")["geometry"]],
            },
            "properties": None,
        }
    )
    collection = {"type": "FeatureCollection", "features": features, "more": 1}
    (tmp_path / "in.geojson").write_text(json.dumps(collection))
    report = warp_regions(tmp_path / "in.geojson", tmp_path / "there.geojson", transform())
    assert report == WarpReport(7, 0)
    warp_regions(tmp_path / "there.geojson", tmp_path / "back.geojson", transform(), inverse=True)
    there, back = (json.loads((tmp_path / f"{n}.geojson").read_text()) for n in ("there", "back"))
    assert back["more"] == 1
    for before, moved, after in zip(
        features[:6], there["features"], back["features"], strict=False
    ):
        assert moved["geometry"]["type"] == before["geometry"]["type"]
        assert moved["properties"]["name"] == before["properties"]["name"]
        assert moved["properties"]["registration_error_um"] == 5
        assert moved["properties"]["registration_excluded"] is False
        first = flat(before["geometry"]["coordinates"])
        last = flat(after["geometry"]["coordinates"])
        nearest = np.abs(first[:, None] - last[None]).max(axis=2).min(axis=1)
        assert nearest.max() < 0.05


def test_rings_stay_closed_run_the_same_way_and_bend(tmp_path):
    (tmp_path / "in.geojson").write_text(json.dumps(feature("Polygon")))
    warp_regions(tmp_path / "in.geojson", tmp_path / "out.geojson", transform())
    rings = json.loads((tmp_path / "out.geojson").read_text())["geometry"]["coordinates"]
    ring = np.array(rings[0])
    assert (ring[0] == ring[-1]).all()
    assert area(ring) == pytest.approx(1e6 * 1.25**2, rel=0.05)
    assert len(ring) > 4 * 7


def test_outlines_in_excluded_areas_are_marked(tmp_path):
    inside = {"type": "Point", "coordinates": [100, 1500]}
    content = [{"type": "Feature", "geometry": inside, "properties": {}}]
    (tmp_path / "in.json").write_text(json.dumps(content))
    report = warp_regions(tmp_path / "in.json", tmp_path / "out.json", transform())
    assert report.excluded == 1
    assert json.loads((tmp_path / "out.json").read_text())[0]["properties"] == {
        "registration_error_um": 400,
        "registration_excluded": True,
    }


def test_an_offset_of_our_own_export_counts(tmp_path):
    content = {"type": "FeatureCollection", "celldetr": {"offset": [100, 50]}}
    content["features"] = [feature("Point")]
    (tmp_path / "in.geojson").write_text(json.dumps(content))
    warp_regions(tmp_path / "in.geojson", tmp_path / "out.geojson", transform())
    got = json.loads((tmp_path / "out.geojson").read_text())
    wanted = transform().forward(np.array([[1600, 1550]]))[0]
    assert np.allclose(got["features"][0]["geometry"]["coordinates"], wanted, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        '{"features": 3}',
        '{"features": [3]}',
        '{"type": "Feature", "geometry": {"type": "Circle", "coordinates": [1, 2]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": ["a", 2]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [NaN, 2]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [1, 2]}}',
        "[" * 100_000,
    ],
)
def test_geojson_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "in.geojson").write_text(text)
    with pytest.raises(ExportError):
        warp_regions(tmp_path / "in.geojson", tmp_path / "out.geojson", transform())
    assert not (tmp_path / "out.geojson").exists()


@pytest.fixture
def slide(tmp_path):
    y, x = np.indices((1500, 2000))
    rgb = np.stack([x // 8, y // 8, (x + y) // 16], -1).astype(np.uint8)
    path = tmp_path / "he.ome.tif"
    units = {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, **units}
    tifffile.imwrite(path, rgb, tile=(256, 256), photometric="rgb", metadata=metadata, ome=True)
    with open_slide(path, probe=False) as slide:
        yield slide


def picture_transform(slide) -> SlideTransform:
    he = frame_of(slide)
    return transform(he, SlideFrame("ihc", "2", (1900, 2400), (0.4, 0.4)))


@pytest.mark.parametrize("mpp", [None, 1.1])
def test_a_picture_lies_where_its_points_do(slide, tmp_path, mpp):
    moving = replace(picture_transform(slide), error_map=None)
    out = tmp_path / "out.ome.tif"
    job = warp_image(slide, out, moving, mpp=mpp, compression="deflate")
    assert drain(job) == out
    with open_slide(out, probe=False) as warped:
        assert warped.mpp == pytest.approx((mpp or 0.4,) * 2)
        pixels = warped.read(warped.region)
        step = np.array(moving.ihc.size) / warped.size
    at = np.random.default_rng(0).uniform(300, 1200, (300, 2))
    place = moving.forward(at) / step
    inside = ((place > 2) & (place < np.array(pixels.shape[1::-1]) - 2)).all(axis=1)
    assert inside.sum() > 100
    x, y = place[inside].astype(int).T
    assert np.abs(pixels[y, x, 0] - at[inside, 0] / 8).max() < 2
    assert np.abs(pixels[y, x, 1] - at[inside, 1] / 8).max() < 2


def test_what_is_excluded_is_grey(slide, tmp_path):
    moving = picture_transform(slide)
    drain(warp_image(slide, tmp_path / "out.ome.tif", moving, mpp=1.0, compression="deflate"))
    plain = replace(moving, error_map=None)
    drain(warp_image(slide, tmp_path / "plain.ome.tif", plain, mpp=1.0, compression="deflate"))
    grey, colour = (
        tifffile.imread(tmp_path / f"{n}.ome.tif").astype(int) for n in ("out", "plain")
    )
    same = (grey == colour).all(axis=2)
    assert 0.5 < same.mean() < 0.98
    assert np.ptp(grey[~same], axis=1).max() == 0


def test_another_slide_is_refused(slide, tmp_path):
    other = replace(picture_transform(slide), he=replace(HE, identity="other"))
    with pytest.raises(TransformError, match="another slide"):
        warp_image(slide, tmp_path / "out.ome.tif", other)


def test_stopping_leaves_no_file(slide, tmp_path, no_thread_leak):
    job = warp_image(slide, tmp_path / "out.ome.tif", picture_transform(slide))
    next(job)
    job.close()
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == []
