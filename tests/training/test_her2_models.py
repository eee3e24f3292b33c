"""The shipped networks of HER2 scoring load and do far better than chance on generated slides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.her2 import SCORES, Pattern, cell_scores
from napari_celldetr.core.regions import Region
from napari_celldetr.nets.registry import (
    find_model,
    load_patch_predictor,
    load_pixel_predictor,
)
from napari_celldetr.slides.membranes import paint_membranes, pixel_classes
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic import make_he_slide
from napari_celldetr.slides.synthetic_her2 import make_her2_slide

P = Pattern
SIDE, MPP = 1280, 0.25
CHANCE = 1 / len(SCORES)


def shipped(name):
    try:
        return find_model(name)
    except ModelError:
        pytest.skip(f"{name} is not shipped with this copy")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Four slides of one score each: pixels at 0.5 µm/px, true class of each, and the score."""
    folder = tmp_path_factory.mktemp("her2")
    stained = (P.FAINT_INCOMPLETE, P.COMPLETE_WEAK_MODERATE, P.COMPLETE_INTENSE)
    made = []
    for score, mix in enumerate(({}, *({p: 1.0} for p in stained))):
        path = folder / f"{score}.ome.tif"
        truth = make_her2_slide(path, mix, size=(SIDE, SIDE), mpp=MPP, seed=40 + score)
        with open_slide(path) as slide:
            image = slide.read(Region(0, 0, SIDE, SIDE), 0.5)
        made.append((image, _classes(truth, image.shape[:2]), score))
    return made


def _classes(truth, shape):
    half = {k: getattr(truth.shapes, k) * np.float32(0.5) for k in ("centres", "nuclear", "radii")}
    shapes = replace(truth.shapes, **half)
    _, owner = paint_membranes(
        shapes, truth.staining, origin=(0, 0), size=(shape[1], shape[0]), mpp=0.5
    )
    assert set(cell_scores(truth.staining.patterns)) <= set(range(4))
    return pixel_classes(owner, truth.staining.patterns)


def test_the_pixel_network_names_most_pixels_of_cells(slides):
    model = load_pixel_predictor(shipped("celldetr-her2-pixels"), device="cpu")
    assert model.card.class_names == ("background", *SCORES)
    recall = []
    for image, classes, score in slides:
        found = model.classes(image[None])[0]
        recall.append(float((found == classes)[classes == score + 1].mean()))
    # Chance is 1 of 5.
    assert np.mean(recall) > 0.2 + 0.35
    assert min(recall) > 0.2


def test_the_stain_network_names_most_patches(slides):
    model = load_patch_predictor(shipped("celldetr-her2-stain"), device="cpu")
    assert model.card.class_names == SCORES
    right = []
    for image, _, score in slides:
        at = slice(SIDE // 4 - 112, SIDE // 4 + 112)
        right.append(int(model.predict(image[at, at][None])[0].argmax()) == score)
    assert np.mean(right) >= CHANCE + 0.4


def test_the_tumour_network_prefers_tumour(tmp_path):
    model = load_patch_predictor(shipped("celldetr-her2-tumour"), device="cpu")
    assert model.card.class_names == ("other", "tumour")
    path = tmp_path / "he.ome.tif"
    cells = make_he_slide(path, size=(1536, 1536), seed=5)
    with open_slide(path) as slide:
        image = slide.read(Region(0, 0, 1536, 1536), 0.5)
    centres = (cells.boxes[:, :2] + cells.boxes[:, 2:]) / 2
    patches, shares = [], []
    for y in range(0, 1536 - 223, 112):
        for x in range(0, 1536 - 223, 112):
            inside = ((centres >= (x, y)) & (centres < (x + 224, y + 224))).all(axis=1)
            if inside.sum() >= 30:
                patches.append(image[y : y + 224, x : x + 224])
                shares.append(float((cells.class_ids[inside] == 1).mean()))
    found = model.predict(np.stack(patches))[:, 1]
    order = np.argsort(shares)
    third = len(order) // 3
    # Chance is 0.5: how often a patch of the third with most tumour is given more.
    least, most = found[order[:third]], found[order[-third:]]
    assert (most[:, None] > least[None, :]).mean() > 0.5 + 0.15
    glass = np.full((1, 224, 224, 3), 240, np.uint8)
    assert model.predict(glass)[0, 1] < 0.5
