"""`celldetr ablate`: variants of the network, trained and measured alike, as one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.cli.train import say_how_to_go_on
from napari_celldetr.training.config import AblateConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ablate`."""
    add_config_flags(parser, AblateConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Train what is not trained yet, and print the table."""
    from napari_celldetr.training.ablate import MARKDOWN, TABLE, ablate
    from napari_celldetr.training.memory import keep_memory

    config = config_from(args, AblateConfig)
    keep_memory()
    try:
        report, _ = screen.follow(ablate(config), "ablation", unit="steps")
    except Interrupted:
        folder = Path(config.output)
        runs = [f for f in folder.iterdir() if f.is_dir()] if folder.is_dir() else []
        say_how_to_go_on(screen, config, runs)
        return Exit.INTERRUPTED
    screen.say(report.as_text())
    folder = Path(config.output)
    screen.say(f"written: {folder / TABLE}, {folder / MARKDOWN}")
    return Exit.OK
