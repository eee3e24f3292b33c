"""COCO as its readers index it, and files that only say that they are COCO or HDF5."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections import defaultdict

import numpy as np
import pytest
from corrected_cells import CLASSES, corrected

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ExportError
from napari_celldetr.pipeline.cell_ids import as_text
from napari_celldetr.pipeline.export import export, read_corrected, read_detections


class Slide:
    size = (9_200, 9_300)
    bounds = None


@pytest.fixture(scope="module")
def cells():
    return corrected(400, side=9_000)


@pytest.fixture
def whole(cells, tmp_path):
    return json.loads(export(cells, tmp_path / "c.coco.json", slide=Slide()).read_bytes())


class Index:
    """What the reference reader makes of a file: everything by id, annotations by image."""

    def __init__(self, data: dict) -> None:
        assert isinstance(data, dict)
        self.images = {image["id"]: image for image in data["images"]}
        self.categories = {category["id"]: category for category in data["categories"]}
        self.annotations = {a["id"]: a for a in data["annotations"]}
        assert len(self.annotations) == len(data["annotations"])
        self.of_image, self.of_category = defaultdict(list), defaultdict(list)
        for annotation in data["annotations"]:
            self.of_image[annotation["image_id"]].append(annotation)
            self.of_category[annotation["category_id"]].append(annotation["image_id"])


def test_readers_can_index_it(cells, whole):
    index = Index(whole)
    ((number, image),) = index.images.items()
    assert image == {"id": number, "file_name": "slide.svs", "width": 9200, "height": 9300}
    assert len(index.of_image[number]) == len(cells)
    assert set(index.of_category) == set(index.categories)
    names = [c["name"] for c in index.categories.values()]
    assert names == [*CLASSES, "unknown"]
    assert whole["info"]["description"].startswith("Research use only")
    for row, annotation in enumerate(whole["annotations"]):
        x, y, width, height = annotation["bbox"]
        box = cells.cells.boxes[row].astype(np.float64)
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=0.0051)
        (outline,) = annotation["segmentation"]
        xy = np.array(outline).reshape(-1, 2)
        assert len(xy) == 16
        np.testing.assert_allclose([*xy.min(0), *xy.max(0)], box, atol=0.0051)
        assert annotation["area"] == pytest.approx(np.pi / 4 * width * height, rel=0.02)
        assert annotation["iscrowd"] == 0
        assert 0 <= annotation["score"] <= 1
        name = index.categories[annotation["category_id"]]["name"]
        assert name == cells.cells.class_labels[row]
    said = [a["attributes"] for a in whole["annotations"]]
    assert [a["id"] for a in said] == as_text(cells.ids)
    assert [a["status"] for a in said] == list(cells.words())
    assert [a.get("author", "") for a in said] == cells.authors.tolist()
    measured = np.array([a.get("dab_od_mean", np.nan) for a in said])
    np.testing.assert_allclose(measured, cells.cells.columns["dab_od_mean"], atol=6e-5)


def test_without_a_slide_the_image_reaches_to_the_last_cell(cells, tmp_path):
    whole = json.loads(export(cells, tmp_path / "c.coco.json").read_bytes())
    width, height = np.ceil(cells.cells.boxes[:, 2:].max(axis=0)).astype(int)
    assert (whole["images"][0]["width"], whole["images"][0]["height"]) == (width, height)


def test_what_other_programs_write_is_read(tmp_path):
    """Categories after the annotations, ids of any order, no scores."""
    content = {
        "annotations": [
            {"id": 9, "image_id": 7, "category_id": 30, "bbox": [1, 2, 3, 4], "iscrowd": 0},
            {"id": 4, "image_id": 7, "category_id": 10, "bbox": [10, 20, 5, 5], "score": 0.5},
        ],
        "categories": [{"id": 10, "name": "a"}, {"id": 30, "name": "b"}, {"id": 5, "name": "c"}],
        "images": [{"id": 7, "file_name": "x.png", "width": 50, "height": 50}],
    }
    path = tmp_path / "other.coco.json"
    path.write_text(json.dumps(content, indent=1))
    cells = read_detections(path)
    assert cells.boxes.tolist() == [[1, 2, 4, 6], [10, 20, 15, 25]]
    assert cells.class_labels.tolist() == ["b", "a"]
    assert cells.scores.tolist() == [1, 0.5]
    assert (read_corrected(path).status == 0).all()


def test_a_measurement_that_would_hide_an_attribute_is_refused(tmp_path):
    cells = corrected(5).cells.with_columns(id=np.ones(5))
    with pytest.raises(ExportError, match="a measurement called id"):
        export(cells, tmp_path / "c.coco.json")


def hostile_coco():
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    good = {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [annotation],
    }

    def file(**changes) -> str:
        return json.dumps({**good, **changes})

    def one(**changes) -> str:
        return file(annotations=[{**annotation, **changes}])

    same = {**annotation, "attributes": {"id": "3f0d4f6e-6f54-4a63-9d0e-0123456789ab"}}
    yield "two-images", file(images=[{"id": 1}, {"id": 2}])
    yield "no-images", file(images=[])
    yield "other-image", one(image_id=2)
    yield "no-category", one(category_id=2)
    yield "no-box", one(bbox=None)
    yield "short-box", one(bbox=[1, 2])
    yield "words", one(bbox=["a", 1, 2, 3])
    yield "far", one(bbox=[1e300, 1, 2, 3])
    yield "inside-out", one(bbox=[5, 5, -3, 2])
    yield "nan", one(bbox=[float("nan"), 1, 2, 3])
    yield "infinite", one().replace("[1, 1", "[1e999, 1")
    yield "score", one(score=7)
    yield "twice", file(annotations=[same, same])
    yield "status", file(celldetr={"corrected": True}, annotations=[annotation])
    yield "areas", file(celldetr={"areas": {"a": {"kind": "x", "name": "", "polygon": []}}})
    yield "list", "[1, 2]"
    yield "cut", file()[:-30]
    yield "no-end", file()[:-1]
    yield "deep", '{"annotations": [{"a":' + "[" * 100_000 + "]" * 100_000
    yield "deep-head", '{"a":' * 100_000 + '"annotations":['
    yield "long-tail", file()[:-1] + ', "x": "' + "y" * (40 << 20)
    yield (
        "many-words",
        file(annotations=[{**annotation, "attributes": {f"m{i}": 1}} for i in range(2000)]),
    )
    yield "vertices", one(segmentation=[[12345678.5] * 900_000])
    yield "nothing", ""


@pytest.mark.parametrize("content", [pytest.param(c, id=i) for i, c in hostile_coco()])
def test_hostile_coco_is_refused_quickly_and_cheaply(tmp_path, content):
    path = tmp_path / "a.coco.json"
    path.write_text(content)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(ExportError):
        read_detections(path)
    assert time.monotonic() - start <= 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 512 * 2**20


def hostile_h5ad():
    import h5py

    def endless(file):
        del file["X"]
        file.create_dataset("X", (1 << 40, 3), "f4", chunks=(1024, 3), compression="gzip")

    def wide(file):
        del file["X"]
        file.create_dataset("X", (5, 1 << 36), "f4", chunks=(1, 1024), compression="gzip")

    def linked(file):
        del file["obs/score"]
        file["obs/score"] = h5py.ExternalLink("/etc/hostname", "/x")

    def soft(file):
        del file["obs/score"]
        file["obs/score"] = h5py.SoftLink("/X")

    def outside(file):
        del file["X"]
        file.create_dataset("X", (5, 3), "f4", external=[("/etc/hostname", 0, 60)])

    def no_classes(file):
        del file["uns/class_names"]

    def other_ids(file):
        file["obs/_index"][0] = "cell 1"

    def twice(file):
        file["obs/_index"][0] = file["obs/_index"][1]

    def nan(file):
        file["obs/x0"][0] = np.nan

    def other(file, name, value):
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(attributes)

    def fewer(file):
        other(file, "obs/score", file["obs/score"][:-1])

    def areas(file):
        other(file, "uns/areas", "not JSON")

    return (endless, wide, linked, soft, outside, no_classes, other_ids, twice, nan, fewer, areas)


@pytest.mark.parametrize("number", range(11))
def test_hostile_h5ad_is_refused(tmp_path, number):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("anndata")
    path = export(corrected(5), tmp_path / "c.h5ad")
    with h5py.File(path, "r+") as file:
        hostile_h5ad()[number](file)
    tracemalloc.start()
    with pytest.raises(ExportError):
        read_corrected(path)
    assert tracemalloc.get_traced_memory()[1] <= 256 * 2**20
    tracemalloc.stop()


def test_embeddings_come_back_from_h5ad(tmp_path):
    pytest.importorskip("anndata")
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float16)
    cells = corrected(5).cells
    full = Detections(
        cells.boxes, cells.scores, cells.class_ids, CLASSES, vectors, cells.columns, cells.source
    )
    back = read_detections(export(full, tmp_path / "c.h5ad"))
    np.testing.assert_array_equal(back.embeddings, vectors)
    assert back.source == full.source
    assert back.class_names == CLASSES
