"""`celldetr train`: fields and their labels in, a model folder out."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TypeVar

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.core.progress import Job, Progress
from napari_celldetr.training.config import TrainConfig

T = TypeVar("T")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_config_flags(parser, TrainConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Train, and go on from the last checkpoint where there is one."""
    from napari_celldetr.training.monitor import validation_table
    from napari_celldetr.training.train import train

    config = config_from(args, TrainConfig)
    done = follow_training(train(config), screen, config.name, config.output)
    if done is None:
        return Exit.INTERRUPTED
    result, last = done
    if last.message:
        screen.say(last.message)
    if table := validation_table(Path(config.output)):
        screen.say(table)
    screen.say(f"Trained model: {result}")
    screen.research_use()
    return Exit.OK


def follow_training(
    job: Job[T], screen: Screen, title: str, output: str
) -> tuple[T, Progress] | None:
    """Run a job of training, saying where to watch it; None after Ctrl-C."""
    from napari_celldetr.training.memory import keep_memory

    keep_memory()
    try:
        return screen.follow(_announced(job, screen, Path(output)), title, unit="steps")
    except Interrupted as stop:
        screen.note(
            f"Interrupted at step {stop.step.done} of {stop.step.total}. Run the same command "
            "again and it goes on from the last checkpoint."
        )
        return None


def _announced(job: Job[T], screen: Screen, output: Path) -> Job[T]:
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
                screen.note(f"Watch it in a browser: {(output / PAGE).absolute()}")
                said = True
            yield step
