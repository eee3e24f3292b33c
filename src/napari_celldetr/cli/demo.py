"""`celldetr demo`: the whole thing once, on images that come with the installation."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.outputs import prepare_folder
from napari_celldetr.cli.screen import Screen, duration

if TYPE_CHECKING:
    from napari_celldetr.pipeline.demo import Outcome

DOCK = "Detect cells"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="FOLDER")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    parser.add_argument(
        "--no-viewer", action="store_true", help="do not open napari, even where there is a display"
    )


def run(args: argparse.Namespace, screen: Screen) -> Exit:
    """Detect in both images; then show the H&E slide in napari where there is a display."""
    from napari_celldetr.pipeline.demo import cases, run_case

    prepare_folder(args.out)
    outcomes = []
    for case in cases():
        started = time.perf_counter()
        outcome, _ = screen.follow(run_case(case, args.out, device=args.device), case.key)
        _show(outcome, time.perf_counter() - started, screen)
        outcomes.append(outcome)
    screen.research_use()
    if not args.no_viewer and _has_viewer():
        _open_viewer(outcomes, screen)
    return Exit.OK


def _show(outcome: Outcome, seconds: float, screen: Screen) -> None:
    counts = " · ".join(f"{name} {n}" for name, n in outcome.cells.counts().items())
    rows = [
        ("cells", f"{len(outcome.cells)}: {counts}"),
        ("model", outcome.case.model),
        ("time", duration(seconds)),
        ("written", ", ".join(str(f) for f in outcome.files)),
    ]
    if outcome.known is not None:
        rows.insert(1, ("known", f"{outcome.hit} of the {outcome.known} cells drawn into it found"))
    if outcome.case.note:
        rows.append(("note", outcome.case.note))
    screen.say(f"{outcome.slide.name}: {outcome.case.title}")
    screen.rows(rows, indent=2)


def _has_viewer() -> bool:
    display = sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return display and find_spec("napari") is not None and find_spec("PySide6") is not None


def _open_viewer(outcomes: Sequence[Outcome], screen: Screen) -> None:
    """Start napari as a program of its own: the command line knows nothing of Qt."""
    slide = outcomes[-1].slide
    words = [sys.executable, "-m", "napari", str(slide), "-w", "napari-celldetr", DOCK]
    subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    screen.say(f"napari opens {slide} beside the {DOCK!r} dock.")
