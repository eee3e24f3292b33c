"""Every kind of data set through its word; shares, groups and folds; folders written and read."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import tiny_sets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_celldetr.core.errors import ConfigError, DataError
from napari_celldetr.training.datasets import (
    NUMBER,
    PREFIX,
    Field,
    group_folds,
    load_instances_folder,
    load_points_folder,
    resample,
    site_of,
)
from napari_celldetr.training.geojson import SLIDE
from napari_celldetr.training.label_files import group_of
from napari_celldetr.training.pools import Supervision, iter_fields, load_fields, load_pools
from napari_celldetr.training.save_fields import (
    save_composition_folder,
    save_instances_folder,
    save_points_folder,
)
from napari_celldetr.training.specs import KINDS, parse_data

NAMES = ("lymphocyte", "tumour", "stromal")


def make_field(name="f", cells=2, group="g", **changes):
    values = {
        "name": name,
        "group": group,
        "image": np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8),
        "mpp": 0.25,
        "points": np.array([[3.5, 4.25], [10, 12]] * cells)[:cells],
        "sizes": np.array([[4, 6.5], [np.nan, np.nan]] * cells)[:cells],
        "class_ids": np.array([1, -1] * cells)[:cells],
        "class_names": NAMES,
    }
    return Field(**{**values, **changes})


# --- kinds through words


def test_every_kind_looks_for_the_names_of_its_map(tmp_path):
    tiny_sets.points_folder(tmp_path / "points", split={"01": "train", "02": "val", "03": "val"})
    tiny_sets.instances_folder(tmp_path / "instances")
    (tmp_path / "instances" / "classes").mkdir()
    (tmp_path / "instances" / "classes" / "07_1.csv").write_text("id,class\n1,dead\n")
    tiny_sets.pannuke_fold(tmp_path / "pannuke", 1)
    tiny_sets.conic(tmp_path / "conic")
    tiny_sets.consep(tmp_path / "consep")
    tiny_sets.lizard(tmp_path / "lizard")
    tiny_sets.coco(tmp_path / "coco")
    composition_folder(tmp_path / "composition", ["image,tumour", "p1_a,1", "p2_b,1"])
    for kind in (
        "points",
        "instances",
        "pannuke",
        "conic",
        "consep",
        "lizard",
        "coco",
        "composition",
    ):
        (spec,) = parse_data(f"{kind}:{tmp_path / kind}@0.5?map=tumor:tumour,*:-")
        with pytest.raises(DataError, match=rf"names 'tumor', .*'{kind}' does not have"):
            load_fields(spec, class_names=NAMES)
    table = tmp_path / "points" / "points" / "03_field.csv"
    table.write_text("x,y,class\n3,4,plasma\n")  # named in a part that is not read
    (spec,) = parse_data(f"points:{tmp_path / 'points'}?map=plasma:lymphocyte")
    assert len(load_fields(spec, class_names=NAMES, split="train")) == 1


def test_every_published_kind_has_a_word(tmp_path):
    tiny_sets.pannuke_fold(tmp_path / "pannuke", 1)
    tiny_sets.conic(tmp_path / "conic")
    tiny_sets.consep(tmp_path / "consep")
    tiny_sets.lizard(tmp_path / "lizard")
    tiny_sets.coco(tmp_path / "coco")
    words = (
        "pannuke:{}/pannuke?map=neoplastic:tumour,epithelial:tumour,*:- conic:{}/conic?map=*:- "
        "consep:{}/consep?types=merged&map=epithelial:tumour,spindle:stromal,*:- "
        "lizard:{}/lizard?map=connective:stromal,*:-&group=^[a-z]+ coco:{}/coco@0.5?map=clump:-"
    ).replace("{}", str(tmp_path))
    found = {s.kind: load_fields(s, class_names=NAMES) for s in parse_data(words)}
    assert set(found) < set(KINDS)
    assert found["lizard"][0].group == "crag"
    assert all(f.class_names == NAMES for fields in found.values() for f in fields)
    assert {k: sum(len(f) for f in v) for k, v in found.items()} == {
        "pannuke": 6, "conic": 6, "consep": 3, "lizard": 3, "coco": 3,
    }  # fmt: skip
    config = tiny_sets.config(tmp_path, data=words, mpp=0.5, hold_out="glas_2,p2")
    pools = load_pools(config)
    assert {f.mpp for p in pools for f in p.fields} == {0.5}
    assert sum(len(p.fields) for p in pools) == 2 + 2 + 1 + 1 + 1
    with pytest.raises(DataError, match="in none of the data sets"):
        load_pools(replace(config, hold_out="fold9"))


def test_slides_and_runs_have_words(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_celldetr.slides.readers.probe_file", lambda path: None)
    pixels = np.full((300, 300, 3), 200, np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="rgb", tile=(256, 256))
    cell = tiny_sets.feature("detection", tiny_sets.polygon(tiny_sets.square(99, 99, 9)), "tumour")
    area = tiny_sets.feature("annotation", tiny_sets.polygon(tiny_sets.square(50, 50, 200)), "ROI")
    tiny_sets.geojson(tmp_path / "s.geojson", [cell, area])
    (spec,) = parse_data(f"geojson:{tmp_path}@0.5?region=^ROI&tile=128&complete=no")
    fields = load_fields(spec, class_names=NAMES)
    assert [(len(f), f.complete) for f in fields] == [(1, False)]
    with pytest.raises(ConfigError, match="pattern"):
        iter_fields(replace(spec, options=(("region", "("),)), class_names=NAMES)
    boxes = np.array([[50.0, 50, 60, 60], [100, 120, 110, 130], [200, 200, 210, 210]])
    matrix = np.diag([0.5 / 0.2125, 0.5 / 0.2125, 1])
    tiny_sets.xenium(tmp_path / "run", boxes, ["tumour"] * 3, matrix)
    word = f"xenium:{tmp_path / 'run'}@0.5?image=../s.tif&types=types.csv&complete=yes"
    (field,) = load_fields(parse_data(word)[0], class_names=NAMES)
    assert field.class_ids.tolist() == [1, -1]
    assert field.complete
    with pytest.raises(DataError, match="Nothing is left"):
        load_pools(tiny_sets.config(tmp_path, data=word + "&labels=composition"))


# --- composition


def composition_folder(root, lines, names=("p1_a", "p2_b")):
    for name in names:
        tiny_sets.picture(root / "images" / f"{name}.png")
    (root / "composition.csv").write_text("\n".join(lines) + "\n")
    return root


def read_composition(root, mapped="", class_names=NAMES):
    word = f"composition:{root}@0.5" + (f"?map={mapped}" if mapped else "")
    return load_fields(parse_data(word)[0], class_names=class_names)


def test_counts_shares_and_percentages(tmp_path):
    lines = ["image,T,lymphocyte,dead", "p1_a.png,6,2,4", "p2_b.png,0.25,0.25,0.5"]
    first, second = read_composition(composition_folder(tmp_path, lines), "T:tumour,dead:-")
    np.testing.assert_allclose(first.composition, [0.25, 0.75, 0])
    np.testing.assert_allclose(second.composition, [0.5, 0.5, 0])
    assert (len(first), first.complete, first.group, first.mpp) == (0, False, "p1", 0.5)
    lines = ["image,T,lymphocyte", "p1_a.png,62.5,37.5", "p2_b.png,0,1"]
    first, second = read_composition(composition_folder(tmp_path, lines), "T:tumour")
    np.testing.assert_allclose(first.composition, [0.375, 0.625, 0])
    first, _ = read_composition(tmp_path, "T:tumour,lymphocyte:tumour")
    np.testing.assert_allclose(first.composition, [0, 1, 0])
    (pool,) = load_pools(
        tiny_sets.config(tmp_path, data=f"composition:{tmp_path}@0.5?map=T:tumour", hold_out="p2")
    )
    assert pool.supervision.as_text().endswith("1 compositions")
    with pytest.raises(DataError, match="Nothing is left"):
        load_pools(
            tiny_sets.config(tmp_path, data=f"composition:{tmp_path}@0.5", classes="nucleus")
        )


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["image,tumour", "p1_a,1"], "no line for p2_b"),
        (["image,tumour", "p1_a,1", "p2_b,1", "c,1"], "no image for c"),
        (["image,tumour", "p1_a,1", "p2_b,1", "p2_b,2"], "an image twice"),
        (["image", "p1_a", "p2_b"], "no classes"),
        (["image,tumour,stromal", "p1_a,0.5,0.2", "p2_b,1,0"], "is no composition"),
        (["image,tumour,stromal", "p1_a,2,-1", "p2_b,1,0"], "is no composition"),
        (["image,tumour,stromal", "p1_a,0,0", "p2_b,1,0"], "is no composition"),
        (["image,tumour,stromal", "p1_a,x,0", "p2_b,1,0"], "is no composition"),
        (["image,tumour,plasma", "p1_a,1,0", "p2_b,1,0"], "plasma"),
    ],
)
def test_compositions_that_cannot_be(tmp_path, lines, says):
    with pytest.raises(DataError, match=says):
        read_composition(composition_folder(tmp_path, lines))


# --- shares


def test_what_labels_tell_is_counted():
    fields = [make_field("a"), make_field("b", cells=0, complete=False)]
    fields.append(make_field("c", 0, complete=False, composition=np.array([0, 1, 0])))
    assert Supervision.of(fields) == Supervision(3, 1, 1, 2, 1, 1)


def test_automatic_shares_follow_the_root_of_the_area(tmp_path):
    tiny_sets.points_folder(tmp_path / "a", patients=("01", "02", "03", "04"))
    tiny_sets.points_folder(tmp_path / "b", patients=("05",))
    tiny_sets.instances_folder(tmp_path / "c")
    data = f"points:{tmp_path}/a*auto points:{tmp_path}/b*auto instances:{tmp_path}/c*0.7"
    weights = [p.spec.weight for p in load_pools(tiny_sets.config(tmp_path, data=data))]
    np.testing.assert_allclose(weights, [4 / 3, 2 / 3, 0.7])  # 2 : 1, one on average


# --- groups


def test_sites_of_barcodes():
    assert site_of("TCGA-A7-A0D9-01Z-00-DX2_18001") == "A7"
    assert site_of("slides/x_TCGA-E2-A1B6") == "E2"
    assert site_of("TCGA-OL-") == "OL"
    for name in ("tcga-A7-A0D9", "TCGA_A7", "TCGA-A7X-1", "field_1", ""):
        assert site_of(name) is None


@pytest.mark.parametrize(
    ("stem", "prefix", "number"),
    [
        ("TCGA-A7-A0D9-01Z-00-DX1_1_2", *["TCGA-A7-A0D9"] * 2),
        ("TCGA-A7-A0D9-01Z-00-DX2.5f3e", *["TCGA-A7-A0D9"] * 2),
        ("07_TCGA-A7-A0D9", *["TCGA-A7-A0D9"] * 2),
        ("TCGA-A7-A0D9X_1", "TCGA-A7-A0D9X", "TCGA-A7-A0D9X_1"),
        ("07_3", "07", "07"),
        ("p7_3", "p7", "p7_3"),
        ("_3", "_3", "_3"),
    ],
)
def test_groups_where_nothing_names_them(stem, prefix, number):
    assert group_of(stem, PREFIX) == prefix
    assert group_of(stem, NUMBER) == number
    patient = stem if "A0D9X" in stem or "TCGA" not in stem else "TCGA-A7-A0D9"
    assert group_of(stem, SLIDE) == patient


def grouped(counts, names=None):
    names = names or [f"g{i}" for i in range(len(counts))]
    return [
        make_field(f"{name}_{half}", count, name)
        for name, count in zip(names, counts, strict=True)
        for half in range(2)
    ]


@given(st.lists(st.integers(0, 40), min_size=3, max_size=25), st.integers(0, 99))
def test_folds_divide_no_group_and_are_balanced(counts, seed):
    fields = grouped(counts)
    folds = group_folds(fields, 3, seed=seed)
    assert sorted(g for fold in folds for g in fold) == sorted({f.group for f in fields})
    loads = [sum(len(f) + 1 for f in fields if f.group in fold) for fold in folds]
    largest = max(2 * (c + 1) for c in counts)
    assert max(loads) - min(loads) <= largest
    assert all(folds)
    assert folds == group_folds(fields[::-1], 3, seed=seed)


def test_folds_by_site_keep_its_patients_together():
    names = [f"TCGA-{site}-{i:04d}" for site in ("A1", "B2", "C3", "D4") for i in range(3)]
    fields = grouped([5] * 12, names)
    folds = group_folds(fields, 2, by="site")
    sites = [{site_of(g) for g in fold} for fold in folds]
    assert not sites[0] & sites[1]
    assert [len(fold) for fold in folds] == [6, 6]
    assert group_folds(fields, 4, by="site", seed=1) != group_folds(fields, 4, by="site", seed=2)
    with pytest.raises(DataError, match="no site"):
        group_folds(grouped([1, 2, 3]), 2, by="site")
    for k, by in ((5, "site"), (13, "group"), (1, "group"), (0, "group")):
        with pytest.raises(DataError, match="cannot be divided"):
            group_folds(fields, k, by=by)


def test_real_sites(shared_data):
    fields = load_points_folder(shared_data / "he_brca_m2c", mpp=0.5)
    folds = group_folds(fields, 3, by="site")
    assert sorted(len({site_of(g) for g in fold}) for fold in folds) == [1, 1, 1]
    folds = group_folds(fields, 5)
    loads = [sum(len(f) for f in fields if f.group in fold) for fold in folds]
    assert sum(loads) == 21780
    assert max(loads) < 1.1 * min(loads)
    assert folds != group_folds(fields, 5, seed=1)


# --- fields


def test_where_labels_say_something():
    valid = np.ones((20, 30), bool)
    valid[:, 10:] = False
    field = make_field(valid=valid)
    places = np.array([[0, 0], [9.99, 19.99], [10, 5], [-0.1, 5], [5, 20], [29, 5], [np.inf, 1]])
    assert field.known_at(places).tolist() == [True, True, *[False] * 5]
    assert make_field().known_at(places).tolist() == [True, True, True, False, False, True, False]
    half = resample(field, 0.5)
    assert half.valid.shape == (10, 15)
    assert half.valid[:, :5].all()
    assert not half.valid[:, 5:].any()
    for wrong in (
        {"valid": np.ones((2, 2), bool)},
        {"instances": np.ones((2, 2), np.int32)},
        {"composition": np.array([0.5, 0.5])},
        {"composition": np.array([0.5, 0.2, 0.2])},
        {"composition": np.array([1.5, -0.5, 0])},
        {"composition": np.array([np.nan, 1, 0])},
    ):
        with pytest.raises(DataError, match="Field 'f'"):
            make_field(**wrong)


# --- written and read back


def test_points_come_back(tmp_path):
    valid = np.ones((20, 30), bool)
    valid[:5] = False
    fields = [
        make_field("a", group="P1"),
        make_field("b.x", cells=0, group="P2", complete=False),
        make_field("c", group="P2", valid=valid, complete=False),
    ]
    assert save_points_folder(iter(fields), tmp_path / "out") == 3
    found = load_points_folder(tmp_path / "out", mpp=0.25, class_names=NAMES)
    for old, new in zip(fields, found, strict=True):
        assert (new.name, new.group, new.complete) == (old.name, old.group, old.complete)
        np.testing.assert_array_equal(new.image, old.image)
        np.testing.assert_allclose(new.points, old.points, atol=1e-3)
        np.testing.assert_allclose(new.sizes, old.sizes, atol=1e-3)
        np.testing.assert_array_equal(new.class_ids, old.class_ids)
        np.testing.assert_array_equal(new.known_at(new.points), old.known_at(old.points))
    (pool,) = load_pools(tiny_sets.config(tmp_path, data=f"points:{tmp_path / 'out'}@0.25"))
    assert len(pool.fields) == 2


def test_published_sets_come_back_as_instances(tmp_path):
    tiny_sets.consep(tmp_path / "set", ids=(5, 2, 11), types=(4, 2, 6))
    (spec,) = parse_data(f"consep:{tmp_path / 'set'}?types=merged&map=epithelial:tumour,*:-")
    fields = load_fields(spec, class_names=NAMES)
    assert save_instances_folder(fields, tmp_path / "out") == 1
    (new,) = load_instances_folder(tmp_path / "out", mpp=0.25, class_names=NAMES)
    for name in ("points", "sizes", "class_ids", "instances", "image"):
        np.testing.assert_array_equal(getattr(new, name), getattr(fields[0], name))
    (plain,) = load_instances_folder(tmp_path / "out", mpp=0.25)
    assert set(plain.class_ids.tolist()) == {-1}


def test_compositions_come_back(tmp_path):
    fields = [
        make_field(n, 0, n, complete=False, composition=np.array(c))
        for n, c in (("a", [0.2, 0.3, 0.5]), ("b", [0, 1 / 3, 2 / 3]))
    ]
    save_composition_folder(fields, tmp_path / "out")
    for old, new in zip(fields, read_composition(tmp_path / "out"), strict=True):
        np.testing.assert_allclose(new.composition, old.composition, atol=1e-5)


def test_what_a_folder_cannot_hold_is_refused(tmp_path):
    def refuse(save, fields, says):
        with pytest.raises(DataError, match=says):
            save(fields, tmp_path / f"out{len(list(tmp_path.iterdir()))}")

    shares = make_field(cells=0, complete=False, composition=np.array([0, 1, 0]))
    refuse(save_points_folder, [shares], "save_composition_folder")
    refuse(save_composition_folder, [make_field()], "class shares")
    other = replace(shares, name="g", class_names=("x", "y", "z"))
    refuse(save_composition_folder, [shares, other], "other classes than before")
    refuse(save_instances_folder, [make_field()], "no map")
    one = np.zeros((20, 30), np.int32)
    one[2:4, 2:4] = 1
    refuse(save_instances_folder, [make_field(instances=one)], "1 of 2")
    refuse(save_points_folder, [make_field("a/b")], "file names")
    refuse(save_points_folder, [make_field(), make_field()], "used once")
    refuse(save_points_folder, [make_field("a"), make_field("b", mpp=0.5)], "one µm/px")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(DataError, match="new or empty folder"):
        save_points_folder([make_field()], tmp_path / "full")
    with pytest.raises(DataError, match="room enough"):
        save_points_folder([make_field()], tmp_path / "full" / "x" / "below a file")


def test_instances_may_have_splits(tmp_path):
    root = tiny_sets.instances_folder(tmp_path / "set")
    table = root / "split.csv"
    table.write_text("image,patient,split\n07_1.png,A,val\n08_1.png,B,train\ngone.png,C,test\n")
    (spec,) = parse_data(f"instances:{root}")
    assert [f.group for f in load_fields(spec, class_names=(), split="val")] == ["A"]
    with pytest.raises(DataError, match=r"gives no fields.*'test'"):
        load_fields(spec, class_names=(), split="test")
    with pytest.raises(DataError, match=r"no split 'x'.*test, train, val"):
        load_fields(spec, class_names=(), split="x")
    (pool,) = load_pools(tiny_sets.config(tmp_path, data=f"instances:{root}"))
    assert [f.group for f in pool.fields] == ["B"]


@pytest.mark.parametrize(
    ("part", "text", "says"),
    [
        ("points/01_field.csv", "x,y,class,width,height\n3,4,tumour,-1,5\n", "without extent"),
        ("points/01_field.csv", "x,y,class,width,height\n3,4,tumour,inf,5\n", "without extent"),
        ("points/01_field.csv", "x,y,class,width,height\n3,4,tumour,a,5\n", "not a point"),
        ("split.csv", "image,patient,split,complete\n01_field.png,1,train,maybe\n", "not clear"),
        ("points/01_field.csv", "x;y;class\n3;4;tumour\n", "separated by ';': save with commas"),
        ("points/01_field.csv", "x\ty\tclass\n", "separated by tabs: save with commas"),
        ("points/01_field.csv", "", "an empty file"),
        ("split.csv", "image,patient\n01_field.png,1\n", "lacks columns"),
    ],
)
def test_tables_that_cannot_be(tmp_path, part, text, says):
    root = tiny_sets.points_folder(tmp_path / "set", patients=("01",))
    (root / part).write_text(text)
    with pytest.raises(DataError, match=says):
        load_points_folder(root, mpp=0.5, class_names=NAMES)


def test_what_is_left_of_a_set_without_labels(tmp_path):
    root = tiny_sets.points_folder(tmp_path / "set", patients=("01", "02"))
    word = f"points:{root}"
    with pytest.raises(DataError, match=r"2 fields, 2 with labels, all of these held out"):
        load_pools(tiny_sets.config(tmp_path, data=word, hold_out="01,02"))
    for patient in ("01", "02"):
        (root / "points" / f"{patient}_field.csv").write_text("x,y,class\n")
    with pytest.raises(DataError, match=r"2 fields, none with labels.*\?empty=background"):
        load_pools(tiny_sets.config(tmp_path, data=word))
    assert load_pools(tiny_sets.config(tmp_path, data=word + "?empty=background"))
    (root / "split.csv").write_text("image,patient,split\nother.png,1,train\n")
    with pytest.raises(DataError, match=r"no images of the split 'train'.*split\.csv"):
        load_pools(tiny_sets.config(tmp_path, data=word))


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("points", "images"),
        ("points", "points"),
        ("instances", "images"),
        ("composition", "images"),
    ],
)
def test_the_folder_of_images_is_not_the_data_set(tmp_path, kind, part):
    root = tiny_sets.points_folder(tmp_path / "set", patients=("01",))
    (spec,) = parse_data(f"{kind}:{root / part}@0.5")
    with pytest.raises(DataError, match=rf"folder of {part} itself.*name the folder .*{root.name}"):
        load_fields(spec, class_names=NAMES)


def test_valid_areas_and_classes_that_do_not_fit(tmp_path):
    root = tiny_sets.instances_folder(tmp_path / "set", patients=("07",))
    (root / "classes").mkdir()
    (root / "classes" / "07_1.csv").write_text("id,class\n1,tumour\n900,tumour\n")
    with pytest.raises(DataError, match="line 3: no such nucleus"):
        load_instances_folder(root, mpp=0.5, class_names=NAMES)
    (root / "classes" / "07_1.csv").write_text("id,class\n2,tumour\n")
    (field,) = load_instances_folder(root, mpp=0.5, class_names=NAMES)
    assert field.class_ids.tolist() == [-1, 1, *[-1] * 10]
    (root / "valid").mkdir()
    Image.fromarray(np.ones((4, 4), np.uint8)).save(root / "valid" / "07_1.png")
    with pytest.raises(DataError, match="does not fit its image"):
        load_instances_folder(root, mpp=0.5)


# --- the page


def test_the_words_of_the_page_can_be_read():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    commands = [line for line in page.splitlines() if line.startswith("celldetr ")]
    assert len(commands) >= 3
    for command in commands:
        parts = shlex.split(command)
        assert parse_data(parts[parts.index("--data") + 1])
    kinds = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert set(KINDS) <= kinds
    assert "'points:my fields@0.5'" in page
    for kind in KINDS.values():
        assert all(f"{name}=" in page or f"?{name}" in page for name in kind.options)


def test_the_command_of_the_page_for_qupath_works(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_celldetr.slides.readers.probe_file", lambda path: None)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    (command,) = (
        line for line in page.splitlines() if "celldetr train" in line and "Tumor:" in line
    )
    folder = tmp_path / "my slides"
    folder.mkdir()
    pixels = np.full((300, 300, 3), 200, np.uint8)
    tifffile.imwrite(
        folder / "s.tif", pixels, photometric="rgb", tile=(256, 256),
        resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
    )  # fmt: skip
    words = ("Tumor", "Immune cells", "Stroma", None)
    boxes = (tiny_sets.polygon(tiny_sets.square(60 + 30 * i, 99, 9)) for i in range(len(words)))
    cells = [tiny_sets.feature("detection", b, w) for b, w in zip(boxes, words, strict=True)]
    area = tiny_sets.polygon(tiny_sets.square(50, 50, 200))
    tiny_sets.geojson(
        folder / "s.geojson", [*cells, tiny_sets.feature("annotation", area, "Region*")]
    )
    parts = shlex.split(command.replace("FOLDER", str(folder)))
    (pool,) = load_pools(tiny_sets.config(tmp_path, data=parts[parts.index("--data") + 1]))
    (field,) = pool.fields
    assert field.class_ids.tolist() == [1, 0, -1, -1]
