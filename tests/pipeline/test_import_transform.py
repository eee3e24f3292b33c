"""Transforms of other programs land where those programs put their points."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from scipy.interpolate import BSpline

from napari_celldetr.core.transform import SlideFrame, SlideTransform, TransformError
from napari_celldetr.pipeline.import_transform import (
    Physical,
    from_point_pairs,
    import_transform,
    read_point_pairs,
    swapped,
)

HE = SlideFrame("he", "1", (4000, 3000), (0.5, 0.5))
IHC = SlideFrame("ihc", "2", (5000, 4000), (0.4, 0.4))
MM = Physical("mm")
COMMON = "\n(FixedImageDimension 2)\n(Spacing 0.002 0.002)\n(Origin 0 0)\n(Direction 1 0 0 1)\n"


def elastix(kind: str, parameters: list[float], extra: str = "") -> str:
    numbers = " ".join(f"{p!r}" for p in parameters)
    return f'(Transform "{kind}")\n(TransformParameters {numbers})' + COMMON + extra


def points(count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).uniform(200, (3500, 2600), (count, 2))


def physical(px: np.ndarray, frame: SlideFrame, spacing: float = 0.002) -> np.ndarray:
    """mm of level-0 px: index 0 of a picture of `spacing` mm has its middle at 0."""
    return px * np.array(frame.mpp) / 1000 - spacing / 2


def load(tmp_path, text: str, name: str = "TransformParameters.0.txt", how: Physical = MM):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return import_transform(path, HE, IHC, how)


def linear(matrix, shift, centre=(0, 0)):
    matrix, centre = np.array(matrix, float), np.array(centre, float)
    return lambda p: (p - centre) @ matrix.T + centre + shift


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


LINEAR = {
    "TranslationTransform": ([0.1, -0.2], linear(np.eye(2), (0.1, -0.2))),
    "EulerTransform": ([0.3, 0.1, 0.05], linear(turn(0.3), (0.1, 0.05), (1.0, 0.75))),
    "SimilarityTransform": (
        [1.1, -0.4, 0.2, 0],
        linear(1.1 * turn(-0.4), (0.2, 0), (1.0, 0.75)),
    ),
    "AffineTransform": (
        [1.02, 0.1, -0.05, 0.97, 0.03, 0.04],
        linear([[1.02, 0.1], [-0.05, 0.97]], (0.03, 0.04), (1.0, 0.75)),
    ),
}


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_transforms_of_elastix(tmp_path, kind):
    parameters, map_mm = LINEAR[kind]
    found = load(tmp_path, elastix(kind, parameters, "(CenterOfRotationPoint 1.0 0.75)\n"))
    got = physical(found.forward(points()), IHC)
    assert np.abs(got - map_mm(physical(points(), HE))).max() < 1e-9


def spline_text(initial: str = "NoInitialTransform") -> tuple[str, np.ndarray]:
    field = np.random.default_rng(2).uniform(-0.02, 0.02, (2, 9, 11))
    extra = (
        "(GridSize 11 9)\n(GridIndex 0 0)\n(GridSpacing 0.25 0.25)\n(GridOrigin -0.3 -0.3)\n"
        "(GridDirection 1 0 0 1)\n(BSplineTransformSplineOrder 3)\n"
        '(UseCyclicTransform "false")\n(HowToCombineTransforms "Compose")\n'
        f'(InitialTransformParametersFileName "{initial}")\n'
    )
    return elastix("BSplineTransform", field.ravel().tolist(), extra), field


def spline_mm(field: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The same B-spline by scipy's own basis functions."""
    basis = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    place = (at + 0.3) / 0.25
    x = np.nan_to_num(basis(place[:, 0:1] - np.arange(11)))
    y = np.nan_to_num(basis(place[:, 1:2] - np.arange(9)))
    return at + np.einsum("nj,ni,cji->nc", y, x, field)


def test_b_splines_of_elastix_are_exact(tmp_path):
    text, field = spline_text()
    got = physical(load(tmp_path, text).forward(points()), IHC)
    at = physical(points(), HE)
    assert np.abs(got - spline_mm(field, at)).max() < 1e-9
    assert np.abs(got - at).max() > 0.005


def test_chains_compose(tmp_path):
    first = elastix("EulerTransform", [0.05, 0.1, 0.05], "(CenterOfRotationPoint 1 0.75)\n")
    (tmp_path / "first.txt").write_text(first)
    text, field = spline_text("/elsewhere/first.txt")
    got = physical(load(tmp_path, text).forward(points()), IHC)
    start = linear(turn(0.05), (0.1, 0.05), (1, 0.75))(physical(points(), HE))
    assert np.abs(got - spline_mm(field, start)).max() < 1e-9


def test_where_the_ihc_was_fixed_the_map_is_turned_round(tmp_path):
    text, field = spline_text()
    found = load(tmp_path, text, how=Physical("mm", "ihc"))
    assert (found.he, found.ihc) == (HE, IHC)
    at = np.random.default_rng(3).uniform(300, (3600, 2600), (60, 2))
    on_ihc = physical(at, IHC)
    there = spline_mm(field, on_ihc)
    he_px = (there + 0.001) * 1000 / np.array(HE.mpp)
    assert np.abs(found.forward(he_px) - at).max() * 0.4 < 0.5
    assert "interpolated" in found.notes[0]


def test_swapping_twice_gives_the_affine_back(tmp_path):
    once = load(tmp_path, elastix("AffineTransform", LINEAR["AffineTransform"][0]))
    twice = swapped(swapped(once))
    assert np.allclose(twice.affine, once.affine)


def test_itk_affine(tmp_path):
    text = (
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_2_2\n"
        "Parameters: 1.02 0.1 -0.05 0.97 0.03 0.04\nFixedParameters: 1.0 0.75\n"
    )
    found = load(tmp_path, text, "a.tfm")
    # Without a spacing of its own, physical points count from each slide's first pixel.
    he = physical(points(), HE, 0.0005)
    ihc = physical(found.forward(points()), IHC, 0.0004)
    assert np.abs(ihc - LINEAR["AffineTransform"][1](he)).max() < 1e-9


@pytest.mark.parametrize(
    "text",
    [
        "1.1 0 30\n0 1.1 -20\n0 0 1\n",
        "1.1,0,30\n0,1.1,-20\n",
        "[[1.1, 0, 30], [0, 1.1, -20], [0, 0, 1]]",
        '{"M": [[1.1, 0, 30], [0, 1.1, -20], [0, 0, 1]]}',
    ],
)
def test_matrices_in_pixels(tmp_path, text):
    found = load(tmp_path, text, "M.txt", Physical("px"))
    assert np.allclose(found.forward(points()), 1.1 * points() + (30, -20))
    scaled = load(tmp_path, text, "M.txt", Physical("px", px_mpp=4.0))
    um = scaled.forward_um(points())
    assert np.allclose(um, 1.1 * points() + np.array([120, -80]))


def test_point_pairs_make_a_smooth_map(tmp_path):
    at = points(80)
    bent = at * 1.2 + 40 * np.sin(at[:, ::-1] / 900)
    lines = ["he_x,he_y,ihc_x,ihc_y", *(",".join(map(str, r)) for r in np.hstack([at, bent]))]
    found = load(tmp_path, "\n".join(lines), "pairs.csv")
    assert np.hypot(*(found.forward(at) - bent).T).max() < 5
    three = from_point_pairs(at[:3], at[:3] + np.array([5, 7]), HE, IHC)
    assert np.allclose(three.forward(at), at + np.array([5, 7]))
    assert three.warp is None
    assert read_point_pairs(tmp_path / "pairs.csv")[0].shape == (80, 2)


def test_our_own_file_must_be_of_these_slides(tmp_path):
    own = SlideTransform(HE, IHC, np.eye(2, 3))
    assert load(tmp_path, own.to_json(), "t.json").he == HE
    other = SlideFrame("x", "other", (10, 10), (0.5, 0.5))
    text = SlideTransform(other, IHC, np.eye(2, 3)).to_json()
    with pytest.raises(TransformError, match="another slide"):
        load(tmp_path, text, "t.json")


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = tmp_path / "registrar.pickle"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(TransformError, match="pickle"):
        import_transform(path, HE, IHC)
    path.rename(tmp_path / "registrar.txt")
    with pytest.raises(TransformError):
        import_transform(tmp_path / "registrar.txt", HE, IHC)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "1 2 3",
        "1 0 0\n0 1 0\n0.1 0 1\n",
        "nan 0 0\n0 1 0\n",
        "1 0 0\n1 0 0\n",
        "he_x,he_y,ihc_x,ihc_y\n1,2,3,4\n",
        "he_x,he_y,ihc_x,ihc_y\n1,2,3,x\n",
        elastix("DeformationFieldTransform", [1.0]),
        elastix("EulerTransform", [1.0]),
        elastix("EulerTransform", [0, 0, 0]).replace("(Direction 1 0", "(Direction 0 1"),
        elastix("EulerTransform", [0, 0, 0], '(InitialTransformParametersFileName "gone.txt")\n'),
        spline_text()[0].replace("(GridSize 11 9)", "(GridSize 11 8)"),
        spline_text()[0].replace("SplineOrder 3", "SplineOrder 2"),
        "#Insight Transform File V1.0\nTransform: CompositeTransform_double_2_2\n",
        json.dumps({"kind": "celldetr-slide-transform", "schema": 1}),
    ],
)
def test_everything_else_is_refused_with_a_reason(tmp_path, text):
    with pytest.raises(TransformError) as caught:
        load(tmp_path, text, "t.txt")
    assert caught.value.expected
    assert caught.value.found


def test_a_chain_without_end_is_refused(tmp_path):
    text = elastix("EulerTransform", [0, 0, 0], '(InitialTransformParametersFileName "loop.txt")\n')
    with pytest.raises(TransformError, match="no transform"):
        load(tmp_path, text, "loop.txt")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TransformError, match="no file"):
        import_transform(tmp_path / "gone.txt", HE, IHC)
