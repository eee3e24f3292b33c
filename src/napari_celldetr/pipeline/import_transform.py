"""Transforms that other programs found: elastix, ITK, a matrix, or pairs of points.

elastix and ITK map *fixed* physical points to *moving* ones. A physical point is
``origin + spacing · index`` with index 0 in the middle of the first pixel, so a slide's corner
lies half a pixel before the origin. What one physical unit is must be said: mm, µm, or a pixel of
the pictures that were registered. Pickles, as VALIS saves its registrar, run whatever code they
hold and are never opened; its matrices and warped points come as text.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_celldetr.core.transform import (
    KIND,
    SlideFrame,
    SlideTransform,
    SplineWarp,
    TransformError,
    identity_affine,
)
from napari_celldetr.pipeline.register_nonrigid import fit_affine, fit_warp
from napari_celldetr.pipeline.transform_file import read_text

Unit = Literal["px", "um", "mm"]
Side = Literal["he", "ihc"]

PICKLES = (".pickle", ".pkl", ".p")
PAIR_COLUMNS = ("he_x", "he_y", "ihc_x", "ihc_y")
FEWEST_TO_BEND = 12
MOST_CHAINED = 8
INVERSE_NODES = 48
KNOWN = "elastix TransformParameters, ITK .tfm, a 3 × 3 matrix, or a CSV of point pairs"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Physical:
    """How physical points of the other program relate to the slides.

    Attributes
    ----------
    unit : str
        ``mm``, ``um``, or ``px``: pixels of the pictures that were registered.
    fixed : str
        Which slide was the fixed picture (for a matrix: the one it maps from).
    px_mpp : float or None
        µm per px of the registered pictures, for ``px``; None means level-0 px of each slide.
    """

    unit: Unit = "px"
    fixed: Side = "he"
    px_mpp: float | None = None

    def um(self, frame: SlideFrame) -> Floats:
        """µm per physical unit (x, y) on a slide."""
        if self.unit == "px":
            return np.array(frame.mpp if self.px_mpp is None else (self.px_mpp, self.px_mpp))
        return np.full(2, {"um": 1.0, "mm": 1000.0}[self.unit])


def import_transform(
    path: str | Path, he: SlideFrame, ihc: SlideFrame, physical: Physical | None = None
) -> SlideTransform:
    """The transform in another program's file, between two slides.

    What the file is, its content says: a transform of our own, elastix' TransformParameters
    (translation, Euler, similarity, affine, cubic B-spline, and chains of them that compose), ITK
    text transforms (the same but B-splines), a 2 × 3 or 3 × 3 matrix as JSON or as numbers, or a
    CSV with columns he_x, he_y, ihc_x, ihc_y in level-0 px, through which a smooth map is laid.
    B-splines are taken over exactly when the H&E was fixed; otherwise their inverse is
    interpolated, and the notes say how well.

    Raises `TransformError` for anything else, and for what folds or cannot be inverted.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise TransformError(
            "A pickle is not opened, since it can run any code.",
            expected=KNOWN,
            found=path.name,
            remedy="from VALIS write the slides' matrix M, or pairs of warped points, as text",
        )
    text = read_text(path, KNOWN)
    how = physical or Physical()
    try:
        return _parsed(path, text, he, ihc, how)
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unknown(path, f"{type(error).__name__}: {str(error)[:150]}") from error


def _parsed(
    path: Path, text: str, he: SlideFrame, ihc: SlideFrame, how: Physical
) -> SlideTransform:
    if f'"{KIND}"' in text[:2000]:
        own = SlideTransform.from_json(text)
        own.check_slides(he.identity, ihc.identity)
        return own
    if text.lstrip().startswith("#Insight Transform File"):
        return _placed(_Chain(_itk_affine(text)), he, ihc, how, "ITK transform", True)
    if "(Transform " in text:
        chain = _elastix(path, text, 0)
        return _placed(chain, he, ihc, how, "elastix", True)
    header = text.lstrip("\ufeff").splitlines()[0] if text.strip() else ""
    if {*PAIR_COLUMNS} <= {n.strip() for n in header.split(",")}:
        return from_point_pairs(*_point_pairs(text), he, ihc)
    return _placed(_Chain(_matrix(text)), he, ihc, how, "matrix", False)


def _unknown(path: Path, found: str) -> TransformError:
    return TransformError(
        f"{path.name} holds no transform that can be imported.",
        expected=KNOWN,
        found=found,
        remedy="export the transform as text; docs/cli.md has examples",
    )


# -- from physical points to slides ----------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Chain:
    """An affine (2, 3) in physical units, then a B-spline; the fixed picture's spacing, origin."""

    affine: Floats
    warp: SplineWarp | None = None
    spacing: tuple[float, float] | None = None
    origin: tuple[float, float] = (0.0, 0.0)


def _placed(
    chain: _Chain, he: SlideFrame, ihc: SlideFrame, how: Physical, method: str, centred: bool
) -> SlideTransform:
    """The chain between slides. `centred` places count from the first pixel's middle."""
    fixed, moving = (he, ihc) if how.fixed == "he" else (ihc, he)
    unit = how.um(fixed), how.um(moving)
    corner = [np.zeros(2), np.zeros(2)]
    if centred:
        pixel = [
            np.array(chain.spacing or f.mpp / u) for f, u in zip((fixed, moving), unit, strict=True)
        ]
        corner = [np.array(chain.origin) - pixel[0] / 2, -pixel[1] / 2]
    matrix = np.diag(unit[1]) @ chain.affine[:, :2] @ np.diag(1 / unit[0])
    at_corner = chain.affine[:, :2] @ corner[0] + chain.affine[:, 2]
    affine = np.column_stack([matrix, (at_corner - corner[1]) * unit[1]])
    warp = None if chain.warp is None else _scaled(chain.warp, corner[1], unit[1])
    found = SlideTransform(fixed, moving, affine, warp, method=method)
    return found if how.fixed == "he" else swapped(found)


def _scaled(warp: SplineWarp, corner: Floats, unit: Floats) -> SplineWarp:
    origin = (np.array(warp.origin) - corner) * unit
    spacing = np.array(warp.spacing) * unit
    return SplineWarp(
        (float(origin[0]), float(origin[1])),
        (float(spacing[0]), float(spacing[1])),
        warp.coefficients * unit,
    )


def swapped(transform: SlideTransform) -> SlideTransform:
    """The transform the other way round: an affine exactly, a displacement interpolated.

    The notes say how far, at most, points that go there and back miss themselves. `TransformError`
    when the displacement cannot be inverted.
    """
    matrix = np.linalg.inv(transform.affine[:, :2])
    affine = np.column_stack([matrix, -matrix @ transform.affine[:, 2]])
    there = replace(
        transform,
        he=transform.ihc,
        ihc=transform.he,
        affine=affine,
        warp=None,
        error_map=None,
    )
    if transform.warp is None:
        return there
    width, height = there.ihc.extent_um
    step = max(width, height) / INVERSE_NODES
    columns, rows = (int(np.ceil(s / step)) + 5 for s in (width, height))
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 2)
    nodes = (grid - 2.0) * step
    source = transform.forward_um_affine(nodes)
    wanted = transform.inverse_um(source) - nodes
    values = wanted.reshape(rows, columns, 2)
    for axis in (0, 1):
        values = ndimage.spline_filter1d(values, 3, axis=axis, mode="mirror")
    there = replace(there, warp=SplineWarp((-2 * step, -2 * step), (step, step), values))
    middle = nodes + step / 2
    on_slide = middle[((middle >= 0) & (middle <= (width, height))).all(axis=1)]
    miss = np.hypot(*(there.forward_um(transform.forward_um(on_slide)) - on_slide).T)
    note = f"The inverse of the displacement is interpolated, to {miss.max():.2g} µm."
    return replace(there, notes=(*there.notes, note))


# -- elastix and ITK -------------------------------------------------------------------------


def _elastix(path: Path, text: str, depth: int) -> _Chain:
    if depth > MOST_CHAINED:
        raise ValueError("a chain of transforms without end")
    words = _elastix_words(text)
    chain = _elastix_start(path, words, depth)
    kind = _one(words, "Transform")
    numbers = [float(v) for v in words["TransformParameters"]]
    if kind in ("BSplineTransform", "RecursiveBSplineTransform"):
        if chain.warp is not None:
            raise ValueError("two B-splines, one after the other")
        return _framed(replace(chain, warp=_elastix_spline(words, numbers)), words)
    if chain.warp is not None:
        raise ValueError(f"{kind} after a B-spline")
    centre = [float(v) for v in words.get("CenterOfRotationPoint", ("0", "0"))]
    return _framed(_Chain(_after(_linear(kind, numbers, centre), chain.affine)), words)


def _elastix_words(text: str) -> Mapping[str, list[str]]:
    """Lines ``(Name value value)``; comments begin with //."""
    words = {}
    for line in re.findall(r"^\s*\(([^()]*)\)", text, re.MULTILINE):
        name, _, rest = line.strip().partition(" ")
        words[name] = [a or b for a, b in re.findall(r'"([^"]*)"|(\S+)', rest)]
    return words


def _elastix_start(path: Path, words: Mapping[str, list[str]], depth: int) -> _Chain:
    """What comes before: the initial transform, which must lie in the same folder."""
    name = _one(words, "InitialTransformParametersFileName", "NoInitialTransform")
    name = _one(words, "InitialTransformParameterFileName", name)
    if name == "NoInitialTransform":
        return _Chain(identity_affine())
    if _one(words, "HowToCombineTransforms", "Compose") != "Compose":
        raise ValueError("transforms that are added and not composed")
    # The file's own folder alone: a path inside a file may point anywhere.
    start = path.parent / Path(name.replace("\\", "/")).name
    return _elastix(start, read_text(start, "the initial transform beside it"), depth + 1)


def _framed(chain: _Chain, words: Mapping[str, list[str]]) -> _Chain:
    if _one(words, "FixedImageDimension", "2") != "2":
        raise ValueError("a transform that is not of two dimensions")
    direction = [float(v) for v in words.get("Direction", ())]
    if direction and not np.allclose(direction, (1, 0, 0, 1)):
        raise ValueError("a picture whose axes are turned")
    spacing = tuple(float(v) for v in words.get("Spacing", ()))
    origin = tuple(float(v) for v in words.get("Origin", ()))
    return replace(
        chain,
        spacing=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        origin=(origin[0], origin[1]) if len(origin) == 2 else (0.0, 0.0),
    )


def _elastix_spline(words: Mapping[str, list[str]], numbers: list[float]) -> SplineWarp:
    if _one(words, "BSplineTransformSplineOrder", "3") != "3":
        raise ValueError("a B-spline that is not cubic")
    if _one(words, "UseCyclicTransform", "false") != "false":
        raise ValueError("a cyclic B-spline")
    if not np.allclose([float(v) for v in words.get("GridDirection", (1, 0, 0, 1))], (1, 0, 0, 1)):
        raise ValueError("a grid whose axes are turned")
    columns, rows = (int(v) for v in words["GridSize"])
    origin, spacing = ([float(v) for v in words[k]] for k in ("GridOrigin", "GridSpacing"))
    index = [float(v) for v in words.get("GridIndex", (0, 0))]
    if len(numbers) != 2 * rows * columns:
        raise ValueError(f"{len(numbers)} parameters for {columns} × {rows} nodes")
    coefficients = np.moveaxis(np.array(numbers).reshape(2, rows, columns), 0, -1)
    start = [o + i * s for o, i, s in zip(origin, index, spacing, strict=True)]
    return SplineWarp((start[0], start[1]), (spacing[0], spacing[1]), coefficients)


def _itk_affine(text: str) -> Floats:
    kinds = re.findall(r"^Transform:\s*(\w+)", text, re.MULTILINE)
    if len(kinds) != 1:
        raise ValueError(f"{len(kinds)} transforms in one file")
    values = {
        name: [float(v) for v in rest.split()]
        for name, rest in re.findall(r"^(Parameters|FixedParameters):(.*)$", text, re.MULTILINE)
    }
    kind = re.sub(r"_(double|float)_2_2$", "", kinds[0])
    return _linear(kind, values["Parameters"], values.get("FixedParameters") or [0.0, 0.0])


def _linear(kind: str, numbers: list[float], centre: list[float]) -> Floats:
    """Affine (2, 3) of a transform ``M (x - c) + t + c``."""
    if kind in ("TranslationTransform",):
        matrix, shift = np.eye(2), numbers
    elif kind in ("EulerTransform", "Euler2DTransform", "Rigid2DTransform"):
        matrix, shift = _turn(numbers[0]), numbers[1:]
    elif kind in ("SimilarityTransform", "Similarity2DTransform"):
        matrix, shift = numbers[0] * _turn(numbers[1]), numbers[2:]
    elif kind in ("AffineTransform", "MatrixOffsetTransformBase"):
        matrix, shift = np.array(numbers[:4]).reshape(2, 2), numbers[4:]
    else:
        raise ValueError(f"{kind} is not known")
    if len(shift) != 2 or len(centre) != 2:
        raise ValueError(f"{len(numbers)} parameters for {kind} of two dimensions")
    middle = np.array(centre)
    return np.column_stack([matrix, middle + shift - matrix @ middle])


def _turn(radians: float) -> Floats:
    cos, sin = math.cos(radians), math.sin(radians)
    return np.array([[cos, -sin], [sin, cos]])


def _after(second: Floats, first: Floats) -> Floats:
    matrix = second[:, :2] @ first[:, :2]
    return np.column_stack([matrix, second[:, :2] @ first[:, 2] + second[:, 2]])


def _one(words: Mapping[str, list[str]], name: str, default: str | None = None) -> str:
    values = words.get(name)
    if values:
        return values[0]
    if default is None:
        raise ValueError(f"{name} is missing")
    return default


# -- matrices and points ---------------------------------------------------------------------


def _matrix(text: str) -> Floats:
    """A matrix (2, 3) or (3, 3), as JSON or as numbers with spaces or commas between."""
    stripped = text.strip()
    if stripped.startswith(("[", "{")):
        content = json.loads(stripped)
        values = np.array(content["M"] if isinstance(content, dict) else content, np.float64)
    else:
        rows = [re.split(r"[,;\s]+", r.strip(" ,;\t")) for r in stripped.splitlines() if r.strip()]
        values = np.array([[float(v) for v in row] for row in rows], np.float64)
    if values.shape == (3, 3):
        if not np.allclose(values[2] / values[2, 2], (0, 0, 1)):
            raise ValueError("a matrix with perspective")
        values = values[:2] / values[2, 2]
    if values.shape != (2, 3):
        raise ValueError(f"numbers of shape {values.shape}")
    return values


def _point_pairs(text: str) -> tuple[Floats, Floats]:
    rows = list(csv.DictReader(io.StringIO(text.lstrip("\ufeff")), skipinitialspace=True))
    values = np.array([[float(row[c]) for c in PAIR_COLUMNS] for row in rows], np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a coordinate that is not finite")
    values = values.reshape(-1, 4)
    return values[:, :2], values[:, 2:]


def read_point_pairs(path: str | Path) -> tuple[Floats, Floats]:
    """Level-0 px (N, 2) on the H&E and on the IHC, from a CSV with columns he_x … ihc_y.

    Raises `TransformError` when it is none.
    """
    text = read_text(path, "a CSV with columns " + ", ".join(PAIR_COLUMNS))
    try:
        return _point_pairs(text)
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        first = text.lstrip("\ufeff").partition("\n")[0].strip()
        headed = all(name in first for name in PAIR_COLUMNS)
        found = f"{type(error).__name__}: {error!s:.150}" if headed else f"columns: {first:.150}"
        raise TransformError(
            f"{Path(path).name} holds no pairs of points.",
            expected="a CSV with columns " + ", ".join(PAIR_COLUMNS) + " in level-0 px",
            found=found,
            remedy="write a row for each pair",
        ) from error


def from_point_pairs(
    he_points: Floats, ihc_points: Floats, he: SlideFrame, ihc: SlideFrame
) -> SlideTransform:
    """The smooth map that goes near all pairs (N, 2) of level-0 px; `TransformError` with < 3."""
    points, found = he_points * he.mpp, ihc_points * ihc.mpp
    if len(points) < 3 or np.linalg.matrix_rank(points - points.mean(axis=0), tol=1.0) < 2:
        raise TransformError(
            "These points do not make a transform.",
            expected="at least 3 pairs that do not lie on a line",
            found=f"{len(points)} pairs",
            remedy="add pairs of points",
        )
    extent = max(he.extent_um)
    full = np.column_stack([points, np.ones(len(points))])
    affine = np.asarray(np.linalg.lstsq(full, found, rcond=None)[0].T, np.float64)
    weight = np.ones(len(points))
    robust = fit_affine(points, found, weight, scale_um=extent / 50)
    start = SlideTransform(he, ihc, affine if robust is None else robust, method="point pairs")
    if len(points) < FEWEST_TO_BEND:
        return start
    return fit_warp(
        start,
        points,
        found,
        weight,
        spacing_um=extent / 12,
        stiffness=1e-4,
        scale_um=extent / 100,
    )
