"""`celldetr finetune`: corrections of a slide in, a new model folder out."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.finetune_head import model_with, teach_head
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.training.finetune_config import FinetuneConfig

HEAD, WHAT = "head", "what"
KINDS = (HEAD, "decoder", "adapters")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `finetune`."""
    parser.add_argument(
        "corrections",
        type=Path,
        metavar="PROJECT|CORRECTIONS.geojson",
        help="the folder of a project in which the slide was corrected, or a GeoJSON file of "
        "corrected cells and areas",
    )
    parser.add_argument(
        "--slide", type=Path, required=True, metavar="SLIDE", help="the slide that was corrected"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MODEL",
        help="folder of the new model, which must not exist yet",
    )
    parser.add_argument(
        "--what",
        choices=KINDS,
        default=HEAD,
        help="what learns. head: what cells are called, in seconds; decoder: missed cells and "
        "wrong boxes as well, in minutes; adapters: small layers in the encoder besides "
        "(default: head, of which the settings below that speak of tiles and steps mean nothing)",
    )
    parser.add_argument(
        "--mpp", type=float, metavar="µm/px", help="replaces the slide's own pixel size"
    )
    parser.add_argument("--author", default="", metavar="NAME", help="who teaches, for the card")
    add_config_flags(parser, FinetuneConfig, skip=(WHAT,))


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Teach the model, and say what it is worth on the squares held aside."""
    if args.what == HEAD:
        teach_head(args, screen)
        screen.say(f"New model: {args.output}")
        screen.research_use()
        return Exit.OK
    return _detector(args, screen)


def _detector(args: argparse.Namespace, screen: Screen) -> Exit:
    from napari_celldetr.nets.card import read_card
    from napari_celldetr.nets.registry import find_model
    from napari_celldetr.pipeline.corrections import corrections_from_geojson
    from napari_celldetr.pipeline.finetune import finetune
    from napari_celldetr.pipeline.reviewed import find_record, reviewed_and_said
    from napari_celldetr.slides.readers import open_slide
    from napari_celldetr.training.memory import keep_memory

    config = replace(config_from(args, FinetuneConfig, skip=(WHAT,)), what=args.what)
    keep_memory()
    with open_slide(args.slide, mpp=args.mpp) as slide:
        said = None
        if args.corrections.is_dir():
            cells, said = reviewed_and_said(find_record(slide, args.corrections))
            found_by = cells.cells.source
            if args.model is None and found_by.weights_sha256:
                model = model_with(found_by.weights_sha256, found_by.model)
                config = replace(config, model=str(model))
        else:
            names = read_card(find_model(config.model)).class_names
            cells = corrections_from_geojson(args.corrections, slide, class_names=names)
        job = finetune(
            slide, cells, config, output=args.output, annotations=said, author=args.author
        )
        try:
            result, _ = screen.follow(job, args.output.name, unit="steps")
        except Interrupted:
            screen.note("Interrupted: no model was written, and none was changed.")
            return Exit.INTERRUPTED
    screen.say(f"New model: {result.folder}")
    screen.say(result.as_text())
    return Exit.OK
