"""`celldetr replay`: a report computed again from its slide, and every figure compared."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import SlideError

if TYPE_CHECKING:
    from napari_celldetr.core.predictor import Predictor
    from napari_celldetr.pipeline.her2.content import Content
    from napari_celldetr.pipeline.her2.replay import Replay

MOST_SHOWN = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `replay`."""
    parser.add_argument("report", type=Path, metavar="REPORT", help=".json or .html of `her2`")
    parser.add_argument(
        "--slide",
        type=Path,
        metavar="PATH",
        help="the IHC slide (default: the one of that name beside the report, or here)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FOLDER",
        help="the model that found the nuclei, where it is not installed here by that name; it "
        "must have the weights of the report",
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Check the seal, compute again, say what differs."""
    from napari_celldetr.pipeline.her2.replay import replay
    from napari_celldetr.pipeline.her2.seal import read_report
    from napari_celldetr.slides.readers import open_slide

    content = read_report(args.report)
    path = args.slide or _beside(args.report, content)
    with (
        open_slide(path, mpp=_given_mpp(content)) as slide,
        # Stored tiles would only be compared with themselves.
        tempfile.TemporaryDirectory(prefix="celldetr-replay-") as workspace,
    ):
        model = None if args.model is None else _model(args.model, content)
        job = replay(content, slide, predictor=model, workspace=workspace)
        found, _ = screen.follow(job, slide.name)
    screen.say(f"{args.report.name}: the seal is whole")
    _summarize(found, screen)
    screen.research_use()
    return Exit.OK if found.is_equal else Exit.ERROR


def _summarize(found: Replay, screen: Screen) -> None:
    for difference in found.differences[:MOST_SHOWN]:
        screen.say(f"  {difference.sentence()}")
    count = len(found.differences)
    if count > MOST_SHOWN:
        screen.say(f"  and {count - MOST_SHOWN} more")
    screen.say(
        "equal: all that was computed came out again" if found.is_equal else f"{count} differ"
    )
    for words in found.taken_over:
        screen.say(f"  taken over, not computed again: {words}")
    for words in found.remarks:
        screen.say(f"  {words}")


def _model(folder: Path, content: Content) -> Predictor:
    """The detector in a folder; whether it is that of the report is seen by its weights."""
    from napari_celldetr.nets.lazy import LazyModel

    return LazyModel(folder, device=str(content["config"]["device"]))


def _given_mpp(content: Content) -> float | None:
    slide = content["slide"]
    return slide["mpp"][0] if slide["mpp_source"] == "user" and slide["mpp"] else None


def _beside(report: Path, content: Content) -> Path:
    name = Path(str(content["slide"]["name"])).name
    for folder in (report.parent, Path()):
        if (folder / name).exists():
            return folder / name
    raise SlideError(
        f"The slide {name!r} is not beside the report.",
        expected="the slide that was scored",
        found=f"no {name} in {report.parent} or here",
        remedy="give its path with --slide",
    )
