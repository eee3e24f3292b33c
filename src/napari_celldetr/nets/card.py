"""ModelCard: everything a model says about itself, as checked JSON. No torch here."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from string import hexdigits
from typing import Any

from napari_celldetr.core.calibration import Calibration
from napari_celldetr.core.errors import DataError, ModelError

SCHEMA = 1
DETECT = "detect"
CLASSIFY = "classify patches"
SEGMENT = "segment pixels"
TASKS = (DETECT, CLASSIFY, SEGMENT)
"""What a model is for: cells, a class per patch, or a class per pixel."""
MAX_CARD_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class ModelCard:
    """What `card.json` holds.

    Attributes
    ----------
    name, title, description : str
        Folder name, name for people, one paragraph.
    architecture, arguments
        Key in the network registry and the arguments to build it with.
    class_names : tuple of str
    class_colors : tuple of (r, g, b)
        0..255 each, one per class.
    mpp : float
        µm/px the network works at.
    mean, std : 3 floats each
        Input statistics on 0..1 RGB.
    stain : str
        ``H&E`` or ``H-DAB``.
    threshold, score_floor : float
        Default score threshold; scores below the floor are never returned. Both are on the
        calibrated scale where there is a calibration. Models of other tasks give every class's
        probability: the floor plays no part there.
    class_rule : dict or None
        For models whose classes are measured, not predicted, e.g. ``{"measure": "dab_od_mean",
        "threshold": 0.2}``: class 1 where the measurement reaches the threshold, else class 0.
    weights_sha256 : str
    licence : str
        SPDX name of the weights' licence.
    data : list of dict
        Training data: name, licence, citation, how it was split.
    metrics : dict
        Figures with intervals, by data set.
    intended_use, limits : str
    training : dict
        The training configuration.
    parent : str or None
        weights sha256 of the model this one was fine-tuned from.
    calibration : dict or None
        How the network's scores become probabilities: the fields of
        `napari_celldetr.core.calibration.Calibration`.
    task : str
        One of `TASKS`; cards from before there were several are of detectors.
    lesson : dict or None
        Of a model that was taught: ``model_classes`` (names that the network itself has, the
        first of `class_names`), and where the lesson came from.
    """

    name: str
    title: str
    description: str
    architecture: str
    arguments: dict[str, Any]
    class_names: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    stain: str
    threshold: float
    score_floor: float
    weights_sha256: str
    licence: str
    data: list[dict[str, Any]]
    metrics: dict[str, Any]
    intended_use: str
    limits: str
    class_rule: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    calibration: dict[str, Any] | None = None
    task: str = DETECT
    lesson: dict[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        self._check_types()
        object.__setattr__(self, "class_names", tuple(self.class_names))
        colors = tuple(tuple(int(v) for v in c) for c in self.class_colors)
        object.__setattr__(self, "class_colors", colors)
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        self._check()

    def _check_types(self) -> None:
        # What JSON from elsewhere may hold instead; raised as a TypeError, as Python would.
        texts = ("name", "title", "description", "architecture", "stain", "weights_sha256", "task")
        bad = [n for n in (*texts, "licence", "intended_use", "limits") if not self._is(n, str)]
        bad += [n for n in ("arguments", "metrics", "training") if not self._is(n, dict)]
        bad += [
            n for n in ("class_names", "class_colors", "mean", "std", "data") if self._is(n, str)
        ]
        numbers = [self.mpp, self.threshold, self.score_floor, *self.mean, *self.std]
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
            bad.append("numbers")
        if not all(isinstance(name, str) for name in self.class_names):
            bad.append("class_names")
        if not (self.class_rule is None or self._is("class_rule", dict)):
            bad.append("class_rule")
        if not (self.calibration is None or self._is("calibration", dict)):
            bad.append("calibration")
        if not (self.lesson is None or self._is("lesson", dict)):
            bad.append("lesson")
        if bad:
            raise TypeError(", ".join(bad))

    def _is(self, name: str, kind: type) -> bool:
        return isinstance(getattr(self, name), kind)

    def _check(self) -> None:
        bad = []
        if self.schema != SCHEMA:
            bad.append(f"schema {self.schema} (this version reads {SCHEMA})")
        if self.task not in TASKS:
            bad.append(f"task {self.task!r:.40} (this version knows {', '.join(TASKS)})")
        if self.task != DETECT and (self.class_rule or self.calibration):
            bad.append(f"a class rule or a calibration of scores in a model to {self.task}")
        if self.lesson is not None:
            own = tuple(self.lesson.get("model_classes") or ())
            if self.task != DETECT or self.class_rule or not own:
                bad.append("a lesson of a model without classes of its own")
            elif self.class_names[: len(own)] != own:
                bad.append("a lesson whose model_classes are not the first of class_names")
        if not self.class_names or len(self.class_names) != len(self.class_colors):
            bad.append("class_names and class_colors of different or zero length")
        if not 0.1 <= self.mpp <= 2.0:
            bad.append(f"mpp {self.mpp} (0.1..2.0)")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std, default=0) <= 0:
            bad.append("mean or std not three numbers, std > 0")
        if not 0 < self.score_floor <= self.threshold < 1:
            bad.append(f"thresholds {self.score_floor}, {self.threshold}")
        if len(self.weights_sha256) != 64 or not set(self.weights_sha256) <= set(hexdigits):
            bad.append("weights_sha256 not 64 hex digits")
        try:
            Calibration.from_dict(self.calibration)
        except DataError as error:
            bad.append(f"calibration: {error.found} ({error.expected})")
        if bad:
            raise ModelError(
                f"The card of model {self.name!r} is not valid.",
                expected="a card as docs/models.md describes",
                found="; ".join(bad),
                remedy="take the model folder again from its source",
            )

    def calibrated(self, calibration: Calibration) -> ModelCard:
        """The card with one more calibration of its scores.

        Threshold and floor move with the scores, so that the model finds the very same cells as
        before. A calibration that is there already and the new one become one.
        """
        before = Calibration.from_dict(self.calibration)
        floor, threshold = calibration.score([self.score_floor, self.threshold]).tolist()
        both = calibration.after(before).to_dict()
        return dataclasses.replace(self, calibration=both, score_floor=floor, threshold=threshold)

    def to_json(self) -> str:
        """The card as indented JSON; a detector's is one that earlier versions read as well."""
        values = dataclasses.asdict(self)
        if self.task == DETECT:
            del values["task"]
        if self.lesson is None:
            del values["lesson"]
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def read_card(folder: str | Path) -> ModelCard:
    """Read and check ``card.json`` of a model folder; `ModelError` when it cannot be used."""
    path = Path(folder) / "card.json"
    remedy = "point to a folder that holds card.json and weights.safetensors"
    try:
        size = path.stat().st_size
        if size > MAX_CARD_BYTES:
            raise ModelError(
                f"{path.name} is too large.",
                expected=f"at most {MAX_CARD_BYTES} bytes",
                found=f"{size} bytes",
                remedy=remedy,
            )
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"No readable model card in {Path(folder).name!r}.",
            expected="a JSON file card.json",
            found=type(error).__name__ + ": " + str(error)[:200],
            remedy=remedy,
        ) from error
    return _from_raw(raw, Path(folder).name)


def write_card(folder: str | Path, card: ModelCard) -> Path:
    """Write ``card.json`` of a model folder, whole or not at all; returns its path.

    Raises `ModelError` when the folder cannot be written to; the old card is then unharmed.
    """
    path = Path(folder) / "card.json"
    part = path.with_name("card.json.part")
    try:
        part.write_text(card.to_json(), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ModelError(
            f"The card of model {card.name!r} cannot be written.",
            expected=f"a folder to write into: {folder}",
            found=error.strerror or type(error).__name__,
            remedy="copy the model to a folder of your own, or change its permissions",
        ) from error
    return path


def _from_raw(raw: Any, name: str) -> ModelCard:
    fields = {f.name: f for f in dataclasses.fields(ModelCard)}
    found = set(raw) if isinstance(raw, dict) else set()
    needed = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
    if not needed <= found <= set(fields):
        raise ModelError(
            f"The card of model {name!r} has the wrong keys.",
            expected=", ".join(sorted(fields)),
            found=f"missing {sorted(needed - found)}, unknown {sorted(found - set(fields))[:10]}",
            remedy="take the model folder again from its source",
        )
    try:
        return ModelCard(**raw)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"The card of model {name!r} holds values of the wrong type.",
            expected="values as docs/models.md describes",
            found=str(error)[:200],
            remedy="take the model folder again from its source",
        ) from error
