"""How well a model finds annotated cells: published figures per data set, with intervals."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import ConfigError, DataError, JobError
from napari_celldetr.core.metrics import PointField, PointScores, point_scores
from napari_celldetr.core.predictor import NUMERICAL, Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.registry import load_model
from napari_celldetr.training.calibrate import CalibrationReport, calibrate
from napari_celldetr.training.config import EvaluateConfig
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.figures import BOOTSTRAP, Judged, SetFigures, set_figures
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import DataSpec, parse_data


@dataclass(frozen=True)
class EvaluationReport:
    """Scores per data set, with what was evaluated and how long it took.

    `scores` maps the data set's folder name to `PointScores`, `figures` to everything else that
    was measured; radii there are in px at the model's scale. `calibration` is what was fitted,
    where asked for. `trained_on` says of how many fields of a set the model has seen the group
    (patient) in training, as its card has it.
    """

    model: str
    weights_sha256: str
    mpp: float
    threshold: float
    radius_um: float
    scores: dict[str, PointScores]
    seconds: float
    megapixels: float
    config: dict[str, Any]
    figures: dict[str, SetFigures] = field(default_factory=dict)
    calibration: CalibrationReport | None = None
    trained_on: dict[str, int] = field(default_factory=dict)

    def as_text(self) -> str:
        """The report for people."""
        head = (
            f"Model {self.model} ({self.weights_sha256[:12]}) at {self.mpp} µm/px, "
            f"score ≥ {self.threshold:g}; a cell counts within {self.radius_um:g} µm "
            f"({self.radius_um / self.mpp:g} px). Intervals: 95 %, bootstrap over fields."
        )
        parts = []
        for name, scores in self.scores.items():
            parts.append(f"\n{name}\n{scores.to_text()}")
            if self.trained_on.get(name):
                parts.append(
                    f"{self.trained_on[name]} of these fields are of groups (patients) that the "
                    "model was trained on: their figures flatter it."
                )
            parts += [f"\n{self.figures[name].to_text()}"] if name in self.figures else []
        if self.calibration is not None:
            parts.append(f"\n{self.calibration.as_text()}")
        speed = 1000 * self.seconds / max(self.megapixels, 1e-9)
        tail = f"\n{self.megapixels:.2f} Mpx in {self.seconds:.1f} s ({speed:.0f} ms/Mpx)."
        return "\n".join([head, *parts, tail, RESEARCH_USE])

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "model": self.model,
            "weights_sha256": self.weights_sha256,
            "mpp": self.mpp,
            "threshold": self.threshold,
            "radius_um": self.radius_um,
            "scores": {name: s.to_dict() for name, s in self.scores.items()},
            "figures": {name: f.to_dict() for name, f in self.figures.items()},
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "trained_on": self.trained_on,
            "seconds": self.seconds,
            "megapixels": self.megapixels,
            "config": self.config,
        }


def evaluate(
    config: EvaluateConfig, *, predictor: Predictor | None = None
) -> Job[EvaluationReport]:
    """Score a model on annotated fields; one `Progress` per field.

    Fields are read at their own µm/px and resampled to the model's. A data set whose cells have
    no classes is scored for detection alone.

    Raises
    ------
    ConfigError, DataError, ModelError
        When settings, data or the model cannot be used.
    JobError
        When the network gives values that are not numbers.
    """
    radii = _radii(check(config))
    if predictor is None:
        predictor = load_model(config.model, device=config.device, flips=config.flips)
    if config.calibrate and hasattr(predictor, "with_class_columns"):
        predictor = predictor.with_class_columns()
    card = predictor.card
    # Where classes are measured, or only nuclei are found, the data's own do not apply.
    names = () if card.class_rule or len(card.class_names) < 2 else card.class_names
    sets = [(spec, _fields(config, spec, names)) for spec in parse_data(config.data)]
    _refuse_unknown_groups(config, {f.group for _, fields in sets for f in fields})
    total = sum(len(fields) for _, fields in sets)
    threshold = card.threshold if config.threshold is None else config.threshold
    done, pixels, seconds = 0, 0, 0.0
    scores: dict[str, PointScores] = {}
    figures: dict[str, SetFigures] = {}
    judged: list[tuple[str, list[Judged]]] = []
    for spec, fields in sets:
        items = []
        for one in fields:
            started = time.monotonic()
            small = resample(one, card.mpp)
            found = found_cells(predictor, small)
            pixels += small.image.shape[0] * small.image.shape[1]
            items.append(Judged(*where_labels_speak(small, found), card.mpp))
            done, seconds = done + 1, seconds + time.monotonic() - started
            yield Progress(done, total, one.name, seconds=seconds)
        labelled = any((f.class_ids >= 0).any() for f in fields)
        name = _name(spec, scores)
        judged.append((name, items))
        scores[name] = point_scores(
            [item.points(threshold) for item in items],
            config.radius_um / card.mpp,
            class_names=card.class_names if labelled else (),
            bootstrap=BOOTSTRAP,
        )
        figures[name] = set_figures(
            items,
            radii_um=radii,
            radius_um=config.radius_um,
            threshold=threshold,
            class_names=card.class_names if labelled else (),
            best_threshold=config.best_threshold,
        )
    fitted = None
    if config.calibrate:
        fitted = calibrate(
            card, judged, radius_um=config.radius_um, threshold=threshold, classes=bool(names)
        )
    return EvaluationReport(
        card.name,
        card.weights_sha256,
        card.mpp,
        threshold,
        config.radius_um,
        scores,
        seconds,
        pixels / 1e6,
        json.loads(to_json(config)),
        figures,
        fitted,
        {n: _seen(card, spec, fields) for n, (spec, fields) in zip(scores, sets, strict=True)},
    )


def _radii(config: EvaluateConfig) -> Sequence[float]:
    radii = (config.radius_um, *config.radii_um)
    if not all(isinstance(r, int | float) and math.isfinite(r) and 0.1 <= r <= 50 for r in radii):
        raise ConfigError(
            "Setting 'radii_um' is not valid.",
            expected="radii of 0.1 to 50 µm",
            found=", ".join(repr(r) for r in radii),
            remedy="change 'More radii'",
        )
    return radii


def where_labels_speak(field: Field, found: Detections) -> tuple[Field, Detections]:
    """Labels and found cells without what lies where a field's labels say nothing."""
    if field.valid is None:
        return field, found
    kept = np.flatnonzero(_inside(field, field.points))
    return (
        replace(
            field,
            points=field.points[kept],
            sizes=field.sizes[kept],
            class_ids=field.class_ids[kept],
            # Row i belongs to id i + 1: a map with rows left out would say something else.
            instances=field.instances if len(kept) == len(field) else None,
        ),
        found.select(_inside(field, found.centres)),
    )


def _inside(field: Field, points: Any) -> Any:
    assert field.valid is not None
    height, width = field.valid.shape
    column, row = np.floor(np.asarray(points, np.float64).reshape(-1, 2)).astype(np.int64).T
    return field.valid[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def _name(spec: DataSpec, taken: dict[str, PointScores]) -> str:
    # The folder's name; sets whose folders are called alike are told apart.
    name, folder = spec.folder.name, spec.folder.resolve()
    while name in taken and folder.parent != folder:
        folder = folder.parent
        name = f"{folder.name}/{name}"
    return name


def _seen(card: ModelCard, spec: DataSpec, fields: Sequence[Field]) -> int:
    # How many fields are of a group that the card names among its training data.
    known = [e.get("groups") for e in card.data if e.get("name") == spec.folder.name]
    groups = {str(g) for names in known if isinstance(names, list) for g in names}
    return sum(f.group in groups for f in fields)


def _fields(config: EvaluateConfig, spec: DataSpec, names: tuple[str, ...]) -> list[Field]:
    split = None if config.split == "all" else config.split
    fields = load_fields(spec, class_names=names, split=split)
    # On a field that is not annotated throughout, a found cell may well be right.
    fields = [f for f in fields if f.complete]
    wanted = {g.strip() for g in config.groups.split(",") if g.strip()}
    if not wanted:
        return fields
    chosen = [f for f in fields if f.group in wanted]
    if not chosen:
        raise DataError(
            f"The data set {spec.folder.name!r} has none of the groups asked for.",
            expected=", ".join(sorted(wanted)),
            found=", ".join(sorted({f.group for f in fields})[:20]),
            remedy="choose groups that are there",
        )
    return chosen


def _refuse_unknown_groups(config: EvaluateConfig, groups: set[str]) -> None:
    # One group misspelt among several would silently not be evaluated.
    absent = {g.strip() for g in config.groups.split(",") if g.strip()} - groups
    if absent:
        raise DataError(
            "Some of the groups asked for are in none of the data sets.",
            expected=", ".join(sorted(groups)[:20]),
            found=", ".join(sorted(absent)),
            remedy="name the groups as the data sets do",
        )


def found_cells(predictor: Predictor, field: Field) -> Detections:
    """All cells the model finds in a field at its own scale, whatever their score."""
    prediction = predictor.predict(field.image[None])[0]
    if NUMERICAL in prediction.flags:
        raise JobError(
            f"The network gave no numbers on field {field.name!r}.",
            expected="finite scores and boxes",
            found="NaN or infinity",
            remedy="train again with lower rates, or check the weights",
        )
    return prediction.detections


def point_field(field: Field, found: Detections) -> PointField:
    """True and found cells of a field: a class found where nothing is counts against it."""
    return PointField(
        np.asarray(field.points, np.float64),
        np.asarray(found.centres, np.float64),
        field.class_ids.astype(np.int64),
        found.class_ids.astype(np.int64),
        field.name,
        np.asarray(found.scores, np.float64),
    )
