"""Fit the calibration of a model on evaluated fields, and put it into the model's own card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_celldetr.core.calibration import (
    LEAST_OF_EACH,
    Calibration,
    cross_fitted,
    cross_fitted_shares,
    fit_class_temperature,
    fit_scores,
)
from napari_celldetr.core.errors import ModelError
from napari_celldetr.core.metrics import calibration_error
from napari_celldetr.core.predictor import PROBABILITY
from napari_celldetr.nets.card import ModelCard, read_card, write_card
from napari_celldetr.nets.registry import find_model, is_shipped
from napari_celldetr.training.figures import Judged, scores_and_hits, typed_pairs


@dataclass(frozen=True, slots=True)
class Errors:
    """ECE with bins of equal width: before, after on the same cells, and honestly.

    `held_out` comes from calibrations fitted without the cell's own group (patient); None where
    there are too few groups.
    """

    count: int
    before: float
    after: float
    held_out: float | None

    @property
    def helps(self) -> bool:
        """Whether the error falls, on other groups where these were tried."""
        return (self.after if self.held_out is None else self.held_out) < self.before

    def to_text(self) -> str:
        """One line."""
        honest = "" if self.held_out is None else f", {self.held_out:.3f} fitted on other groups"
        return (
            f"ECE {self.before:.3f} before, {self.after:.3f} after on the same {self.count} "
            f"cells{honest}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "cells": self.count,
            "ece_before": self.before,
            "ece_after": self.after,
            "ece_held_out_groups": self.held_out,
        }


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A fitted calibration and what it is worth.

    `card` is the evaluated card with the calibration in it: its threshold and floor moved along,
    so that the model finds the same cells. `classes` is None where classes could not be fitted.
    """

    card: ModelCard
    before: ModelCard
    detection: Errors
    classes: Errors | None

    def as_text(self) -> str:
        """What was fitted, for people, with what belongs into the card."""
        lines = ["Calibration fitted on these fields", f"score: {self.detection.to_text()}"]
        if self.classes is not None:
            kept = "" if self.classes.helps else "; no better, so classes are left as they are"
            lines.append(f"class: {self.classes.to_text()}{kept}")
        else:
            lines.append("class: not fitted (no classes in the labels, or too few matched cells)")
        lines.append("For the model's card.json (same cells as before, other numbers):")
        return "\n".join([*lines, json.dumps(self.changes(), indent=2, ensure_ascii=False)])

    def changes(self) -> dict[str, Any]:
        """The card's entries that change."""
        names = ("calibration", "threshold", "score_floor")
        return {name: getattr(self.card, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {
            "card": self.changes(),
            "score": self.detection.to_dict(),
            "class": None if self.classes is None else self.classes.to_dict(),
        }


def calibrate(
    card: ModelCard,
    sets: Sequence[tuple[str, Sequence[Judged]]],
    *,
    radius_um: float,
    threshold: float,
    classes: bool,
) -> CalibrationReport:
    """Fit scale and shift of scores, and the temperature of classes, over all data sets.

    Every found cell counts for the scores: right or not within `radius_um`. Cells scored at least
    `threshold` that match a true cell of known class count for the classes; a temperature that
    does not lower their error is not kept. A calibration that the card holds already is gone on
    from.

    Raises
    ------
    DataError
        Too few right or wrong cells, or scores that say nothing.
    """
    items = [item for _, part in sets for item in part]
    groups = [f"{name}/{item.field.group}" for name, part in sets for item in part]
    radius = radius_um / card.mpp
    scores, hits, number = scores_and_hits([i.points() for i in items], radius)
    fitted = fit_scores(scores, hits)
    honest = cross_fitted(scores, hits, [groups[i] for i in number])
    detection = Errors(
        len(scores),
        calibration_error(scores, hits).ece,
        calibration_error(fitted.score(scores), hits).ece,
        None if honest is None else calibration_error(honest, hits).ece,
    )
    temperature, of_classes = (
        _classes(card, items, groups, radius, threshold) if classes else (1.0, None)
    )
    words = ", ".join(f"{name}: {len(part)} fields" for name, part in sets)
    fitted_on = f"{words}; {len(scores)} found cells; score {detection.to_text()}"
    done = card.calibrated(
        Calibration(fitted.scale, fitted.shift, temperature, fitted_on=fitted_on)
    )
    return CalibrationReport(done, card, detection, of_classes)


def _classes(
    card: ModelCard, items: Sequence[Judged], groups: Sequence[str], radius: float, threshold: float
) -> tuple[float, Errors | None]:
    rows, truth, number = typed_pairs(items, radius, threshold)
    names = [PROBABILITY + name for name in card.class_names]
    full = all(name in r.columns for r in rows if len(r) for name in names)
    if len(truth) < LEAST_OF_EACH or not full or len(names) < 2:
        return 1.0, None
    p = np.concatenate([np.stack([r.columns[n] for n in names], axis=1) for r in rows if len(r)])
    temperature = fit_class_temperature(p, truth)
    shares = Calibration(class_temperature=temperature).shares(p)
    honest = cross_fitted_shares(p, truth, [groups[i] for i in number])
    errors = Errors(
        len(truth),
        _class_error(p, truth),
        _class_error(shares, truth),
        None if honest is None else _class_error(honest, truth),
    )
    return (temperature if errors.helps else 1.0), errors


def _class_error(p: NDArray[np.floating], truth: NDArray[np.int64]) -> float:
    best = np.clip(p.max(axis=1).astype(np.float64), 0, 1)
    return calibration_error(best, p.argmax(axis=1) == truth).ece


def own_folder(model: str) -> Path:
    """The model's folder if it is a user's own; `ModelError` for one that came with the package."""
    folder = Path(find_model(model))
    if is_shipped(folder):
        raise ModelError(
            f"The card of model {folder.name!r} is not changed.",
            expected="a model folder of your own",
            found="a model that came with napari-celldetr",
            remedy="copy its folder, and give the copy as --model",
        )
    return folder


def write_calibration(model: str, report: CalibrationReport) -> Path:
    """Put a fitted calibration into the card of a user's own model folder; returns the card's path.

    Raises `ModelError` for a shipped model, and for a card that is no longer the evaluated one.
    """
    folder = own_folder(model)
    now = read_card(folder)
    if now.to_json() != report.before.to_json():
        raise ModelError(
            f"The card of model {folder.name!r} is not the one that was evaluated.",
            expected="the same card as before",
            found="one that changed meanwhile",
            remedy="evaluate and calibrate again",
        )
    return write_card(folder, report.card)
