"""What the networks are worth: on held-out fields, and on generated slides of known truth."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.her2 import SCORES, Pattern, cell_scores, wilson_interval
from napari_celldetr.core.regions import Region
from napari_celldetr.slides.membranes import paint_membranes, pixel_classes
from napari_celldetr.slides.readers import open_slide
from napari_celldetr.slides.synthetic_her2 import Her2Slide, make_her2_slide
from napari_celldetr.training.sample_scores import confusion, pixel_figures
from napari_celldetr.training.samples import Sample

P = Pattern
MIXES: tuple[Mapping[Pattern, float], ...] = (
    {},
    {P.FAINT_INCOMPLETE: 0.6},
    {P.COMPLETE_WEAK_MODERATE: 0.5, P.FAINT_INCOMPLETE: 0.3},
    {P.COMPLETE_INTENSE: 0.6, P.COMPLETE_WEAK_MODERATE: 0.2},
    {P.COMPLETE_INTENSE: 0.25, P.COMPLETE_WEAK_MODERATE: 0.25, P.FAINT_INCOMPLETE: 0.25},
    {P.STRONG_INCOMPLETE: 0.4, P.FAINT_INCOMPLETE: 0.2},
)
"""Mixes of the generated slides."""
SIDE_PX, SLIDE_MPP, FIRST_SEED = 2048, 0.25, 4000
FEWEST_CELLS = 10
"""A patch with fewer tumour cells is not judged."""
CLEAR = 0.6
"""From this share of its cells on the most frequent score of a patch is clear."""
BLOCK_PX = 256
"""Blocks that intervals are drawn from."""
DRAWS = 1000


@dataclass(frozen=True)
class Made:
    """One generated slide: pixels at the network's µm/px, and the truth in them."""

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    centres: NDArray[np.float32]
    scores: NDArray[np.integer]


def slides(folder: Path, mpp: float, seed: int = FIRST_SEED) -> Iterator[Made]:
    """A slide of each of `MIXES`."""
    for number, mix in enumerate(MIXES):
        path = folder / f"her2-{seed + number}.ome.tif"
        truth = make_her2_slide(
            path, mix, size=(SIDE_PX, SIDE_PX), mpp=SLIDE_MPP, seed=seed + number
        )
        with open_slide(path) as slide:
            image = slide.read(Region(0, 0, SIDE_PX, SIDE_PX), mpp)
        path.unlink()
        yield _made(truth, image, mpp)


def _made(truth: Her2Slide, image: NDArray[np.uint8], mpp: float) -> Made:
    scale = np.float32(SLIDE_MPP / mpp)
    shapes = replace(
        truth.shapes,
        centres=truth.shapes.centres * scale,
        nuclear=truth.shapes.nuclear * scale,
        radii=truth.shapes.radii * scale,
    )
    height, width = image.shape[:2]
    _, owner = paint_membranes(shapes, truth.staining, origin=(0, 0), size=(width, height), mpp=mpp)
    patterns = truth.staining.patterns
    return Made(image, pixel_classes(owner, patterns), shapes.centres, cell_scores(patterns))


# --- pixels ------------------------------------------------------------------------------------


def judge_pixels(predictor: Any, images: Sequence[Sample]) -> dict[str, Any]:
    """IoU of each class, and their mean over the four scores with a 95 % bootstrap interval.

    Intervals come from drawing blocks of `BLOCK_PX` px with replacement. CPU time is that of all
    threads together, so that it does not depend on what else runs.
    """
    names = predictor.card.class_names
    tables, seconds, pixels = [], 0.0, 0
    for image, truth in images:
        started = time.process_time()
        found = predictor.classes(image[None])[0]
        seconds += time.process_time() - started
        pixels += truth.size
        tables += [confusion(t, f, len(names)) for t, f in _blocks(np.asarray(truth), found)]
    each = np.stack(tables)
    figures = pixel_figures(each.sum(0), names)
    rng = np.random.default_rng(0)
    means = [
        mean_of_scores(each[rng.integers(len(each), size=len(each))].sum(0)) for _ in range(DRAWS)
    ]
    return {
        "images": len(images),
        "megapixels": round(pixels / 1e6, 2),
        "iou": {k: figures[k] for k in names},
        "mean_iou_of_scores": round(mean_of_scores(each.sum(0)), 4),
        "interval_95": [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])],
        "confusion": each.sum(0).tolist(),
        "cpu_ms_per_megapixel": round(1e9 * seconds / pixels, 1),
    }


def mean_of_scores(table: NDArray[np.integer]) -> float:
    """Mean IoU of the classes 0, 1+, 2+, 3+, the background left out."""
    hits = np.diag(table)[1:]
    union = (table.sum(1) + table[:, : len(table)].sum(0))[1:] - hits
    return float(np.mean(hits[union > 0] / union[union > 0]))


def _blocks(*pictures: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    height, width = pictures[0].shape
    for y in range(0, height, BLOCK_PX):
        for x in range(0, width, BLOCK_PX):
            yield tuple(p[y : y + BLOCK_PX, x : x + BLOCK_PX] for p in pictures)


# --- patches -----------------------------------------------------------------------------------


def slide_patches(made: Made, side: int) -> Iterator[Sample]:
    """Patches half a side apart with at least `FEWEST_CELLS` cells, and their counts (4,)."""
    height, width = made.image.shape[:2]
    for y in range(0, height - side + 1, side // 2):
        for x in range(0, width - side + 1, side // 2):
            inside = ((made.centres >= (x, y)) & (made.centres < (x + side, y + side))).all(axis=1)
            counts = np.bincount(made.scores[inside], minlength=len(SCORES))
            if counts.sum() >= FEWEST_CELLS:
                yield made.image[y : y + side, x : x + side], counts


def judge_stain(predictor: Any, patches: Sequence[Sample]) -> dict[str, Any]:
    """How often the most frequent score of a patch is found; and the error of the shares."""
    shares = np.stack([np.asarray(t, np.float64) / np.sum(t) for _, t in patches])
    found = np.concatenate([predictor.predict(image[None]) for image, _ in patches])
    true, said = shares.argmax(1), found.argmax(1)
    clear = shares.max(1) >= CLEAR
    return {
        "all": accuracy(true, said),
        f"clear (at least {CLEAR:.0%} of the cells)": accuracy(true[clear], said[clear]),
        "mean_absolute_error_of_shares": round(float(np.abs(shares - found).mean()), 4),
        "confusion": confusion(true, said, len(SCORES))[:, : len(SCORES)].tolist(),
    }


def accuracy(true: NDArray[np.integer], said: NDArray[np.integer]) -> dict[str, Any]:
    """Accuracy with a 95 % Wilson interval, the number it is of, and what the commonest gives."""
    right, n = int((true == said).sum()), len(true)
    low, high = wilson_interval(right, n)
    usual = int(np.bincount(true).max()) if n else 0
    return {
        "accuracy": round(right / n, 4),
        "interval_95": [round(low, 4), round(high, 4)],
        "patches": n,
        "always_the_commonest": round(usual / n, 4),
    }


def judge_tumour(
    predictor: Any, patches: Sequence[tuple[NDArray[np.uint8], NDArray[np.floating], str]]
) -> dict[str, Any]:
    """Accuracy and AUC for patches of which at least half, and clearly more or less, is tumour."""
    share = np.array([t[1] for _, t, _ in patches])
    found = np.concatenate([predictor.predict(image[None])[:, 1] for image, _, _ in patches])
    groups = np.array([g for _, _, g in patches])
    clear = (share <= 0.2) | (share >= 0.6)
    named = (("all", np.ones_like(clear)), ("clear (at most 20 % or at least 60 %)", clear))
    return {
        name: accuracy((share[rows] >= 0.5).astype(int), (found[rows] >= 0.5).astype(int))
        | {
            "auc": round(auc(share[rows] >= 0.5, found[rows]), 4),
            "patients": len(set(groups[rows].tolist())),
        }
        for name, rows in named
    } | {"mean_absolute_error_of_share": round(float(np.abs(share - found).mean()), 4)}


def auc(true: NDArray[np.bool_], found: NDArray[np.floating]) -> float:
    """Chance that a patch of tumour is given more than another; ties count half."""
    more = found[true][:, None] - found[~true][None, :]
    return float(((more > 0) + 0.5 * (more == 0)).mean()) if more.size else float("nan")
