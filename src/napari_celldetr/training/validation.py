"""Scores on annotated fields while training: fields whose groups are never trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from napari_celldetr.core.detections import Detections
from napari_celldetr.core.errors import DataError
from napari_celldetr.core.metrics import PointField, point_scores, threshold_curve
from napari_celldetr.core.predictor import Predictor
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.slots import clamp_boxes
from napari_celldetr.training.config import TrainConfig
from napari_celldetr.training.datasets import Field, resample
from napari_celldetr.training.evaluate import found_cells, point_field, where_labels_speak
from napari_celldetr.training.pools import Pool, load_fields
from napari_celldetr.training.specs import parse_data

RADIUS_UM = 3.0
"""A cell found within it counts, in µm: 6 px at 0.5 µm/px."""


class Judgement(Protocol):
    """What a validation found, whatever the task."""

    @property
    def overall(self) -> float:
        """What the best weights are chosen by; more is better."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the log, see `napari_celldetr.training.page.table`."""
        ...


@dataclass(frozen=True)
class Scores:
    """Point scores of one validation, 0..1; None where nothing could be measured.

    `detection`, `precision` and `recall` are whatever the class; `classes` maps a class to its F1
    and `class_mean` is their mean. `given` marks scores of classes at annotated places, where
    the network does not detect: `detection` is None then. `threshold` is the score at which
    detection F1 is highest on these very fields, so a little optimistic; a network that has only
    begun to learn is never as sure as a finished one. `seconds` is the network's time for
    `megapixels`.
    """

    detection: float | None
    precision: float | None
    recall: float | None
    classes: dict[str, float | None]
    class_mean: float | None
    cells: int
    fields: int
    given: bool
    threshold: float | None
    seconds: float
    megapixels: float

    @property
    def overall(self) -> float:
        """What the best weights are chosen by: mean of detection F1 and class mean, as far known.

        0 where nothing is known.
        """
        known = [v for v in (self.detection, self.class_mean) if v is not None]
        return sum(known) / len(known) if known else 0.0

    @property
    def ms_per_mpx(self) -> float:
        """The network's time, ms per million px."""
        return 1000 * self.seconds / max(self.megapixels, 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the log."""
        return asdict(self) | {"overall": self.overall}


@dataclass(frozen=True)
class Validation:
    """Fields to score a network on, at the model's µm/px."""

    fields: tuple[Field, ...]
    class_names: tuple[str, ...]
    mpp: float

    def score(self, network: nn.Module, card: ModelCard, device: str) -> Job[Scores]:
        """Score a network as it would be used; one `Progress` per field.

        A network that does not detect is asked for the classes of the annotated cells.
        """
        given = not card.training.get("detects", True)
        predictor = as_predictor(network, card, device)
        items: list[tuple[Field, Detections]] = []
        classed: list[PointField] = []
        seconds, pixels = 0.0, 0
        for i, field in enumerate(self.fields):
            started = time.perf_counter()
            if given:
                classed.append(_given(network, card, field, device))
            else:
                items.append(where_labels_speak(field, found_cells(predictor, field)))
            seconds += time.perf_counter() - started
            pixels += field.image.shape[0] * field.image.shape[1]
            yield Progress(i + 1, len(self.fields), f"validating, field {i + 1}")
        threshold = None
        if not given:
            threshold = self._threshold(items, card)
            classed = [point_field(field, found.above(threshold)) for field, found in items]
        return self._scores(classed, seconds, pixels / 1e6, threshold)

    def _threshold(self, items: list[tuple[Field, Detections]], card: ModelCard) -> float:
        scored = [replace(point_field(f, d), scores=d.scores) for f, d in items]
        best, _ = threshold_curve(scored, RADIUS_UM / self.mpp).best()
        return best if best == best else card.threshold

    def _scores(
        self,
        items: list[PointField],
        seconds: float,
        megapixels: float,
        threshold: float | None,
    ) -> Scores:
        given = threshold is None
        labelled = any((f.class_ids >= 0).any() for f in self.fields)
        names = self.class_names if labelled and len(self.class_names) > 1 else ()
        found = point_scores(items, RADIUS_UM / self.mpp, class_names=names, bootstrap=0)
        rate = found.detection
        return Scores(
            None if given else _known(rate.f1),
            None if given else _known(rate.precision),
            None if given else _known(rate.recall),
            {c.name: _known(c.f1) for c in found.classes},
            _known(found.class_mean) if names else None,
            int(sum(len(f) for f in self.fields)),
            len(self.fields),
            given,
            threshold,
            round(seconds, 3),
            round(megapixels, 4),
        )


def _known(value: float) -> float | None:
    return round(float(value), 5) if value == value else None


def as_predictor(network: nn.Module, card: ModelCard, device: str) -> Predictor:
    """The network as it is used: in float32."""
    if isinstance(network, CellDETR):
        return CellDETRPredictor(network, card, device=device)
    made: Predictor = network.make_predictor(card, device=device, flips=False)  # type: ignore[operator]
    return made


@torch.inference_mode()
def _given(network: nn.Module, card: ModelCard, field: Field, device: str) -> PointField:
    # The representation decoder's classes in annotated boxes; typical ones where only a point is.
    assert isinstance(network, CellDETR)
    mean = torch.tensor(card.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(card.std, device=device).view(1, 3, 1, 1) * 255
    image = torch.from_numpy(field.image.copy()).to(device).permute(2, 0, 1)[None].float()
    down, right = (-image.shape[-2] % 64, -image.shape[-1] % 64)
    image = torch.nn.functional.pad((image - mean) / std, (0, right, 0, down), mode="replicate")
    sizes = np.where(np.isfinite(field.sizes), field.sizes, network.config.nucleus_px)
    boxes = torch.from_numpy(np.concatenate((field.points, sizes), 1)).float().to(device)
    side = boxes.new_tensor([image.shape[-1], image.shape[-2]]).repeat(2)
    encoded = network.encode(image)
    chosen = clamp_boxes(boxes / side, encoded.image, network.config.nucleus_px)[None]
    logits = network.represent(encoded, chosen).logits[-1][0]
    # Each cell is compared with itself, however near its neighbours are.
    rows = np.column_stack((np.arange(len(field)) * 1e4, np.zeros(len(field))))
    return PointField(
        rows,
        rows,
        field.class_ids.astype(np.int64),
        logits.argmax(-1).cpu().numpy().astype(np.int64),
        field.name,
    )


def load_validation(config: TrainConfig, pools: Sequence[Pool]) -> Validation | None:
    """The fields that `config.validation` names; None when it names none.

    Fields of a group that is trained on are left out, and so are those that are not annotated
    throughout: a cell found there may well be right.

    Raises `DataError` when none are left.
    """
    if not config.validation.strip():
        return None
    trained = {(p.spec.folder.resolve(), f.group) for p in pools for f in p.fields}
    split = None if config.validation_split == "all" else config.validation_split
    wanted = config.validated_groups
    chosen, groups = [], set()
    for spec in parse_data(config.validation):
        for field in load_fields(spec, class_names=config.data_classes, split=split):
            groups.add(field.group)
            unseen = (spec.folder.resolve(), field.group) not in trained
            if field.complete and unseen and (not wanted or field.group in wanted):
                chosen.append(resample(field, config.mpp))
    if not chosen or wanted - {f.group for f in chosen}:
        raise DataError(
            "The fields asked for cannot be validated on.",
            expected="fields annotated throughout, of groups that are not trained on"
            + (f": {', '.join(sorted(wanted))}" if wanted else ""),
            found=f"{len(chosen)} of the groups {', '.join(sorted(groups)[:20]) or '(none)'}",
            remedy="hold groups out of the training with --hold-out, or name other data sets",
        )
    return Validation(tuple(chosen), config.class_names, config.mpp)
