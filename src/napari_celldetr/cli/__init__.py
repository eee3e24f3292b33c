"""`celldetr`: the command line. Only this package prints or chooses an exit code."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, TextIO

from napari_celldetr import RESEARCH_USE, __version__
from napari_celldetr.cli.exits import Exit
from napari_celldetr.cli.screen import Screen
from napari_celldetr.core.errors import CellDETRError

COMMANDS = {
    "info": "what a slide is: size, levels, pixel size, tissue",
    "detect": "find the cells of one or more slides",
    "embed": "detect, and write what the model sees in each cell: its embedding",
    "export": "convert a result to another format",
    "corrections": "write what people corrected in the viewer, or how it came about",
    "register": "find where the tissue of an H&E slide lies on an IHC slide",
    "warp": "move points, outlines or a picture from one slide to the other",
    "her2": "score a HER2 IHC slide of breast cancer, with a report",
    "replay": "compute a HER2 report again and compare every figure",
    "train": "train or fine-tune a model",
    "finetune": "teach a model what people corrected on a slide",
    "pretrain": "pretrain a network on images without labels",
    "join": "give a model a coarser one that has a say in the classes",
    "ablate": "measure what each part of the network is worth",
    "crossvalidate": "measure a recipe on patients or sites left out in turn",
    "evaluate": "measure a model on labelled fields",
    "models": "list the installed models, or show one",
    "doctor": "check that this installation can work",
    "demo": "run the whole thing on two small images",
    "sample": "write generated slides on which to try her2 or register",
}

_EPILOG = f"""\
exit codes: 0 done · 1 could not be done · 2 wrong usage · 3 finished with failed tiles ·
130 interrupted, the same command goes on where it was

{RESEARCH_USE}"""


class Command(Protocol):
    """A module of this package that holds one command."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        ...

    def run(self, args: argparse.Namespace, screen: Screen) -> Exit:
        """Do it; a `CellDETRError` may escape."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run `celldetr` with `argv` (default: the process's) and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    screen = Screen()
    try:
        args = build_parser(words).parse_args(words)
    except SystemExit as stop:
        # argparse exits by itself: 0 after --help, 2 after a usage error.
        return int(stop.code or 0)
    try:
        with _plain_warnings(screen):
            return int(load_command(args.command).run(args, screen))
    except CellDETRError as error:
        screen.error(error)
        return int(Exit.ERROR)
    except KeyboardInterrupt:
        screen.note("Interrupted.")
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        return _reader_went_away()


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser. Only the command that `words` ask for is loaded and gets its arguments."""
    parser = argparse.ArgumentParser(
        prog="celldetr",
        description="Cell detection on whole-slide pathology images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"celldetr {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((w for w in words if not w.startswith("-")), None)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == asked:
            load_command(name).configure(sub)
    return parser


def load_command(name: str) -> Command:
    """The module of a command."""
    command: Command = import_module(f"napari_celldetr.cli.{name}")
    return command


@contextlib.contextmanager
def _plain_warnings(screen: Screen) -> Iterator[None]:
    """Show warnings of this package as lines for people, those of libraries as ever."""
    package = Path(__file__).parents[1]
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category is UserWarning and Path(filename).is_relative_to(package):
                screen.note(f"warning: {message}")
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _reader_went_away() -> int:
    # `celldetr models | head` closes our stdout early; that is not a failure of ours, and the
    # interpreter must not complain about it while it shuts down.
    sys.stdout = None
    return int(Exit.OK)
