"""`celldetr crossvalidate`: what a recipe is worth on patients or sites it never saw."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.cli.train import say_how_to_go_on
from napari_celldetr.training.config import CrossvalidateConfig


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crossvalidate`."""
    add_config_flags(parser, CrossvalidateConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Train and score the folds that are not done yet, and print the report."""
    from napari_celldetr.training.crossval import crossvalidate, report_path
    from napari_celldetr.training.memory import keep_memory

    config = config_from(args, CrossvalidateConfig)
    keep_memory()
    try:
        report, _ = screen.follow(crossvalidate(config), "cross-validation", unit="steps")
    except Interrupted:
        folder = Path(config.output)
        runs = [f for f in folder.iterdir() if f.is_dir()] if folder.is_dir() else []
        say_how_to_go_on(screen, config, runs)
        return Exit.INTERRUPTED
    screen.say(report.as_text())
    screen.say(f"written: {report_path(config, report.done, len(report.folds))}")
    return Exit.OK
