"""What CellDETR is trained on: places always, extents, classes and compositions where known."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_celldetr.core.errors import ConfigError
from napari_celldetr.nets.celldetr import (
    CellDETR,
    CellDETRConfig,
    Detected,
    Encoded,
    sample_features,
)
from napari_celldetr.nets.class_slots import (
    NOTHING,
    UNKNOWN,
    BoxSource,
    ClassSlots,
    annotated_slots,
    disturb,
    matched_slots,
    query_slots,
)
from napari_celldetr.nets.losses import (
    box_losses,
    class_cross_entropy,
    composition_divergence,
    focal_loss,
    heat_loss,
    heat_targets,
    trust,
    wanted_classes,
)
from napari_celldetr.nets.matching import Cells, MatchCosts, Pairs, Targets, match_all
from napari_celldetr.nets.noise import BoxNoise
from napari_celldetr.nets.slots import NUCLEUS_PX, Slots, clamp_boxes

CELL_SCORE = 0.4
"""Detections above this score are the cells of a field's composition, as at inference."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses. Defaults are the paper's; `pixel()` suits heatmap queries.

    `smoothing` and `class_gamma` shape the class cross-entropy (label smoothing, focal γ);
    `soft_labels` is the say of a teacher's class probabilities where targets have them.
    """

    objectness: float = 2.0
    centre: float = 5.0
    size: float = 5.0
    giou: float = 2.0
    classes: float = 0.2
    heat: float = 1.0
    dense: float = 1.0
    smoothing: float = 0.0
    composition: float = 1.0
    class_gamma: float = 0.0
    soft_labels: float = 0.5

    @classmethod
    def pixel(cls) -> LossWeights:
        """Weights for pixel geometry: centre in px / 4, size as |log|."""
        return cls(objectness=4.0, centre=1.0, size=0.25, giou=0.0, classes=1.0, smoothing=0.05)


@dataclass(frozen=True)
class Criterion:
    """All losses of one batch.

    Parameters
    ----------
    weights : LossWeights
    costs : MatchCosts
    class_weights : (K,) tensor or None
        Weight of each class in the cross-entropy.
    match_layers : bool
        Match every layer's queries anew, as Deformable DETR; else all take the last layer's
        match, which is cheaper and as good where anchors hardly move.
    heat_sigma : float
        Spread of a cell's bump in the heatmap target, in heatmap pixels.
    boxes : str
        What the representation decoder of a network in parallel mode is shown: annotated boxes
        (``true``), disturbed ones (``noised``), or disturbed ones and others so far off that they
        hold no cell (``positive_negative``; classes by sigmoid only).
    noise : BoxNoise
        How boxes are disturbed.
    soft_negatives : bool
        Where the network itself (or the teacher) is sure of a cell that nobody annotated, "no
        cell" counts little (`losses.trust`), unless the target is `exhaustive`. For fields in
        which cells may have been missed.
    soft_radius : float
        Within so many px of an annotated cell negatives keep their full weight: what else is
        found there is a double.
    """

    weights: LossWeights
    costs: MatchCosts
    class_weights: Tensor | None = None
    match_layers: bool = True
    heat_sigma: float = 1.5
    boxes: BoxSource = "true"
    noise: BoxNoise = field(default_factory=BoxNoise)
    soft_negatives: bool = False
    soft_radius: float = NUCLEUS_PX

    @classmethod
    def for_model(
        cls, model: CellDETR, class_weights: Tensor | None = None, **changes: Any
    ) -> Criterion:
        """The losses that fit the model's geometry; `changes` are fields of this class."""
        if model.config.geometry == "pixel":
            nucleus = model.config.nucleus_px
            costs = MatchCosts.pixel(nucleus)
            made = cls(LossWeights.pixel(), costs, class_weights, match_layers=False)
            made = replace(made, soft_radius=nucleus)
        else:
            made = cls(LossWeights(), MatchCosts(), class_weights)
        made = replace(made, **changes)
        made.check(model.config)
        return made

    def check(self, config: CellDETRConfig) -> None:
        """Raise `ConfigError` where these losses make no sense for a network."""
        wrong = []
        if self.boxes != "true" and config.mode != "parallel":
            wrong.append(f"boxes {self.boxes!r} in {config.mode} mode, which shows its own boxes")
        if self.boxes == "positive_negative" and config.class_target != "all":
            wrong.append("negative boxes for a softmax over classes, which has no 'none of them'")
        if self.boxes == "positive_negative" and not config.decoupled:
            wrong.append("negative boxes with the features of the queries that found the cells")
        if wrong:
            raise ConfigError(
                "These losses do not fit the network.",
                expected="disturbed boxes in parallel mode; negative ones only for a decoupled "
                "network with class_target 'all'",
                found="; ".join(wrong),
                remedy="take boxes 'true', or change the network's settings",
            )

    def __call__(
        self,
        model: CellDETR,
        image: Tensor,
        targets: list[Targets],
        teacher: Encoded | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Total loss of a normalised batch (B, 3, H, W), and its parts for the log.

        With `soft_negatives`, `teacher` may say where there are cells: what another network (an
        average of this one, say) makes of the same batch, with a heatmap.
        """
        self.check(model.config)
        encoded, detected = model(image)
        return self.of(model, encoded, detected, targets, teacher)

    def of(
        self,
        model: CellDETR,
        encoded: Encoded,
        detected: Detected,
        targets: list[Targets],
        teacher: Encoded | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """The same of a batch that the model has encoded and searched already."""
        # Sampling, matching and losses in float32, whatever autocast does to convolutions.
        with torch.autocast(encoded.memory.device.type, enabled=False):
            losses = _Losses(self, model, encoded, detected, targets, _sure_heat(teacher))
            parts = losses.parts()
        total = torch.stack(list(parts.values())).sum()
        return total, {k: float(v.detach()) for k, v in parts.items()}


def _sure_heat(teacher: Encoded | None) -> Tensor | None:
    if teacher is None:
        return None
    if teacher.heat is None:
        raise ConfigError(
            "The teacher does not say where cells are.",
            expected="a network with a heatmap",
            found="one without",
            remedy="train without a teacher",
        )
    return teacher.heat.detach().float()


class _Losses:
    """One batch on its way to its losses."""

    def __init__(
        self,
        criterion: Criterion,
        model: CellDETR,
        encoded: Encoded,
        detected: Detected,
        targets: list[Targets],
        sure: Tensor | None,
    ) -> None:
        self.criterion, self.weights, self.model = criterion, criterion.weights, model
        self.encoded, self.detected, self.targets = encoded, detected, targets
        self.sure = sure
        self.cells = Cells.of(targets, encoded.image)
        self.usable = usable_slots(detected, targets, encoded.image)
        self.side = self.cells.centres.new_tensor([encoded.image[1], encoded.image[0]])

    def parts(self) -> dict[str, Tensor]:
        """Every loss by name, weighted."""
        criterion, detected = self.criterion, self.detected
        logits, boxes = detected.logits, detected.boxes
        pairs = self._match(logits[-1], boxes[-1], self.usable)
        parts: dict[str, Tensor] = {}
        # Without a decoder there is nothing to learn but heatmap and class map.
        learned = zip(logits, boxes, strict=True) if self.model.config.detection_layers else ()
        for i, (score, box) in enumerate(learned):
            anew = criterion.match_layers and i < len(logits) - 1
            own = self._match(score, box, self.usable) if anew else pairs
            self._add_detection(parts, score, box, own, self.usable)
        if detected.queries.proposals is not None:
            score, box = detected.queries.proposals
            every = torch.ones_like(score, dtype=torch.bool)
            self._add_detection(parts, score, box, self._match(score, box, every), every)
        if self.encoded.heat is not None:
            parts["heat"] = self.weights.heat * self._heat(self.encoded.heat)
            parts["dense"] = self.weights.dense * self._dense()
        if self.model.config.representation_layers:
            parts["class"] = self.weights.classes * self._classes(pairs)
        if any(t.composition is not None for t in self.targets):
            parts["composition"] = self.weights.composition * self._composition()
        return parts

    # --- places and extents ------------------------------------------------------------------

    def _match(self, logits: Tensor, boxes: Tensor, usable: Tensor) -> Pairs:
        return match_all(
            logits,
            boxes,
            self.targets,
            self.encoded.image,
            costs=self.criterion.costs,
            usable=usable,
        )

    def _add_detection(
        self, parts: dict[str, Tensor], logits: Tensor, boxes: Tensor, pairs: Pairs, usable: Tensor
    ) -> None:
        wanted = torch.zeros_like(logits)
        wanted[pairs.image, pairs.query] = 1.0
        loss = focal_loss(logits, wanted)
        weight = self._trust(logits, boxes)
        if weight is not None:
            loss = torch.where(wanted > 0, loss, loss * weight)
        more = {"objectness": loss[usable].sum() / max(len(self.cells), 1)}
        found, true = boxes[pairs.image, pairs.query], self.cells.boxes[pairs.cell]
        pixel = self.criterion.costs.centre_px is not None
        unit = self.side / self.model.config.offset_px if pixel else torch.ones_like(self.side)
        giou = self.weights.giou > 0
        more |= box_losses(found, true, unit, log_size=pixel, giou=giou)
        for name, value in more.items():
            parts[name] = parts.get(name, 0.0) + getattr(self.weights, name) * value

    def _heat(self, heat: Tensor) -> Tensor:
        maps = heat[:, 0]
        shape = (len(maps), maps.shape[1], maps.shape[2])
        scale = shape[1] / self.encoded.image[0]
        centres = self.cells.centres * scale
        wanted = heat_targets(shape, self.cells.image, centres, self.criterion.heat_sigma)
        weight = self._valid_places(shape)
        if self.criterion.soft_negatives:
            seen = (maps.detach() if self.sure is None else self.sure[:, 0]).sigmoid()
            reach = self.criterion.soft_radius * scale / 3
            near = heat_targets(shape, self.cells.image, centres, reach) > 0
            believed = torch.where(near | self._exhaustive()[:, None, None], 1.0, trust(seen))
            weight = believed if weight is None else believed * weight
        return heat_loss(maps, wanted, weight) / max(len(self.cells), 1)

    def _valid_places(self, shape: tuple[int, int, int]) -> Tensor | None:
        if all(t.valid is None for t in self.targets):
            return None
        every = torch.ones(self.encoded.image, dtype=torch.bool, device=self.side.device)
        valid = torch.stack([every if t.valid is None else t.valid for t in self.targets])
        return F.interpolate(valid[:, None].float(), size=shape[1:])[:, 0]

    def _exhaustive(self) -> Tensor:
        return torch.tensor([t.exhaustive for t in self.targets], device=self.side.device)

    def _trust(self, logits: Tensor, boxes: Tensor) -> Tensor | None:
        # (B, Q) weights of queries as negatives.
        if not self.criterion.soft_negatives:
            return None
        centres = boxes.detach()[..., :2]
        seen = logits.detach().sigmoid()
        if self.sure is not None:
            seen = sample_features(self.sure, centres)[..., 0].sigmoid()
        slots = Slots.of(self.cells.image, len(logits))
        cells = slots.fill(self.cells.centres, float("inf"))
        apart = torch.cdist(centres * self.side, cells)
        near = (apart <= self.criterion.soft_radius).any(-1)
        return torch.where(near | self._exhaustive()[:, None], 1.0, trust(seen))

    # --- classes -----------------------------------------------------------------------------

    def _dense(self) -> Tensor:
        # Five places per cell, so that neighbours of the centre learn the class as well.
        step = self.model.config.nucleus_px / 6
        shifts = step * self.side.new_tensor([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
        known = self.cells.class_ids >= 0
        if not bool(known.any()):
            return self.side.new_zeros(())
        owner = self.cells.image[known].repeat_interleave(len(shifts))
        xy = ((self.cells.centres[known][:, None] + shifts) / self.side).flatten(0, 1)
        slots = Slots.of(owner, len(self.targets))
        logits = self.model.class_at(self.encoded, slots.fill(xy, 0.5))[owner, slots.position]
        soft = self.cells.soft
        return self._cross_entropy(
            logits,
            self.cells.class_ids[known].repeat_interleave(len(shifts)),
            None if soft is None else soft[known].repeat_interleave(len(shifts), 0),
        )

    def _cross_entropy(self, logits: Tensor, truth: Tensor, soft: Tensor | None) -> Tensor:
        wanted = self._wanted(truth, logits.shape[-1], soft, smoothing=self.weights.smoothing)
        return class_cross_entropy(
            logits,
            truth,
            wanted,
            weight=self.criterion.class_weights,
            gamma=self.weights.class_gamma,
        )

    def _wanted(
        self, truth: Tensor, classes: int, soft: Tensor | None, *, smoothing: float = 0.0
    ) -> Tensor:
        share = self.weights.soft_labels
        return wanted_classes(truth, classes, smoothing=smoothing, soft=soft, share=share)

    def _slots(self, pairs: Pairs) -> ClassSlots:
        config, detected, image = self.model.config, self.detected, self.encoded.image
        if config.class_target == "all" and config.mode == "sequential":
            weight = self._trust(detected.logits[-1], detected.boxes[-1])
            return query_slots(detected, self.cells, pairs, usable=self.usable, weight=weight)
        if config.mode == "parallel" and config.decoupled:
            slots = annotated_slots(detected, self.cells, pairs, image, config.nucleus_px)
        else:
            slots = matched_slots(config, detected, self.cells, pairs, image)
        return disturb(
            slots,
            image,
            source=self.criterion.boxes,
            noise=self.criterion.noise,
            nucleus=config.nucleus_px,
        )

    def _classes(self, pairs: Pairs) -> Tensor:
        slots = self._slots(pairs)
        counted = slots.truth != UNKNOWN
        if not bool(counted.any()):
            return self.side.new_zeros(())
        out = self.model.represent(
            self.encoded,
            slots.boxes,
            padding=slots.padding,
            features=slots.features,
            mask=slots.mask,
        )
        one = self._sigmoid if self.model.config.class_target == "all" else self._softmax
        return torch.stack([one(logits, slots, counted) for logits in out.logits]).sum()

    def _softmax(self, logits: Tensor, slots: ClassSlots, counted: Tensor) -> Tensor:
        soft = None if slots.soft is None else slots.soft[counted]
        return self._cross_entropy(logits[counted], slots.truth[counted], soft)

    def _sigmoid(self, logits: Tensor, slots: ClassSlots, counted: Tensor) -> Tensor:
        cell = slots.truth >= 0
        wanted = torch.zeros_like(logits)
        soft = None if slots.soft is None else slots.soft[cell]
        wanted[cell] = self._wanted(slots.truth[cell], logits.shape[-1], soft)
        loss = focal_loss(logits, wanted)
        if slots.weight is not None:
            nothing = slots.truth == NOTHING
            loss = torch.where(nothing, slots.weight, 1.0)[..., None] * loss
        return loss[counted].sum() / cell.sum().clamp(min=1)

    def _composition(self) -> Tensor:
        rows = [i for i, t in enumerate(self.targets) if t.composition is not None]
        shares = torch.stack([s for t in self.targets if (s := t.composition) is not None])
        encoded, boxes = self.encoded.of(rows), self.detected.boxes[-1].detach()[rows]
        # Not `usable`: where nothing is annotated there are cells all the same.
        score = self.detected.logits[-1].detach()[rows].sigmoid()
        used = self.detected.queries.valid[rows] & (score > CELL_SCORE)
        if not bool(used.any()):
            return self.side.new_zeros(())
        boxes = clamp_boxes(boxes, encoded.image, self.model.config.nucleus_px)
        out = self.model.represent(
            encoded, boxes, padding=~used, features=self.detected.features[rows]
        )
        if self.model.config.class_target == "all":
            rates = [logits.sigmoid() for logits in out.logits]
            found = [r / r.sum(-1, keepdim=True).clamp(min=1e-6) for r in rates]
        else:
            found = [logits.softmax(-1) for logits in out.logits]
        if encoded.class_map is not None:
            found.append(self.model.class_at(encoded, boxes).softmax(-1))
        return torch.stack([composition_divergence(p, used, shares) for p in found]).sum()


def usable_slots(detected: Detected, targets: list[Targets], image: tuple[int, int]) -> Tensor:
    """(B, Q) bool: slots that hold a query whose anchor lies on image, not on padding."""
    usable = detected.queries.valid.clone()
    for i, target in enumerate(targets):
        if target.valid is None:
            continue
        x, y = detected.queries.references[i, :, :2].unbind(-1)
        column = (x * image[1]).long().clamp(0, image[1] - 1)
        row = (y * image[0]).long().clamp(0, image[0] - 1)
        usable[i] &= target.valid[row, column]
    return usable
