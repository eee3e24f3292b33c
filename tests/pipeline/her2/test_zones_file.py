"""Saved outlines come back where they were drawn, in this program and in QuPath's pixels."""

import json

import numpy as np
import pytest
from her2_slides import box, zone_of

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.errors import DataError, ExportError
from napari_celldetr.pipeline.her2.tumour import CARRIED, DRAWN, Tumour
from napari_celldetr.pipeline.her2.zones import read_zones
from napari_celldetr.pipeline.her2.zones_file import write_zones

NEST = zone_of(box(100, 100, 500, 400), "nest", box(200, 200, 300, 300))
DCIS, BAD = zone_of(box(120, 120, 160, 160)), zone_of(box(400, 300, 500, 400))


def test_outlines_come_back_with_holes_and_what_is_cut_out(tmp_path):
    path = tmp_path / "t.geojson"
    tumour = Tumour(CARRIED, (NEST,), (DCIS,), (BAD,))
    write_zones(tumour, path, offset=(30.0, 20.0))
    found = read_zones(path)
    assert found.tumour[0].name == "nest"
    for ring, drawn in zip(found.tumour[0].rings, NEST.rings, strict=True):
        np.testing.assert_allclose(ring, drawn)
    points = np.array([[110, 110], [130, 130], [450, 350], [250, 250], [350, 150]])
    inside = Tumour(DRAWN, found.tumour, found.cut_out).inside(points)
    assert inside.tolist() == tumour.inside(points).tolist() == [True, False, False, False, True]
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["celldetr"]["note"] == RESEARCH_USE
    # QuPath counts from where the scanned part begins.
    assert content["features"][0]["geometry"]["coordinates"][0][0] == [70.0, 80.0]


def test_nothing_is_not_saved_and_a_folder_that_is_none_is_said(tmp_path):
    with pytest.raises(DataError, match="no outline"):
        write_zones(Tumour(), tmp_path / "t.geojson")
    with pytest.raises(ExportError, match="cannot be written"):
        write_zones(Tumour(DRAWN, (NEST,)), tmp_path / "none" / "t.geojson")
    assert not list(tmp_path.iterdir())
