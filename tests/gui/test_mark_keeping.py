"""Landmarks that outlast the window; layers without a viewer."""

import pytest
from aligned_pair import HE_MPP, IHC_MPP, pictures
from viewer_fakes import slide_image

from napari_celldetr.core.transform import TransformError
from napari_celldetr.gui.landmarks import Landmarks
from napari_celldetr.gui.layers import SLIDE_KEY
from napari_celldetr.gui.mark_keeping import keep, kept, place_of

MARKS = Landmarks.of([((1.0, 2.0), (3.0, 4.0)), ((5.0, 6.0), (7.0, 8.0))])


def pair(seed=0):
    he, ihc = pictures(seed)
    return slide_image(he, mpp=HE_MPP), slide_image(ihc, mpp=IHC_MPP)


def test_a_pair_is_known_again_and_another_is_not():
    assert place_of(*pair()) == place_of(*pair())
    assert place_of(*pair()) != place_of(*pair(1))
    assert place_of(*pair()) != place_of(*pair()[::-1])


def test_a_file_is_known_by_its_name_and_size_wherever_it_lies(tmp_path):
    places = []
    for folder, content in (("a", b"12"), ("b", b"34"), ("c", b"567")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "he.svs"
        path.write_bytes(content)
        he, ihc = pair()
        he.metadata[SLIDE_KEY] = str(path)
        places.append(place_of(he, ihc))
    assert places[0] == places[1] != places[2]


def test_what_was_set_is_there_again_and_what_was_deleted_is_not():
    place = place_of(*pair())
    assert kept(place) == Landmarks()
    assert not place.parent.parent.exists()
    keep(MARKS, place)
    assert kept(place_of(*pair())) == MARKS
    keep(Landmarks(), place)
    assert kept(place) == Landmarks()
    keep(Landmarks(), place)


def test_a_damaged_file_is_told():
    place = place_of(*pair())
    keep(MARKS, place)
    place.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TransformError):
        kept(place)
