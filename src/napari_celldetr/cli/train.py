"""`celldetr train`: fields and their labels in, a model folder out."""

from __future__ import annotations

import argparse

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.training.config import TrainConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `train`."""
    add_config_flags(parser, TrainConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Train, and go on from the last checkpoint where there is one."""
    from napari_celldetr.training.train import train

    config = config_from(args, TrainConfig)
    try:
        result, last = screen.follow(train(config), config.name, unit="steps")
    except Interrupted as stop:
        screen.note(
            f"Interrupted at step {stop.step.done} of {stop.step.total}. Run the same command "
            "again and it goes on from the last checkpoint."
        )
        return Exit.INTERRUPTED
    if last.message:
        screen.say(last.message)
    screen.say(f"Trained model: {result}")
    screen.research_use()
    return Exit.OK
