"""`celldetr her2`: an IHC slide in, a report with its score out, or with why there is none."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Interrupted, Screen
from napari_celldetr.core.errors import ConfigError, SlideError
from napari_celldetr.core.her2 import SCORES, Cutoffs, Minimum
from napari_celldetr.pipeline.her2.settings import Her2Config

LEAST = "min_"
"""Before the names of the fewest cells: ``--min-cells``."""

if TYPE_CHECKING:
    from napari_celldetr.pipeline.her2.content import Content
    from napari_celldetr.pipeline.her2.result import Control
    from napari_celldetr.pipeline.her2.score import TumourRequest
    from napari_celldetr.slides.slide import Slide


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `her2`."""
    parser.add_argument("ihc", type=Path, metavar="IHC", help="the HER2 IHC slide")
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="OUT", help="report: .html or .json"
    )
    where = parser.add_argument_group(
        "invasive tumour", "without one of these everything is measured and nothing is scored"
    )
    said = where.add_mutually_exclusive_group()
    said.add_argument(
        "--regions", type=Path, metavar="GEOJSON", help="polygons that a person drew around it"
    )
    said.add_argument(
        "--assume-tumour", action="store_true", help="all tissue of the slide is invasive tumour"
    )
    where.add_argument(
        "--he",
        type=Path,
        metavar="HE",
        help="H&E slide of the same block: tumour is carried across from it; without --regions "
        "a network looks for it there",
    )
    where.add_argument(
        "--transform",
        type=Path,
        metavar="JSON",
        help="from H&E to IHC, as `register` wrote it (default: the slides are registered now)",
    )
    where.add_argument(
        "--regions-on",
        choices=("ihc", "he"),
        help="the slide that --regions was drawn on (default: he where --he or --transform is "
        "given, else ihc)",
    )
    where.add_argument("--he-mpp", type=float, metavar="V", help="µm per level-0 px of the H&E")
    parser.add_argument(
        "--control",
        nargs=4,
        type=int,
        metavar=("X", "Y", "W", "H"),
        help="control tissue on the IHC slide, level-0 px, that evens out lots of stain",
    )
    parser.add_argument(
        "--control-od",
        type=float,
        metavar="OD",
        help="DAB density of that control on a slide of the reference lot",
    )
    parser.add_argument("--fresh", action="store_true", help="do not reuse what an earlier run did")
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="FOLDER",
        help="where unfinished runs are kept (default: the user's cache folder)",
    )
    add_config_flags(parser, Her2Config)
    add_config_flags(parser, Cutoffs)
    add_config_flags(parser, Minimum, prefix=LEAST)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Score the slide, write the report, say what it says."""
    from napari_celldetr.pipeline.her2.report import check_suffix, write_report
    from napari_celldetr.pipeline.her2.result import Rules
    from napari_celldetr.pipeline.her2.score import score_her2
    from napari_celldetr.slides.readers import open_slide

    check_suffix(args.out)
    _refuse_unfit(args)
    config = config_from(args, Her2Config)
    rules = Rules(config_from(args, Cutoffs), config_from(args, Minimum, prefix=LEAST))
    prepare_folder(args.out.parent)
    with contextlib.ExitStack() as stack:
        ihc = stack.enter_context(open_slide(args.ihc, mpp=config.mpp))
        he = stack.enter_context(open_slide(args.he, mpp=args.he_mpp)) if args.he else None
        _refuse_without_mpp(he)
        job = score_her2(
            ihc,
            config,
            tumour=_request(args, he, screen),
            rules=rules,
            control=_control(args),
            workspace=args.workspace,
            fresh=args.fresh,
        )
        try:
            result, _ = screen.follow(job, ihc.name)
        except Interrupted:
            screen.note("Interrupted. The same command goes on with the nuclei found so far.")
            return Exit.INTERRUPTED
        content = write_report(result, args.out)
    _summarize(content, args.out, screen)
    screen.research_use()
    failed = content["detection"] is not None and content["detection"]["failed"]
    return Exit.INCOMPLETE if failed else Exit.OK


def _refuse_unfit(args: argparse.Namespace) -> None:
    if args.assume_tumour and (args.he or args.transform):
        found = "--assume-tumour and an H&E slide"
        raise _unclear("one way to know the tumour", found, "leave one of them out")
    if (args.control is None) != (args.control_od is None):
        raise ConfigError(
            "A control takes its place and its density.",
            expected="--control and --control-od",
            found="one of them",
            remedy="give both or neither",
        )
    if args.regions_on is not None and args.regions is None:
        raise _unclear("--regions FILE", "--regions-on alone", "give the file, or leave it out")
    if args.regions_on == "he" and not (args.he or args.transform):
        found = "areas on the H&E slide, and no way to this one"
        raise _unclear("--he or --transform", found, "give the H&E slide or the transform")


def _control(args: argparse.Namespace) -> Control | None:
    from napari_celldetr.core.regions import Region
    from napari_celldetr.pipeline.her2.result import Control

    if args.control is None:
        return None
    return Control(Region(*args.control), args.control_od)


def _unclear(expected: str, found: str, remedy: str) -> ConfigError:
    return ConfigError(
        "Where the invasive tumour is to come from is not clear.",
        expected=expected,
        found=found,
        remedy=remedy,
    )


def _refuse_without_mpp(he: Slide | None) -> None:
    if he is not None and he.mpp is None:
        raise SlideError(
            f"The slide {he.name!r} has no known pixel size.",
            expected="µm per pixel in the file, or given",
            found=he.mpp_source,
            remedy="pass --he-mpp with the true µm per pixel of the H&E slide",
        )


def _request(args: argparse.Namespace, he: Slide | None, screen: Screen) -> TumourRequest:
    from napari_celldetr.pipeline.her2.score import TumourRequest
    from napari_celldetr.pipeline.her2.zones import DrawnZones, read_zones
    from napari_celldetr.pipeline.transform_file import read_transform

    drawn = read_zones(args.regions) if args.regions else DrawnZones(())
    paired = bool(args.he or args.transform)
    on_he = args.regions_on == "he" or (args.regions_on is None and paired)
    if args.regions:
        side = "H&E" if on_he else "IHC"
        screen.note(f"{args.regions.name}: {drawn.sentence()}; taken as drawn on the {side} slide")
    return TumourRequest(
        zones=drawn.tumour,
        cut_out=drawn.cut_out,
        on_he=on_he,
        he=he,
        transform=read_transform(args.transform) if args.transform else None,
        assumed=args.assume_tumour,
    )


def _summarize(content: Content, out: Path, screen: Screen) -> None:
    screen.say(content["slide"]["name"])
    score = content["score"]
    rows = [("HER2 score", f"{score}: {content['reason']}" if score else "none")]
    if not score:
        rows += [("because", content["reason"]), ("what to do", content["remedy"])]
    rows += [("", note) for note in content["score_notes"]]
    rows.append(("tumour", content["tumour"]["words"]))
    registration = content["registration"]
    if registration is not None and registration["excluded_share"] is not None:
        share = (
            f"{registration['excluded_share']:.1%} of the H&E's tissue, where the error is over "
            f"{registration['limit_um']:g} µm or not known"
        )
        cells = f"{registration['excluded_cells']:,} cells do not count for it"
        rows.append(("aligned badly", f"{share}; {cells}"))
    if content["n_cells"] is not None:
        left = content["exclusions"]["cells"]
        rows.append(("cells", f"{content['n_cells']:,} count, {left:,} left out"))
        rows.append(("% cells", _shares(content["percent_cells"])))
        if content["h_score"] is not None:
            rows.append(("H-score", f"{content['h_score']:.0f}"))
    rows.append(("% area", f"{_shares(content['percent_area'])} ({content['area_basis']})"))
    pixels = content["networks"]["pixels"]
    if pixels is not None and pixels["disagreement"] is not None:
        rows.append(("network", f"differs in {pixels['disagreement']:.1%} of the cells' pixels"))
    rows.append(("written", str(out)))
    screen.rows(rows, indent=2)
    for note in content["notes"]:
        if note not in content["score_notes"]:
            screen.say(f"  note: {note}")


def _shares(percent: dict[str, float | None]) -> str:
    words = (f"{s}: {percent[s]:.1f}" for s in SCORES if percent[s] is not None)
    return " · ".join(words) or "none"
