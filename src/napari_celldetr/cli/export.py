"""`celldetr export`: a result in one format becomes the same result in another."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    from napari_celldetr.pipeline.export import SUFFIXES

    parser.add_argument("source", type=Path, metavar="IN", help="a result of `celldetr detect`")
    parser.add_argument(
        "target", type=Path, metavar="OUT", help=f"what to write ({', '.join(SUFFIXES)})"
    )
    parser.add_argument(
        "--slide",
        type=Path,
        help="the slide of this result; QuPath needs it for slides whose scanned part is cropped",
    )
    parser.add_argument(
        "--threshold", type=float, metavar="float", help="leave out cells scored lower"
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Read, filter, write, say how many."""
    from napari_celldetr.pipeline.export import above, export, read_cells, suffix_of

    suffix_of(args.target)
    prepare_folder(args.target.parent)
    cells = read_cells(args.source)
    if args.threshold is not None:
        cells = above(cells, args.threshold)
    if args.slide is None:
        export(cells, args.target)
    else:
        from napari_celldetr.slides.readers import open_slide

        with open_slide(args.slide) as slide:
            export(cells, args.target, slide=slide)
    screen.say(f"{len(cells)} cells written to {args.target}")
    screen.research_use()
    return Exit.OK
