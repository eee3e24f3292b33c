"""Published sets in their own layouts: every value by hand, every trap of the format."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_sets
from hypothesis import given
from hypothesis import strategies as st

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.array_sets import read_conic, read_pannuke
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.coco import decode_counts, decode_mask, read_coco
from napari_celldetr.training.label_files import Parts
from napari_celldetr.training.mat_sets import read_consep, read_lizard

PANNUKE = ClassMap.parse(
    "neoplastic:tumour,inflammatory:lymphocyte,connective:stromal,dead:-,epithelial:tumour",
    ("lymphocyte", "tumour", "stromal"),
)
LIZARD = ClassMap(("neutrophil", "epithelial", "lymphocyte", "plasma", "eosinophil", "connective"))
ALL = Parts({})
NAN = np.nan


def rows(field):
    """Centre, size and class of every nucleus, from left to right."""
    order = np.argsort(field.points[:, 0])
    return [
        (*field.points[i].tolist(), *field.sizes[i].tolist(), int(field.class_ids[i]))
        for i in order
    ]


def same(found, expected):
    np.testing.assert_allclose(np.array(found), np.array(expected), equal_nan=True)


def check_map(field):
    """The map's ids are the rows, wherever a row has pixels."""
    for row in range(len(field)):
        y, x = np.nonzero(field.instances == row + 1)
        assert len(x)
        centre = [(x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2]
        np.testing.assert_allclose(centre, field.points[row])


# --- PanNuke


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_pannuke_as_published(tmp_path, dtype):
    for number in (1, 2):
        tiny_sets.pannuke_fold(tmp_path, number, dtype=dtype)
    fields = list(read_pannuke(tmp_path, PANNUKE, ALL))
    assert [f.name for f in fields] == ["fold1_00000", "fold1_00001", "fold2_00000", "fold2_00001"]
    assert [f.group for f in fields] == ["fold1", "fold1", "fold2", "fold2"]
    assert [f.tissue for f in fields[:2]] == ["Breast", "Bile-duct"]
    same(rows(fields[0]), [(15, 33, 10, 6, 1), (100.5, 50.5, 1, 1, -1), (253, 4, NAN, NAN, 1)])
    same(rows(fields[1])[0], (15, 36, 10, 6, 1))
    assert all(f.mpp == 0.25 and f.complete for f in fields)
    images = tiny_sets.pannuke_arrays(2)[0]
    np.testing.assert_array_equal(fields[3].image, images[1].astype(np.uint8))
    for field in fields:
        check_map(field)


def test_pannuke_arrays_are_mapped_and_never_read_whole(tmp_path, monkeypatch):
    at = tiny_sets.pannuke_fold(tmp_path, 1, nested=False, dtype=np.uint8)
    opened = []
    load = np.load

    def watched(path, **options):
        opened.append((path.name, options.get("mmap_mode")))
        return load(path, **options)

    monkeypatch.setattr(np, "load", watched)
    first = next(read_pannuke(tmp_path, PANNUKE, ALL))
    assert ("images.npy", "r") in opened
    assert ("masks.npy", "r") in opened
    base = first.image
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.filename == at / "images.npy"


def test_pannuke_folds_may_be_plain_folders_or_the_root(tmp_path):
    at = tiny_sets.pannuke_fold(tmp_path, 3, nested=False)
    assert {f.group for f in read_pannuke(tmp_path, PANNUKE, ALL)} == {"fold3"}
    assert {f.group for f in read_pannuke(at, PANNUKE, ALL)} == {"fold3"}
    (at / "types.npy").unlink()
    assert {f.tissue for f in read_pannuke(at, PANNUKE, ALL)} == {""}


def test_pannuke_where_two_classes_claim_a_pixel(tmp_path):
    at = tiny_sets.pannuke_fold(tmp_path, 1, nested=False)
    masks = np.load(at / "masks.npy")
    masks[0, 32:40, 15:30, 1] = 4  # the same id in another channel is another nucleus
    np.save(at / "masks.npy", masks)
    field = next(read_pannuke(at, PANNUKE, ALL))
    same(rows(field)[:2], [(15, 33, 10, 6, 1), (22.5, 36, 15, 8, 0)])
    assert (field.instances[30:36, 10:20] == 1).all()
    assert (field.instances[36:40, 15:30] == 2).all()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("images", lambda a: a / 255, "0..255"),
        ("images", lambda a: np.where(a > 200, np.nan, a), "0..255"),
        ("images", lambda a: a[..., 0], "shape"),
        ("masks", lambda a: a[..., :5], "shape"),
        ("masks", lambda a: a[:1], "shape"),
        ("masks", lambda a: a + 0.5, "not a map of ids"),
        ("masks", lambda a: -a, "not a map of ids"),
        ("types", lambda a: a[:1], "does not fit its images"),
        ("types", lambda a: a.astype(object), "cannot be read"),
    ],
)
def test_pannuke_arrays_that_are_not_the_published_ones(tmp_path, name, change, says):
    at = tiny_sets.pannuke_fold(tmp_path, 1, nested=False)
    np.save(at / f"{name}.npy", change(np.load(at / f"{name}.npy")))
    with pytest.raises(DataError, match=says) as caught:
        list(read_pannuke(at, PANNUKE, ALL))
    assert caught.value.remedy


def test_pannuke_files_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(DataError, match="no PanNuke fold"):
        list(read_pannuke(tmp_path, PANNUKE, ALL))
    at = tiny_sets.pannuke_fold(tmp_path, 1)
    (at / "images.npy").write_bytes((at / "images.npy").read_bytes()[:1000])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_pannuke(tmp_path, PANNUKE, ALL))
    (tmp_path / "Fold 1" / "masks" / "fold1" / "masks.npy").unlink()
    with pytest.raises(DataError, match=r"no masks\.npy"):
        list(read_pannuke(tmp_path, PANNUKE, ALL))


def test_pannuke_classes_must_all_be_mapped(tmp_path):
    tiny_sets.pannuke_fold(tmp_path, 1)
    some = ClassMap.parse("neoplastic:tumour,epithelial:tumour", ("lymphocyte", "tumour"))
    with pytest.raises(DataError, match=r"connective, dead, inflammatory.*\?map=connective:-"):
        list(read_pannuke(tmp_path, some, ALL))
    nuclei = list(read_pannuke(tmp_path, ClassMap(), ALL))
    assert {int(i) for f in nuclei for i in f.class_ids} == {-1}


# --- CoNIC


def test_conic_patches_of_a_picture_stay_together(tmp_path):
    fields = list(read_conic(tiny_sets.conic(tmp_path), LIZARD, ALL))
    assert [f.group for f in fields] == ["consep_1", "consep_1", "glas_2"]
    assert (fields[0].name, fields[0].mpp) == ("consep_1-0000", 0.5)
    same(rows(fields[0]), [(7.5, 7, 3, 6, 2), (24, 22, 8, 4, 5)])
    check_map(fields[0])
    (tmp_path / "patch_info.csv").unlink()
    assert len({f.group for f in read_conic(tmp_path, LIZARD, ALL)}) == 1


def test_conic_arrays_that_contradict_themselves(tmp_path):
    tiny_sets.conic(tmp_path)
    labels = np.load(tmp_path / "labels.npy")
    for change, says in (((3, 0), "without a class"), ((3, 7), "does not define")):
        labels[0, 4:10, 6:9] = change
        np.save(tmp_path / "labels.npy", labels)
        with pytest.raises(DataError, match=says):
            list(read_conic(tmp_path, LIZARD, ALL))
    (tmp_path / "patch_info.csv").write_text("patch_info\na-1\n")
    with pytest.raises(DataError, match="does not fit the patches"):
        list(read_conic(tmp_path, LIZARD, ALL))


# --- CoNSeP


def test_consep_rows_follow_ascending_ids(tmp_path):
    names = ("inflammatory", "malignant epithelial", "muscle")
    classes = ClassMap.parse(
        "other:-,healthy epithelial:malignant epithelial,fibroblast:muscle,endothelial:muscle",
        names,
    )
    tiny_sets.consep(tmp_path, ids=(5, 2, 11), types=(4, 2, 6))
    (field,) = read_consep(tmp_path, classes, ALL)
    assert (field.name, field.group, field.mpp) == ("train_1", "train_1", 0.25)
    assert field.image[0, 0, 0] == 200  # the picture, not the overlay of the same name
    same(rows(field), [(9, 7, 6, 6, 0), (32, 25, 4, 10, 1), (55, 2, NAN, NAN, 2)])
    check_map(field)


def test_consep_types_merge_as_published(tmp_path):
    classes = ClassMap(("other", "inflammatory", "epithelial", "spindle"))
    ids = tuple(range(1, 4))
    for part, types, expected in (("Train", (3, 4, 5), [2, 2, 3]), ("Test", (1, 7, 2), [0, 3, 1])):
        folder = tiny_sets.consep(tmp_path, ids, types, part)
        (field,) = read_consep(folder, classes, ALL, merged=True)
        assert [r[4] for r in rows(field)] == expected
    assert len(list(read_consep(tmp_path, classes, ALL, merged=True))) == 2
    with pytest.raises(DataError, match="fibroblast"):
        list(read_consep(tmp_path, classes, ALL))


def test_consep_rows_that_do_not_belong(tmp_path):
    from scipy import io

    folder = tiny_sets.consep(tmp_path)
    path = folder / "Labels" / "train_1.mat"
    values = {k: v for k, v in io.loadmat(path).items() if not k.startswith("__")}

    def refuse(says, **changes):
        io.savemat(path, {k: v for k, v in {**values, **changes}.items() if v is not None})
        with pytest.raises(DataError, match=says):
            list(read_consep(folder, ClassMap(), ALL))

    refuse("lacks variables.*inst_type", inst_type=None)
    refuse("does not define", inst_type=np.array([[1.0], [2.0], [8.0]]))
    refuse("do not belong", inst_type=np.array([[1.0], [2.0]]))
    refuse("do not lie in their nuclei", inst_centroid=values["inst_centroid"][::-1])
    refuse("does not fit its image", inst_map=values["inst_map"][:-1])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_consep(folder, ClassMap(), ALL))
    path.unlink()
    with pytest.raises(DataError, match="no label for train_1"):
        list(read_consep(folder, ClassMap(), ALL))


# --- Lizard


def test_lizard_rows_are_found_by_id(tmp_path):
    (field,) = read_lizard(tiny_sets.lizard(tmp_path), LIZARD, ALL)
    assert (field.name, field.mpp) == ("crag_7", 0.5)
    same(rows(field), [(9, 7, 6, 6, 2), (32, 25, 4, 10, 5), (55, 2, NAN, NAN, 0)])
    check_map(field)


def test_lizard_rows_without_pixels_stay_as_points(tmp_path):
    tiny_sets.lizard(
        tmp_path,
        id=np.array([11, 5, 2, 40]),
        **{"class": np.array([1, 3, 6, 4])},
        centroid=np.array([[54.5, 1.5], [8.5, 6.5], [31.5, 24.5], [20.0, 15.0]]),
    )
    (field,) = read_lizard(tmp_path, LIZARD, ALL)
    same(rows(field)[1], (20, 15, NAN, NAN, 3))
    assert field.instances.max() == 3
    assert field.points[3].tolist() == [20, 15]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": np.array([11, 5, 7])}, "no row for 2"),
        ({"id": np.array([11, 5, 5])}, "do not belong"),
        ({"id": np.array([2, 11, 5])}, "do not lie in their nuclei"),
        ({"class": np.array([0, 1, 2])}, "does not define"),
        ({"centroid": None}, "no centroid"),
    ],
)
def test_lizard_rows_that_do_not_belong(tmp_path, changes, says):
    with pytest.raises(DataError, match=says):
        list(read_lizard(tiny_sets.lizard(tmp_path, **changes), LIZARD, ALL))


# --- COCO

COCO = ClassMap(("tumour", "lymphocyte"))


def test_coco_boxes_polygons_and_masks(tmp_path):
    first, second = read_coco(tiny_sets.coco(tmp_path), COCO, ALL, mpp=0.5)
    same(rows(first), [(13, 13, 6, 6, 0), (32, 23, 4, 6, 1), (42.5, 33, 4, 5.5, 1)])
    assert (first.name, first.group, first.mpp, first.complete) == ("p1_a", "p1", 0.5, True)
    assert (first.instances[20:26, 30:34] == 2).all()
    assert (first.instances == 2).sum() == 24
    assert (first.instances == 1).sum() == 32  # 36 less a corner each; a centre on an edge counts
    assert not first.valid[30:40, 0:20].any()
    assert first.valid.sum() == 40 * 60 - 200
    assert (len(second), second.complete, second.instances) == (0, False, None)
    *_, second = read_coco(tmp_path, COCO, ALL, mpp=0.5, empty_is_background=True)
    assert second.complete


def test_coco_a_crowd_s_category_needs_no_class(tmp_path):
    tiny_sets.coco(tmp_path)
    with pytest.raises(DataError, match="lymphocyte"):
        list(read_coco(tmp_path, ClassMap(("tumour",)), ALL, mpp=0.5))


def test_coco_counts_by_hand():
    # 5 is '5'; 33 is 1 + continuation, then 1: 'Q1'; -1 is 31 with the sign: 'O'.
    assert decode_counts("5Q1") == [5, 33]
    assert decode_counts("0321") == [0, 3, 2, 1 + 3]  # the fourth is a difference from the second
    assert decode_counts("9990O") == [9, 9, 9, 9, 9 - 1]
    mask = decode_mask([1, 2, 3], (3, 2))
    assert mask.tolist() == [[False, False], [True, False], [True, False]]
    for bad in ("Q", "~5", "5 5"):
        with pytest.raises(ValueError, match=r"inside a number|character"):
            decode_counts(bad)
    with pytest.raises(ValueError, match="runs of"):
        decode_mask([1, 2], (3, 2))


@given(st.lists(st.integers(0, 70_000), min_size=1, max_size=30))
def test_coco_counts_come_back(counts):
    assert decode_counts(tiny_sets.encode_counts(counts)) == counts


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_coco_masks_come_back(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    runs = tiny_sets.run_lengths(mask)
    np.testing.assert_array_equal(decode_mask(runs, (height, width)), mask)
    text = tiny_sets.encode_counts(runs)
    np.testing.assert_array_equal(decode_mask(text, (height, width)), mask)


def annotation(**changes):
    return {"id": 1, "image_id": 70, "category_id": 3, "bbox": [10, 10, 6, 6]} | changes


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (annotation(bbox=[40, 30, 50, 36]), "a box from"),  # corners in place of a size
        (annotation(bbox=[40, 30, 0, 6]), "without extent"),
        (annotation(bbox=[40, 30, float("inf"), 6]), "without extent"),
        (annotation(bbox=[1, 2, 3]), "not enough values"),
        (annotation(bbox=None), "neither bbox nor segmentation"),
        (annotation(segmentation=[[30, 30, 36, 30, 36, 36]]), "but outline"),
        (annotation(segmentation=[[30, 30, 36, 30]]), "fewer than three"),
        (annotation(segmentation={"size": [60, 40], "counts": [2400]}), "a mask of"),
        (annotation(segmentation={"size": [40, 60], "counts": [1, 2]}), "runs of 3 px"),
        (annotation(segmentation={"size": [40, 60], "counts": [2400]}), "empty mask"),
        (annotation(image_id=9), "image that is not listed"),
        (annotation(category_id=9999), "category that is not listed"),
    ],
)
def test_coco_annotations_that_cannot_be(tmp_path, entry, says):
    with pytest.raises(DataError, match=says):
        list(read_coco(tiny_sets.coco(tmp_path, [entry]), COCO, ALL, mpp=0.5))


def test_coco_files_that_contradict_themselves(tmp_path):
    def refuse(says, **changes):
        tiny_sets.coco(tmp_path, [], **changes)
        with pytest.raises(DataError, match=says):
            list(read_coco(tmp_path, COCO, ALL, mpp=0.5))

    refuse("image id or name twice", images=[{"id": 1, "file_name": "p1_a.png"}] * 2)
    refuse(
        "not the one that was annotated", images=[{"id": 1, "file_name": "p1_a.png", "width": 9}]
    )
    refuse("not there", images=[{"id": 1, "file_name": "gone.png"}])
    refuse("not there", images=[{"id": 1, "file_name": "../labels.json"}])
    refuse("no images", images=[])
    refuse("cannot be read", categories=None)
    (tmp_path / "other.json").write_text(json.dumps({}))
    refuse("not clear")
    tiny_sets.coco(tmp_path)
    assert len(list(read_coco(tmp_path, COCO, ALL, mpp=0.5, annotations="labels.json"))) == 2


# --- split.csv, for every kind


def test_a_split_file_chooses_in_every_kind(tmp_path):
    def chosen(root, read, names):
        lines = [f"{name},P{i},{'val' if i else 'train'}" for i, name in enumerate(names)]
        (root / "split.csv").write_text("\n".join(["image,patient,split", *lines]) + "\n")
        (field,) = read(root, ClassMap(), Parts.of(root, "val"))
        assert (field.name, field.group) == (names[1].removesuffix(".png"), "P1")

    fold = tiny_sets.pannuke_fold(tmp_path / "p", 1, nested=False)
    chosen(fold, read_pannuke, ["fold1_00000", "fold1_00001"])
    chosen(tiny_sets.conic(tmp_path / "c"), read_conic, ["consep_1-0001", "glas_2-0000"])
    tiny_sets.consep(tmp_path / "s", part="Train")
    tiny_sets.consep(tmp_path / "s", part="Test")
    chosen(tmp_path / "s", read_consep, ["train_1.png", "test_1.png"])
    root = tiny_sets.coco(tmp_path / "o")
    chosen(root, lambda *a: read_coco(*a, mpp=0.5), ["p1_a.png", "p2_b.png"])
