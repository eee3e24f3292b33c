"""Class names of data sets, and the model's they stand for."""

from __future__ import annotations

import pytest
import tiny_sets

from napari_celldetr.core.errors import DataError
from napari_celldetr.training.classes import ClassMap
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

NAMES = ("lymphocyte", "tumour", "stromal")


def test_class_maps():
    classes = ClassMap.parse("T:tumour, Ly: lymphocyte,x:y:stromal,dead:-", NAMES)
    words = ["T", "Ly", "x:y", "dead", "stromal", "", "unknown", " T "]
    assert classes.ids(words, "set").tolist() == [1, 0, 2, -1, 2, -1, -1, 1]
    assert classes.ids([], "set").shape == (0,)
    rest = ClassMap.parse("T:tumour,*:-", NAMES)
    assert rest.ids(["T", "anything", "lymphocyte"], "set").tolist() == [1, -1, 0]
    assert ClassMap.parse("T:whatever").ids(["T", "other"], "set").tolist() == [-1, -1]
    with pytest.raises(DataError, match=r"'set'.*plasma, weird.*\?map=plasma:-,weird:-"):
        classes.ids(["weird", "T", "plasma"], "set")


@pytest.mark.parametrize("text", ["T", "T:", ":tumour", "T:plasma", "T:-,T:tumour", ",", "no.csv"])
def test_class_maps_that_cannot_be_used(text):
    with pytest.raises(DataError, match=r"class map|no\.csv"):
        ClassMap.parse(text, NAMES)


def test_a_class_map_may_be_a_file(tmp_path):
    path = tmp_path / "my map.csv"
    path.write_text('class,to\n"a, b & c: d",tumour\ndead,-\n')
    classes = ClassMap.parse(str(path), NAMES)
    assert classes.ids(["a, b & c: d", "dead"], "set").tolist() == [1, -1]
    root = tiny_sets.points_folder(tmp_path / "set", patients=("01",))
    table = root / "points" / "01_field.csv"
    table.write_text('x,y,class\n3,4,"a, b & c: d"\n9,9,dead\n')
    (spec,) = parse_data(f"'points:{root}?map={path}'")
    (field,) = load_fields(spec, class_names=NAMES)
    assert field.class_ids.tolist() == [1, -1]


def test_names_in_a_map_that_the_data_lack_are_refused(tmp_path):
    words = ["tumour", "Ly ", "stromal", ""]
    for text in (
        "Ly:lymphocyte",
        "*:-",
        "unknown:-",
        "dead:-,dead cell:-",
        "lymphocyte:lymphocyte",
    ):
        absent = text.startswith("dead")
        classes = ClassMap.parse(text, NAMES)
        if not absent:
            classes.check_names(words, "set")
            continue
        says = r"names 'dead', 'dead cell', which the data set 'set' .* has Ly, stromal, tumour\)"
        with pytest.raises(DataError, match=says):
            classes.check_names(words, "set")
    ClassMap.parse("dead:-").check_names(words, "set")  # only nuclei are wanted
    with pytest.raises(DataError, match="has no classes"):
        ClassMap.parse("dead:-", NAMES).check_names([], "set")

    def endless():
        yield "dead"
        raise AssertionError("read on, though all are found")

    ClassMap.parse("dead:-", NAMES).check_names(endless(), "set")


def test_a_map_in_a_file_may_serve_several_sets(tmp_path):
    (tmp_path / "map.csv").write_text("class,to\nplasma,lymphocyte\n")
    classes = ClassMap.parse(str(tmp_path / "map.csv"), NAMES)
    with pytest.warns(UserWarning, match=r"names 'plasma', .*\(it has dead, tumour\)"):
        classes.check_names(["tumour", "dead"], "set")
