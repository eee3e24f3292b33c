import math

import numpy as np
import pytest
from stained_fields import he_field, pool

from napari_celldetr.slides.stain import DAB, H_DAB, H_E, MACENKO_BETA, MACENKO_IO, measure_stain
from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.crop_maker import CropMaker
from napari_celldetr.training.stain_mix import StainBank, move_stain, random_stain

VIOLET, ROSE = (0.60, 0.76, 0.25), (0.30, 0.72, 0.63)
MIXES = Augmentation(
    warp_p=0, hed_p=0, light_p=0, blur_p=0, jpeg_p=0, noise_p=0, mix_p=1, mix_kind="both"
)


def fields():
    return [
        he_field(0),
        he_field(1, first=VIOLET, second=ROSE, strength=1.1),
        he_field(2, first=(0.68, 0.68, 0.28), strength=1.2),
    ]


def apart_deg(a, b):
    return math.degrees(math.acos(min(1.0, float(a @ b))))


@pytest.mark.parametrize("kind", ["macenko", "reinhard"])
def test_a_fields_own_stain_changes_nothing(kind):
    for field in fields():
        own = measure_stain(field.image)
        made = move_stain(own, own, kind).apply(field.image)
        assert np.abs(made.astype(int) - field.image).max() < 2


def test_macenko_gives_the_targets_vectors_and_strengths():
    one, two = fields()[:2]
    own, other = measure_stain(one.image), measure_stain(two.image)
    assert apart_deg(own.vectors[1], other.vectors[1]) > 5
    made = measure_stain(move_stain(own, other, "macenko").apply(one.image))
    for k in range(2):
        assert apart_deg(made.vectors[k], other.vectors[k]) < 1.5
    np.testing.assert_allclose(made.strength, other.strength, rtol=0.05)


def test_reinhard_gives_the_targets_mean_and_spread():
    one, two = fields()[:2]
    own, other = measure_stain(one.image), measure_stain(two.image)
    change = move_stain(own, other, "reinhard")
    # Where it is fully applied: on what counts as tissue.
    density = -np.log(np.maximum(one.image, 1) / MACENKO_IO)
    tissue = (density >= MACENKO_BETA).all(axis=-1)
    made = -np.log10(np.maximum(change.apply(one.image), 1) / MACENKO_IO)[tissue]
    np.testing.assert_allclose(made.mean(axis=0), other.mean, atol=0.01)
    np.testing.assert_allclose(made.std(axis=0), other.std, rtol=0.05)


@pytest.mark.parametrize("kind", ["macenko", "reinhard"])
def test_glass_stays_glass(kind):
    one, two = fields()[:2]
    change = move_stain(measure_stain(one.image), measure_stain(two.image), kind)
    glass = np.full((4, 4, 3), 240, np.uint8)
    assert np.abs(change.apply(glass).astype(int) - 240).max() <= 1
    assert change.apply(np.full((4, 4, 3), 255, np.uint8)).min() >= 240
    assert change.apply(np.zeros((4, 4, 3), np.uint8)).max() <= 60


def test_amounts_change_by_a_limited_factor():
    one = measure_stain(he_field(0, strength=0.8).image)
    two = measure_stain(he_field(0, strength=2.0).image)
    assert two.strength[0] / one.strength[0] > 2.3
    image = he_field(0, strength=0.8).image
    made = measure_stain(move_stain(one, two, "macenko", most_gain=1.5).apply(image))
    np.testing.assert_allclose(made.strength / one.strength, 1.5, rtol=0.05)


def test_random_stains_lie_on_the_line_and_near_it():
    one, two = (measure_stain(f.image) for f in fields()[:2])
    rng = np.random.default_rng(0)
    same = random_stain(one, two, rng, beyond=0.0, degrees=0.0)
    np.testing.assert_allclose(same.vectors, one.vectors, atol=1e-9)
    np.testing.assert_allclose(same.strength, one.strength)
    np.testing.assert_allclose(same.mean, one.mean)
    spread = []
    for _ in range(200):
        made = random_stain(one, two, rng, beyond=1.3, degrees=3.0)
        np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1)
        assert (made.vectors[:2] > 0).all()
        low, high = sorted([one.strength[0], two.strength[0]])
        assert low * 0.7 < made.strength[0] < high * 1.4
        spread.append(apart_deg(made.vectors[1], one.vectors[1]))
    whole = apart_deg(two.vectors[1], one.vectors[1])
    assert max(spread) > whole  # beyond the second
    assert max(spread) < 1.3 * whole + 15


def test_bank_leaves_out_what_cannot_be_told():
    blank = he_field(5, strength=0.0)
    grey = he_field(6, first=(0.6, 0.6, 0.55), second=(0.57, 0.6, 0.57))
    bank = StainBank([pool([*fields(), blank, grey])])
    assert [s is None for s in bank.statistics[0]] == [False, False, False, True, True]
    assert bank.left_out == 2
    rng = np.random.default_rng(0)
    assert all(bank.draw(0, 3, rng, MIXES) is None for _ in range(10))
    assert any(bank.draw(0, 0, rng, MIXES) is not None for _ in range(10))


def test_kinds_of_stain_are_kept_apart():
    brown = [he_field(i, second=DAB) for i in range(2)]
    bank = StainBank([pool(fields()), pool(brown), pool(fields(), restain=True)])
    assert bank.kinds == ["H&E", "H-DAB", "H-DAB"]
    plan = Augmentation(mix_p=1, mix_random_p=0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        change = bank.draw(1, 0, rng, plan)
        own = bank.statistics[1][0]
        assert not change.fades  # mean and spread say nothing about an IHC stain
        moved = own.vectors[1] @ change.matrix
        assert moved[2] > moved[1]
        pink = bank.draw(0, 0, rng, plan)
        if pink is not None and not pink.fades:
            moved = bank.statistics[0][0].vectors[1] @ pink.matrix
            assert moved[1] > moved[2]


def test_restained_fields_count_as_what_they_are_shown_as():
    bank = StainBank([pool(fields(), restain=True)])
    for found in bank.statistics[0]:
        if found is not None:
            assert apart_deg(found.vectors[1], H_DAB[1]) < apart_deg(found.vectors[1], H_E[1])


def test_no_mix_draws_nothing():
    bank = StainBank([pool(fields())])
    rng = np.random.default_rng(0)
    assert bank.draw(0, 0, rng, Augmentation()) is None
    assert rng.integers(1 << 30) == np.random.default_rng(0).integers(1 << 30)


def test_mixed_crops_stay_pink_and_blue():
    maker = CropMaker([pool(fields())], 64, MIXES)
    for i in range(60):
        image = maker(np.random.default_rng(i)).image
        density = -np.log10(np.maximum(image.reshape(-1, 3), 1) / 240)
        tissue = density[(density > 0.07).all(axis=1)]
        red, green, blue = tissue.mean(axis=0)
        assert green > 0.95 * red
        assert green > 0.95 * blue
        assert (image.max(axis=-1) < 25).mean() < 0.01  # no black
