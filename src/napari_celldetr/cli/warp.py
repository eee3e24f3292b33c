"""`celldetr warp`: points, outlines or the slide itself, moved from one slide to the other."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import ConfigError

GEOJSON = (".geojson", ".json")
PICTURE = (".ome.tif", ".ome.tiff")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `warp`."""
    parser.add_argument(
        "source",
        type=Path,
        metavar="IN",
        help="points (.csv with x, y), outlines (.geojson), or the slide; in level-0 px",
    )
    parser.add_argument(
        "--transform", required=True, type=Path, metavar="JSON", help="as `register` wrote it"
    )
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="OUT", help="a slide becomes an .ome.tif"
    )
    parser.add_argument(
        "--inverse", action="store_true", help="from the IHC slide back to the H&E slide"
    )
    parser.add_argument("--mpp", type=float, metavar="V", help="µm per px of a picture's OUT")
    parser.add_argument(
        "--source-mpp", type=float, metavar="V", help="µm per level-0 px of the slide IN"
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Move what IN holds, by its suffix."""
    from napari_celldetr.pipeline.transform_file import read_transform
    from napari_celldetr.pipeline.warp import warp_points, warp_regions

    transform = read_transform(args.transform)
    _refuse_same(args)
    kind = args.source.suffix.lower()
    _refuse_other_kind(args, kind)
    prepare_folder(args.out.parent)
    if kind == ".csv" or kind in GEOJSON:
        warp = warp_points if kind == ".csv" else warp_regions
        report = warp(args.source, args.out, transform, inverse=args.inverse)
        screen.say(f"{report.sentence()}: {args.out}")
    else:
        _picture(args, screen)
    screen.research_use()
    return Exit.OK


def _refuse_same(args: argparse.Namespace) -> None:
    if args.out.resolve() == args.source.resolve():
        raise ConfigError(
            "The result would replace what it is made from.",
            expected="another file for OUT",
            found=str(args.out),
            remedy="choose another name with -o",
        )


def _refuse_other_kind(args: argparse.Namespace, kind: str) -> None:
    """What is moved is written as it came: a table as a table, outlines as outlines."""
    wanted = (".csv",) if kind == ".csv" else GEOJSON if kind in GEOJSON else ()
    if wanted and args.out.suffix.lower() not in wanted:
        raise ConfigError(
            "What is moved is written in the format it came in.",
            expected=f"a file that ends in {' or '.join(wanted)}",
            found=args.out.name,
            remedy="choose another name with -o",
        )


def _picture(args: argparse.Namespace, screen: Screen) -> None:
    from napari_celldetr.pipeline.transform_file import read_transform
    from napari_celldetr.pipeline.transform_words import share_words
    from napari_celldetr.pipeline.warp import warp_image
    from napari_celldetr.slides.readers import open_slide

    if not args.out.name.lower().endswith(PICTURE):
        raise ConfigError(
            "A moved picture is written as OME-TIFF.",
            expected="a file that ends in .ome.tif",
            found=args.out.name,
            remedy="choose another name with -o",
        )
    transform = read_transform(args.transform)
    with open_slide(args.source, mpp=args.source_mpp) as slide:
        job = warp_image(slide, args.out, transform, mpp=args.mpp, inverse=args.inverse)
        path, _ = screen.follow(job, slide.name, unit="bands")
    screen.say(f"written: {path}")
    if transform.excluded_share:
        screen.say(f"grey in it: {share_words(transform)}")
