"""What CellDETR is trained on: places always, extents where known, classes where known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_celldetr.nets.celldetr import OFFSET_PX, CellDETR, Detected, Encoded
from napari_celldetr.nets.matching import MatchCosts, Targets, generalized_iou, match
from napari_celldetr.nets.slots import NUCLEUS_PX, clamp_boxes, pad_boxes, pad_rows

Pairs = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses. Defaults are the paper's; `pixel()` suits heatmap queries."""

    objectness: float = 2.0
    centre: float = 5.0
    size: float = 5.0
    giou: float = 2.0
    classes: float = 0.2
    heat: float = 1.0
    dense: float = 1.0
    smoothing: float = 0.0

    @classmethod
    def pixel(cls) -> LossWeights:
        """Weights for pixel geometry: centre in px / 4, size as |log|."""
        return cls(4.0, 1.0, 0.25, 0.0, 1.0, 1.0, 1.0, 0.05)


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
    """

    weights: LossWeights
    costs: MatchCosts
    class_weights: Tensor | None = None
    match_layers: bool = True
    heat_sigma: float = 1.5

    @classmethod
    def for_model(cls, model: CellDETR, class_weights: Tensor | None = None) -> Criterion:
        """The losses that fit the model's geometry."""
        if model.config.geometry == "pixel":
            return cls(LossWeights.pixel(), MatchCosts.pixel(), class_weights, match_layers=False)
        return cls(LossWeights(), MatchCosts(), class_weights)

    def __call__(
        self, model: CellDETR, image: Tensor, targets: list[Targets]
    ) -> tuple[Tensor, dict[str, float]]:
        """Total loss of a normalised batch (B, 3, H, W), and its parts for the log."""
        encoded, detected = model(image)
        # Sampling, matching and losses in float32, whatever autocast does to convolutions.
        with torch.autocast(image.device.type, enabled=False):
            parts = self._parts(model, encoded, detected, targets)
        total = torch.stack(list(parts.values())).sum()
        return total, {k: float(v.detach()) for k, v in parts.items()}

    def _parts(
        self, model: CellDETR, encoded: Encoded, detected: Detected, targets: list[Targets]
    ) -> dict[str, Tensor]:
        usable = usable_slots(detected, targets, encoded.image)
        pairs = self._match(detected.logits[-1], detected.boxes[-1], targets, encoded, usable)
        parts: dict[str, Tensor] = {}
        last = len(detected.logits) - 1
        for i, (logits, boxes) in enumerate(zip(detected.logits, detected.boxes, strict=True)):
            own = pairs
            if self.match_layers and i < last:
                own = self._match(logits, boxes, targets, encoded, usable)
            self._add(parts, self._detection(logits, boxes, targets, own, usable, encoded))
        if detected.queries.proposals is not None:
            logits, boxes = detected.queries.proposals
            every = torch.ones_like(logits, dtype=torch.bool)
            own = self._match(logits, boxes, targets, encoded, every)
            self._add(parts, self._detection(logits, boxes, targets, own, every, encoded))
        if encoded.heat is not None:
            parts["heat"] = self.weights.heat * heat_loss(
                encoded.heat, targets, encoded.image, sigma=self.heat_sigma
            )
            parts["dense"] = self.weights.dense * self._dense(model, encoded, targets)
        parts["class"] = self.weights.classes * self._classes(
            model, encoded, detected, targets, pairs, usable
        )
        return parts

    @staticmethod
    def _add(parts: dict[str, Tensor], more: dict[str, Tensor]) -> None:
        for name, value in more.items():
            parts[name] = parts[name] + value if name in parts else value

    def _match(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: list[Targets],
        encoded: Encoded,
        usable: Tensor,
    ) -> Pairs:
        return [
            match(logits[i], boxes[i], t, encoded.image, costs=self.costs, usable=usable[i])
            for i, t in enumerate(targets)
        ]

    def _detection(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: list[Targets],
        pairs: Pairs,
        usable: Tensor,
        encoded: Encoded,
    ) -> dict[str, Tensor]:
        count = max(sum(len(t) for t in targets), 1)
        wanted = torch.zeros_like(logits)
        for i, (queries, _) in enumerate(pairs):
            wanted[i, queries] = 1.0
        focal = focal_loss(logits, wanted)[usable].sum() / count
        found = torch.cat([boxes[i, q] for i, (q, _) in enumerate(pairs)])
        true = torch.cat(
            [t.boxes(encoded.image)[c] for t, (_, c) in zip(targets, pairs, strict=True)]
        )
        parts = {"objectness": self.weights.objectness * focal}
        parts.update(self._boxes(found, true, encoded.image))
        return parts

    def _boxes(self, found: Tensor, true: Tensor, image: tuple[int, int]) -> dict[str, Tensor]:
        count = max(len(found), 1)
        side = found.new_tensor([image[1], image[0]])
        pixel = self.costs.centre_px is not None
        unit = side / OFFSET_PX if pixel else torch.ones_like(side)
        centre = ((found[:, :2] - true[:, :2]).abs() * unit).sum() / count
        known = torch.isfinite(true).all(-1)
        extents = max(int(known.sum()), 1)
        a, b = found[known], true[known]
        if pixel:
            # Sizes as ratios: a nucleus twice too large is as wrong as one half too small.
            gap = (a[:, 2:].clamp(min=1e-6).log() - b[:, 2:].clamp(min=1e-6).log()).abs()
        else:
            gap = (a[:, 2:] - b[:, 2:]).abs()
        parts = {
            "centre": self.weights.centre * centre,
            "size": self.weights.size * gap.sum() / extents,
        }
        if self.weights.giou:
            parts["giou"] = self.weights.giou * (1 - generalized_iou(a, b)).sum() / extents
        return parts

    def _dense(self, model: CellDETR, encoded: Encoded, targets: list[Targets]) -> Tensor:
        # Five places per cell, so that neighbours of the centre learn the class as well.
        side = encoded.memory.new_tensor([encoded.image[1], encoded.image[0]])
        shifts = torch.tensor([[0, 0], [2, 0], [-2, 0], [0, 2], [0, -2]], device=side.device)
        losses = []
        for i, target in enumerate(targets):
            known = target.class_ids >= 0
            if not bool(known.any()):
                continue
            xy = (target.centres[known][:, None] + shifts[None]).flatten(0, 1) / side
            one = Encoded(
                encoded.memory[i : i + 1],
                encoded.shapes,
                encoded.image,
                encoded.tokens,
                class_map=None if encoded.class_map is None else encoded.class_map[i : i + 1],
            )
            logits = model.class_at(one, xy[None])[0]
            losses.append((logits, target.class_ids[known].repeat_interleave(5)))
        return self._cross_entropy(losses, encoded)

    def _cross_entropy(self, pairs: list[tuple[Tensor, Tensor]], encoded: Encoded) -> Tensor:
        if not pairs:
            return encoded.memory.sum() * 0.0
        logits = torch.cat([p[0] for p in pairs]).float()
        truth = torch.cat([p[1] for p in pairs])
        return F.cross_entropy(
            logits, truth, weight=self.class_weights, label_smoothing=self.weights.smoothing
        )

    def _classes(
        self,
        model: CellDETR,
        encoded: Encoded,
        detected: Detected,
        targets: list[Targets],
        pairs: Pairs,
        usable: Tensor,
    ) -> Tensor:
        if model.config.class_target == "all" and model.config.mode == "sequential":
            return self._classes_of_all(model, encoded, detected, targets, pairs, usable)
        boxes, features, truth = _representation_input(model, encoded, detected, targets, pairs)
        slots = max((len(b) for b in boxes), default=0)
        if slots == 0:
            return encoded.memory.sum() * 0.0
        padded, padding = pad_boxes(boxes, slots)
        shown = None if features is None else pad_rows(features, slots)
        out = model.represent(encoded, padded, padding=padding, features=shown)
        loss = encoded.memory.sum() * 0.0
        for logits in out.logits:
            known = [
                (logits[i, : len(t)][t >= 0], t[t >= 0])
                for i, t in enumerate(truth)
                if bool((t >= 0).any())
            ]
            if model.config.class_target == "all":
                loss = loss + self._sigmoid_classes(known, encoded)
            else:
                loss = loss + self._cross_entropy(known, encoded)
        return loss

    def _sigmoid_classes(self, pairs: list[tuple[Tensor, Tensor]], encoded: Encoded) -> Tensor:
        if not pairs:
            return encoded.memory.sum() * 0.0
        logits = torch.cat([p[0] for p in pairs])
        truth = torch.cat([p[1] for p in pairs])
        wanted = F.one_hot(truth, logits.shape[-1]).to(logits.dtype)
        return focal_loss(logits, wanted).sum() / max(len(truth), 1)

    def _classes_of_all(
        self,
        model: CellDETR,
        encoded: Encoded,
        detected: Detected,
        targets: list[Targets],
        pairs: Pairs,
        usable: Tensor,
    ) -> Tensor:
        out = model.represent(
            encoded, detected.boxes[-1], padding=~usable, features=detected.features
        )
        wanted = torch.zeros_like(out.logits[-1])
        counted = usable[..., None].expand_as(wanted).clone()
        cells = 0
        for i, (queries, matched) in enumerate(pairs):
            ids = targets[i].class_ids[matched]
            counted[i, queries[ids < 0]] = False
            wanted[i, queries[ids >= 0], ids[ids >= 0]] = 1.0
            cells += int((ids >= 0).sum())
        losses = [focal_loss(logits, wanted)[counted].sum() for logits in out.logits]
        return torch.stack(losses).sum() / max(cells, 1)


def _representation_input(
    model: CellDETR, encoded: Encoded, detected: Detected, targets: list[Targets], pairs: Pairs
) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor]]:
    # Boxes, (coupled) features and class ids per image of the cells to describe.
    boxes, features, truth = [], [], []
    for i, (queries, cells) in enumerate(pairs):
        found = detected.boxes[-1][i, queries].detach()
        ids = targets[i].class_ids
        if model.config.mode == "parallel" and model.config.decoupled:
            # Every annotated cell, found or not, in its own box.
            found = _annotated(found, cells, targets[i], encoded.image)
            cells = torch.arange(len(ids), device=cells.device)
        elif model.config.mode == "parallel":
            true = targets[i].boxes(encoded.image)[cells]
            found = torch.where(torch.isfinite(true), true, found)
        boxes.append(clamp_boxes(found, encoded.image))
        features.append(detected.features[i, queries])
        truth.append(ids[cells])
    return boxes, None if model.config.decoupled else features, truth


def _annotated(found: Tensor, cells: Tensor, target: Targets, image: tuple[int, int]) -> Tensor:
    # Annotated boxes; a cell without extent takes the matched query's, else a typical size.
    true = target.boxes(image)
    side = true.new_tensor([image[1], image[0]])
    size = (NUCLEUS_PX / side).expand(len(true), 2).clone()
    size[cells] = found[:, 2:].to(size.dtype)
    return torch.cat((true[:, :2], torch.where(torch.isfinite(true[:, 2:]), true[:, 2:], size)), -1)


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


def focal_loss(logits: Tensor, wanted: Tensor, *, alpha: float = 0.25, gamma: float = 2) -> Tensor:
    """Sigmoid focal loss per element (Lin et al. 2017)."""
    p = logits.sigmoid()
    loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    p_true = p * wanted + (1 - p) * (1 - wanted)
    weight = alpha * wanted + (1 - alpha) * (1 - wanted)
    return weight * (1 - p_true) ** gamma * loss


def heat_target(shape: tuple[int, int], centres: Tensor, sigma: float) -> Tensor:
    """Bumps of height 1 at `centres` (N, 2), x y in heatmap pixels -> (H, W).

    The pixel that holds a centre is exactly 1, as the loss needs (Zhou et al. 2019).
    """
    height, width = shape
    target = centres.new_zeros(shape)
    radius = int(3 * sigma + 0.5)
    span = torch.arange(-radius, radius + 1, device=centres.device)
    dy, dx = torch.meshgrid(span, span, indexing="ij")
    bump = torch.exp(-(dx**2 + dy**2) / (2 * sigma**2))
    x = centres[:, 0].long()[:, None, None] + dx
    y = centres[:, 1].long()[:, None, None] + dy
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y * width + x)[inside]
    value = bump.expand_as(x)[inside]
    return target.flatten().scatter_reduce(0, index, value, "amax").view(shape)


def heat_loss(
    heat: Tensor, targets: list[Targets], image: tuple[int, int], *, sigma: float
) -> Tensor:
    """Centre heatmap focal loss (Zhou et al., Objects as Points, eq. 1), padding left out."""
    _, _, height, width = heat.shape
    total = heat.new_zeros(())
    count = 0
    for i, target in enumerate(targets):
        logits = heat[i, 0]
        valid = None
        if target.valid is not None:
            valid = F.interpolate(target.valid[None, None].float(), size=(height, width))[0, 0] > 0
        wanted = heat_target((height, width), target.centres * (height / image[0]), sigma)
        p = logits.sigmoid()
        hit = -F.logsigmoid(logits) * (1 - p) ** 2
        miss = -F.logsigmoid(-logits) * p**2 * (1 - wanted) ** 4
        loss = torch.where(wanted >= 1, hit, miss)
        total = total + (loss if valid is None else loss[valid]).sum()
        count += len(target)
    return total / max(count, 1)
