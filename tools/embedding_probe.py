"""What do stored embeddings know of a cell's class? A linear probe and retrieval, by patient.

    python tools/embedding_probe.py DATA [--models celldetr-he celldetr-he-hr] [--json OUT]

Cells of the validation fields of BRCA-M2C, which no shipped model was trained on, are matched
within 3 µm to what each model detects. Each patient in turn is left out: a linear probe is fitted
on the others' embeddings, its strength of regularisation chosen by leaving out patients of those
again, and says the class of the patient's cells. Beside it the same for ImageNet features of the
same boxes, and the share of a cell's ten nearest of *other* patients that are of its class.
Intervals: 95 %, bootstrap over patients.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from napari_celldetr import load_model
from napari_celldetr.core.metrics.bootstrap import field_draws, percentile_interval
from napari_celldetr.core.metrics.matching import match_points
from napari_celldetr.core.space.similar import cosine_distances
from napari_celldetr.nets.backbones import Backbone
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.evaluate import found_cells
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import parse_data

CLASSES = ("lymphocyte", "tumour", "stromal")
REACH_UM, NEAREST, DRAWS = 3.0, 10, 2000
STRENGTHS = (1e-3, 1e-2, 1e-1)
GRID = 5
"""Places along each side of a box where ImageNet features are read."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Matched cells: vectors (N, D) by name, true and claimed class (N,), patient (N,)."""

    vectors: dict[str, NDArray[np.float32]]
    truth: NDArray[np.int64]
    claimed: NDArray[np.int64]
    patient: NDArray[np.int64]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["celldetr-he", "celldetr-he-hr"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    spec = parse_data(f"points:{given.data / 'he_brca_m2c'}@0.5")[0]
    fields = load_fields(spec, class_names=CLASSES, split="val")
    weights = next((given.data / "weights" / "mobilenetv2_100").glob("*.npz"))
    imagenet = Backbone("mobilenetv2_100", (8, 16), weights=weights).eval()
    found = {name: study(matched(name, fields, imagenet)) for name in given.models}
    show(found)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def matched(model: str, fields: list[Field], imagenet: Backbone) -> Cells:
    """Detections above the model's threshold, each with the annotated cell it stands for."""
    predictor = load_model(model, device="cpu")
    card = predictor.card
    groups = sorted({f.group for f in fields})
    assert not set(groups) & {g for data in card.data for g in data.get("groups", ())}
    rows: list[tuple[NDArray[Any], ...]] = []
    for field in fields:
        print(f"{model}: {field.name}", file=sys.stderr, flush=True)
        small = resample(field, card.mpp)
        cells = found_cells(predictor, small).above(card.threshold)
        truth, which, _ = match_points(small.points, cells.centres, REACH_UM / card.mpp)
        assert cells.embeddings is not None
        rows.append(
            (
                cells.embeddings[which].astype(np.float32),
                box_features(imagenet, small.image, cells.boxes[which]),
                small.class_ids[truth].astype(np.int64),
                cells.class_ids[which].astype(np.int64),
                np.full(len(which), groups.index(field.group)),
            )
        )
    ours, theirs, truth, claimed, patient = (np.concatenate(c) for c in zip(*rows, strict=True))
    known = truth >= 0
    vectors = {"stored embeddings": ours[known], "ImageNet features": theirs[known]}
    return Cells(vectors, truth[known], claimed[known], patient[known])


@torch.inference_mode()
def box_features(
    imagenet: Backbone, image: NDArray[np.uint8], boxes: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Features (N, D) of strides 8 and 16, read at a grid in each box (N, 4) and averaged."""
    pixels = torch.from_numpy(image.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    height, width = image.shape[:2]
    steps = (np.arange(GRID) + 0.5) / GRID
    x = boxes[:, 0, None] + (boxes[:, 2] - boxes[:, 0])[:, None] * steps
    y = boxes[:, 1, None] + (boxes[:, 3] - boxes[:, 1])[:, None] * steps
    at = np.stack(np.broadcast_arrays(x[:, None, :] / width, y[:, :, None] / height), axis=-1)
    places = torch.from_numpy(2 * at.reshape(1, len(boxes), GRID * GRID, 2) - 1).float()
    levels = [
        F.grid_sample(level, places, padding_mode="border", align_corners=False).mean(dim=3)
        for level in imagenet(pixels)
    ]
    return torch.cat(levels, dim=1)[0].T.numpy()


def study(cells: Cells) -> dict[str, Any]:
    """Every figure with its interval."""
    found: dict[str, Any] = {
        "cells": len(cells.truth),
        "of each class": np.bincount(cells.truth, minlength=len(CLASSES)).tolist(),
        "patients": int(cells.patient.max()) + 1,
        "the model's own class": told(cells, cells.claimed),
    }
    for name, vectors in cells.vectors.items():
        right = same_class_nearby(vectors, cells)
        found[name] = told(cells, left_out(vectors, cells)) | {
            f"retrieval@{NEAREST}": with_interval(
                cells, lambda w, r=right: np.average(r, weights=w)
            )
        }
    return found


def told(cells: Cells, said: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy and macro F1 of classes said."""
    return {
        "accuracy": with_interval(cells, lambda w: np.average(said == cells.truth, weights=w)),
        "macro F1": with_interval(cells, lambda w: macro_f1(cells.truth, said, w)),
    }


def with_interval(cells: Cells, figure: Callable[[NDArray[np.float64]], float]) -> list[float]:
    """A figure of weighted cells, and its interval when patients are drawn anew."""
    draws = field_draws(int(cells.patient.max()) + 1, DRAWS)
    values = [figure(w[cells.patient].astype(float)) for w in draws if w[cells.patient].any()]
    return [float(figure(np.ones(len(cells.truth)))), *percentile_interval(values)]


def macro_f1(truth: NDArray[Any], said: NDArray[Any], weights: NDArray[np.float64]) -> float:
    """Mean of the classes' F1."""
    scores = []
    for k in range(len(CLASSES)):
        both = weights[(truth == k) & (said == k)].sum()
        scores.append(2 * both / max(weights[truth == k].sum() + weights[said == k].sum(), 1e-9))
    return float(np.mean(scores))


def left_out(vectors: NDArray[np.float32], cells: Cells) -> NDArray[np.int64]:
    """Class of every cell from a probe that saw nothing of its patient."""
    said = np.empty(len(vectors), np.int64)
    for patient in np.unique(cells.patient):
        others = cells.patient != patient
        strength = best_strength(vectors[others], cells.truth[others], cells.patient[others])
        probe = Probe.fit(vectors[others], cells.truth[others], strength)
        said[~others] = probe.classes(vectors[~others])
    return said


def best_strength(
    vectors: NDArray[np.float32], truth: NDArray[np.int64], patient: NDArray[np.int64]
) -> float:
    """Regularisation that does best when the remaining patients are left out in four parts."""
    part = np.searchsorted(np.unique(patient), patient) % 4

    def right(strength: float) -> int:
        hits = 0
        for number in range(4):
            out = part == number
            probe = Probe.fit(vectors[~out], truth[~out], strength)
            hits += int((probe.classes(vectors[out]) == truth[out]).sum())
        return hits

    return max(STRENGTHS, key=right)


@dataclass(frozen=True, eq=False)
class Probe:
    """Multinomial logistic regression on standardised vectors."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, vectors: NDArray[Any], truth: NDArray[np.int64], strength: float) -> Probe:
        """The probe of vectors (N, D) with classes (N,)."""
        mean, scale = (
            vectors.mean(axis=0, dtype=float),
            1 / (vectors.std(axis=0, dtype=float) + 1e-6),
        )
        z = np.concatenate([(vectors - mean) * scale, np.ones((len(vectors), 1))], axis=1)
        one_hot = np.eye(len(CLASSES))[truth]

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            w = flat.reshape(z.shape[1], -1)
            logits = z @ w
            kept = w.copy()
            kept[-1] = 0
            value = np.mean(logsumexp(logits, axis=1) - (logits * one_hot).sum(axis=1))
            slope = z.T @ (softmax(logits, axis=1) - one_hot) / len(z) + strength * kept
            return value + strength * np.square(kept).sum() / 2, slope.ravel()

        start = np.zeros(z.shape[1] * len(CLASSES))
        solved = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
        return cls(mean, scale, solved.x.reshape(z.shape[1], -1))

    def classes(self, vectors: NDArray[Any]) -> NDArray[np.int64]:
        """The likeliest class (N,)."""
        z = (vectors - self.mean) * self.scale
        return np.asarray((z @ self.weights[:-1] + self.weights[-1]).argmax(axis=1))


def same_class_nearby(vectors: NDArray[np.float32], cells: Cells) -> NDArray[np.float64]:
    """Share (N,) of each cell's nearest of other patients that are of its class."""
    centred = vectors - vectors.mean(axis=0)
    apart = cosine_distances(centred, centred)
    apart[cells.patient[:, None] == cells.patient] = np.inf
    near = np.argpartition(apart, NEAREST, axis=1)[:, :NEAREST]
    return np.asarray((cells.truth[near] == cells.truth[:, None]).mean(axis=1))


def show(found: dict[str, Any]) -> None:
    """The figures as a table."""
    for model, figures in found.items():
        counts = ", ".join(
            f"{n} {c}" for n, c in zip(CLASSES, figures["of each class"], strict=True)
        )
        print(f"{model}: {figures['cells']} cells ({counts}) of {figures['patients']} patients")
        for name, values in figures.items():
            if isinstance(values, dict):
                parts = [f"{k} {v:.3f} ({a:.3f}–{b:.3f})" for k, (v, a, b) in values.items()]
                print(f"  {name:22s} " + "  ".join(parts))


if __name__ == "__main__":
    raise SystemExit(main())
