"""A real field of nuclei as HER2 IHC: counterstain, membranes of known pattern, dirt, and truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import Pattern, cell_scores
from napari_celldetr.core.predictor import UNKNOWN
from napari_celldetr.slides.membranes import (
    LINE_UM,
    Shapes,
    Staining,
    draw_staining,
    ellipse_radii,
    grow_shapes,
    paint_membranes,
    pixel_classes,
)
from napari_celldetr.slides.stain import DAB
from napari_celldetr.training.her2_fields import CARCINOMA, UNSURE, NucleiField
from napari_celldetr.training.her2_ground import draw_ground, smooth_noise, soften
from napari_celldetr.training.her2_plan import Plan, spread
from napari_celldetr.training.restain import nucleus_radius_px, restain_to_hdab

Floats = NDArray[np.float32]
Chance = np.random.Generator
BACKGROUND = 0
MARGIN_UM = 16.0
"""How far outside a picture cells are drawn, so that those at its edge have their neighbours."""
DAB_TINT = 0.05
"""Deviation of the colour of DAB between pictures, of its vector's entries."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One generated picture with its truth.

    Attributes
    ----------
    image : (S, S, 3) uint8
    classes : (S, S) uint8
        0 background, 1..4 area of a cell of score 0, 1+, 2+, 3+, 255 where nobody can say.
    scores : (N,) int8
        Score 0..3 of each cell whose nucleus has its centre in the picture.
    shapes, staining
        What was drawn for all cells in and near the picture, px of the picture.
    carries : bool array
        Which of them are cells of the truth.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    scores: NDArray[np.int8]
    shapes: Shapes
    staining: Staining
    carries: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A square of a field, in px of the picture: image, and nuclei in and around it."""

    image: NDArray[np.uint8]
    centres: Floats
    axes: Floats
    angle: Floats
    kinds: NDArray[np.int8]


def make_scene(field: NucleiField, plan: Plan, rng: Chance, *, side: int, mpp: float) -> Scene:
    """Draw a random square of `field` as `plan` says, `side` px at `mpp` µm/px."""
    cut = _cut(field, plan.zoom, rng, side, mpp)
    plain = _counterstain(cut, plan, rng, mpp, stained=field.stained)
    nuclear = ellipse_radii(cut.axes, cut.angle)
    shapes = grow_shapes(cut.centres, nuclear, rng, mpp=mpp, rim_um=plan.rim_um)
    carries = cut.kinds == CARCINOMA
    if plan.every_cell:
        carries = np.ones_like(carries)
    staining = _staining(shapes, carries, plan, rng, mpp)
    dab, owner = paint_membranes(shapes, staining, origin=(0, 0), size=(side, side), mpp=mpp)
    classes = pixel_classes(owner, staining.patterns)
    ids = np.concatenate([[False], carries])[owner]
    unsure = np.concatenate([[False], ~carries & (cut.kinds == UNSURE)])[owner]
    classes[~ids] = BACKGROUND
    classes[unsure] = UNKNOWN
    dab = _widened(dab, plan.spread_um / mpp, LINE_UM / mpp)
    dab *= 1 + rng.uniform(0.02, 0.12) * smooth_noise(side, rng, 0.6 / mpp)
    dirt = _dirt(side, plan.dirt, rng, mpp)
    classes[(dirt > 0.15) & (classes != BACKGROUND)] = UNKNOWN
    image = _brown(plain, np.maximum(dab, 0) + np.float32(plan.haze) + dirt, rng)
    inside = ((shapes.centres >= 0) & (shapes.centres < side)).all(axis=1) & carries
    return Scene(image, classes, cell_scores(staining.patterns[inside]), shapes, staining, carries)


def _cut(field: NucleiField, zoom: float, rng: Chance, side: int, mpp: float) -> _Cut:
    """A random square, resized. Where the field is too small, its mirror image goes on."""
    from PIL import Image

    scale = field.mpp * zoom / mpp
    need = max(round(side / scale), 8)
    image, centres, angle, axes, kinds = (
        field.image,
        field.centres,
        field.angle,
        field.axes,
        field.kinds,
    )
    height, width = image.shape[:2]
    x0, y0 = (int(rng.integers(max(n - need, 0) + 1)) for n in (width, height))
    square = image[y0 : y0 + need, x0 : x0 + need]
    lacking = ((0, need - square.shape[0]), (0, need - square.shape[1]), (0, 0))
    square = np.pad(square, lacking, mode="symmetric")
    if any(b for _, b in lacking):
        centres, axes, angle, kinds = _mirrored(field)
    picture = Image.fromarray(np.ascontiguousarray(square))
    grown = np.array(picture.resize((side, side), Image.Resampling.BICUBIC))
    exact = side / need
    placed = (centres - (x0, y0)) * exact
    margin = MARGIN_UM / mpp
    near = ((placed > -margin) & (placed < side + margin)).all(axis=1)
    return _Cut(
        grown,
        np.asarray(placed[near], np.float32),
        np.asarray(axes[near] * exact, np.float32),
        angle[near],
        kinds[near],
    )


def _mirrored(field: NucleiField) -> tuple[Floats, Floats, Floats, NDArray[np.int8]]:
    """Nuclei of the field and of its mirror images to the right, below, and both."""
    size = np.array(field.image.shape[1::-1], np.float32)
    parts = []
    for flip in ((0, 0), (1, 0), (0, 1), (1, 1)):
        turned = np.array(flip, np.float32)
        centres = np.where(turned > 0, 2 * size - field.centres, field.centres)
        angle = -field.angle if sum(flip) == 1 else field.angle
        parts.append((centres, field.axes, angle, field.kinds))
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))  # type: ignore[return-value]


def _counterstain(
    cut: _Cut, plan: Plan, rng: Chance, mpp: float, *, stained: bool
) -> NDArray[np.uint8]:
    if plan.ground == "drawn":
        return draw_ground(
            cut.centres,
            cut.axes,
            cut.angle,
            rng,
            side=len(cut.image),
            mpp=mpp,
            brown=plan.brown_nuclei,
        )
    image = cut.image if stained else _restained(cut, plan, rng, mpp)
    return soften(image, rng, mpp=mpp) if plan.ground == "soft" else image


def _restained(cut: _Cut, plan: Plan, rng: Chance, mpp: float) -> NDArray[np.uint8]:
    inside = ((cut.centres >= 0) & (cut.centres < len(cut.image))).all(axis=1)
    image, _ = restain_to_hdab(
        cut.image,
        rng,
        points=cut.centres[inside],
        positive=plan.brown_nuclei,
        radius_px=nucleus_radius_px(mpp),
    )
    return image


def _staining(
    shapes: Shapes, carries: NDArray[np.bool_], plan: Plan, rng: Chance, mpp: float
) -> Staining:
    patterns = np.full(len(shapes), Pattern.NONE, np.int8)
    patterns[carries] = spread(plan.mix, shapes.centres[carries] * mpp, rng)
    drawn = draw_staining(shapes, patterns, rng, mpp=mpp, blush=plan.blush, uneven=plan.uneven)
    mask = carries.astype(np.float32)
    return replace(drawn, cytoplasm=drawn.cytoplasm * mask, profile=drawn.profile * mask[:, None])


def _widened(dab: Floats, spread: float, line: float) -> Floats:
    """The lines of σ `line` px as if spread by another `spread` px, as dense as before."""
    from scipy import ndimage

    if spread <= 0:
        return dab
    wide = ndimage.gaussian_filter(dab, spread, mode="nearest", truncate=2.5)
    return np.asarray(wide * np.hypot(1, spread / line), np.float32)


def _dirt(side: int, share: float, rng: Chance, mpp: float) -> Floats:
    """DAB-like density (S, S) of pigment: blots over `share` of the area."""
    if share <= 0:
        return np.zeros((side, side), np.float32)
    noise = smooth_noise(side, rng, rng.uniform(0.8, 4.0) / mpp)
    over = noise - np.quantile(noise, 1 - share)
    return np.asarray(rng.uniform(0.3, 1.4) * np.clip(over * 4, 0, 1), np.float32)


def _brown(image: NDArray[np.uint8], density: Floats, rng: Chance) -> NDArray[np.uint8]:
    vector = np.maximum(np.array(DAB) + rng.normal(0, DAB_TINT, 3), 0.05)
    vector *= np.linalg.norm(DAB) / np.linalg.norm(vector)
    fade: Any = np.power(np.float32(10), -density[..., None] * vector.astype(np.float32))
    return np.asarray(np.clip(np.rint(image * fade), 0, 255), np.uint8)
