import csv

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.datasets import (
    Field,
    guess_mpp,
    instance_boxes,
    load_instances_folder,
    load_points_folder,
    read_image,
    read_split,
    resample,
    split,
)

NAMES = ("lymphocyte", "tumour", "stromal")


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_points(root, stem, rows, header=("x", "y", "class"), shape=(40, 60)):
    save(root / "images" / f"{stem}.png", np.full((*shape, 3), 200, np.uint8))
    path = root / "points" / f"{stem}.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


@pytest.fixture
def points_folder(tmp_path):
    save_points(tmp_path, "b_2", [(0, 0, "tumour"), (59, 39, "stromal"), (7.5, 8, "")])
    save_points(tmp_path, "a_1", [(3, 4, "lymphocyte")])
    (tmp_path / "split.csv").write_text(
        "image,patient,split,n_points\na_1.png,P1,train,1\nb_2.png,P2,val,3\n"
    )
    return tmp_path


@pytest.fixture
def instances_folder(tmp_path):
    ids = np.zeros((30, 40), np.uint16)
    ids[5:10, 10:17] = 700  # ids need not be 1..n
    ids[20:30, 30:33] = 9  # cut by the lower border
    ids[12, 12] = 40
    save(tmp_path / "images" / "07_3.png", np.full((30, 40, 3), 220, np.uint8))
    save(tmp_path / "instances" / "07_3.png", ids)
    return tmp_path


def make_field(**changes):
    values = {
        "name": "f",
        "group": "g",
        "image": np.full((20, 30, 3), 128, np.uint8),
        "mpp": 0.25,
        "points": np.array([[3, 4], [10, 12]]),
        "sizes": np.array([[4, 6], [np.nan, np.nan]]),
        "class_ids": np.array([0, -1]),
        "class_names": NAMES,
    }
    return Field(**{**values, **changes})


# --- points


def test_points_are_read_at_pixel_centres(points_folder):
    first, second = load_points_folder(points_folder, mpp=0.5, class_names=NAMES)
    assert (first.name, first.group, first.mpp, first.complete) == ("a_1", "P1", 0.5, True)
    np.testing.assert_array_equal(first.points, [[3.5, 4.5]])
    np.testing.assert_array_equal(second.points, [[0.5, 0.5], [59.5, 39.5], [8.0, 8.5]])
    np.testing.assert_array_equal(second.class_ids, [1, 2, -1])
    assert second.points.dtype == second.sizes.dtype == np.float32
    assert second.class_ids.dtype == np.int16
    assert np.isnan(second.sizes).all()
    assert second.image.shape == (40, 60, 3)


def test_split_file_chooses_and_groups(points_folder):
    assert read_split(points_folder) == {"a_1": ("P1", "train"), "b_2": ("P2", "val")}
    (only,) = load_points_folder(points_folder, mpp=0.5, class_names=NAMES, split="val")
    assert only.group == "P2"
    with pytest.raises(DataError, match="train, val"):
        load_points_folder(points_folder, mpp=0.5, class_names=NAMES, split="test")


def test_without_a_split_file_the_prefix_is_the_group(points_folder):
    (points_folder / "split.csv").unlink()
    fields = load_points_folder(points_folder, mpp=0.5, class_names=NAMES)
    assert [f.group for f in fields] == ["a", "b"]
    fields = load_points_folder(points_folder, mpp=0.5, class_names=NAMES, group_pattern=r"x+")
    assert [f.group for f in fields] == ["a_1", "b_2"]


def test_classes_can_be_left_out(points_folder):
    fields = load_points_folder(points_folder, mpp=0.5)
    assert all((f.class_ids == -1).all() and f.class_names == () for f in fields)


def test_a_field_without_points_is_not_taken_for_background(tmp_path):
    save_points(tmp_path, "a", [])
    (field,) = load_points_folder(tmp_path, mpp=None, class_names=NAMES)
    assert len(field) == 0
    assert not field.complete
    (field,) = load_points_folder(tmp_path, mpp=None, empty_is_background=True)
    assert field.complete


def test_a_table_may_have_a_byte_order_mark_and_spaces(tmp_path):
    save_points(tmp_path, "a", []).write_bytes("\ufeffx, y ,class\n1,2, tumour\n".encode())
    (field,) = load_points_folder(tmp_path, mpp=0.5, class_names=NAMES)
    np.testing.assert_array_equal(field.points, [[1.5, 2.5]])
    assert field.class_ids.tolist() == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x,y,class\n1,2,plasma\n", r"line 2: unknown class 'plasma'.*lymphocyte, tumour, stromal"),
        ("x,y\n1,2\n", r"lacks columns.*add a header line with class"),
        ("1,2,tumour\n", "lacks columns"),
        ("", "an empty file"),
        ("x,y,class\n1,two,tumour\n", "line 2: not a point"),
        ("x,y,class\n1\n", "line 2: not a point"),
        ("x,y,class\n1,2,tumour\n60,2,tumour\n", r"1 points lie outside.*x 60, y 2 in line 3"),
        ("x,y,class\n1,-1,tumour\n", "outside"),
        ("x,y,class\nnan,1,tumour\n", "outside"),
        ("x,y,class\ninf,1,tumour\n", "outside"),
        ("x,y,class\n1,\xff,tumour\n", "cannot be read"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, says):
    save_points(tmp_path, "a", []).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=says) as caught:
        load_points_folder(tmp_path, mpp=0.5, class_names=NAMES)
    assert "a.csv" in str(caught.value)
    assert caught.value.remedy


def test_what_is_missing_is_named(points_folder, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_points_folder(tmp_path / "nowhere", mpp=0.5)
    with pytest.raises(DataError, match="'instances'"):
        load_instances_folder(points_folder, mpp=0.5)
    table = points_folder / "points" / "a_1.csv"
    text = table.read_text()
    table.unlink()
    with pytest.raises(DataError, match=r"no label for a_1\.csv"):
        load_points_folder(points_folder, mpp=0.5)
    table.write_text(text)
    (points_folder / "images" / "b_2.png").unlink()
    with pytest.raises(DataError, match=r"no image for b_2\.csv"):
        load_points_folder(points_folder, mpp=0.5)
    (points_folder / "images" / "a_1.png").unlink()
    for path in (points_folder / "points").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no images"):
        load_points_folder(points_folder, mpp=0.5)


# --- images


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize("cut", [0, 5, 60])
def test_a_damaged_image_is_one_clear_error(tmp_path, name, cut):
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    if name.endswith("tif"):
        tifffile.imwrite(path, pixels, compression="zlib")
    else:
        save(path, pixels)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match="cannot be read"):
        read_image(path)


def test_grey_palette_and_transparent_pictures_become_rgb(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    save(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = 10, 20, 30, 255
    clear[0, 1] = 0, 0, 0, 128
    save(tmp_path / "clear.png", clear)
    seen = read_image(tmp_path / "clear.png")
    assert seen[0, 0].tolist() == [10, 20, 30]
    assert seen[0, 1].tolist() == [127, 127, 127]
    assert seen[1, 1].tolist() == [255, 255, 255]
    Image.fromarray(np.full((3, 3, 3), 77, np.uint8)).quantize(4).save(tmp_path / "palette.png")
    assert (read_image(tmp_path / "palette.png") == 77).all()


def test_sixteen_bit_pictures_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4, 3), np.uint16))
    with pytest.raises(DataError, match="8-bit"):
        read_image(tmp_path / "a.tif")


# --- instances


def test_instance_boxes_are_exact(instances_folder):
    (field,) = load_instances_folder(instances_folder, mpp=0.25)
    assert (field.name, field.group) == ("07_3", "07")
    order = np.argsort(field.points[:, 1])
    np.testing.assert_array_equal(field.points[order], [[13.5, 7.5], [12.5, 12.5], [31.5, 25.0]])
    np.testing.assert_array_equal(field.sizes[order], [[7, 5], [1, 1], [np.nan, np.nan]])
    assert (field.class_ids == -1).all()
    for row, (x, y) in enumerate(field.points):
        assert field.instances[int(y), int(x)] == row + 1


def test_cut_nuclei_keep_their_visible_box_on_request(instances_folder):
    (field,) = load_instances_folder(instances_folder, mpp=0.25, border_sizes=True)
    assert [3, 10] in field.sizes.tolist()


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_every_border_cuts(tmp_path, edge):
    ids = np.zeros((20, 20), np.uint16)
    where = {
        "left": (slice(5, 9), slice(0, 4)),
        "right": (slice(5, 9), slice(16, 20)),
        "top": (slice(0, 4), slice(5, 9)),
        "bottom": (slice(16, 20), slice(5, 9)),
    }
    ids[where[edge]] = 1
    ids[10:12, 10:12] = 2
    save(tmp_path / "images" / "a.png", np.zeros((20, 20, 3), np.uint8))
    save(tmp_path / "instances" / "a.png", ids)
    (field,) = load_instances_folder(tmp_path, mpp=0.25)
    assert np.isnan(field.sizes[0]).all()
    np.testing.assert_array_equal(field.sizes[1], [2, 2])


def test_an_empty_instance_map_has_no_nuclei(tmp_path):
    save(tmp_path / "images" / "hex1.png", np.zeros((8, 9, 3), np.uint8))
    save(tmp_path / "instances" / "hex1.png", np.zeros((8, 9), np.uint16))
    (field,) = load_instances_folder(tmp_path, mpp=None)
    assert len(field) == 0
    assert field.complete
    assert field.group == "hex1"
    assert guess_mpp(field) is None


def test_instance_maps_that_do_not_fit_are_refused(instances_folder):
    path = instances_folder / "instances" / "07_3.png"
    save(path, np.zeros((30, 41), np.uint16))
    with pytest.raises(DataError, match="does not fit its image"):
        load_instances_folder(instances_folder, mpp=0.25)
    save(path, np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(DataError, match="not a map of ids"):
        load_instances_folder(instances_folder, mpp=0.25)


# --- fields


@pytest.mark.parametrize(
    "changes",
    [
        {"image": np.zeros((4, 4), np.uint8)},
        {"image": np.zeros((4, 4, 3), np.float32)},
        {"class_ids": np.array([0, 3])},
        {"class_ids": np.array([0])},
        {"sizes": np.zeros((1, 2))},
        {"mpp": 0.0},
        {"mpp": np.nan},
    ],
)
def test_fields_that_contradict_themselves_are_refused(changes):
    with pytest.raises(DataError, match="Field 'f'"):
        make_field(**changes)


def test_resampling_moves_points_with_the_pixels():
    image = np.full((60, 80, 3), 255, np.uint8)
    image[20:28, 40:52] = 0
    field = make_field(
        image=image,
        points=np.array([[46.0, 24.0]]),
        sizes=np.array([[12.0, 8.0]]),
        class_ids=np.array([2]),
        instances=np.where(image[..., 0] == 0, 1, 0).astype(np.int32),
    )
    for mpp in (0.5, 0.37, 0.125, 0.25):
        made = resample(field, mpp)
        assert made.mpp == mpp
        assert made.image.shape[:2] == (round(60 * 0.25 / mpp), round(80 * 0.25 / mpp))
        dark = 255.0 - made.image[..., 0]
        y, x = np.mgrid[: dark.shape[0], : dark.shape[1]] + 0.5
        mass = np.array([(dark * x).sum(), (dark * y).sum()]) / dark.sum()
        np.testing.assert_allclose(made.points[0], mass, atol=0.1)
        np.testing.assert_allclose(made.sizes[0].prod(), dark.sum() / 255, rtol=0.05)
        assert made.instances.shape == made.image.shape[:2]
        (box,) = instance_boxes(made.instances)
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, made.points[0], atol=1)


def test_shrinking_averages_areas():
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    made = resample(make_field(image=image, points=np.zeros((0, 2)), sizes=np.zeros((0, 2)),
                               class_ids=np.zeros(0)), 0.5)  # fmt: skip
    expected = image.reshape(16, 2, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(made.image - expected).max() <= 0.5


def test_resampling_needs_a_known_scale():
    with pytest.raises(DataError, match="guess_mpp"):
        resample(make_field(mpp=None), 0.5)
    with pytest.raises(DataError, match="both positive"):
        resample(make_field(), 0.0)
    same = make_field()
    assert resample(same, 0.25).image is same.image


def test_guess_mpp_is_the_median_diameter():
    field = make_field(sizes=np.array([[10, 40], [np.nan, np.nan]]))
    assert guess_mpp(field, diameter_um=6.0) == pytest.approx(0.3)


def test_split_holds_groups_out():
    fields = [make_field(name=str(i), group=str(i % 3)) for i in range(6)]
    kept, held = split(fields, hold_out=("1",))
    assert {f.group for f in kept} == {"0", "2"}
    assert [f.name for f in held] == ["1", "4"]
    _, held = split(fields, by="name", hold_out=("5",))
    assert len(held) == 1
    _, held = split(fields, by=lambda f: f.name + f.group, hold_out=("52", "00"))
    assert len(held) == 2
    for wrong in ((), ("9",), ("0", "1", "2")):
        with pytest.raises(DataError, match="cannot be divided"):
            split(fields, hold_out=wrong)


# --- the real sets


def test_real_points_folders(shared_data):
    fields = load_points_folder(shared_data / "he_brca_m2c", mpp=0.5, class_names=NAMES)
    assert len(fields) == 90
    ids = np.concatenate([f.class_ids for f in fields])
    assert np.bincount(ids).tolist() == [4899, 10689, 6192]
    train, val = (
        load_points_folder(shared_data / "he_brca_m2c", mpp=0.5, class_names=NAMES, split=s)
        for s in ("train", "val")
    )
    assert (len(train), len(val)) == (82, 8)
    assert not {f.group for f in train} & {f.group for f in val}
    with pytest.raises(DataError, match="stroma"):
        load_points_folder(shared_data / "ihc_endonuke", mpp=0.29, class_names=NAMES)


def test_real_tiles_nobody_annotated_are_not_complete(shared_data):
    fields = load_points_folder(shared_data / "ihc_endonuke", mpp=0.29)
    assert sum(map(len, fields)) == 1890
    assert {f.group for f in fields if not f.complete} == {"7d30c473"}


def test_real_instance_folders(shared_data):
    fields = load_instances_folder(shared_data / "he_tnbc", mpp=0.25)
    assert (len(fields), sum(map(len, fields))) == (37, 3157)
    assert sorted({f.group for f in fields}) == [f"0{i}" for i in range(1, 9)]
    assert resample(fields[0], 0.5).image.shape == (256, 256, 3)
    purple = load_instances_folder(shared_data / "dsb2018_purple", mpp=None)
    assert (len(purple), sum(map(len, purple))) == (107, 4550)
    assert len({f.group for f in purple}) == 107
