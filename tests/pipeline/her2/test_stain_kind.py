"""H&E and H-DAB are told apart, and what is neither for sure is not named."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from napari_celldetr.core.errors import SlideError
from napari_celldetr.core.her2 import Pattern
from napari_celldetr.pipeline.her2.stain_kind import guess_stain, require_stain
from napari_celldetr.slides.artefacts import recoloured, rewrite
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.stain import DAB, stain_vectors
from napari_celldetr.slides.synthetic import make_he_slide, make_ihc_slide
from napari_celldetr.slides.synthetic_her2 import make_her2_slide
from napari_celldetr.slides.synthetic_pair import PairSettings, make_pair

SIZE = (1024, 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    make_he_slide(folder / "he.ome.tif", size=SIZE, seed=1)
    make_ihc_slide(folder / "ihc.ome.tif", size=SIZE, seed=1)
    make_her2_slide(folder / "none.ome.tif", {}, size=SIZE, seed=2)
    make_her2_slide(folder / "strong.ome.tif", {Pattern.COMPLETE_INTENSE: 0.3}, size=SIZE)
    pair = make_pair(1, PairSettings(size_um=(1600.0, 1400.0)))
    Image.fromarray(pair.he).save(folder / "pair_he.png")
    Image.fromarray(pair.ihc).save(folder / "pair_ihc.png")
    Image.fromarray(data.immunohistochemistry()).save(folder / "real_ihc.png")
    return folder


def kind(folder, name, mpp=None):
    with open_slide(folder / name, mpp=mpp) as slide:
        return guess_stain(slide)


@pytest.mark.parametrize(("name", "mpp"), [("he.ome.tif", None), ("pair_he.png", 2.0)])
def test_eosin_is_seen(folder, name, mpp):
    found = kind(folder, name, mpp)
    assert found.kind == "H&E"
    assert "eosin" in found.why


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("ihc.ome.tif", None),
        ("strong.ome.tif", None),
        ("pair_ihc.png", 1.84),
        ("real_ihc.png", None),
    ],
)
def test_dab_is_seen(folder, name, mpp):
    found = kind(folder, name, mpp)
    assert found.kind == "H-DAB"
    assert "DAB" in found.why


@pytest.mark.parametrize("blue", [None, (0.74, 0.62, 0.26), (0.58, 0.76, 0.29)])
def test_haematoxylin_alone_is_no_he(folder, tmp_path, blue):
    path = folder / "none.ome.tif"
    if blue is not None:
        vectors = stain_vectors(blue, DAB)
        with open_slide(path) as slide:
            path = tmp_path / "other.ome.tif"
            rewrite(slide, path, lambda rgb: recoloured(rgb, vectors, (235.0,) * 3))
    with open_slide(path) as slide:
        assert guess_stain(slide).kind == "unknown"
        assert require_stain(slide, "H-DAB").kind == "unknown"


def test_the_wrong_stain_is_refused_and_said(folder):
    with open_slide(folder / "he.ome.tif") as he:
        assert require_stain(he, "H&E").kind == "H&E"
        with pytest.raises(SlideError, match=r"H-DAB.*H&E.*exchanged"):
            require_stain(he, "H-DAB")
    with open_slide(folder / "strong.ome.tif") as ihc:
        assert require_stain(ihc, "H-DAB").kind == "H-DAB"
        with pytest.raises(SlideError, match="another stain"):
            require_stain(ihc, "H&E")


@pytest.mark.parametrize("level", [0, 128, 255])
def test_empty_pictures_are_not_named(tmp_path, level):
    Image.fromarray(np.full((300, 300, 3), level, np.uint8)).save(tmp_path / "a.png")
    assert kind(tmp_path, "a.png").kind == "unknown"
