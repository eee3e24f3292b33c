"""`celldetr sample`: generated slides on which to try `her2` and `register`."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sample`."""
    parser.add_argument(
        "kind",
        choices=("her2", "pair"),
        help="her2: a HER2 slide and its tumour's outline; pair: an H&E and an IHC section to "
        "align, too coarse to be scored",
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("sample"), metavar="FOLDER")


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Write the slides, and say which command to try on them."""
    from napari_celldetr.pipeline.samples import write_her2_folder, write_pair

    prepare_folder(args.out)
    if args.kind == "her2":
        slide, outline = write_her2_folder(args.out)
        files = (slide, outline)
        line = f"celldetr her2 {slide} --regions {outline} -o {args.out / 'report.html'}"
    else:
        files = write_pair(args.out)
        line = f"celldetr register {files[0]} {files[1]} -o {args.out / 'pair.json'}"
    for path in files:
        screen.say(f"written: {path}")
    screen.say(f"to try: {line}")
    if args.kind == "pair":
        screen.say("This pair is for aligning only: its pixels are too coarse for a HER2 score.")
    screen.research_use()
    return Exit.OK
