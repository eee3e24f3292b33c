"""`celldetr join`: give a model a coarser one that has a say in the classes."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `join`."""
    parser.add_argument("fine", metavar="FINE", help="the model that finds the cells")
    parser.add_argument(
        "coarse",
        metavar="COARSE",
        help="a model of the same classes at a multiple of its µm/px, for the overview",
    )
    parser.add_argument(
        "--output", "-o", type=Path, required=True, metavar="FOLDER", help="of the new model"
    )
    parser.add_argument(
        "--weight", type=float, default=0.5, help="share of the overview in the classes, 0..1"
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Join the two and say what is left to do."""
    from napari_celldetr.training.join import join

    prepare_folder(args.output)
    join(args.fine, args.coarse, args.output, weight=args.weight)
    screen.say(f"written: {args.output}")
    screen.say(
        "Its classes are not calibrated and nothing of it is measured yet: "
        f"celldetr evaluate --model {args.output} --calibrate --write-card --data …"
    )
    screen.research_use()
    return Exit.OK
