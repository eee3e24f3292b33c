from dataclasses import replace

import numpy as np
import pytest
from stained_fields import NAMES, he_field, pool

from napari_celldetr.slides.stain import optical_density
from napari_celldetr.training.augment import Augmentation, random_crop
from napari_celldetr.training.crop_maker import CropMaker
from napari_celldetr.training.paste import NucleusLibrary, paste_nuclei

PLAIN = Augmentation.none()


def scene(seed=0, **changes):
    field = he_field(seed, masks=True, shape=(200, 200), strength=0.7, **changes)
    return random_crop(field, 160, np.random.default_rng(seed), PLAIN)


def paste(crop, library, seed=0, count=6, names=NAMES):
    rng = np.random.default_rng(seed)
    return paste_nuclei(crop, library, rng, count=count, reach=8.0, class_names=names)


@pytest.fixture
def library():
    return NucleusLibrary([he_field(50, masks=True, first=(0.60, 0.76, 0.25))])


def test_targets_sit_on_pasted_pixels(library):
    total = 0
    for seed in range(15):
        crop = scene(seed)
        made = paste(crop, library, seed)
        new = np.flatnonzero(made.rows == -1)
        total += len(new)
        np.testing.assert_array_equal(made.points[: len(crop.points)], crop.points)
        changed = (made.image != crop.image).any(axis=-1)
        allowed = np.zeros_like(changed)
        for i in new:
            (x, y), (w, h) = made.points[i], made.sizes[i]
            x0, y0, x1, y1 = np.rint([x - w / 2, y - h / 2, x + w / 2, y + h / 2]).astype(int)
            assert changed[y0:y1, x0:x1].mean() > 0.6
            # Nuclei are discs: the target's box is filled like one, to its four sides.
            inner = changed[y0:y1, x0:x1]
            assert inner.any(axis=0).all()
            assert inner.any(axis=1).all()
            assert 8 <= w <= 16
            assert 8 <= h <= 16
            allowed[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3] = True
        assert not (changed & ~allowed).any()
    assert total > 20


def test_nothing_is_pasted_onto_a_nucleus(library):
    for seed in range(10):
        made = paste(scene(seed), library, seed, count=20)
        for i in np.flatnonzero(made.rows == -1):
            gap = np.abs(made.points - made.points[i]) - (made.sizes + made.sizes[i]) / 2
            gap[i] = 1
            assert (gap.max(axis=1) > 0).all()


def test_colour_is_that_of_the_nuclei_around(library):
    for seed in range(12):
        crop = scene(seed)
        made = paste(crop, library, seed)
        density = optical_density(made.image)
        x, y = made.points.astype(int).T
        values = density[y, x]
        new = values[made.rows == -1]
        if len(new):
            np.testing.assert_allclose(
                new.mean(axis=0), values[made.rows >= 0].mean(axis=0), rtol=0.35
            )


def test_edges_are_soft(library):
    sprite = library.draw(np.random.default_rng(0), 1.0, NAMES)
    assert 0 < sprite.alpha[(sprite.alpha > 0) & (sprite.alpha < 1)].size < sprite.alpha.size
    assert np.abs(np.diff(sprite.alpha, axis=0)).max() < 0.8
    assert sprite.alpha[[0, -1]].max() == sprite.alpha[:, [0, -1]].max() == 0


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_sprites_have_the_crops_scale(library, scale):
    rng = np.random.default_rng(0)
    sides = []
    for _ in range(60):
        x0, y0, x1, y1 = library.draw(rng, scale, NAMES).box
        sides.append((x1 - x0 + y1 - y0) / 2)
    assert np.mean(sides) == pytest.approx(13 * scale, rel=0.12)
    assert np.std(sides) > 0.02 * scale


def test_classes_go_with_the_nucleus_where_names_agree(library):
    field = library.fields[0]
    crop = scene(1)
    made = paste(crop, library, 3, count=10)
    new = made.class_ids[made.rows == -1]
    assert set(new.tolist()) <= {0, 1}
    assert field.class_names == NAMES
    other = paste(crop, library, 3, count=10, names=("x", "y"))
    assert set(other.class_ids[other.rows == -1].tolist()) == {-1}


def test_where_nothing_may_be_pasted(library):
    crop = scene(0)
    for unfit in (
        replace(crop, complete=False),
        replace(crop, valid=np.zeros_like(crop.valid)),
        replace(
            crop,
            points=crop.points[:2],
            sizes=crop.sizes[:2],
            class_ids=crop.class_ids[:2],
            rows=crop.rows[:2],
        ),
        replace(crop, image=np.full_like(crop.image, 250)),
    ):
        made = paste(unfit, library, count=10)
        np.testing.assert_array_equal(made.image, unfit.image)
        assert len(made.points) == len(unfit.points)
    assert paste(crop, NucleusLibrary([])) is crop


def test_pasted_nuclei_lie_on_valid_pixels(library):
    crop = scene(2)
    valid = crop.valid.copy()
    valid[:, 80:] = False
    made = paste(replace(crop, valid=valid), library, count=20)
    new = made.points[made.rows == -1]
    assert len(new)
    assert (new[:, 0] + made.sizes[made.rows == -1][:, 0] / 2 <= 80).all()


def test_library_holds_whole_nuclei_of_fields_with_masks():
    field = he_field(0)
    cut = he_field(1)
    cut = replace(cut, points=cut.points - (15, 0))  # as if a column of nuclei were cut
    points = he_field(2, masks=False)
    library = NucleusLibrary([field, cut, points])
    assert len(library.fields) == 2
    assert len(library) < 2 * len(field)
    for i in range(30):
        sprite = library.draw(np.random.default_rng(i), 1.0, NAMES)
        assert sprite is None or sprite.density.shape[1:] == sprite.alpha.shape


def test_a_maker_pastes_into_stained_fields_of_one_kind():
    plan = replace(PLAIN, paste_p=1.0, paste_count=(4, 4))
    masked, pointed = [he_field(0)], [he_field(1, masks=False, shape=(220, 220))]
    brown = [he_field(2, masks=False, second=(0.268, 0.570, 0.776), shape=(220, 220))]
    maker = CropMaker([pool(masked, weight=1e-9), pool(pointed)], 160, plan)
    crops = [maker(np.random.default_rng(i)) for i in range(10)]
    new = [c.rows == -1 for c in crops]
    assert sum(n.sum() for n in new) > 5
    for crop, mine in zip(crops, new, strict=True):
        assert np.isfinite(crop.sizes[mine]).all()
        assert np.isnan(crop.sizes[~mine]).all()
    maker = CropMaker([pool(masked, weight=1e-9), pool(brown)], 160, plan)
    assert not any((maker(np.random.default_rng(i)).rows == -1).any() for i in range(10))
