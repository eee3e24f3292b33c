"""Xenium cells on H&E: the affine in both directions, types that are unknown, and the check."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_sets

from napari_celldetr.core.errors import DataError
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import HE_CLASSES, make_he_slide
from napari_celldetr.training.alignment import Alignment, check_alignment, read_alignment
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.datasets import load_points_folder
from napari_celldetr.training.label_files import Parts
from napari_celldetr.training.save_fields import save_points_folder
from napari_celldetr.training.xenium import read_nuclei, read_xenium

ALL = Parts({})
CLASSES = ClassMap(HE_CLASSES)
MPP = 0.5


def turned(degrees: float, scale: float, shift, mirror: bool = False):
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


MATRIX = turned(90.5, MPP / 0.2125, (2900.0, 150.0))
"""H&E px -> Xenium px, a quarter turn as between many scanners."""


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """Unknown files are tried in a child process first, which has its own tests."""
    monkeypatch.setattr("napari_celldetr.slides.readers.probe_file", lambda path: None)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("he") / "run_he_image.ome.tif"
    cells = make_he_slide(path, size=(700, 560), mpp=MPP, seed=5)
    return path, cells


@pytest.fixture
def run(tmp_path, picture):
    path, cells = picture
    words = [cells.class_names[i] for i in cells.class_ids]
    root = tiny_sets.xenium(tmp_path / "run", cells.boxes.astype(np.float64), words, MATRIX)
    (root / path.name).hardlink_to(path)
    return root


def read(root, **options):
    return list(read_xenium(root, CLASSES, ALL, types="types.csv", **options))


def gathered(fields, halo=24):
    """Points on the slide, sizes and classes of all fields, sorted by place."""
    points, sizes, ids = [], [], []
    for field in fields:
        x, y = (int(v) for v in field.name.split("_")[-2:])
        points.append(field.points + np.maximum([x - halo, y - halo], 0))
        sizes.append(field.sizes)
        ids.append(field.class_ids)
    points, sizes, ids = np.concatenate(points), np.concatenate(sizes), np.concatenate(ids)
    order = np.lexsort(np.round(points.T, 1))
    return points[order], sizes[order], ids[order]


def test_the_affine_by_hand():
    # One H&E px of 0.425 µm is two Xenium px of 0.2125; H&E (0, 0) is Xenium (100, -40).
    affine = Alignment(np.array([[2, 0, 100], [0, 2, -40], [0, 0, 1]]))
    assert affine.scale_um == pytest.approx(0.425)
    np.testing.assert_allclose(affine.to_um(np.array([[10.0, 30.0]])), [[25.5, 4.25]])
    np.testing.assert_allclose(affine.to_pixels(np.array([[25.5, 4.25]])), [[10, 30]])


@pytest.mark.parametrize("mirror", [False, True])
def test_both_directions_undo_each_other(mirror):
    affine = Alignment(turned(33, 1.7, (5, -900), mirror))
    places = np.random.default_rng(0).uniform(0, 5e4, (50, 2))
    np.testing.assert_allclose(affine.to_pixels(affine.to_um(places)), places, atol=1e-6)
    np.testing.assert_allclose(affine.to_um(affine.to_pixels(places)), places, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "says"),
    [
        (np.eye(2), "nine finite numbers"),
        (np.full((3, 3), np.nan), "nine finite numbers"),
        ([[1, 0, 0], [0, 1, 0], [0.001, 0, 1]], "last line"),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], "scales that differ"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 1]], "scales that differ"),
        ([[1, 0, 0], [0, 2, 0], [0, 0, 1]], "scales that differ"),
        ([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]], "scales that differ"),
        (np.diag([1000, 1000, 1]), "0.05 to 5 µm"),
        (np.diag([0.001, 0.001, 1]), "0.05 to 5 µm"),
    ],
)
def test_absurd_affines_are_refused(matrix, says):
    with pytest.raises(DataError, match=says):
        Alignment(np.array(matrix, float))


def test_alignment_files(tmp_path):
    path = tmp_path / "matrix.csv"
    np.savetxt(path, MATRIX, delimiter=",")
    np.testing.assert_allclose(read_alignment(path).matrix, MATRIX)
    for text in ("", "1,2\n3,4\n", "a,b,c\n", "1,0,0\n0,1,0\n"):
        path.write_text(text)
        with pytest.raises(DataError, match="alignment"):
            read_alignment(path)


def test_nuclei_lie_where_they_were_drawn(run, picture):
    _, cells = picture
    boxes = cells.boxes[:-1].astype(np.float64)  # the last cell has no nucleus
    points, sizes, ids = gathered(read(run, tile=400))
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    order = np.lexsort(np.round(centres.T, 1))
    np.testing.assert_allclose(points, centres[order], atol=0.02)
    np.testing.assert_allclose(sizes, (boxes[:, 2:] - boxes[:, :2])[order], atol=0.02)
    expected = cells.class_ids[:-1].copy()
    expected[-1] = -1  # in no table of types
    assert ids.tolist() == expected[order].tolist()


def test_fields_say_what_is_known(run):
    fields = read(run, tile=400)
    assert {(f.group, f.mpp, f.complete) for f in fields} == {("run", MPP, False)}
    assert all(f.instances is not None for f in fields)
    assert all(f.complete for f in read(run, complete=True))
    mapped = ClassMap.parse("lymphocyte:cell,*:-", ("cell",))
    some = list(read_xenium(run, mapped, ALL, types="types.csv"))
    assert {int(i) for f in some for i in f.class_ids} == {-1, 0}
    untyped = list(read_xenium(run, ClassMap(HE_CLASSES), ALL))
    assert {int(i) for f in untyped for i in f.class_ids} == {-1}
    with pytest.raises(DataError, match="lymphocyte"):
        list(read_xenium(run, ClassMap(("x",)), ALL, types="types.csv"))


def test_composition_per_field(run):
    points = read(run, tile=256)
    shares = read(run, tile=256, labels="composition")
    assert shares
    assert all(len(f) == 0 and not f.complete for f in shares)
    by_name = {f.name: f for f in points}
    for field in shares:
        ids = by_name[field.name].class_ids
        known = ids[ids >= 0]
        assert len(known) >= 10
        expected = np.bincount(known, minlength=3) / len(known)
        np.testing.assert_allclose(field.composition, expected, atol=1e-6)
    assert max(max(f.image.shape[:2]) for f in read(run, labels="composition")) <= 256


@pytest.mark.parametrize("parquet", [False, True])
def test_tables_of_any_format(tmp_path, picture, parquet):
    _, cells = picture
    boxes, words = cells.boxes[:40].astype(np.float64), ["tumour"] * 40
    root = tiny_sets.xenium(tmp_path, boxes, words, MATRIX, parquet=parquet)
    nuclei = read_nuclei(root)
    assert len(nuclei) == 39
    assert nuclei.cell_ids[0] == "aaaa0000-1"
    affine = Alignment(MATRIX)
    centres = (boxes[:-1, :2] + boxes[:-1, 2:]) / 2
    # A box turned by 90.5 degrees is a little larger, and keeps its centre.
    np.testing.assert_allclose(affine.to_pixels(nuclei.centres_um), centres, atol=0.2)
    for path in root.glob("nucleus_boundaries*"):
        path.unlink()
    bare = read_nuclei(root)
    assert (len(bare), bare.outlines_um) == (39, [])


def test_a_cell_may_have_two_nuclei(tmp_path):
    (tmp_path / "cells.csv").write_text("cell_id,x_centroid,y_centroid\n7,10,10\n8,50,50\n")
    lines = ["cell_id,vertex_x,vertex_y,label_id"]
    for cell, label, x in ((7, 1, 0), (7, 2, 20), (8, 3, 40)):
        lines += [f"{cell},{x + a},{b},{label}" for a, b in ((0, 0), (4, 0), (4, 6), (0, 6))]
    (tmp_path / "nucleus_boundaries.csv").write_text("\n".join(lines) + "\n")
    nuclei = read_nuclei(tmp_path)
    assert nuclei.cell_ids == ["7", "7", "8"]
    np.testing.assert_array_equal(nuclei.centres_um, [[2, 3], [22, 3], [42, 3]])


def test_the_check_sees_a_shifted_matrix(run, picture):
    path, _ = picture
    with open_slide(path) as slide:
        affine = read_alignment(run / "run_he_imagealignment.csv")
        points = affine.to_pixels(read_nuclei(run).centres_um)
        right = check_alignment(slide, points)
        assert not right.looks_off
        assert right.at_nuclei > right.elsewhere + 3 * right.spread
        assert np.hypot(*right.shift_um) <= 2
        off = check_alignment(slide, points + np.array([6, -8]) / MPP)
        assert off.looks_off
        np.testing.assert_allclose(off.shift_um, [-6, 8], atol=2)
        assert "OD" in off.as_text()
        assert not check_alignment(slide, points[:3]).looks_off  # too few to say
        assert check_alignment(slide, points[:0]).nuclei == 0
    moved = MATRIX.copy()
    moved[:2, 2] += np.array([6, 8]) / 0.2125
    np.savetxt(run / "run_he_imagealignment.csv", moved, delimiter=",")
    with pytest.warns(UserWarning, match="alignment looks off"):
        read(run)


def test_a_matrix_the_other_way_round_is_refused(run):
    path = run / "run_he_imagealignment.csv"
    np.savetxt(path, np.linalg.inv(MATRIX), delimiter=",")
    with pytest.raises(DataError, match="other way: invert it"):
        read(run)
    np.savetxt(path, MATRIX @ np.diag([1.4, 1.4, 1]), delimiter=",")
    with pytest.raises(DataError, match="check the matrix"):
        read(run)
    far = MATRIX.copy()
    far[:2, 2] += 1e6
    np.savetxt(path, far, delimiter=",")
    with pytest.raises(DataError, match="do not lie on the H&E"):
        read(run)
    part = MATRIX.copy()
    part[:2, 2] += MATRIX[:2, :2] @ [550, 0]
    np.savetxt(path, part, delimiter=",")
    with pytest.warns(UserWarning, match="% of the cells lie on the H&E picture|looks off"):
        assert read(run)


def test_files_that_are_missing_or_strange(run):
    def refuse(says, **options):
        with pytest.raises(DataError, match=says) as caught:
            read(run, **options)
        assert caught.value.remedy

    refuse(r"H&E picture of 'run' is not clear.*\?image=", image="none.tif")
    refuse(r"alignment of 'run' is not clear.*\?align=", alignment="none.csv")
    (run / "types.csv").write_text("cell_id,colour\na,b\n")
    refuse("table of types.*cannot be used")
    (run / "types.csv").write_text("cell_id,group\nzzz-1,tumour\n")
    refuse("names none of the run's cells")
    (run / "experiment.xenium").write_text('{"pixel_size": 99}')
    refuse("impossible pixel size")
    (run / "experiment.xenium").unlink()
    (run / "nucleus_boundaries.csv.gz").unlink()
    (run / "nucleus_boundaries.csv").write_text("cell_id,vertex_x,vertex_y\nother,1,2\n")
    refuse("does not belong to the cells")
    (run / "cells.csv.gz").unlink()
    refuse("no Xenium run")
    (run / "cells.csv").write_text("cell_id,x_centroid\na,1\n")
    refuse("no y_centroid")
    (run / "cells.csv").write_text("cell_id,x_centroid,y_centroid\na,1,2\na,1,2\n")
    refuse("each cell_id once")
    (run / "cells.csv").write_text("cell_id,x_centroid,y_centroid\na,one,2\n")
    refuse("holds no numbers")
    (run / "cells.parquet").write_bytes(b"no parquet")
    refuse("cannot be read")


def test_the_split_file_names_the_run(run):
    (run / "split.csv").write_text("image,patient,split\nrun,P4,val\n")
    fields = list(read_xenium(run, CLASSES, Parts.of(run, "val")))
    assert {f.group for f in fields} == {"P4"}
    (run / "split.csv").write_text("image,patient,split\nrun,P4,val\nother,P5,train\n")
    assert not list(read_xenium(run, CLASSES, Parts.of(run, "train")))


@pytest.mark.parametrize("kind", ["int64", "binary", "dictionary"])
def test_ids_have_been_stored_in_many_ways(tmp_path, kind):
    import pyarrow as pa
    from pyarrow import parquet

    ids = pa.array([4, 15])
    if kind != "int64":
        ids = ids.cast(pa.string())
        ids = ids.cast(pa.binary()) if kind == "binary" else ids.dictionary_encode()
    table = pa.table({"cell_id": ids, "x_centroid": [1.0, 2.0], "y_centroid": [3, 4]})
    parquet.write_table(table, tmp_path / "cells.parquet")
    nuclei = read_nuclei(tmp_path)
    assert nuclei.cell_ids == ["4", "15"]
    np.testing.assert_array_equal(nuclei.centres_um, [[1, 3], [2, 4]])


def test_a_run_can_be_converted_once(run, tmp_path):
    fields = read(run, tile=400)
    assert save_points_folder(fields, tmp_path / "points") == len(fields)
    found = load_points_folder(tmp_path / "points", mpp=MPP, class_names=HE_CLASSES)
    for old, new in zip(sorted(fields, key=lambda f: f.name), found, strict=True):
        assert (new.group, new.complete) == ("run", False)
        np.testing.assert_allclose(new.points, old.points, atol=1e-3)
        np.testing.assert_allclose(new.sizes, old.sizes, atol=1e-3)
        np.testing.assert_array_equal(new.class_ids, old.class_ids)
        np.testing.assert_array_equal(new.valid, old.valid)
