"""`celldetr train`: fields and their labels in, a model folder out."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.training.config import RunConfig, TrainConfig

T = TypeVar("T")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_config_flags(parser, TrainConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Train, and go on from the last checkpoint where there is one."""
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.training.kept import Kept
    from napari_celldetr.training.monitor import validation_table
    from napari_celldetr.training.train import train

    config = config_from(args, TrainConfig)
    done = follow_training(train(config), screen, config)
    if done is None:
        return Exit.INTERRUPTED
    result, _ = done
    if table := validation_table(Path(config.output)):
        screen.say(table)
    screen.say(Kept.of(config).as_text(detects=read_card(result).training["detects"]))
    screen.say(f"Trained model: {result}")
    screen.research_use()
    return Exit.OK


def follow_training(job: Job[T], screen: Screen, config: RunConfig) -> tuple[T, Progress] | None:
    """Run a job of training, saying where to watch it; None after Ctrl-C."""
    from napari_celldetr.training.memory import keep_memory

    keep_memory()
    folder = Path(config.output)
    try:
        return screen.follow(_announced(job, folder), config.name, unit="steps")
    except Interrupted:
        say_how_to_go_on(screen, config, [folder])
        return None


def say_how_to_go_on(screen: Screen, config: RunConfig, folders: list[Path]) -> None:
    """Say after Ctrl-C what the same command will do; `folders` are those of runs."""
    from napari_celldetr.training.checkpoint import NAME, saved_step

    again = "Run the same command again" + (" without --fresh" if config.fresh else "")
    written = [f for f in folders if (f / NAME).is_file()]
    latest = max(written, key=lambda f: (f / NAME).stat().st_mtime_ns, default=None)
    step = 0 if latest is None else saved_step(latest)
    run = "it" if latest in (None, Path(config.output)) else f"finished runs stay, {latest.name!r}"
    if 0 < step < config.steps:
        screen.note(f"Interrupted. {again}: {run} goes on from step {step} of {config.steps}.")
    elif step:
        screen.note(f"Interrupted. {again}: {run} is trained to its end, and the rest follows.")
    else:
        screen.note(f"Interrupted before a step was done. {again}: it starts over.")


def _announced(job: Job[T], output: Path) -> Job[T]:
    # Once the page is there: what is refused is not to be watched.
    from napari_celldetr.training.monitor import PAGE

    said = False
    with contextlib.closing(job):
        while True:
            try:
                step = next(job)
            except StopIteration as stop:
                result: T = stop.value
                return result
            if not said and (output / PAGE).is_file():
                watch = f"Watch it in a browser: {(output / PAGE).absolute()}"
                step = replace(step, note="\n".join(filter(None, (watch, step.note))))
                said = True
            yield step
