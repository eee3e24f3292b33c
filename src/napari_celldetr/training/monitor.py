"""Log of a run and the page that shows it, kept while it goes on."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from napari_celldetr.training.history import LOG, History, read_history, read_lines
from napari_celldetr.training.page import State, best_row, curve_names, render, table
from napari_celldetr.training.validation import Judgement

PAGE = "progress.html"
EVERY_S = 5.0
"""Seconds between two writings of the page, at least."""
SHARE = 0.02
"""Share of the run's time that may go into writing the page."""


class Monitor:
    """Writes ``log.jsonl`` line by line, and ``progress.html`` every few seconds.

    The first line of the log holds the settings, then there is one per step and one per
    validation. Use it as a context: the page then says how the run ended.
    """

    def __init__(self, folder: Path, history: History, log: TextIO) -> None:
        self._folder, self._history, self._log = folder, history, log
        self._before = history.elapsed
        self._started = time.monotonic()
        self._first = len(history.steps)
        self._next_page = 0.0
        self._ended = "stopped (the same command goes on)"
        self.last_f1 = ""

    @classmethod
    def open(
        cls,
        folder: Path,
        settings: dict[str, Any],
        precision: dict[str, Any],
        *,
        first: int,
    ) -> Monitor:
        """Begin a log, or go on with the one in `folder` after step `first`.

        What the log holds of later steps is removed: they are done again.
        """
        head = {"settings": settings, "precision": precision}
        lines = read_lines(folder / LOG) if first else []
        # The settings are those of the run's start, where the log knows them.
        heads = [line for line in lines if "settings" in line][:1] or [head]
        kept = [line for line in lines if "step" in line and line["step"] <= first]
        text = "".join(json.dumps(line) + "\n" for line in [*heads, *kept])
        temporary = folder / (LOG + ".part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(folder / LOG)
        history = read_history(folder)
        return cls(folder, history, (folder / LOG).open("a", encoding="utf-8"))

    def __enter__(self) -> Monitor:
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._log.close()
        if error is not None and not len(self._history.steps):
            # Nothing was done: a run that could not begin leaves nothing behind.
            for name in (LOG, PAGE):
                (self._folder / name).unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
            return
        if error is not None and not isinstance(error, GeneratorExit | KeyboardInterrupt):
            self._ended = "failed"
        self._draw(running=False)

    @property
    def seconds(self) -> float:
        """Seconds that the run took so far, its interruptions left out."""
        return self._before + time.monotonic() - self._started

    def validated(self, number: int) -> bool:
        """Whether the validation after that step is in the log."""
        return any(row["step"] == number for row in self._history.validations)

    def is_best(self, scores: Judgement) -> bool:
        """Whether no validation so far was as good."""
        known = (row["validation"]["overall"] for row in self._history.validations)
        return all(scores.overall > value for value in known)

    def step(self, number: int, parts: dict[str, float], rates: dict[str, float]) -> None:
        """Note a step that is done."""
        numbers = {name: round(value, 5) for name, value in parts.items()}
        rounded = {name: float(f"{value:.4g}") for name, value in rates.items()}
        self._write({"step": number, **self._time(), **numbers, "rates": rounded})

    def validation(self, number: int, scores: Judgement) -> str:
        """Note a validation; returns it as a line for people."""
        best = self.is_best(scores)
        self._write({"step": number, **self._time(), "validation": scores.as_dict()})
        rows = self._history.validations
        pairs = dict(zip(table(rows)[0], table(rows)[-1], strict=True))
        found = rows[-1]["validation"]
        if "figures" in found:
            head = f"{found['headline']} {pairs[found['headline']]}"
            words = ", ".join(f"{n} {pairs[n]}" for n in curve_names(rows))
        else:
            head = f"F1 {f1(found)}"
            shown = [f"{n} {v}" for n, v in pairs.items() if n in ("detection", "class mean")]
            words = "F1 " + ", ".join(shown)
        self.last_f1 = f", {head}"
        return f"Validation at step {number}: {words}" + (" (best so far)" if best else "")

    def finish(self) -> None:
        """Say on the page that the run came to its end."""
        self._ended = "finished"

    def _time(self) -> dict[str, float]:
        return {"seconds": round(self.seconds, 2)}

    def _write(self, line: dict[str, Any]) -> None:
        self._log.write(json.dumps(line) + "\n")
        self._log.flush()
        self._history.add(line)
        if time.monotonic() >= self._next_page:
            self._draw()

    def _draw(self, *, running: bool = True) -> None:
        started = time.monotonic()
        words = "running" if running else self._ended
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        state = State(running, words, self.seconds, self._left() if running else None, now)
        temporary = self._folder / (PAGE + ".part")
        temporary.write_text(render(self._history, state), encoding="utf-8")
        temporary.replace(self._folder / PAGE)
        took = time.monotonic() - started
        self._next_page = time.monotonic() + max(EVERY_S, took / SHARE)

    def _left(self) -> float | None:
        # The first step here also waits for data and chooses kernels: it says nothing of the rest.
        seconds = self._history.seconds[self._first :]
        if len(seconds) < 2:
            return None
        total = int(self._history.settings.get("steps", 0))
        pace = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
        return pace * (total - len(self._history.steps))


def f1(found: dict[str, Any]) -> str:
    """The F1 of a validation in as few letters as possible: ``.90``."""
    value = found["class_mean"] if found["detection"] is None else found["detection"]
    return "–" if value is None else f"{value:.2f}".removeprefix("0")


def validation_table(folder: Path) -> str:
    """The validations of a run as text; empty without any."""
    rows = read_history(folder).validations
    if not rows:
        return ""
    best = best_row(rows)
    found = rows[0]["validation"]
    lines = ["Validation:"]
    if "figures" not in found:
        given = found["given"]
        what = "classes at annotated places" if given else "a cell found within 3 µm counts"
        lines = [f"Validation, F1 ({what}):"]
    words = table(rows)
    widths = [max(len(row[i]) for row in words) for i in range(len(words[0]))]
    for i, row in enumerate(words):
        text = "  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True))
        lines.append("  " + text + ("  best" if i == best + 1 else ""))
    return "\n".join(lines)
