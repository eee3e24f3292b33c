"""Fine-tuning a detector on corrected tiles: the loop, which keeps what is best on guard tiles.

The backbone is frozen and its features are kept, so a step costs little. Every step learns from
corrected tiles and, where there are any, from a rehearsal sample of the old data and from the
model's own answers, each with its own backward pass, so that a person is never left waiting.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from napari_celldetr.core.errors import JobError
from napari_celldetr.core.metrics import PointScores, point_scores
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.nets.card import ModelCard
from napari_celldetr.nets.celldetr import CellDETR
from napari_celldetr.nets.criterion import Criterion
from napari_celldetr.nets.predictor import CellDETRPredictor
from napari_celldetr.nets.running import is_out_of_memory
from napari_celldetr.training.config import RECIPES
from napari_celldetr.training.evaluate import found_cells, point_field, where_labels_speak
from napari_celldetr.training.fields import Field
from napari_celldetr.training.finetune_cache import Batch, Seen
from napari_celldetr.training.finetune_config import FinetuneConfig
from napari_celldetr.training.finetune_keep import can_keep, keep_loss
from napari_celldetr.training.loop import SMALLEST_RATE, DivergedError
from napari_celldetr.training.start import OVERVIEW
from napari_celldetr.training.validation import RADIUS_UM

FROZEN = ("encoder.backbone", "encoder.pyramid", OVERVIEW)
"""Beginnings of the names of what never learns here."""
ADAPTERS = "encoder.adapters"
DENSE = ("encoder.heat_head", "encoder.class_head", ADAPTERS)
"""What learns at the rate of the heads; the rest does at the decoders'."""
WARMUP = 10
AVERAGE = 0.97
GUARD_CELLS = 20
"""With fewer cells held aside, their figures are told but decide nothing."""
PATIENCE = 3
"""Checks without a better figure after which the run ends."""
BOOTSTRAP = 500

_Loss = Callable[[Batch], Tensor]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What is learned from: crops of corrected tiles, of old data, and the model's own answers.

    `guard` are fields held aside, at the model's µm/px.
    """

    corrected: Sequence[Seen]
    rehearsal: Sequence[Seen] = ()
    own: Sequence[Seen] = ()
    guard: Sequence[Field] = ()


@dataclass(frozen=True, eq=False)
class Tuned:
    """The network as it came out, with its figures on the tiles held aside.

    `before` and `after` are None where nothing was held aside. `step` is the one that is kept,
    `steps` how many were done, `seconds` the time of all, `batch` the one that fitted.
    """

    model: CellDETR
    before: PointScores | None
    after: PointScores | None
    step: int
    steps: int
    seconds: float
    batch: int
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TuneProgress(Progress):
    """A step of fine-tuning: the mean of its latest losses, and the guard tiles' last figures."""

    loss: float | None = None
    guard: PointScores | None = None


def freeze(model: CellDETR) -> None:
    """Leave gradients to what learns in fine-tuning."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))


def tune(
    model: CellDETR, card: ModelCard, lessons: Lessons, config: FinetuneConfig, *, device: str
) -> Job[Tuned]:
    """Teach `model` (in place) what `lessons` hold; yields after every backward pass.

    The best network on the guard tiles is kept, the last one where these are too few to say.
    Of an interrupted job nothing stays. Raises `JobError` when the device has too little memory
    for a single crop or no step was better than the model as it was, and `DivergedError` when
    the loss stops being a number.
    """
    run = _Run(model.to(device), card, lessons, config, device)
    return (yield from run.all())


class _Run:
    """One fine-tuning on its way."""

    def __init__(
        self,
        model: CellDETR,
        card: ModelCard,
        lessons: Lessons,
        config: FinetuneConfig,
        device: str,
    ) -> None:
        self.model, self.card, self.lessons, self.config = model, card, lessons, config
        self.device, self.batch = device, config.batch
        freeze(model)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.before = copy.deepcopy(model).requires_grad_(False).eval()
        self.criterion = Criterion.for_model(model, class_weights(lessons, model).to(device))
        self.optimizer = torch.optim.AdamW(groups(model, config), betas=(0.9, 0.99))
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.rng = np.random.default_rng(config.seed)
        self.started = time.monotonic()
        self.losses: list[float] = []
        self.guard: PointScores | None = None

    def all(self) -> Job[Tuned]:
        """Check, learn, check again."""
        before = yield from self._check(0)
        best, best_step, after = before, 0, before
        state: Mapping[str, Tensor] = _copied(self.average)
        decides = before is not None and before.detection.n_truth >= GUARD_CELLS
        waited, done = 0, 0
        for done in range(1, self.config.steps + 1):
            yield from self._step(done)
            if done % self.config.guard_steps and done < self.config.steps:
                continue
            now = yield from self._check(done)
            better = not decides or overall(now) > overall(best) or best_step == 0
            if better:
                state, best, best_step, after, waited = _copied(self.average), now, done, now, 0
            else:
                waited += 1
            if waited >= PATIENCE:
                break
        if decides and overall(after) < overall(before):
            raise _no_help(before, after)
        self.average.load_state_dict(state)
        return Tuned(
            self.average,
            before,
            after,
            best_step,
            done,
            time.monotonic() - self.started,
            self.batch,
            tuple(self.losses),
        )

    def _shown(self, done: int, message: str = "", note: str = "") -> Progress:
        seconds = time.monotonic() - self.started
        loss = float(np.mean(self.losses[-10:])) if self.losses else None
        return TuneProgress(
            done,
            self.config.steps,
            message or self._words(loss),
            seconds=seconds,
            note=note,
            loss=loss,
            guard=self.guard,
        )

    def _words(self, loss: float | None) -> str:
        words = [] if loss is None else [f"loss {loss:.2f}"]
        words += [] if self.guard is None else [f"guard F1 {self.guard.f1:.2f}"]
        return ", ".join(words)

    # --- learning ----------------------------------------------------------------------------

    def _step(self, number: int) -> Iterator[Progress]:
        torch.manual_seed(self.config.seed * 1_000_003 + number)
        self.model.eval()
        self._set_rates(number)
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for crops, weight, loss in self._sources():
            yield self._shown(number - 1)
            total += self._backward(crops, weight, loss, number)
        learned = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(learned, RECIPES["small"].clip)
        if not math.isfinite(float(norm)):
            raise _diverged(number)
        self.optimizer.step()
        self._update_average(number)
        self.losses.append(total)
        yield self._shown(number)

    def _sources(self) -> Iterator[tuple[Sequence[Seen], float, _Loss]]:
        yield self.lessons.corrected, 1.0, self._labels
        if self.lessons.rehearsal and self.config.rehearsal:
            kept = self._kept if can_keep(self.model) else self._labels
            yield self.lessons.rehearsal, self.config.rehearsal, kept
        if self.lessons.own and self.config.own_answers:
            yield self.lessons.own, self.config.own_answers, self._labels

    def _backward(self, crops: Sequence[Seen], weight: float, loss: _Loss, number: int) -> float:
        while True:
            count = min(self.batch, len(crops))
            chosen = [crops[i] for i in self.rng.choice(len(crops), count, replace=False)]
            try:
                value = weight * loss(Batch.of(chosen, self.device))
                if not math.isfinite(float(value.detach())):
                    raise _diverged(number)
                value.backward()  # type: ignore[no-untyped-call]
                return float(value.detach())
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.batch == 1:
                    raise no_memory(self.device) from error
                # What half a backward pass left behind would count twice.
                self.optimizer.zero_grad(set_to_none=True)
                self.batch = max(self.batch // 2, 1)

    def _labels(self, batch: Batch) -> Tensor:
        encoded = self.model.encode_features(batch.features, batch.image)
        detected = self.model.detect(encoded)
        loss, _ = self.criterion.of(self.model, encoded, detected, batch.targets)
        return loss

    def _kept(self, batch: Batch) -> Tensor:
        return keep_loss(self.model, self.before, batch)

    def _set_rates(self, number: int) -> None:
        rise = min(1.0, number / WARMUP)
        fall = 0.5 * (1 + math.cos(math.pi * (number - 1) / self.config.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rise * max(fall, SMALLEST_RATE)

    @torch.no_grad()
    def _update_average(self, number: int) -> None:
        decay = min(AVERAGE, (1 + number) / (10 + number))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for mean, new in pairs:
            if new.requires_grad:
                mean.lerp_(new, 1 - decay)

    # --- the guard ---------------------------------------------------------------------------

    def _check(self, done: int) -> Job[PointScores | None]:
        if not self.lessons.guard:
            return None
        predictor = CellDETRPredictor(self.average, self.card, device=self.device)
        items = []
        for field in self.lessons.guard:
            found = found_cells(predictor, field).above(self.card.threshold)
            items.append(point_field(*where_labels_speak(field, found)))
            yield self._shown(done, "checking on squares held aside")
        self.guard = guard_scores(items, self.card)
        return self.guard


def guard_scores(items: Sequence[Any], card: ModelCard) -> PointScores:
    """Figures with intervals of cells found within 3 µm; classes where the network gives them."""
    names = () if card.class_rule or len(card.class_names) < 2 else card.class_names
    if not names or not any((item.ids()[0] >= 0).any() for item in items):
        return point_scores(items, RADIUS_UM / card.mpp, bootstrap=BOOTSTRAP)
    return point_scores(items, RADIUS_UM / card.mpp, class_names=names, bootstrap=BOOTSTRAP)


def overall(scores: PointScores | None) -> float:
    """What the best step is chosen by: mean of detection F1 and the class mean, as far known."""
    if scores is None:
        return 0.0
    known = [v for v in (scores.f1, scores.class_mean) if v == v]
    return sum(known) / len(known) if known else 0.0


def groups(model: CellDETR, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Parameters that learn with their highest rate; weights are not drawn to 0."""
    recipe = RECIPES["small"]
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    dense = [p for n, p in named if n.startswith(DENSE)]
    rest = [p for n, p in named if not n.startswith(DENSE)]
    rates = ((dense, recipe.lr_heads), (rest, recipe.lr_decoders))
    return [
        {"params": members, "lr": rate * config.rate, "weight_decay": 0.0}
        for members, rate in rates
        if members
    ]


def class_weights(lessons: Lessons, model: CellDETR) -> Tensor:
    """Weights (K,) by the inverse square root of how often a class occurs, mean 1."""
    every = [s.targets.class_ids for s in (*lessons.corrected, *lessons.rehearsal)]
    ids = torch.cat(every) if every else torch.zeros(0, dtype=torch.int64)
    counts = torch.bincount(ids[ids >= 0], minlength=model.config.num_classes).float()
    weights = 1 / counts.clamp(min=1).sqrt()
    known = counts > 0
    weights[~known] = weights[known].mean() if bool(known.any()) else 1.0
    return weights / weights.mean()


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def no_memory(device: str) -> JobError:
    """That a device has too little memory even for single tiles."""
    return JobError(
        "There is not enough memory to fine-tune this model.",
        expected="memory for one tile at a time",
        found=f"too little on {device}, even for a single tile",
        remedy="close other programs, or choose the CPU as the device; nothing was changed",
    )


def _no_help(before: PointScores | None, after: PointScores | None) -> JobError:
    assert before is not None
    assert after is not None
    return JobError(
        "The corrections did not help on the squares held aside.",
        expected=f"a figure of at least {overall(before):.3f}, the model's own",
        found=f"{overall(after):.3f} at best ({before.detection.n_truth} cells held aside)",
        remedy="review more areas completely and try again; the model stays as it was",
    )


def _diverged(step: int) -> DivergedError:
    return DivergedError(
        f"The loss is not a number at step {step}.",
        expected="a finite loss",
        found="NaN or infinity",
        remedy="choose a lower rate, or check the corrections; the model stays as it was",
    )
