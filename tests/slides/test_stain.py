"""Optical density and stains against definitions written out again, slowly."""

from __future__ import annotations

import math

import numpy as np
import pytest

from napari_celldetr.slides import stain


def slow_density(colour, white=255.0):
    return [-math.log10(max(v, 1) / white) for v in colour]


def slow_unmix(colour, first, second):
    """Solve for the three stains with Cramer's rule."""

    def unit(v):
        norm = math.sqrt(sum(x * x for x in v))
        return [x / norm for x in v]

    def cross(a, b):
        return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    a, b = unit(first), unit(second)
    c = unit(cross(a, b))
    d = slow_density(colour)
    volume = dot(a, cross(b, c))
    return [
        dot(d, cross(b, c)) / volume,
        dot(d, cross(c, a)) / volume,
        dot(d, cross(a, b)) / volume,
    ]


def test_r28_dab_density_of_a_thousand_colours():
    colours = np.random.default_rng(0).integers(0, 256, (1000, 3)).astype(np.uint8)
    colours[:3] = [[0, 0, 0], [255, 255, 255], [1, 0, 255]]
    expected = [
        slow_unmix(map(float, c), (0.650, 0.704, 0.286), (0.268, 0.570, 0.776))
        for c in colours.tolist()
    ]
    assert np.abs(stain.dab_od(colours) - np.array(expected)[:, 1]).max() <= 0.01
    assert np.abs(stain.unmix(colours) - np.array(expected)).max() <= 0.01
    expected = [
        slow_unmix(map(float, c), (0.650, 0.704, 0.286), (0.2159, 0.8012, 0.5581))
        for c in colours.tolist()
    ]
    assert np.abs(stain.unmix(colours, stain.H_E) - np.array(expected)).max() <= 0.01
    assert np.abs(stain.haematoxylin_od(colours) - np.array(expected)[:, 0]).max() <= 0.01


def test_density_takes_a_white_per_channel_and_any_shape():
    pixels = np.full((4, 5, 3), 128, np.uint8)
    density = stain.optical_density(pixels, (255, 240, 200))
    assert density.shape == (4, 5, 3)
    expected = [slow_density([128], w)[0] for w in (255, 240, 200)]
    assert density[2, 2] == pytest.approx(expected, abs=1e-6)
    assert stain.dab_od(np.zeros((0, 3), np.uint8)).shape == (0,)


def mixed(vectors, n=5000, seed=0):
    amounts = np.random.default_rng(seed).uniform(0.05, 1.2, (n, 2))
    density = amounts @ vectors[:2]
    return np.clip(np.rint(240 * np.exp(-2.303 * density)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("vectors", [stain.H_E, stain.H_DAB], ids=["H&E", "H-DAB"])
def test_macenko_finds_the_stains_it_was_shown(vectors):
    found = stain.estimate_stains(mixed(vectors))
    assert found.is_estimated
    cosines = (found.vectors[:2] * vectors[:2]).sum(axis=1)
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 6


def test_macenko_keeps_the_defaults_and_says_why():
    few = stain.estimate_stains(np.full((50, 3), 100, np.uint8))
    assert few.vectors is stain.H_E
    assert "pixels" in few.reason
    one = np.random.default_rng(0).uniform(0.3, 1, (4000, 1)) * stain.H_E[0]
    single = stain.estimate_stains(np.rint(240 * np.exp(-2.303 * one)).astype(np.uint8))
    assert not single.is_estimated
    assert "same colour" in single.reason
    blank = stain.estimate_stains(np.full((100, 100, 3), 250, np.uint8))
    assert not blank.is_estimated


def test_statistics_of_a_made_picture():
    rng = np.random.default_rng(0)
    vectors = stain.stain_vectors((0.62, 0.74, 0.27), (0.27, 0.72, 0.64))
    # Much of either stain alone, so that the ends of the fan are seen.
    amounts = np.concatenate(
        [
            np.stack([rng.uniform(0.3, 1.0, 4000), np.zeros(4000)], axis=1),
            np.stack([np.zeros(4000), rng.uniform(0.3, 0.6, 4000)], axis=1),
        ]
    )
    colours = np.rint(240 * 10 ** -(amounts @ vectors[:2])).astype(np.uint8)
    glass = np.full((5000, 3), 240, np.uint8)
    found = stain.measure_stain(np.concatenate([colours, glass]))
    assert found.reason == ""
    assert found.pixels == 8000
    np.testing.assert_allclose(found.vectors, vectors, atol=0.02)
    # 1 % of all pixels is 2 % of one stain's: 1 - 0.02 · 0.7 and 0.6 - 0.02 · 0.3.
    np.testing.assert_allclose(found.strength, [0.986, 0.594], atol=0.02)
    density = np.array([slow_density(c, 240.0) for c in colours.tolist()])
    np.testing.assert_allclose(found.mean, density.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.std, density.std(axis=0), atol=1e-5)


def test_statistics_of_glass_are_no_stain():
    found = stain.measure_stain(np.full((30, 30, 3), 238, np.uint8))
    assert "0 tissue pixels" in found.reason
    assert found.pixels == 0
    np.testing.assert_array_equal(found.vectors, stain.H_E)
    np.testing.assert_array_equal(found.mean, 0)
    assert (found.std > 0).all()
    assert (found.strength > 0).all()
    other = stain.measure_stain(np.full((30, 30, 3), 238, np.uint8), stain.H_DAB)
    np.testing.assert_array_equal(other.vectors, stain.H_DAB)
