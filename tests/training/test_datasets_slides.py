"""QuPath's GeoJSON on slides: whole cells, each once, in the regions a person annotated."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
import tiny_sets
from tiny_sets import feature, polygon, square

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.geojson import read_geojson_folder
from napari_celldetr.training.label_files import Parts

CLASSES = ClassMap(("tumour", "lymphocyte"))
ALL = Parts({})
SIZE = (700, 500)
MPP = 0.5


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """Unknown files are tried in a child process first, which has its own tests."""
    monkeypatch.setattr("napari_celldetr.slides.readers.probe_file", lambda path: None)


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "s.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", resolution=(1e4 / MPP, 1e4 / MPP),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture
def folder(tmp_path, slide_file):
    (tmp_path / "s.tif").hardlink_to(slide_file)
    return tmp_path


def read(folder, features=None, **options):
    if features is not None:
        tiny_sets.geojson(folder / "s.geojson", features)
    return list(read_geojson_folder(folder, CLASSES, ALL, **options))


def region(x, y, width, height, name="Region*"):
    return feature("annotation", polygon(square(x, y, width, height)), name)


def test_every_kind_of_cell(folder):
    nucleus = polygon(square(62, 64, 6, 8))
    (field,) = read(
        folder,
        [
            region(20, 30, 200, 100),
            feature("detection", polygon(square(40, 50, 10, 12)), "tumour"),
            feature("cell", polygon(square(58, 60, 20)), "lymphocyte", nucleusGeometry=nucleus),
            feature("cell", polygon(square(100, 60, 20)), "lymphocyte"),
            feature("annotation", {"type": "Point", "coordinates": [150.5, 70.25]}, "tumour"),
            feature("annotation", {"type": "MultiPoint", "coordinates": [[160, 70], [170, 71]]}),
            feature("annotation", polygon(square(180, 40, 20)), "tumour"),  # 100 µm²: a nucleus
            feature("detection", polygon(square(400, 300, 10)), "tumour"),  # outside the region
        ],
    )
    origin = np.array([20 - 24, 30 - 24]).clip(0)  # a halo of 12 µm
    assert origin.tolist() == [0, 6]
    np.testing.assert_allclose(
        field.points + origin,
        [[45, 56], [65, 68], [110, 70], [150.5, 70.25], [160, 70], [170, 71], [190, 50]],
    )
    sizes = [[10, 12], [6, 8], *[[np.nan, np.nan]] * 4, [20, 20]]
    np.testing.assert_array_equal(field.sizes, sizes)
    assert field.class_ids.tolist() == [0, 1, 1, 0, -1, -1, 0]
    assert (field.name, field.group, field.mpp, field.complete) == ("s_20_30", "s", MPP, True)
    assert field.instances is None  # some have no outline
    assert field.valid.sum() == 200 * 100
    with open_slide(folder / "s.tif") as slide:
        height, width = field.image.shape[:2]
        np.testing.assert_array_equal(field.image, slide.read(Region(0, 6, width, height)))
        assert (width, height) == (220 + 24, 100 + 2 * 24)


def test_large_regions_are_cut_and_no_cell_with_them(folder):
    chance = np.random.default_rng(3)
    corners = chance.uniform([60, 40], [620, 440], (400, 2))
    cells = [feature("detection", polygon(square(x, y, 9, 7)), "tumour") for x, y in corners]
    fields = read(folder, [region(50, 30, 600, 440), *cells], tile=200)
    assert len(fields) == 3 * 3
    found = []
    for field in fields:
        assert max(field.image.shape[:2]) <= 200 + 2 * 24
        x, y = (int(v) for v in field.name.split("_")[1:])
        origin = np.array([max(x - 24, 0), max(y - 24, 0)])
        found += (field.points.astype(np.float64) + origin).tolist()
        assert field.known_at(field.points).all()
        half = field.sizes / 2
        height, width = field.image.shape[:2]
        assert (field.points - half >= 0).all()
        assert (field.points + half <= [width, height]).all()
        assert field.instances.max() == len(field)
    expected = corners + np.array([4.5, 3.5])
    np.testing.assert_allclose(sorted(found), sorted(expected.tolist()), atol=1e-3)
    assert sum(int(f.valid.sum()) for f in fields) == 600 * 440


def test_overlapping_regions_and_ignored_areas_count_once(folder):
    cell = feature("detection", polygon(square(145, 95, 10)), "tumour")
    ignored = feature("detection", polygon(square(70, 70, 10)), "tumour")
    fields = read(
        folder,
        [
            region(50, 50, 150, 100),
            region(100, 80, 150, 100, "Training area"),
            region(60, 60, 30, 30, "Ignore*"),
            cell,
            ignored,
        ],
    )
    assert [len(f) for f in fields] == [1, 0]
    union = 150 * 100 + 150 * 100 - 100 * 70
    assert sum(int(f.valid.sum()) for f in fields) == union - 30 * 30
    assert all(f.complete for f in fields)


def test_holes_and_slanted_outlines(folder):
    triangle = [[[100, 100], [200, 100], [100, 200], [100, 100]], square(110, 110, 20)[0]]
    (field,) = read(
        folder,
        [
            feature("annotation", polygon(triangle), "region 1"),
            feature("detection", polygon(square(115, 115, 8)), "tumour"),
            feature("detection", polygon(square(190, 190, 8)), "tumour"),
            feature("detection", polygon(square(140, 120, 8)), "tumour"),
        ],
    )
    assert len(field) == 1
    assert abs(int(field.valid.sum()) - (5000 - 400)) <= 60


def test_without_regions_the_cells_surroundings_say_nothing_of_background(folder):
    cells = [feature("detection", polygon(square(x, 100, 10)), "tumour") for x in (100, 200)]
    (field,) = read(folder, cells)
    assert not field.complete
    assert field.valid.sum() == (100 + 40) * 40
    (field,) = read(folder, cells, complete=True)
    assert field.complete


def test_regions_without_nuclei_are_refused_unless_trusted(folder):
    empty = region(50, 50, 100, 100)
    (field,) = read(folder, [empty], empty_is_background=True)
    assert (len(field), field.complete) == (0, True)
    elsewhere = feature("detection", polygon(square(300, 300, 10)), "tumour")
    with pytest.raises(DataError, match=r"The regions of 's.geojson' hold no nuclei.*1 nuclei els"):
        read(folder, [empty, elsewhere])
    both = [empty, elsewhere, region(250, 250, 100, 100)]
    with pytest.warns(UserWarning, match=r"1 of 2 training regions hold no nuclei.*\?empty="):
        (field,) = read(folder, both)
    assert field.name == "s_250_250"
    assert len(read(folder, both, empty_is_background=True)) == 2
    ring = [square(200, 200, 200)[0], square(280, 280, 40)[0]]  # the nucleus is in its hole
    with pytest.raises(DataError, match="hold no nuclei"):
        read(folder, [elsewhere, feature("annotation", polygon(ring), "Training")])


def test_regions_off_the_slide_are_refused(folder):
    with pytest.raises(DataError, match=r"1 training regions lie outside.*x 800 to 900"):
        read(folder, [region(800, 50, 100, 100)])


def test_a_tile_of_an_open_field_without_nuclei_is_left_out(folder):
    far = [feature("detection", polygon(square(x, 100, 10)), "tumour") for x in (20, 600)]
    assert len(read(folder, far, tile=128)) == 2


def test_names_in_a_map_are_looked_for_in_all_files(folder):
    cells = [feature("detection", polygon(square(x, 100, 10)), w) for x, w in ((9, "T"), (50, ""))]
    tiny_sets.geojson(folder / "s.geojson", cells)
    other = feature("detection", polygon(square(5, 5, 9)))
    other["properties"]["classification"] = {"names": ["T", "dead"]}
    tiny_sets.geojson(folder / "t.geojson", [other, {"type": "Feature", "properties": [1]}])
    train = Parts({"s": ("A", "train", ""), "t": ("B", "val", "")}, "train")
    (folder / "t.tif").hardlink_to(folder / "s.tif")
    names = CLASSES.names
    classes = ClassMap.parse("T:tumour,T: dead:-", names)
    (field,) = read_geojson_folder(folder, classes, train)
    assert field.class_ids.tolist() == [0, -1]
    with pytest.raises(DataError, match=r"names 'tumor', .* has T, T: dead\)"):
        list(read_geojson_folder(folder, ClassMap.parse("tumor:tumour,*:-", names), train))


def test_large_annotations_are_left_out_aloud(folder):
    wide = feature("annotation", polygon(square(0, 0, 300)), "Tumor area")
    line = feature("annotation", {"type": "LineString", "coordinates": [[0, 0], [9, 9]]})
    with pytest.warns(UserWarning, match="1 'Tumor area', 1 'LineString'"):
        (field,) = read(folder, [region(50, 50, 100, 100), wide, line], empty_is_background=True)
    assert len(field) == 0
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(DataError, match="neither cells nor"),
    ):
        read(folder, [wide])
    (field,) = read(folder, [wide], region="^Tumor", empty_is_background=True)
    assert field.valid is None or field.valid.sum() == 300 * 300


def test_files_old_new_and_compressed(folder):
    old = feature("annotation", polygon(square(50, 50, 100)), "Region*")
    old["properties"]["object_type"] = old["properties"].pop("objectType")
    derived = feature("detection", polygon(square(80, 80, 10)))
    derived["properties"]["classification"] = {"names": ["tumour", "Positive"]}
    tiny_sets.geojson(folder / "s.geojson.gz", [old, derived], compress=True)
    with pytest.raises(DataError, match="tumour: Positive"):
        read(folder)
    derived["properties"]["classification"]["names"] = ["tumour"]
    tiny_sets.geojson(folder / "s.geojson.gz", [old, derived], compress=True)
    (field,) = read(folder)
    assert field.class_ids.tolist() == [0]
    (folder / "s.geojson.gz").unlink()
    (folder / "s.geojson").write_text(json.dumps([old, derived]))
    assert len(read(folder)) == 1


def test_what_the_package_exports_comes_back(folder):
    from napari_celldetr.core.detections import Detections
    from napari_celldetr.pipeline.qupath import write_geojson

    low = np.random.default_rng(1).uniform(40, 300, (30, 2)).round(2)
    boxes = np.concatenate([low, low + np.array([9.5, 7.25])], axis=1).astype(np.float32)
    ids = np.array([0, 1, -1] * 10, np.int16)
    cells = Detections(boxes, np.ones(30, np.float32), ids, ("tumour", "lymphocyte")).ordered()
    write_geojson(cells, folder / "s.geojson")
    (field,) = read(folder)
    x, y = (int(v) for v in field.name.split("_")[1:])
    origin = np.maximum([x - 24, y - 24], 0)
    np.testing.assert_allclose(field.points + origin, cells.centres, atol=0.02)
    np.testing.assert_allclose(field.sizes, cells.boxes[:, 2:] - cells.boxes[:, :2], atol=0.02)
    np.testing.assert_array_equal(field.class_ids, cells.class_ids)


def test_slides_elsewhere_and_pixel_size_given(folder, tmp_path_factory, slide_file):
    labels = tmp_path_factory.mktemp("labels")
    cell = feature("detection", polygon(square(80, 80, 10)), "tumour")
    tiny_sets.geojson(labels / "s.tif.geojson", [region(50, 50, 100, 100), cell])
    with pytest.raises(DataError, match=r"The slide of 's\.tif\.geojson' is not clear"):
        read(labels)
    (field,) = read(labels, slides=str(slide_file.parent), mpp=0.25)
    assert (field.name, field.mpp) == ("s_50_50", 0.25)
    tifffile.imwrite(labels / "s.tif", np.zeros((300, 300, 3), np.uint8), photometric="rgb")
    with pytest.raises(DataError, match="no known pixel size"):
        read(labels)


def test_split_file_names_slides(folder):
    cell = feature("detection", polygon(square(80, 80, 10)), "tumour")
    tiny_sets.geojson(folder / "s.geojson", [region(50, 50, 100, 100), cell])
    (folder / "split.csv").write_text("image,patient,split\ns.tif,P9,val\n")
    (field,) = read_geojson_folder(folder, CLASSES, Parts.of(folder, "val"))
    assert field.group == "P9"
    (folder / "split.csv").write_text("image,patient,split\ns.tif,P9,val\nt.svs,P8,train\n")
    assert not list(read_geojson_folder(folder, CLASSES, Parts.of(folder, "train")))


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([feature("detection", polygon(square(690, 10, 90)), "tumour")], "1 cells lie outside"),
        ([feature("detection", polygon([[[1, 1], [2, 2]]]), "tumour")], "fewer than three"),
        ([feature("detection", {"type": "Polygon"}, "tumour")], "Feature 1"),
        ([feature("detection", polygon(square(1e12, 1, 9)), "tumour")], "beyond any slide"),
        ([{"type": "Feature", "properties": {}}], "Feature 1"),
        ([feature("detection", polygon(square(10, 10, 9)), "plasma")], "plasma"),
        ([], "neither cells nor training regions"),
    ],
)
def test_features_that_cannot_be(folder, features, says):
    with pytest.raises(DataError, match=says) as caught:
        read(folder, features)
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", '{"type": "x"}', '{"features": [NaN]}', "[1]"])
def test_files_that_are_no_geojson(folder, text):
    (folder / "s.geojson").write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        read(folder)


def test_reading_fields_needs_no_slide_library():
    code = (
        "import sys\n"
        "sys.modules['openslide'] = sys.modules['dask'] = sys.modules['zarr'] = None\n"
        "import napari_celldetr.training.pools, napari_celldetr.training.geojson\n"
        "import napari_celldetr.training.xenium, napari_celldetr.training.save_fields\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
