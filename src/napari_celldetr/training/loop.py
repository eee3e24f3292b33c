"""The loop that every training runs in: one step after the other, resumable to the bit."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from napari_celldetr.core.config import to_json
from napari_celldetr.core.errors import JobError
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.training.augment import Augmentation
from napari_celldetr.training.checkpoint import (
    best_weights,
    forget_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
    saved_precision,
)
from napari_celldetr.training.config import LoopConfig, RunConfig
from napari_celldetr.training.interrupts import kept_whole, leave_to_parent
from napari_celldetr.training.monitor import Monitor
from napari_celldetr.training.pools import Pool
from napari_celldetr.training.precision import Precision, autocast, choose_precision
from napari_celldetr.training.start import Statistics
from napari_celldetr.training.stream import CropStream, collate, to_device
from napari_celldetr.training.validation import Judgement

Loss = Callable[[Tensor, Any, int], tuple[Tensor, dict[str, float]]]
"""Normalised images (B, 3, S, S), their targets and the step's number -> total and its parts."""

SMALLEST_RATE = 0.01
"""Share of the highest rate that the cosine ends at."""


@dataclass(frozen=True)
class Feed:
    """Where a run's samples come from.

    `samples` gives item i, the same whenever and wherever it is asked for; `collate` makes images
    uint8 (B, 3, S, S) and targets of a list of them; `to_device` moves such targets.
    """

    samples: Dataset[Any]
    collate: Callable[[list[Any]], tuple[Tensor, Any]]
    to_device: Callable[[Any, str], Any]


@dataclass
class Work:
    """One training: what learns, from what, and how it is judged.

    Attributes
    ----------
    config : LoopConfig
    network : module
        Everything that learns; its state is the checkpoint's.
    trunk : module
        The part with the convolutions, on which the number format is tried.
    loss : callable
    groups : dict of str to dict
        Parameters and highest rate per group, as `torch.optim.AdamW` takes them.
    statistics : mean, std
    feed : callable
        Makes the `Feed`, once the run begins.
    device : str
    key : dict
        What else than the settings makes it this run, in plain values.
    validate : callable or None
        The average network -> a job that gives its `Judgement`.
    keep_best : bool
        Whether the weights that validated best are kept as well.
    about : str
        What is trained on, told at the start.
    """

    config: LoopConfig
    network: nn.Module
    trunk: nn.Module
    loss: Loss
    groups: dict[str, dict[str, Any]]
    statistics: Statistics
    feed: Callable[[], Feed]
    device: str
    key: dict[str, Any]
    validate: Callable[[nn.Module], Job[Judgement]] | None = None
    keep_best: bool = False
    about: str = ""

    def __post_init__(self) -> None:
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            list(self.groups.values()),
            betas=(0.9, 0.99),
            weight_decay=self.config.recipe.weight_decay,
        )
        self.rates = [group["lr"] for group in self.groups.values()]
        mean, std = self.statistics
        self.mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=self.device).view(1, 3, 1, 1) * 255
        self.precision = Precision("float32", "not chosen yet")

    @property
    def settings(self) -> str:
        """JSON of all that makes this run the one it is."""
        return json.dumps(json.loads(to_json(self.config)) | self.key, sort_keys=True)

    def step(self, number: int, image: Tensor, targets: Any) -> dict[str, float]:
        """One optimisation step on targets that are on the device; returns the loss's parts."""
        torch.manual_seed(self.config.seed * 1_000_003 + number)
        self._set_rates(number)
        image = (image.to(self.device).float() - self.mean) / self.std
        image = image.contiguous(memory_format=torch.channels_last)
        with autocast(self.precision.name, self.device):
            loss, parts = self.loss(image, targets, number)
        if not math.isfinite(float(loss.detach())):
            raise _not_a_number("loss", number, parts)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norms = [
            nn.utils.clip_grad_norm_(g["params"], self.config.recipe.clip)
            for g in self.groups.values()
        ]
        if not all(math.isfinite(float(norm)) for norm in norms):
            raise _not_a_number("gradient", number, parts)
        self.optimizer.step()
        self._update_average(number)
        return {"loss": float(loss.detach()), **parts}

    def rates_now(self) -> dict[str, float]:
        """Learning rate of each group at the last step."""
        return dict(zip(self.groups, (g["lr"] for g in self.optimizer.param_groups), strict=True))

    def _set_rates(self, number: int) -> None:
        c = self.config
        rise = min(1.0, (number + 1) / max(c.recipe.warmup, 1))
        fall = 0.5 * (1 + math.cos(math.pi * number / c.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rise * max(fall, SMALLEST_RATE)

    @torch.no_grad()
    def _update_average(self, number: int) -> None:
        decay = min(self.config.ema, (1 + number) / (10 + number))
        pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
        for mean, new in pairs:
            mean.lerp_(new, 1 - decay)
        for kept, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
            kept.copy_(now)


class DivergedError(JobError):
    """The loss or its gradient stopped being a number."""


def _not_a_number(what: str, step: int, parts: dict[str, float]) -> DivergedError:
    return DivergedError(
        f"The {what} is not a number at step {step}.",
        expected=f"a finite {what}",
        found=json.dumps(parts),
        remedy="lower the learning rates, or check the annotations; the last checkpoint is kept",
    )


def run(work: Work) -> Job[nn.Module]:
    """Do the steps that are still to do; returns the network to keep.

    Yields a `Progress` per step, and per field while validating. A checkpoint of the same
    settings in ``config.output`` is continued: the result is that of an uninterrupted run on the
    same machine. A run that is closed, or stopped with Ctrl-C, saves one after its last whole
    step.

    Raises `JobError` when the folder holds another run or cannot be written to, `DivergedError`
    when the loss stops being a number.
    """
    config, folder = work.config, Path(work.config.output)
    first, known = 0, None
    if not config.fresh:
        defaults = to_json(type(config)())
        state = (work.network, work.average, work.optimizer)
        first = load_checkpoint(folder, *state, config=work.settings, defaults=defaults)
        known = saved_precision(folder) if first else None
    if known is None:
        work.precision = choose_precision(work.trunk, work.device, config.precision)
    else:
        work.precision = Precision(known, "as at the start of the run")
    make_folder(folder)
    if not first:
        forget_best(folder)
    try:
        about = json.loads(work.settings), asdict(work.precision)
        with Monitor.open(folder, *about, first=first) as monitor:
            yield from _steps(work, folder, first, monitor)
            monitor.finish()
    except OSError as error:
        raise JobError(
            "The run could not be written to disk.",
            expected=f"room for log and checkpoints in {folder}",
            found=f"{type(error).__name__}: {error}",
            remedy="make room, then give the same command: it goes on from the last checkpoint",
        ) from error
    if work.keep_best:
        work.average.load_state_dict(best_weights(folder))
    return work.average


def make_folder(folder: Path) -> None:
    """Make the folder of a run; `JobError` when that is not possible.

    To be called when everything that can be refused has been: a refused run leaves no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            "The output folder cannot be made.",
            expected=f"a folder to write into: {folder}",
            found=error.strerror or type(error).__name__,
            remedy="choose another one with --output",
        ) from error


def _steps(work: Work, folder: Path, first: int, monitor: Monitor) -> Iterator[Progress]:
    # Steps that are done, and those that are saved: they differ when the run is interrupted.
    done = saved = first

    def save() -> None:
        nonlocal saved
        with kept_whole():
            save_checkpoint(
                folder,
                work.network,
                work.average,
                work.optimizer,
                step=done,
                config=work.settings,
                precision=work.precision.name,
            )
            saved = done

    def shown(note: str = "") -> Progress:
        return Progress(done, work.config.steps, words, seconds=monitor.seconds, note=note)

    words = "starting"
    whole = True
    going_on = f"\nGoing on from step {first} of {work.config.steps}." if first else ""
    yield shown(work.about + going_on)
    try:
        if first and _is_due(work, first) and not monitor.validated(first):
            # The run was interrupted between the step and its validation.
            note = yield from _validate(work, folder, first, monitor)
            yield shown(note)
        feed = work.feed()
        batches = iter(_batches(work.config, feed, first))
        for number in range(first, work.config.steps):
            image, targets = next(batches)
            with kept_whole():
                whole = False
                parts = work.step(number, image, feed.to_device(targets, work.device))
                monitor.step(number + 1, parts, work.rates_now())
                done, whole = number + 1, True
            judged, note = _is_due(work, done), ""
            if judged:
                note = yield from _validate(work, folder, done, monitor)
            if judged or done % work.config.checkpoint_steps == 0 or done == work.config.steps:
                save()
            words = f"loss {parts['loss']:.2f}{monitor.last_f1}"
            yield shown(note)
    except (GeneratorExit, KeyboardInterrupt):
        # A step broken off half way leaves a state that no step ends in.
        if whole and done > saved:
            save()
        raise


def _is_due(work: Work, done: int) -> bool:
    if work.validate is None:
        return False
    every: int = getattr(work.config, "validate_steps", work.config.steps)
    return done % every == 0 or done == work.config.steps


def _validate(work: Work, folder: Path, done: int, monitor: Monitor) -> Job[str]:
    """Score the average network; the result as a line for people."""
    assert work.validate is not None
    job = work.validate(work.average)
    while True:
        try:
            field = next(job)
        except StopIteration as stop:
            scores: Judgement = stop.value
            break
        message = f"{field.message} of {field.total}"
        yield Progress(done, work.config.steps, message, seconds=monitor.seconds)
    with kept_whole():
        # Weights first: what the log calls best is there.
        if work.keep_best and monitor.is_best(scores):
            save_best(folder, work.average)
        return monitor.validation(done, scores)


def crop_feed(config: RunConfig, pools: Sequence[Pool]) -> Feed:
    """Crops of annotated fields."""
    stream = CropStream(
        pools,
        size=config.crop,
        length=config.steps * config.recipe.batch,
        seed=config.seed,
        augmentation=Augmentation.named(config.augmentation),
    )
    return Feed(stream, collate, to_device)


def _batches(config: LoopConfig, feed: Feed, first: int) -> DataLoader[tuple[Tensor, Any]]:
    batch = config.recipe.batch
    rest = Subset(feed.samples, range(first * batch, config.steps * batch))
    # The loader's items are what `collate` makes of the stream's.
    return DataLoader(
        cast("Dataset[tuple[Tensor, Any]]", rest),
        batch_size=batch,
        num_workers=config.workers,
        collate_fn=feed.collate,
        multiprocessing_context="spawn" if config.workers else None,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=leave_to_parent if config.workers else None,
    )
