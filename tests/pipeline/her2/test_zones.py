"""Zones: holes, masks there and back, and what a file's classes mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from her2_slides import box, geojson, zone_of
from numpy.testing import assert_array_equal

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.regions import Region
from napari_celldetr.pipeline.her2.zones import (
    Zone,
    contained,
    kind_of,
    read_zones,
    zone_mask,
    zones_of_mask,
)


def write(tmp_path, content):
    path = tmp_path / "areas.geojson"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_holes_are_no_part_of_a_zone():
    zone = zone_of(box(0, 0, 100, 100), "a", box(40, 40, 60, 60))
    assert_array_equal(zone.contains(np.array([[10, 10], [50, 50], [150, 50]])), [1, 0, 0])
    assert zone.area_px == 10_000 - 400


def test_a_zone_survives_json_exactly():
    zone = zone_of(box(0.1, 0.2, 100 / 3, 50.7), "ä", box(1.05, 1, 2, 2))
    again = Zone.from_dict(json.loads(json.dumps(zone.to_dict())))
    assert again == zone


def test_zones_of_a_mask_hold_the_centres_of_its_cells_and_no_others():
    rng = np.random.default_rng(3)
    mask = rng.uniform(size=(20, 30)) < 0.5
    mask[5:12, 8:20] = True
    mask[7:9, 11:14] = False
    zones = zones_of_mask(mask, (16.0, 10.0))
    y, x = np.indices(mask.shape)
    centres = np.stack([(x + 0.5) * 16, (y + 0.5) * 10], -1).reshape(-1, 2)
    assert_array_equal(contained(zones, centres).reshape(mask.shape), mask)
    assert sum(z.area_px for z in zones) == pytest.approx(mask.sum() * 160)


def test_the_mask_of_a_region_is_that_of_its_pixels_centres():
    zone = zone_of(box(20, 30, 80, 90), "a", box(40, 50, 60, 70))
    found = zone_mask([zone], Region(0, 0, 100, 120), (60, 50))
    y, x = np.indices((60, 50))
    points = np.stack([(x + 0.5) * 2, (y + 0.5) * 2], -1).reshape(-1, 2)
    expected = zone.contains(points).reshape(60, 50)
    # To within a pixel of the border.
    assert (found != expected).sum() <= 2 * (60 + 40) / 2 + 8
    assert found[20, 15]
    assert not found[30, 25]


def test_classes_of_a_file_say_what_is_tumour_and_what_is_cut_out(tmp_path):
    path = write(
        tmp_path,
        geojson(
            ("Tumor", box(0, 0, 100, 100), box(10, 10, 20, 20)),
            (None, box(200, 0, 300, 100)),
            ("DCIS", box(50, 50, 70, 70)),
            ("Carcinoma in situ", box(70, 50, 90, 70)),
            ("Stroma", box(0, 200, 100, 300)),
            ("Ignore*", box(220, 20, 240, 40)),
        ),
    )
    found = read_zones(path)
    assert [z.name for z in found.tumour] == ["Tumor", ""]
    assert len(found.tumour[0].holes) == 1
    assert len(found.cut_out) == 3
    assert found.left_out == {"Stroma": 1}
    assert found.as_tumour == {"Tumor": 1, "": 1}
    assert found.as_cut_out == {"DCIS": 1, "Carcinoma in situ": 1, "Ignore*": 1}
    assert found.sentence() == (
        "tumour areas: 2 (1 'Tumor', 1 without a class); "
        "cut out of them: 3 (1 'DCIS', 1 'Carcinoma in situ', 1 'Ignore*'); "
        "left aside: 1 (1 'Stroma')"
    )


def test_a_bare_geometry_a_multipolygon_and_an_offset_are_read(tmp_path):
    rings = [[*box(0, 0, 10, 10).tolist(), [0, 0]]]
    bare = {"type": "MultiPolygon", "coordinates": [rings, rings]}
    assert len(read_zones(write(tmp_path, bare)).tumour) == 2
    moved = geojson((None, box(0, 0, 10, 10))) | {"celldetr": {"offset": [100, 50]}}
    zone = read_zones(write(tmp_path, moved)).tumour[0]
    assert_array_equal(zone.outline.corners.min(axis=0), [100, 50])


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection", "features": []},
        geojson(("Stroma", box(0, 0, 10, 10))),
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, "a"], [2, 2]]]},
        {"type": "Polygon", "coordinates": []},
        [1, 2],
        3,
    ],
)
def test_a_file_without_tumour_is_refused(tmp_path, content):
    with pytest.raises(DataError) as caught:
        read_zones(write(tmp_path, content))
    assert "GeoJSON" in str(caught.value)


def test_a_file_that_is_not_there_or_no_json_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        read_zones(tmp_path / "none.geojson")
    (tmp_path / "a.geojson").write_text("{")
    with pytest.raises(DataError, match="no GeoJSON"):
        read_zones(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Tumor", "tumour"),
        ("Invasive ductal carcinoma", "tumour"),
        ("Infiltrating carcinoma", "tumour"),
        ("Tumour region", "tumour"),
        ("", "tumour"),
        ("Region*", "tumour"),
        ("DCIS", "cut_out"),
        ("Ductal carcinoma in situ", "cut_out"),
        ("Intraductal carcinoma", "cut_out"),
        ("Non-invasive carcinoma", "cut_out"),
        ("Pre-invasive", "cut_out"),
        ("No tumor", "cut_out"),
        ("not tumour", "cut_out"),
        ("Tumour-free", "cut_out"),
        ("Necrosis", "cut_out"),
        ("Tumor stroma", "other"),
        ("Peritumoral", "other"),
        ("Tumor-infiltrating lymphocytes", "other"),
        ("Tumor: scaffold", "other"),
        ("Stroma", "other"),
    ],
)
def test_a_class_that_names_tumour_need_not_be_it(word, kind):
    assert kind_of(word) == kind
