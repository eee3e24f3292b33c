"""`celldetr corrections`: what people made of a slide's cells in the viewer, as a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `corrections`."""
    from napari_celldetr.pipeline.export import SUFFIXES
    from napari_celldetr.pipeline.history import SUFFIX

    parser.add_argument("slide", type=Path, metavar="SLIDE", help="a slide that was reviewed")
    parser.add_argument(
        "target",
        type=Path,
        metavar="OUT",
        help=f"cells as they stand now ({', '.join(SUFFIXES)}), or with the suffix {SUFFIX} "
        "everything that was ever said of them: who, when, what, before and after",
    )
    parser.add_argument(
        "--project",
        type=Path,
        metavar="FOLDER",
        help="the project (default: the viewer's, or the folder named in CELLDETR_PROJECT)",
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Read the project, write, say how many."""
    from napari_celldetr.core.progress import drain
    from napari_celldetr.pipeline.export import export, suffix_of
    from napari_celldetr.pipeline.history import history_job, is_history, rows_written
    from napari_celldetr.pipeline.reviewed import class_colors, find_record, reviewed_cells
    from napari_celldetr.slides.readers import open_slide

    wants_history = is_history(args.target)
    if not wants_history:
        suffix_of(args.target)
    prepare_folder(args.target.parent)
    with open_slide(args.slide) as slide:
        record = find_record(slide, args.project)
        if wants_history:
            rows = drain(history_job(record.journal_path, args.target))
            screen.say(f"{rows_written(rows)} to {args.target}")
        else:
            cells = reviewed_cells(record)
            export(cells, args.target, slide=slide, colors=class_colors(record))
            screen.say(f"{len(cells)} cells written to {args.target}")
    for problem in record.problems:
        screen.note(problem)
    screen.research_use()
    return Exit.OK
