"""`celldetr detect`: slides in, one table of cells per slide out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.flags import add_config_flags, config_from
from napari_celldetr.cli.outputs import (
    DEFAULT_FORMAT,
    FORMATS,
    Output,
    plan_outputs,
    prepare_folder,
)
from napari_celldetr.cli.screen import Interrupted, Screen, duration
from napari_celldetr.core.config import DetectConfig
from napari_celldetr.core.errors import CellDETRError, ModelError
from napari_celldetr.core.regions import Region

if TYPE_CHECKING:
    from napari_celldetr.core.detections import Detections
    from napari_celldetr.core.predictor import Predictor
    from napari_celldetr.pipeline.detect import DetectReport
    from napari_celldetr.slides.slide import Slide

MOST_REASONS = 10
"""Failed tiles that are named one by one; the rest are counted."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detect`."""
    add_slide_arguments(parser, FORMATS, default=DEFAULT_FORMAT)
    parser.add_argument(
        "--picture", action="store_true", help="also draw the cells: OUT with .overlay.png"
    )
    add_run_flags(parser)


def add_slide_arguments(
    parser: argparse.ArgumentParser, formats: Sequence[str], *, default: str
) -> None:
    """Slides in; a file, or a folder of files of a format, out."""
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE")
    parser.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help=f"result file (.{', .'.join(formats)}), or a folder: one file per slide",
    )
    parser.add_argument(
        "--format",
        choices=formats,
        help=f"format of the files in a folder (default: {default})",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of every command that runs a model over slides."""
    parser.add_argument(
        "--region",
        nargs=4,
        type=int,
        metavar=("X", "Y", "W", "H"),
        help="only this part of the slide, in level-0 pixels",
    )
    parser.add_argument("--fresh", action="store_true", help="do not reuse what an earlier run did")
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="FOLDER",
        help="where unfinished runs are kept (default: the user's cache folder)",
    )
    add_config_flags(parser, DetectConfig)


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Detect in each slide; one bad slide does not stop the others."""
    outputs = plan_outputs(args.slides, args.out, format=args.format, picture=args.picture)
    return detect_all(Detecting.of(args, screen), outputs, screen)


def detect_all(job: Detecting, outputs: Sequence[Output], screen: Screen) -> Exit:
    """Slide after slide; what the worst of them came to."""
    prepare_folder(outputs[0].table.parent)
    outcomes = []
    try:
        for output in outputs:
            outcomes.append(job.one(output))
    except Interrupted as stop:
        _say_how_to_resume(screen, stop, len(outputs) - len(outcomes) - 1)
        return Exit.INTERRUPTED
    screen.research_use()
    return _worst(outcomes)


@dataclass
class Detecting:
    """What all slides of one command share; the model is loaded once, when first needed."""

    config: DetectConfig
    region: Region | None
    workspace: Path | None
    fresh: bool
    screen: Screen

    @classmethod
    def of(cls, args: argparse.Namespace, screen: Screen) -> Self:
        """What the flags ask for."""
        region = None if args.region is None else Region(*args.region)
        config = config_from(args, DetectConfig)
        return cls(config, region, args.workspace, args.fresh, screen)

    def one(self, output: Output) -> Exit:
        """Detect in one slide and write its files; a `ModelError` concerns all and escapes."""
        from napari_celldetr.slides.readers import open_slide

        try:
            with open_slide(output.slide, mpp=self.config.mpp) as slide:
                return self._detect(slide, output)
        except ModelError:
            raise
        except CellDETRError as error:
            self.screen.error(error, about=output.slide.name)
            return Exit.ERROR

    def _detect(self, slide: Slide, output: Output) -> Exit:
        from napari_celldetr.pipeline.detect import DetectProgress, DetectReport, detect

        started = time.perf_counter()
        job = detect(
            slide,
            self.config,
            predictor=self.predictor,
            region=self.region,
            workspace=self.workspace,
            fresh=self.fresh,
        )
        cells, last = self.screen.follow(job, slide.name)
        files = self.write(slide, cells, output)
        report = last.report if isinstance(last, DetectProgress) else DetectReport()
        self._summarize(slide, cells, report, files, time.perf_counter() - started)
        return Exit.INCOMPLETE if report.failed else Exit.OK

    @cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when a tile needs it and shared by all slides."""
        from napari_celldetr.nets.lazy import LazyModel

        config = self.config
        return LazyModel(config.model, device=config.device, flips=config.flips)

    def write(self, slide: Slide, cells: Detections, output: Output) -> list[Path]:
        """Write the files of one slide; which they are."""
        from napari_celldetr.pipeline.export import export

        card = self.predictor.card
        colors = dict(zip(card.class_names, card.class_colors, strict=True))
        export(cells, output.table, slide=slide, colors=colors)
        if output.picture is None:
            return [output.table]
        from napari_celldetr.pipeline.picture import draw_overlay, write_picture

        picture = draw_overlay(slide, cells, colors, region=self.region)
        write_picture(picture, output.picture)
        return [output.table, output.picture]

    def _summarize(
        self,
        slide: Slide,
        cells: Detections,
        report: DetectReport,
        files: list[Path],
        seconds: float,
    ) -> None:
        counts = " · ".join(f"{name} {n}" for name, n in cells.counts().items())
        rate = f" ({len(cells) / seconds:.0f} cells/s)" if seconds > 0 else ""
        where = f"on {report.device}" if report.device else "(from stored results)"
        self.screen.say(slide.name)
        self.screen.rows(
            [
                ("cells", f"{len(cells)}: {counts}"),
                ("model", f"{cells.source.model or self.predictor.card.name} {where}"),
                ("pixel size", _pixel_size(slide, cells)),
                ("tiles", _tiles(report)),
                ("time", duration(seconds) + rate),
                ("written", ", ".join(str(f) for f in files)),
            ],
            indent=2,
        )
        for key, reason in report.reasons[:MOST_REASONS]:
            self.screen.say(f"  tile {key}: {reason}")
        if len(report.reasons) > MOST_REASONS:
            self.screen.say(f"  and {len(report.reasons) - MOST_REASONS} tiles more")
        for warning in (*slide.warnings, *report.warnings):
            self.screen.say(f"  warning: {warning}")
        if report.failed:
            self.screen.say("  INCOMPLETE: cells in the failed tiles are missing from the result")


def _pixel_size(slide: Slide, cells: Detections) -> str:
    mpp = cells.source.mpp or slide.mpp
    return "unknown" if mpp is None else f"{mpp[0]:.4g} µm/px (from: {slide.mpp_source})"


def _tiles(report: DetectReport) -> str:
    looked_at = report.tiles - report.skipped
    parts = [f"{looked_at} looked at"]
    parts += [f"{report.reused} of them from an earlier run"] if report.reused else []
    parts += [f"{report.failed} failed"]
    parts += [f"{report.saturated} saturated"]
    parts += [f"{report.skipped} skipped (no tissue)"]
    return ", ".join(parts)


def _say_how_to_resume(screen: Screen, stop: Interrupted, slides_left: int) -> None:
    step = stop.step
    more = f" ({slides_left} more slides had not begun)" if slides_left > 0 else ""
    screen.note(
        f"Interrupted after {step.done} of {step.total} tiles{more}. What is finished is kept: "
        "run the same command again, without --fresh, and it goes on from there."
    )


def _worst(outcomes: Sequence[Exit]) -> Exit:
    order = (Exit.ERROR, Exit.INCOMPLETE)
    return next((code for code in order if code in outcomes), Exit.OK)
