"""HER2 IHC slides with known truth: a tumour whose cells' membranes are stained as asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.annotations import Area
from napari_celldetr.core.detections import Detections, Source
from napari_celldetr.core.her2 import CELL_CLASSES, Pattern, cell_scores
from napari_celldetr.slides.membranes import (
    Shapes,
    Staining,
    draw_staining,
    ellipse_radii,
    grow_shapes,
    paint_membranes,
)
from napari_celldetr.slides.stain import DAB
from napari_celldetr.slides.synthetic import (
    _bands,
    _Cells,
    _Painter,
    _Scene,
    _window,
    write_pyramid,
)

TUMOUR_SPACING_UM = 12.5
TUMOUR_JITTER_UM = 1.8
PATCH_UM = 60.0
"""Cells this near to each other tend to stain alike."""


@dataclass(frozen=True)
class Her2Slide:
    """The truth of a generated slide.

    Attributes
    ----------
    cells : Detections
        Tumour cells; boxes around nuclei, classes `CELL_CLASSES`, columns ``her2_intensity``,
        ``her2_completeness`` and ``her2_pattern``.
    tumour : (M, 2)
        Corners of the tumour's outline, level-0 px.
    shapes, staining
        What was drawn, in the order of `cells`.
    """

    cells: Detections
    tumour: NDArray[np.float32]
    shapes: Shapes
    staining: Staining


def make_her2_slide(
    path: str | os.PathLike[str],
    mix: Mapping[Pattern, float],
    *,
    size: tuple[int, int] = (2048, 2048),
    mpp: float = 0.25,
    seed: int = 0,
    patchy: float = 0.7,
    blush: float = 0.08,
    compression: str = "jpeg",
) -> Her2Slide:
    """Write an H-DAB-like slide of a tumour with membrane staining.

    Parameters
    ----------
    path : path
        Of the OME-TIFF.
    mix : mapping
        Share of the tumour's cells with each pattern; what is missing to 1 is unstained. Counts
        are rounded, so a share of .12 is .12 to half a cell.
    size, mpp, seed, compression
        As in `make_he_slide`.
    patchy : float
        0 mixes the patterns evenly, 1 gives each its own parts of the tumour.
    blush : float
        Highest DAB density of cytoplasm.
    """
    scene = _Scene(size, mpp, seed)
    nuclei, tumour = _draw_nuclei(scene)
    rng = np.random.default_rng([seed, 2])
    is_tumour = nuclei.kind == 1
    axes = np.stack([nuclei.major, nuclei.minor], axis=1)[is_tumour]
    centres = np.stack([nuclei.x, nuclei.y], axis=1)[is_tumour]
    nuclear = ellipse_radii(axes, nuclei.angle[is_tumour])
    shapes = grow_shapes(centres, nuclear, rng, mpp=mpp)
    patterns = _spread(mix, centres * mpp, rng, patchy)
    staining = draw_staining(shapes, patterns, rng, mpp=mpp, blush=blush)
    painter = _Her2Painter(scene, nuclei, shapes, staining)
    write_pyramid(path, lambda: _bands(painter), size=size, mpp=mpp, compression=compression)
    source = Source(slide=Path(path).name, mpp=(mpp, mpp))
    cells = Detections(
        shapes.boxes(),
        np.ones(len(shapes), np.float32),
        cell_scores(patterns).astype(np.int16),
        CELL_CLASSES,
        columns={
            "her2_intensity": staining.intensity,
            "her2_completeness": staining.completeness,
            "her2_pattern": patterns.astype(np.float32),
        },
        source=source,
    )
    return Her2Slide(cells, tumour, shapes, staining)


def _draw_nuclei(scene: _Scene) -> tuple[_Cells, NDArray[np.float32]]:
    """Nuclei, kind 1 inside the tumour and 0 around it; and the tumour's outline."""
    chance, (width, height) = scene.chance, scene.size
    turns = np.linspace(0, 2 * np.pi, 73)[:-1]
    wave = 1 + 0.08 * np.sin(3 * turns + 1) + 0.05 * np.sin(5 * turns)
    outline = np.stack(
        [
            width * (0.5 + 0.31 * wave * np.cos(turns)),
            height * (0.5 + 0.29 * wave * np.sin(turns)),
        ],
        axis=1,
    ).astype(np.float32)
    x, y, inside = _draw_places(scene, outline)
    low = np.where(inside[:, None], (4.0, 3.3), (4.6, 1.6))
    high = np.where(inside[:, None], (5.2, 4.2), (6.6, 2.2))
    axes = chance.uniform(low, high) / scene.mpp
    n = len(x)
    cells = _Cells(
        x,
        y,
        np.asarray(axes.max(axis=1), np.float32),
        np.asarray(axes.min(axis=1), np.float32),
        np.asarray(chance.uniform(0, np.pi, n), np.float32),
        inside.astype(np.int16),
        np.asarray(chance.uniform(0.28, 0.5, n), np.float32),
        np.zeros(n, np.float32),
    )
    return cells, outline


def _draw_places(
    scene: _Scene, outline: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Centres x, y, and which are in the tumour, where cells lie close together."""
    step, margin = TUMOUR_SPACING_UM / scene.mpp, 12 / scene.mpp
    width, height = scene.size
    x, y = np.meshgrid(
        np.arange(margin, width - margin, step), np.arange(margin, height - margin, step * 0.87)
    )
    x[1::2] += step / 2
    jitter = TUMOUR_JITTER_UM / scene.mpp
    x, y = (
        (at + scene.chance.uniform(-jitter, jitter, at.shape)).ravel().astype(np.float32)
        for at in (x, y)
    )
    inside = Area(tuple(map(tuple, outline.tolist())), "region").contains(np.stack([x, y], axis=1))
    occupied = scene.chance.uniform(0, 1, len(x)) < np.where(inside, 0.93, 0.25)
    keep = occupied & (scene.tissue(x, y) > 0.06) & (x < width - margin)
    return x[keep], y[keep], inside[keep]


def _spread(
    mix: Mapping[Pattern, float],
    places_um: NDArray[np.float32],
    rng: np.random.Generator,
    patchy: float,
) -> NDArray[np.int8]:
    """Patterns (N,), exactly as many of each as asked for, neighbours alike."""
    n = len(places_um)
    counts = {p: round(mix.get(p, 0.0) * n) for p in list(Pattern)[1:]}
    counts[Pattern.NONE] = n - sum(counts.values())
    waves = rng.normal(0, 1 / PATCH_UM, (8, 2))
    field = np.sin(places_um @ waves.T + rng.uniform(0, 2 * np.pi, 8)).sum(axis=1) / 2
    order = np.argsort(patchy * field + (1 - patchy) * rng.normal(0, 1, n), kind="stable")
    kinds = rng.permutation(np.array(list(Pattern)))
    codes = np.empty(n, np.int8)
    codes[order] = np.repeat(kinds, [counts[Pattern(int(k))] for k in kinds])
    return codes


class _Her2Painter(_Painter):
    """Adds membranes to the blocks of a scene."""

    def __init__(self, scene: _Scene, nuclei: _Cells, shapes: Shapes, staining: Staining) -> None:
        super().__init__(scene, nuclei, ihc=True)
        self._shapes, self._staining = shapes, staining

    def block(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        plain = super().block(x, y, width, height)
        dab, _ = paint_membranes(
            self._shapes, self._staining, origin=(x, y), size=(width, height), mpp=self.scene.mpp
        )
        dab *= 1 + 0.06 * _window(self.scene.fine, x, y, width, height)
        fade = np.power(np.float32(10), -np.maximum(dab, 0)[..., None] * np.array(DAB, np.float32))
        return np.asarray(np.clip(np.rint(plain * fade), 0, 255), np.uint8)
