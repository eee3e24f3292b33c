"""Everything the command line writes: results to stdout, progress and errors to stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Protocol, TextIO, TypeVar

from napari_celldetr import RESEARCH_USE
from napari_celldetr.core.errors import CellDETRError
from napari_celldetr.core.progress import Job, Progress

T = TypeVar("T")

PLAIN_EVERY_S = 5.0
"""Seconds between progress lines where there is no terminal to redraw."""


class Meter(Protocol):
    """Shows the steps of one job."""

    def show(self, step: Progress) -> None:
        """Show one step."""
        ...

    def note(self, text: str) -> None:
        """Write a line that stays."""
        ...


class Screen:
    """Where a command writes. `out` takes results, `err` progress and errors."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr

    def say(self, text: str = "") -> None:
        """A line of result."""
        print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """A line beside the result, on stderr."""
        print(text, file=self.err, flush=True)

    def error(self, error: CellDETRError, *, about: str = "") -> None:
        """What went wrong, one part a line."""
        self.note(f"error: {about + ': ' if about else ''}{error.message}")
        parts = ("Expected", error.expected), ("Found", error.found), ("What to do", error.remedy)
        for word, text in parts:
            if text:
                self.note(f"  {word}: {text}")

    def rows(self, pairs: list[tuple[str, str]], *, indent: int = 0) -> None:
        """Names and values in two columns."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            self.say(f"{' ' * indent}{name:<{width}}  {value}".rstrip())

    def research_use(self) -> None:
        """The line that stands under every result."""
        self.say(RESEARCH_USE)

    def follow(self, job: Job[T], title: str, *, unit: str = "tiles") -> tuple[T, Progress]:
        """Run a job to its end while showing its progress; its result and its last step.

        On Ctrl-C the job is closed, so that it can put its things in order, and
        `Interrupted` carries the last step on.
        """
        last = Progress(0, 0)
        with contextlib.closing(job), self._meter(title, unit) as meter:
            try:
                while True:
                    last = next(job)
                    if last.note:
                        meter.note(last.note)
                    meter.show(last)
            except StopIteration as stop:
                return stop.value, last
            except KeyboardInterrupt:
                raise Interrupted(last) from None

    @contextlib.contextmanager
    def _meter(self, title: str, unit: str) -> Iterator[Meter]:
        if not self.err.isatty():
            yield PlainMeter(self, title, unit)
            return
        with RichMeter(self.err, title, unit) as meter:
            yield meter


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a job; `step` is the last progress it showed."""

    def __init__(self, step: Progress) -> None:
        super().__init__()
        self.step = step


class PlainMeter:
    """A progress line now and then, for logs and pipes."""

    def __init__(self, screen: Screen, title: str, unit: str) -> None:
        self._screen, self._title, self._unit = screen, title, unit
        self._next = time.monotonic() + PLAIN_EVERY_S
        self._last = ""

    def show(self, step: Progress) -> None:
        """Print the step if it is time to, and says something new."""
        if time.monotonic() < self._next:
            return
        parts = [f"{step.done}/{step.total} {self._unit}", *_rates(step), step.message]
        text = f"{self._title}: " + ", ".join(p for p in parts if p)
        if text != self._last:
            self._next = time.monotonic() + PLAIN_EVERY_S
            self._last = text
            self._screen.note(text)

    def note(self, text: str) -> None:
        """Print the line."""
        self._screen.note(text)


class RichMeter:
    """A live bar on a terminal."""

    def __init__(self, err: TextIO, title: str, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        console = Console(file=err)
        # What stands beside the bar takes about 55 letters; on a narrow terminal the bar gives way.
        width = min(30, max(4, console.width - len(title) - 55))
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=width),
            TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
            TextColumn("{task.fields[rates]}"),
            TextColumn("[dim]{task.fields[doing]}"),
            console=console,
        )
        self._task = self._bar.add_task(title, total=0, rates="", doing="")

    def __enter__(self) -> RichMeter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: Progress) -> None:
        """Redraw the bar."""
        self._bar.update(
            self._task,
            total=step.total,
            completed=step.done,
            rates=", ".join(_rates(step)),
            doing=step.message,
        )

    def note(self, text: str) -> None:
        """Print the line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _rates(step: Progress) -> list[str]:
    parts = []
    if step.cells and step.seconds:
        parts.append(f"{step.cells} cells ({step.cells / step.seconds:.0f}/s)")
    if step.seconds_left is not None and step.done < step.total:
        parts.append(f"{duration(step.seconds_left)} left")
    return parts


def duration(seconds: float) -> str:
    """Seconds in words a person reads at a glance: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
