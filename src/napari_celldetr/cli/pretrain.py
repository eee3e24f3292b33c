"""`celldetr pretrain`: images without labels in, a network to train on from out."""

from __future__ import annotations

import argparse

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Screen
from napari_celldetr.cli.train import follow_training
from napari_celldetr.training.config import PretrainConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pretrain`."""
    add_config_flags(parser, PretrainConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Pretrain, and go on from the last checkpoint where there is one."""
    from napari_celldetr.training.pretrain import pretrain

    config = config_from(args, PretrainConfig)
    done = follow_training(pretrain(config), screen, config)
    if done is None:
        return Exit.INTERRUPTED
    result, last = done
    if last.message:
        screen.say(f"Step {last.done} of {last.total}, {last.message}")
    screen.say(f"Pretrained network: {result}")
    screen.say(f"It cannot detect yet. Train it with: celldetr train --init {result} --data …")
    screen.research_use()
    return Exit.OK
