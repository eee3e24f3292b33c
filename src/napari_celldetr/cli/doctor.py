"""`celldetr doctor`: one line per thing this installation needs."""

from __future__ import annotations

import argparse

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """`doctor` takes no arguments."""


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Look at everything; ERROR when something that is needed is missing."""
    from napari_celldetr.pipeline.doctor import FAIL, examine

    outcome = Exit.OK
    for check in examine():
        screen.say(f"{check.state:<4}  {check.name}: {check.found}")
        if check.remedy:
            screen.say(f"      do: {check.remedy}")
        if check.state == FAIL:
            outcome = Exit.ERROR
    return outcome
