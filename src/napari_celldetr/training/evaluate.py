"""How well a model finds annotated cells: point F1 overall and per class, with intervals."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.config import check, to_json
from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import DataError, JobError
from napari_celldetr.core.metrics import PointField, PointScores, point_scores
from napari_celldetr.core.predictor import NUMERICAL, Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.registry import load_model
from napari_celldetr.training.config import EvaluateConfig
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.pools import load_fields
from napari_celldetr.training.specs import DataSpec, parse_data


@dataclass(frozen=True)
class EvaluationReport:
    """Scores per data set, with what was evaluated and how long it took.

    `scores` maps the data set's folder name to `PointScores`; radii there are in px at the
    model's scale.
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

    def as_text(self) -> str:
        """The report for people."""
        head = (
            f"Model {self.model} ({self.weights_sha256[:12]}) at {self.mpp} µm/px, "
            f"score ≥ {self.threshold:g}; a cell counts within {self.radius_um:g} µm "
            f"({self.radius_um / self.mpp:g} px). Intervals: 95 %, bootstrap over fields."
        )
        parts = [f"\n{name}\n{scores.to_text()}" for name, scores in self.scores.items()]
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
    check(config)
    if predictor is None:
        predictor = load_model(config.model, device=config.device, flips=config.flips)
    card = predictor.card
    # Where classes are measured, or only nuclei are found, the data's own do not apply.
    names = () if card.class_rule or len(card.class_names) < 2 else card.class_names
    sets = [(spec, _fields(config, spec, names)) for spec in parse_data(config.data)]
    total = sum(len(fields) for _, fields in sets)
    threshold = card.threshold if config.threshold is None else config.threshold
    started = time.monotonic()
    done, pixels = 0, 0
    scores: dict[str, PointScores] = {}
    for spec, fields in sets:
        items = []
        for field in fields:
            small = resample(field, card.mpp)
            found = found_cells(predictor, small)
            pixels += small.image.shape[0] * small.image.shape[1]
            items.append(point_field(small, found.above(threshold)))
            done += 1
            yield Progress(done, total, field.name, seconds=time.monotonic() - started)
        labelled = any((f.class_ids >= 0).any() for f in fields)
        scores[_name(spec, scores)] = point_scores(
            items,
            config.radius_um / card.mpp,
            class_names=card.class_names if labelled else (),
            bootstrap=1000,
        )
    return EvaluationReport(
        card.name,
        card.weights_sha256,
        card.mpp,
        threshold,
        config.radius_um,
        scores,
        time.monotonic() - started,
        pixels / 1e6,
        json.loads(to_json(config)),
    )


def _name(spec: DataSpec, taken: dict[str, PointScores]) -> str:
    # The folder's name; sets whose folders are called alike are told apart.
    name, folder = spec.folder.name, spec.folder.resolve()
    while name in taken and folder.parent != folder:
        folder = folder.parent
        name = f"{folder.name}/{name}"
    return name


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
    )
