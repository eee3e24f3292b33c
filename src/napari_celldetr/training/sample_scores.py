"""Scores of classifiers of patches and pixels, from counts of true and found classes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.errors import DataError
from napari_celldetr.core.predictor import UNKNOWN, PatchPredictor, PixelPredictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.training.samples import Sample, refuse_no_sample


@dataclass(frozen=True)
class SampleScores:
    """Figures of one validation, 0..1; None where nothing could be measured.

    `headline` names the figure that the best weights are chosen by. `confusion` has a row per
    true class and a column per found one: patches or pixels; the last column is of those of
    which the network could say nothing.
    """

    figures: dict[str, float | None]
    headline: str
    confusion: tuple[tuple[int, ...], ...]
    samples: int
    caption: str
    seconds: float
    megapixels: float

    @property
    def overall(self) -> float:
        """The headline's figure; 0 where it could not be measured."""
        return self.figures[self.headline] or 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the log."""
        return asdict(self) | {"overall": self.overall}


def confusion(
    truth: NDArray[np.integer], found: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Counts (K, K + 1) of true class and found one; truth `UNKNOWN` is left out.

    What was found as `UNKNOWN` stands in the last column: it is wrong, and of no class.
    """
    counted = truth.ravel() != UNKNOWN
    true = truth.ravel()[counted].astype(np.int64)
    named = np.minimum(found.ravel()[counted].astype(np.int64), classes)
    table = np.bincount(true * (classes + 1) + named, minlength=classes * (classes + 1))
    return table.reshape(classes, classes + 1)


def patch_figures(table: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, float | None]:
    """Accuracy, the mean over classes of what share was found, and that share for each class."""
    hits, true = np.diag(table), table.sum(1)
    recall = {
        n: _share(h, t) for n, h, t in zip(class_names, hits.tolist(), true.tolist(), strict=True)
    }
    known = [v for v in recall.values() if v is not None]
    mean = sum(known) / len(known) if known else None
    return {
        "accuracy": _share(int(hits.sum()), int(true.sum())),
        "balanced accuracy": mean,
        **recall,
    }


def pixel_figures(table: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, float | None]:
    """Mean IoU over the classes that occur, and the IoU of each.

    IoU = TP / (TP + FP + FN), over the pixels of all samples together.
    """
    hits = np.diag(table)
    union = table.sum(1) + table[:, : len(table)].sum(0) - hits
    each = {
        n: _share(h, u) for n, h, u in zip(class_names, hits.tolist(), union.tolist(), strict=True)
    }
    known = [v for v in each.values() if v is not None]
    return {"mean IoU": sum(known) / len(known) if known else None, **each}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None


def score_patches(
    predictor: PatchPredictor, samples: Sequence[Sample], class_names: Sequence[str]
) -> Job[SampleScores]:
    """Score a classifier of patches; the true class is the one with the largest share."""
    classes = len(class_names)

    def judged(image: NDArray[np.uint8], truth: Any) -> NDArray[np.int64]:
        share = predictor.predict(image[None])[0]
        found = UNKNOWN if np.isnan(share).any() else int(share.argmax())
        true = int(np.argmax(truth)) if np.ndim(truth) else int(truth)
        return confusion(np.array([true]), np.array([found]), classes)

    table, seconds, megapixels = yield from _counted(judged, samples, classes)
    return SampleScores(
        patch_figures(table, class_names),
        "balanced accuracy",
        _rows(table),
        len(samples),
        f"Share of {len(samples)} patches whose class is found",
        seconds,
        megapixels,
    )


def score_pixels(
    predictor: PixelPredictor, samples: Sequence[Sample], class_names: Sequence[str]
) -> Job[SampleScores]:
    """Score a classifier of pixels."""
    classes = len(class_names)

    def judged(image: NDArray[np.uint8], truth: Any) -> NDArray[np.int64]:
        return confusion(np.asarray(truth), predictor.classes(image[None])[0], classes)

    table, seconds, megapixels = yield from _counted(judged, samples, classes)
    return SampleScores(
        pixel_figures(table, class_names),
        "mean IoU",
        _rows(table),
        len(samples),
        f"Overlap (IoU) of true and found pixels of {len(samples)} images",
        seconds,
        megapixels,
    )


def _counted(
    judged: Any, samples: Sequence[Sample], classes: int
) -> Job[tuple[NDArray[np.int64], float, float]]:
    # Summed confusion, the network's seconds, and megapixels.
    table = np.zeros((classes, classes + 1), np.int64)
    seconds, pixels = 0.0, 0
    for i in range(len(samples)):
        image, truth = samples[i]
        refuse_no_sample(image, truth, classes=classes)
        started = time.perf_counter()
        table += judged(image, truth)
        seconds += time.perf_counter() - started
        pixels += image.shape[0] * image.shape[1]
        yield Progress(i + 1, len(samples), f"validating, sample {i + 1}")
    return table, round(seconds, 3), round(pixels / 1e6, 4)


def _rows(table: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def refuse_no_validation(samples: Sequence[Sample] | None, keep: str) -> None:
    """`DataError` where validation is wanted and there is nothing to validate on."""
    if samples is not None and len(samples):
        return
    if samples is None and keep != "best":
        return
    raise DataError(
        "There is nothing to validate on.",
        expected="validation samples, or none and keep last",
        found="no samples" if samples is not None else "keep best and no validation",
        remedy="give validation samples",
    )
